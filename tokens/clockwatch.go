package tokens

import "time"

// clockTolerance is how far the wall clock may run off the monotonic one between two looks before it counts as a jump.
// A clock that is slewed, as time daemons do, stays far below it.
const clockTolerance = 2 * time.Second

// clockWatch notices when the machine's clock is set. Tokens carry times of day: after a jump forward, live ones are
// refused; after one back, expired ones pass again. Minting goes on in either case, since stopping it would be the
// larger harm, and no rule of renewal depends on time alone.
type clockWatch struct {
	wall    func() time.Time
	elapsed func() time.Duration // since some fixed moment, by a clock that is never set

	lastWall    time.Time
	lastElapsed time.Duration
}

func newClockWatch(wall func() time.Time, elapsed func() time.Duration) *clockWatch {
	// Round strips the monotonic reading, which a difference of times would use instead of the time of day.
	return &clockWatch{wall: wall, elapsed: elapsed, lastWall: wall().Round(0), lastElapsed: elapsed()}
}

// look returns how far the clock was set since the last look, forward or back; 0 if it was not.
func (c *clockWatch) look() time.Duration {
	wall, elapsed := c.wall().Round(0), c.elapsed()
	jump := wall.Sub(c.lastWall) - (elapsed - c.lastElapsed)
	c.lastWall, c.lastElapsed = wall, elapsed
	if jump.Abs() <= clockTolerance {
		return 0
	}
	return jump
}

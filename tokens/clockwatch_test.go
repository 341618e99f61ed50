package tokens

import (
	"context"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestClockWatch(t *testing.T) {
	wall := testkit.NewClock()
	var elapsed time.Duration
	pass := func(d time.Duration) { wall.Advance(d); elapsed += d }
	watch := newClockWatch(wall.Now, func() time.Duration { return elapsed })
	for _, c := range []struct {
		passed, set, want time.Duration
	}{
		{time.Minute, 0, 0},
		{time.Minute, time.Second, 0}, // slewed
		{time.Minute, time.Hour, time.Hour},
		{time.Minute, 0, 0}, // told once
		{time.Minute, -time.Hour, -time.Hour},
		{time.Hour, 0, 0},
	} {
		pass(c.passed)
		wall.Advance(c.set)
		if got := watch.look(); got != c.want {
			t.Fatalf("after %s and a change of %s: %s", c.passed, c.set, got)
		}
	}
}

func TestClockJumpIsReportedAndMintingGoesOn(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.Elapsed = func() time.Duration { return 0 } })
	watch := newClockWatch(x.clock.Now, x.config.Elapsed)
	x.clock.Advance(-time.Hour)
	x.watchClock(watch)
	if x.observer.count(EventClockJump) != 1 {
		t.Fatal("not reported")
	}
	edr := x.start(dpsStart("flow-1"))
	_, err := x.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil {
		t.Fatal(err)
	}
}

// Package testkit has the counterparts that tests need: a clock that does what it is told, and the wallet of a
// consumer. The wallet uses a JOSE library other than the gateway's, so that the two check each other.
package testkit

import (
	"sync"
	"time"
)

// Clock is a clock that stands still until it is moved. It may be used by many goroutines at once.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows a fixed time of day.
func NewClock() *Clock {
	return &Clock{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
}

// Now returns what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock, backwards if d is negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

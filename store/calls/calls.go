// Package calls counts the running calls of a store, so that it is closed when there are none. Engines use it.
package calls

import (
	"context"
	"sync"

	"github.com/edrgate/edrgate/store"
)

// Calls lets calls in until it is closed. Make it with New.
type Calls struct {
	mu      sync.Mutex
	running int
	closed  bool
	idle    chan struct{} // closed when no call is running and none will be
}

// New returns a Calls that lets calls in.
func New() *Calls {
	return &Calls{idle: make(chan struct{})}
}

// Begin lets a call in, or returns store.ErrClosed or the context's error. Each call that was let in calls End.
func (c *Calls) Begin(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return store.ErrClosed
	}
	err := ctx.Err()
	if err != nil {
		return err
	}
	c.running++
	return nil
}

// End says that a call has come to its end.
func (c *Calls) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.closed && c.running == 0 {
		close(c.idle)
	}
}

// Close lets no more calls in.
func (c *Calls) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	if c.running == 0 {
		close(c.idle)
	}
}

// Idle is closed when Close was called and the last call has ended.
func (c *Calls) Idle() <-chan struct{} {
	return c.idle
}

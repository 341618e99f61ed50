package badger

import (
	"context"
	"sync"

	"github.com/edrgate/edrgate/store"
)

// calls counts the calls that are running, so that the database is closed when there are none.
type calls struct {
	mu      sync.Mutex
	running int
	closed  bool
	idle    chan struct{} // closed when no call is running and none will be
}

// begin lets a call in. Each call that was let in calls end.
func (c *calls) begin(ctx context.Context) error {
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

func (c *calls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.closed && c.running == 0 {
		close(c.idle)
	}
}

// close lets no more calls in.
func (c *calls) close() {
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

package postgres

import (
	"context"
	"sync"
)

// turns lets those who change the same record in this process go one after the other. Without it they would all read the
// record, and all but one would have done so for nothing, again and again. Other gateways are not held up by it: with
// them the compare-and-swap decides.
type turns struct {
	mu    sync.Mutex
	taken map[recordKey]*turn
}

type recordKey struct{ kind, id string }

type turn struct {
	free    chan struct{} // holds one token when nobody has the turn
	waiting int           // callers that have the turn or wait for it
}

func newTurns() turns {
	return turns{taken: map[recordKey]*turn{}}
}

// take waits for the turn at a record. The returned function ends it.
func (t *turns) take(ctx context.Context, key recordKey) (func(), error) {
	t.mu.Lock()
	at, found := t.taken[key]
	if !found {
		at = &turn{free: make(chan struct{}, 1)}
		at.free <- struct{}{}
		t.taken[key] = at
	}
	at.waiting++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		at.waiting--
		if at.waiting == 0 {
			delete(t.taken, key)
		}
	}
	select {
	case <-at.free:
		return func() {
			at.free <- struct{}{}
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

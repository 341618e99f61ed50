package signaling

import (
	"context"
	"sync"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// turns bounds the starts that are worked on at once for each control plane; the others wait. A control plane that floods
// us, or whose flows are slow to create, delays itself only.
type turns struct {
	atOnce int
	wait   time.Duration

	mu    sync.Mutex
	slots map[tokens.Caller]chan struct{} // one entry per configured name
}

func newTurns(atOnce int, wait time.Duration) *turns {
	return &turns{atOnce: atOnce, wait: wait, slots: make(map[tokens.Caller]chan struct{})}
}

func (t *turns) of(caller tokens.Caller) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	slots, ok := t.slots[caller]
	if !ok {
		slots = make(chan struct{}, t.atOnce)
		t.slots[caller] = slots
	}
	return slots
}

// take waits for a turn. If it reports true, done must be called when the work is finished.
func (t *turns) take(ctx context.Context, caller tokens.Caller) (func(), bool) {
	slots := t.of(caller)
	done := func() { <-slots }
	select {
	case slots <- struct{}{}:
		return done, true
	default:
	}
	timer := time.NewTimer(t.wait)
	defer timer.Stop()
	select {
	case slots <- struct{}{}:
		return done, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, false
}

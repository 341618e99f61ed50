package postgres

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestTurns(t *testing.T) {
	turns := newTurns()
	key := recordKey{"flow", "a"}
	inside, count := 0, 0
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			done, err := turns.take(t.Context(), key)
			if err != nil {
				t.Errorf("take: %v", err)
				return
			}
			defer done()
			inside++ // the race detector watches
			count++
			if inside != 1 {
				t.Errorf("%d have the turn", inside)
			}
			inside--
		})
	}
	group.Wait()
	if count != 50 {
		t.Errorf("%d had a turn", count)
	}

	done, err := turns.take(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = turns.take(ctx, key)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("take while another has the turn: got error %v", err)
	}
	other, err := turns.take(t.Context(), recordKey{"flow", "b"})
	if err != nil {
		t.Fatal(err)
	}
	other()
	done()
	if len(turns.taken) != 0 {
		t.Errorf("%d turns are kept for ever", len(turns.taken))
	}
}

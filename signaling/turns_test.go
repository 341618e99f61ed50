package signaling

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestStartsWaitForTheirTurn: more starts than are worked on at once wait, for 20 s at most; what ends access does not.
func TestStartsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFixture(t, func(c *Config) { c.StartsAtOnce = 2 })
		x.flows.entered, x.flows.leave = make(chan struct{}, 8), make(chan struct{})
		answers := make(chan int, 8)
		start := func(id string) {
			go func() { answers <- x.post("/dataflows/start", dpsStart(map[string]any{"processId": id})).Code }()
		}
		start("tp-1")
		start("tp-2")
		synctest.Wait()
		start("tp-3")
		synctest.Wait()
		if len(x.flows.entered) != 2 || len(answers) != 0 {
			t.Fatalf("%d in the core, %d answered, want 2 and 0", len(x.flows.entered), len(answers))
		}

		// An ending passes by.
		x.post("/dataflows/tp-9/terminate", "").want(t, http.StatusOK)

		began := time.Now()
		if got := <-answers; got != http.StatusServiceUnavailable || time.Since(began) != 20*time.Second {
			t.Errorf("the third start got %d after %s, want 503 after 20 s", got, time.Since(began))
		}

		start("tp-4")
		synctest.Wait()
		x.flows.leave <- struct{}{}
		if got := <-answers; got != http.StatusOK {
			t.Errorf("the first start got %d", got)
		}
		close(x.flows.leave) // tp-4 has the turn now
		for range 2 {
			if got := <-answers; got != http.StatusOK {
				t.Errorf("a start got %d", got)
			}
		}
	})
}

func TestTurnsAreByCaller(t *testing.T) {
	turns := newTurns(1, time.Hour)
	done, ok := turns.take(t.Context(), "a")
	if !ok {
		t.Fatal("no turn for a")
	}
	_, ok = turns.take(t.Context(), "b")
	if !ok {
		t.Error("b waits for a")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, ok = turns.take(ctx, "a")
	if ok {
		t.Error("two turns for a")
	}
	done()
	_, ok = turns.take(t.Context(), "a")
	if !ok {
		t.Error("the turn of a was not given back")
	}
}

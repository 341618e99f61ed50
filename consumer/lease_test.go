package consumer

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestTwoProcessesRenewOnce(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	arrived, answer := make(chan struct{}), make(chan struct{})
	x.provider.renew = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 1 {
			close(arrived)
			<-answer
		}
		return false
	}
	_, other := x.open()
	results := make(chan string, 2)
	ask := func(r *Renewer) {
		e, err := r.Current(context.Background(), "tp-1")
		if err != nil {
			results <- err.Error()
			return
		}
		results <- e.EDR.AccessToken.Reveal()
	}
	go ask(x.renewer)
	<-arrived
	go ask(other)
	testkit.Eventually(t, "the other process waits", func() bool { return x.observer.event(EventWaited) == 1 })
	close(answer)
	for range 2 {
		got := <-results
		if got != "access-1" {
			t.Errorf("a process got %s", got)
		}
	}
	if x.provider.renewed() != 1 {
		t.Errorf("%d renewals", x.provider.renewed())
	}
}

func TestLeaseOfAClockAhead(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	e := x.started("tp-1")
	x.clock.Advance(24 * time.Hour)
	_, err := x.acquire(t.Context(), "tp-1", want{seen: e.Generation}, "dead", x.renewer.c.Lease)
	if err != nil {
		t.Fatal(err)
	}
	x.clock.Advance(-24 * time.Hour)
	again, err := x.acquire(t.Context(), "tp-1", want{seen: e.Generation}, "living", x.renewer.c.Lease)
	if err != nil || again.standing != leased {
		t.Errorf("standing %d, error %v", again.standing, err)
	}
}

// Regression: what a clock that was ahead had written kept an EDR from being renewed until that time came.
func TestTimesOfAClockAhead(t *testing.T) {
	t.Parallel()
	const ahead = 24 * time.Hour
	t.Run("received", func(t *testing.T) {
		t.Parallel()
		x := newFixture(t)
		x.clock.Advance(ahead)
		x.started("tp-1")
		x.clock.Advance(-ahead)
		wantToken(t, x.must(x.renewer.Current(t.Context(), "tp-1")), "access-1")
		wantToken(t, x.must(x.renewer.Current(t.Context(), "tp-1")), "access-1")
	})
	t.Run("rests", func(t *testing.T) {
		t.Parallel()
		trouble := &refusing{status: http.StatusServiceUnavailable}
		x := expired(t, trouble)
		x.clock.Advance(ahead)
		x.send(x.transport(), "GET", "/x", nil)
		trouble.status = 0
		x.clock.Advance(-ahead)
		if a := x.send(x.transport(), "GET", "/x", nil); !a.Replayed {
			t.Errorf("renewal error %v", a.RenewalError)
		}
	})
	t.Run("renewed", func(t *testing.T) {
		t.Parallel()
		x := expired(t, new(refusing))
		x.provider.renew = func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 { // an answer that does not say how long the token lives
				writeJSON(w, http.StatusOK, map[string]string{"access_token": "access-1", "refresh_token": "refresh-1"})
			}
			return n == 1
		}
		x.clock.Advance(ahead)
		x.must(x.renewer.Refresh(t.Context(), "tp-1"))
		x.clock.Advance(-ahead)
		x.provider.mu.Lock()
		x.provider.generation++
		x.provider.mu.Unlock()
		if a := x.send(x.transport(), "GET", "/x", nil); !a.Replayed {
			t.Errorf("status %d, renewal error %v", a.Response.StatusCode, a.RenewalError)
		}
	})
}

func TestLeaseRunsOut(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	dead, err := x.acquire(t.Context(), "tp-1", want{seen: 1}, "dead", time.Minute)
	if err != nil || dead.standing != leased {
		t.Fatalf("%+v, %v", dead, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := x.renewer.Current(ctx, "tp-1")
		done <- err
	}()
	testkit.Eventually(t, "it waits", func() bool { return x.observer.event(EventWaited) == 1 })
	cancel() // the caller gives up, bounded by its own context
	wantCode(t, <-done, CodeUnavailable)
	x.clock.Advance(time.Minute)
	testkit.Eventually(t, "the renewal goes on without its caller", func() bool { return x.get("tp-1").Generation == 2 })
	// The dead process comes back, and changes nothing.
	_, err = x.succeed(t.Context(), dead, "dead", &renewed{access: "late", refresh: "late", asked: x.clock.Now()})
	if err != nil {
		t.Fatal(err)
	}
	wantToken(t, x.get("tp-1"), "access-1")
}

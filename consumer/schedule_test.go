package consumer

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// EDRs are renewed ahead of their expiry, also those that were put before this process began.
func TestRunRenewsAhead(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	e := x.dps()
	e.AccessToken, e.ExpiresIn = "never-expires", 0
	x.put("tp-2", e, Terms{Counterparty: providerDID})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		x.renewer.Run(ctx)
		close(stopped)
	}()
	x.clock.Advance(239 * time.Second)
	if x.get("tp-1").Due.Sub(x.get("tp-1").Received) != 240*time.Second {
		t.Errorf("due at %s", x.get("tp-1").Due)
	}
	x.clock.Advance(2 * time.Second)
	testkit.Eventually(t, "renewed ahead", func() bool { return x.get("tp-1").Generation == 2 })
	e = x.dps()
	e.AccessToken = "put-later"
	x.put("tp-3", e, Terms{Counterparty: providerDID})
	if x.get("tp-2").Generation != 1 {
		t.Error("renewed what does not expire")
	}
	cancel()
	<-stopped
}

// Due times differ from EDR to EDR by a tenth of the token's life.
func TestDueTimesAreSpread(t *testing.T) {
	t.Parallel()
	for jitter, want := range map[float64]time.Duration{0: 225 * time.Second, 0.5: 240 * time.Second, 0.999: 254 * time.Second} {
		x := newFixture(t, func(c *Config, _ *RenewerConfig) { c.Jitter = func() float64 { return jitter } })
		e := x.started("tp-1")
		if e.Due.Sub(e.Received).Truncate(time.Second) != want {
			t.Errorf("jitter %g: due after %s, want %s", jitter, e.Due.Sub(e.Received), want)
		}
	}
}

// An EDR that cannot be renewed now is tried again when it has rested, and one that must not be renewed is left alone.
func TestRunTriesAgain(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.provider.renew = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n <= 4 {
			w.WriteHeader(503)
		}
		return n <= 4
	}
	x.started("tp-1")
	e := x.classic() // another provider delivers the same token
	x.put("tp-2", e, Terms{Counterparty: otherDID})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		x.renewer.Run(ctx)
		close(stopped)
	}()
	x.clock.Advance(241 * time.Second)
	testkit.Eventually(t, "it rests", func() bool { return x.get("tp-1").Due.After(x.clock.Now()) })
	testkit.Eventually(t, "the other is turned away", func() bool { return x.get("tp-2").Due.After(x.clock.Now()) })
	turned := x.observer.event(EventForeignToken)
	x.clock.Advance(restAfterFailure)
	testkit.Eventually(t, "renewed after the rest", func() bool { return x.get("tp-1").Generation == 2 })
	if x.observer.event(EventForeignToken) != turned {
		t.Error("what must not be renewed is tried over and over")
	}
	cancel()
	<-stopped
}

// An EDR whose renewal was refused serves as long as its token lasts.
func TestRefusedEDRServesUntilItExpires(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(401)
		return true
	}
	x.started("tp-1")
	_, err := x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeRefused)
	x.clock.Advance(4*time.Minute + 58*time.Second) // within the margin: it is asked for, and better than nothing
	e := x.must(x.renewer.Current(t.Context(), "tp-1"))
	wantToken(t, e, "access-0")
	if e.State != Refused || e.Status != 401 || !e.Due.IsZero() {
		t.Errorf("%+v", e)
	}
	x.clock.Advance(2 * time.Second)
	_, err = x.renewer.Current(t.Context(), "tp-1")
	wantCode(t, err, CodeRefused)
}

// A renewer that is closed while it renews gives the EDR back at once: the next one need not wait for a lease or a rest.
func TestCloseGivesBack(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	arrived := make(chan struct{})
	x.provider.renew = func(n int, _ http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			return false
		}
		close(arrived)
		<-r.Context().Done()
		return true
	}
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	_, other := x.open()
	failed := make(chan error, 1)
	go func() {
		_, err := x.renewer.Current(context.Background(), "tp-1")
		failed <- err
	}()
	<-arrived
	x.renewer.Close()
	wantCode(t, <-failed, CodeUnavailable)
	wantToken(t, x.must(other.Current(t.Context(), "tp-1")), "access-1")
	if x.observer.event(EventWaited) != 0 {
		t.Error("it waited for a lease")
	}
}

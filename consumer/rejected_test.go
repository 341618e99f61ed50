package consumer

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

// refusing are renewals that are answered with a status, until it is 0.
type refusing struct{ status int }

func (r *refusing) answer(_ int, w http.ResponseWriter, _ *http.Request) bool {
	if r.status != 0 {
		w.WriteHeader(r.status)
	}
	return r.status != 0
}

// expired returns a fixture whose EDR's token the data plane takes no more, although the EDR says nothing of its life.
func expired(t *testing.T, r *refusing, change ...func(*Config, *RenewerConfig)) *fixture {
	t.Helper()
	x := newFixture(t, change...)
	x.provider.renew = r.answer
	e := x.dps()
	e.ExpiresIn = 0
	x.put("tp-1", e, Terms{Counterparty: providerDID})
	x.provider.refuse = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUnauthorized) }
	x.provider.mu.Lock()
	x.provider.generation = 1 // of which refresh-0 is the superseded refresh token
	x.provider.mu.Unlock()
	return x
}

// Regression: a renewal that could not tell counted as a fresh one, so that for half a minute the data plane's 401, which
// only meant that the token had expired, was passed on as a "no".
func TestRefusalAfterARenewalThatCouldNotTellIsNoRefusal(t *testing.T) {
	t.Parallel()
	trouble := &refusing{status: http.StatusServiceUnavailable}
	x := expired(t, trouble)
	tr := x.transport()
	for i := range 3 {
		a := x.send(tr, "GET", "/x", nil)
		if a.RenewalError == nil || CodeOf(a.RenewalError) != CodeUnavailable || i > 0 && RetryAfterOf(a.RenewalError) <= 0 {
			t.Fatalf("request %d: status %d, renewal error %v", i, a.Response.StatusCode, a.RenewalError)
		}
	}
	if n := x.provider.renewed(); n != 4 {
		t.Errorf("the provider was asked %d times while the EDR rests, want the 4 tries of one renewal", n)
	}
	trouble.status = 0
	x.clock.Advance(restAfterFailure)
	if a := x.send(tr, "GET", "/x", nil); a.Response.StatusCode != http.StatusOK || !a.Replayed {
		t.Errorf("after the rest: status %d, renewal error %v", a.Response.StatusCode, a.RenewalError)
	}
}

// Regression: the same where the store could not tell whose the token is, so that the provider was not even asked.
func TestRefusalAfterARenewalThatWasNotBegunIsNoRefusal(t *testing.T) {
	t.Parallel()
	blind := new(blindStore)
	x := expired(t, new(refusing), func(c *Config, _ *RenewerConfig) {
		blind.Store = c.Store
		c.Store = blind
	})
	tr := x.transport()
	blind.blind = true
	a := x.send(tr, "GET", "/x", nil)
	if a.RenewalError == nil || CodeOf(a.RenewalError) != CodeUnavailable {
		t.Fatalf("renewal error %v", a.RenewalError)
	}
	blind.blind = false
	if a = x.send(tr, "GET", "/x", nil); a.Response.StatusCode != http.StatusOK || !a.Replayed {
		t.Errorf("the store is back: status %d, renewal error %v", a.Response.StatusCode, a.RenewalError)
	}
}

// blindStore does not find out about claims while it is blind.
type blindStore struct {
	store.Store
	blind bool
}

func (s *blindStore) Create(ctx context.Context, r store.Record) (store.Record, error) {
	if s.blind && r.Kind == claimKind {
		return store.Record{}, store.ErrFull
	}
	return s.Store.Create(ctx, r)
}

// Regression: an EDR that was started or resumed soon after its renewal was refused, or after another one, was not renewed
// when the data plane refused its token.
func TestRevivedEDRIsRenewedWhenItsTokenIsRefused(t *testing.T) {
	t.Parallel()
	for name, revive := range map[string]func(x *fixture) (*Entry, error){
		"resumed": func(x *fixture) (*Entry, error) { return x.Resume(context.Background(), "tp-1") },
		"the same start again": func(x *fixture) (*Entry, error) {
			e := x.dps()
			e.ExpiresIn = 0
			return x.Put(context.Background(), Put{ID: "tp-1", EDR: e})
		},
		"a new start": func(x *fixture) (*Entry, error) {
			e := x.dps()
			e.ExpiresIn, e.AccessToken = 0, "access-of-a-new-start"
			return x.Put(context.Background(), Put{ID: "tp-1", EDR: e})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused := &refusing{status: http.StatusBadRequest}
			x := expired(t, refused)
			tr := x.transport()
			a := x.send(tr, "GET", "/x", nil)
			if a.RenewalError == nil || CodeOf(a.RenewalError) != CodeRefused {
				t.Fatalf("renewal error %v", a.RenewalError)
			}
			refused.status = 0
			x.clock.Advance(time.Second)
			_, err := revive(x)
			if err != nil {
				t.Fatal(err)
			}
			if a = x.send(tr, "GET", "/x", nil); a.Response.StatusCode != http.StatusOK || !a.Replayed {
				t.Errorf("status %d, renewal error %v", a.Response.StatusCode, a.RenewalError)
			}
		})
	}
}

// Regression: the error of a broken answer quoted the data plane, which knows our token, and the egress logged it.
func TestErrorOfABrokenAnswerQuotesNothing(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	e := x.dps()
	e.AccessToken = "CANARY-access"
	x.put("tp-1", e, Terms{Counterparty: providerDID})
	x.provider.refuse = func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = fmt.Fprintf(conn, "%s\r\n\r\n", r.Header.Get("Authorization"))
			_ = conn.Close()
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.transport().Send(req, "tp-1")
	if err == nil || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("error %v", err)
	}
}

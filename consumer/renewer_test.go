package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

// An EDR is renewed when it has expired, with a proof that another JOSE library verifies.

func TestCurrentRenewsWhatHasExpired(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	wantToken(t, x.must(x.renewer.Current(t.Context(), "tp-1")), "access-0")
	if x.provider.renewed() != 0 {
		t.Fatal("a fresh EDR was renewed")
	}
	x.clock.Advance(5 * time.Minute)
	e := x.must(x.renewer.Current(t.Context(), "tp-1"))
	wantToken(t, e, "access-1")
	if e.Generation != 2 || !e.Expires.Equal(x.clock.Now().Add(5*time.Minute)) || e.EDR.RefreshToken.Reveal() != "refresh-1" {
		t.Errorf("entry %+v", e)
	}
	wantToken(t, x.get("tp-1"), "access-1")
	if x.observer.result(ResultRenewed) != 1 {
		t.Error("the renewal was not observed")
	}
}

// Fifty requests find the token expired at once: one renewal, and all have its token.

func TestFiftyAtOnceRenewOnce(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	var callers sync.WaitGroup
	errs := make(chan error, 50)
	for range 50 {
		callers.Go(func() {
			e, err := x.renewer.Current(context.Background(), "tp-1")
			if err == nil && e.EDR.AccessToken.Reveal() != "access-1" {
				err = errors.New("another token")
			}
			errs <- err
		})
	}
	callers.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if x.provider.renewed() != 1 {
		t.Errorf("%d renewals", x.provider.renewed())
	}
}

// Two processes over one store find the token expired at once: one renewal, and the other process waits for it.

// A process whose clock was a day ahead died with the lease: nobody waits for a day.

// A process that died while it renewed stops the others no longer than its lease.

// The answer to a rotation is lost: the next attempt goes on with the same refresh token, and loses nothing.

func TestLostAnswer(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.provider.renew = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n > 1 {
			return false
		}
		x.provider.mu.Lock()
		x.provider.generation++ // it has rotated
		x.provider.mu.Unlock()
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
		return true
	}
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	wantToken(t, x.must(x.renewer.Current(t.Context(), "tp-1")), "access-1")
	x.provider.mu.Lock()
	defer x.provider.mu.Unlock()
	if len(x.provider.renewals) != 2 || x.provider.proofs[0] == x.provider.proofs[1] {
		t.Fatalf("%d renewals, or one proof for both", len(x.provider.renewals))
	}
	for _, r := range x.provider.renewals {
		if r.PostForm.Get("refresh_token") != "refresh-0" {
			t.Error("another refresh token")
		}
	}
}

// What is no "no" is tried again.

func TestCannotTellIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		status int
		body   string
	}{
		{"503", 503, ""},
		{"500", 500, ""},
		{"502", 502, "<html>"},
		{"429", 429, ""},
		{"408", 408, ""},
		{"425", 425, ""},
		{"200 without a body", 200, ""},
		{"200 without a token", 200, `{"refresh_token":"x"}`},
		{"200 twice the same name", 200, `{"access_token":"a","access_token":"b"}`},
		{"200 of another type", 200, `{"access_token":"a","token_type":"mac"}`},
		{"200 with a token that adds a header", 200, `{"access_token":"a\r\nX: y"}`},
		{"200 too large", 200, `{"access_token":"a","x":"` + strings.Repeat("x", maxAnswerBytes) + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			x.provider.renew = func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n > 3 {
					return false
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
				return true
			}
			x.started("tp-1")
			x.clock.Advance(5 * time.Minute)
			wantToken(t, x.must(x.renewer.Current(t.Context(), "tp-1")), "access-1")
			if x.provider.renewed() != 4 || x.observer.event(EventRetried) != 3 {
				t.Errorf("%d requests, %d retries", x.provider.renewed(), x.observer.event(EventRetried))
			}
		})
	}
}

// A provider that cannot tell for long: the EDR rests, then it is tried again, and it is never marked as refused.

func TestEDRRestsWhileNobodyCanTell(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	down := true
	x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		if down {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(503)
		}
		return down
	}
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	_, err := x.renewer.Current(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
	if RetryAfterOf(err) != 30*time.Second || x.provider.renewed() != 1 {
		t.Errorf("again in %s, %d requests: its Retry-After is longer than a caller waits", RetryAfterOf(err), x.provider.renewed())
	}
	_, err = x.renewer.Current(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
	if x.provider.renewed() != 1 || RetryAfterOf(err) != 30*time.Second {
		t.Error("it does not rest")
	}
	if x.get("tp-1").State != Started {
		t.Error("state", x.get("tp-1").State)
	}
	down = false
	wantToken(t, x.must(x.renewer.Refresh(t.Context(), "tp-1")), "access-1") // whoever asks explicitly need not wait
}

// A 4xx is final: the EDR is left alone until its transfer starts or resumes, or somebody asks explicitly.

func TestRefusedUntilRevived(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		revive func(*fixture) (*Entry, error)
	}{
		{"started anew", func(x *fixture) (*Entry, error) {
			e := x.dps()
			e.AccessToken = "access-new"
			return x.Put(context.Background(), Put{ID: "tp-1", EDR: e, Terms: Terms{Counterparty: providerDID}})
		}},
		{"the same start again", func(x *fixture) (*Entry, error) {
			return x.Put(context.Background(), Put{ID: "tp-1", EDR: x.dps(), Terms: Terms{Counterparty: providerDID}})
		}},
		{"resumed", func(x *fixture) (*Entry, error) { return x.Resume(context.Background(), "tp-1") }},
		{"asked for", func(x *fixture) (*Entry, error) { return x.renewer.Refresh(context.Background(), "tp-1") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			refusing := true
			x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if refusing {
					w.WriteHeader(http.StatusUnauthorized)
				}
				return refusing
			}
			x.started("tp-1")
			x.clock.Advance(5 * time.Minute)
			for range 3 {
				_, err := x.renewer.Current(t.Context(), "tp-1")
				wantCode(t, err, CodeRefused)
				var e *Error
				if !errors.As(err, &e) || e.Status != 401 {
					t.Errorf("error %v has no status", err)
				}
			}
			if x.provider.renewed() != 1 || x.get("tp-1").State != Refused {
				t.Fatalf("%d requests, state %s", x.provider.renewed(), x.get("tp-1").State)
			}
			refusing = false
			_, err := c.revive(x)
			if err != nil {
				t.Fatal(err)
			}
			x.clock.Advance(5 * time.Minute)
			e := x.must(x.renewer.Current(t.Context(), "tp-1"))
			if e.State != Started || e.EDR.AccessToken == "access-0" {
				t.Errorf("not revived: %+v", e)
			}
		})
	}
}

// Regression: a token that expired while its renewal was tried in vain was handed out, for the time before the renewal counted.

func TestTokenThatExpiresDuringItsRenewal(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		x.clock.Advance(3 * time.Second)
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	x.started("tp-1")
	x.clock.Advance(5*time.Minute - 4*time.Second)
	_, err := x.renewer.Current(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
}

// Trouble of the signer is our own: the EDR is not marked as refused.

func TestSignerTrouble(t *testing.T) {
	t.Parallel()
	x := newFixture(t, func(_ *Config, r *RenewerConfig) { r.Signer = brokenSigner{} })
	x.started("tp-1")
	_, err := x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
	if x.get("tp-1").State != Started || x.provider.renewed() != 0 {
		t.Error("refused, or asked without a proof")
	}
}

type brokenSigner struct{}

func (brokenSigner) Proof(context.Context, ProofRequest) (tokens.Secret, error) {
	return "", errors.New("no wallet")
}

// The store fails just when the answer has come: it is recorded a little later, not lost.

func TestAnswerIsRecordedThoughTheStoreFails(t *testing.T) {
	t.Parallel()
	brittle := new(brittleStore)
	x := newFixture(t, func(c *Config, _ *RenewerConfig) {
		brittle.Store = c.Store
		c.Store = brittle
	})
	x.provider.renew = func(int, http.ResponseWriter, *http.Request) bool {
		brittle.breaks(2)
		return false
	}
	x.started("tp-1")
	wantToken(t, x.must(x.renewer.Refresh(t.Context(), "tp-1")), "access-1")
	wantToken(t, x.get("tp-1"), "access-1")
}

// An EDR that is put while the old one is renewed stays; a suspended one takes the renewed tokens and stays suspended; an

// ended one takes nothing.

func TestChangesDuringARenewal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*fixture) error
		want   Code // of the renewal's error; empty: none
		check  func(*testing.T, *Entry)
	}{
		{
			"put", func(x *fixture) error {
				e := x.dps()
				e.AccessToken = "put-meanwhile"
				_, err := x.Put(context.Background(), Put{ID: "tp-1", EDR: e})
				return err
			},
			"", func(t *testing.T, e *Entry) { wantToken(t, e, "put-meanwhile") },
		},
		{
			"suspended", func(x *fixture) error {
				_, err := x.Suspend(context.Background(), "tp-1")
				return err
			},
			CodeSuspended, func(t *testing.T, e *Entry) {
				wantToken(t, e, "access-1")
				if e.State != Suspended {
					t.Errorf("state %s", e.State)
				}
			},
		},
		{
			"ended", func(x *fixture) error { return x.End(context.Background(), "tp-1") },
			CodeEnded, func(t *testing.T, e *Entry) {
				if e.State != Ended || e.EDR != nil {
					t.Errorf("%+v", e)
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			x.provider.renew = func(int, http.ResponseWriter, *http.Request) bool {
				err := c.change(x)
				if err != nil {
					t.Error(err)
				}
				return false
			}
			x.started("tp-1")
			_, err := x.renewer.Refresh(t.Context(), "tp-1")
			if err != nil || c.want != "" {
				wantCode(t, err, c.want)
			}
			c.check(t, x.get("tp-1"))
		})
	}
}

func TestClosedRenewerRenewsNothing(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.renewer.Close()
	_, err := x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
}

func TestRenewerConfiguration(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	for name, change := range map[string]func(*RenewerConfig){
		"no cache":     func(c *RenewerConfig) { c.Cache = nil },
		"no transport": func(c *RenewerConfig) { c.Transport = nil },
		"negative":     func(c *RenewerConfig) { c.Lease = -1 },
		"tries":        func(c *RenewerConfig) { c.Tries = -1 },
	} {
		c := x.renewals
		c.Cache = x.Cache
		change(&c)
		_, err := NewRenewer(c)
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]KeySignerConfig{
		"no key":      {KeyID: ownDID + "#key-1"},
		"no fragment": {Key: x.wallet.Key, KeyID: ownDID},
		"no DID":      {Key: x.wallet.Key, KeyID: "key-1"},
		"long lived":  {Key: x.wallet.Key, KeyID: x.wallet.KID, Lifetime: time.Hour},
		"P-384":       {Key: testkit.NewWalletFor(ownDID, jose.ES384).Key, KeyID: x.wallet.KID},
		"RSA":         {Key: testkit.NewWalletFor(ownDID, jose.RS256).Key, KeyID: x.wallet.KID},
	} {
		_, err := NewKeySigner(c)
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("signer, %s: %v", name, err)
		}
	}
}

// No token is in a log or an error, whatever happens.

func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	step := 0
	x.provider.renew = func(n int, w http.ResponseWriter, r *http.Request) bool {
		step++
		switch step % 4 {
		case 0:
			w.WriteHeader(401)
		case 1: // an answer that quotes the request
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = fmt.Fprintf(conn, "%s\r\n\r\n", r.PostForm.Get("refresh_token"))
				_ = conn.Close()
			}
		default:
			_, _ = io.WriteString(w, r.PostForm.Get("refresh_token"))
		}
		return true
	}
	e := x.dps()
	e.AccessToken, e.RefreshToken = "CANARY-access", "CANARY-refresh"
	x.put("tp-1", e, Terms{Counterparty: providerDID})
	var text strings.Builder
	for range 6 {
		_, err := x.renewer.Refresh(t.Context(), "tp-1")
		fmt.Fprintln(&text, err)
	}
	entry := x.get("tp-1")
	fmt.Fprintf(&text, "%v %+v %#v %s", entry, entry, entry, entry.EDR)
	x.config.Logger.Info("entry", "edr", entry.EDR, "entry", entry)
	if strings.Contains(text.String()+x.logs.String(), "CANARY") {
		t.Errorf("a token shows:\n%s\n%s", text.String(), x.logs.String())
	}
}

// An EDR is removed and put again while it is renewed: the new one is neither mixed up with the old one nor renewed over and

// over.

func TestPutAgainDuringARenewal(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.must(x.renewer.Refresh(t.Context(), "tp-1"))
	x.provider.renew = func(int, http.ResponseWriter, *http.Request) bool {
		err := x.Remove(context.Background(), "tp-1")
		if err != nil {
			t.Error(err)
		}
		e := x.dps()
		e.AccessToken = "put-again"
		_, err = x.Put(context.Background(), Put{ID: "tp-1", EDR: e, Terms: Terms{Counterparty: providerDID}})
		if err != nil {
			t.Error(err)
		}
		return false
	}
	wantToken(t, x.must(x.renewer.Refresh(t.Context(), "tp-1")), "put-again")
	wantToken(t, x.get("tp-1"), "put-again")
	if x.provider.renewed() != 2 {
		t.Errorf("%d renewals", x.provider.renewed())
	}
}

package did

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// ask resolves "#k".
func (b *bench) ask(h *host) (any, error) {
	return b.ResolveKey(context.Background(), h.did(), "#k")
}

func (b *bench) wantAsked(t *testing.T, h *host, want any) {
	t.Helper()
	got, err := b.ask(h)
	wantKey(t, got, err, want)
}

func TestDocumentIsCached(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	first, err := b.ask(h)
	wantKey(t, first, err, key)
	b.clock.Advance(5*time.Minute - time.Second)
	second, err := b.ask(h)
	wantKey(t, second, err, key)
	if first.(*ecdsa.PublicKey) != second.(*ecdsa.PublicKey) {
		t.Error("the key was parsed again")
	}
	h.wantRequests(t, 1)

	other := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", other))
	b.clock.Advance(time.Second)
	b.wantAsked(t, h, other)
	h.wantRequests(t, 2)
}

func TestCacheControlShortens(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key), "Cache-Control", "public, max-age=60")
	b := newBench(t, nil, h)
	b.wantAsked(t, h, key)
	b.clock.Advance(59 * time.Second)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 1)
	b.clock.Advance(time.Second)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
}

func TestClockSetBack(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, key)
	b.clock.Advance(-time.Hour)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
}

// A consumer that rolls its key is served at its first proof with the new one.
func TestNewKeyWorksAtOnce(t *testing.T) {
	h := newHost(t)
	old, fresh := testkit.ECKey(t), testkit.EdKey(t)
	h.serve(t, documentOf(t, h.did(), "k", old))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, old)

	h.serve(t, documentOf(t, h.did(), "k2", fresh))
	got, err := b.ResolveKey(context.Background(), h.did(), h.did()+"#k2")
	wantKey(t, got, err, fresh)
	h.wantRequests(t, 2)

	_, err = b.ask(h) // the old one is gone
	wantCode(t, err, CodeNoKey)
	h.wantRequests(t, 3)
}

// A key replaced under its old name is found by looking past the cache.
func TestRefetchKey(t *testing.T) {
	h := newHost(t)
	old, fresh := testkit.ECKey(t), testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", old))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, old)
	h.serve(t, documentOf(t, h.did(), "k", fresh))
	b.wantAsked(t, h, old)
	got, err := b.RefetchKey(context.Background(), h.did(), "#k")
	wantKey(t, got, err, fresh)
	b.wantAsked(t, h, fresh)
	h.wantRequests(t, 2)
}

func TestRefetchIsLimited(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, key)

	unknown := func() error {
		_, err := b.ResolveKey(context.Background(), h.did(), "#unknown")
		return err
	}
	past := func() error {
		_, err := b.RefetchKey(context.Background(), h.did(), "#k")
		return err
	}
	for range 3 {
		wantCode(t, unknown(), CodeNoKey)
	}
	for range 2 {
		err := past()
		if err != nil {
			t.Fatal(err)
		}
	}
	h.wantRequests(t, 6)
	for range 2 {
		err := unknown()
		e := wantCode(t, err, CodeLimited)
		if !errors.Is(err, ErrRefetchLimited) || e.Refused() || e.RetryAfter() != 5*time.Second {
			t.Errorf("refused %t, retry after %s: %v", e.Refused(), e.RetryAfter(), err)
		}
	}
	b.wantAsked(t, h, key) // what is in the cache still works
	err := past()          // and is as new as anybody may have it
	if err != nil {
		t.Fatal(err)
	}
	h.wantRequests(t, 6)

	b.clock.Advance(4 * time.Second)
	if e := wantCode(t, unknown(), CodeLimited); e.RetryAfter() != time.Second {
		t.Errorf("retry after %s, want 1s", e.RetryAfter())
	}
	b.clock.Advance(time.Second)
	wantCode(t, unknown(), CodeNoKey)
	wantCode(t, unknown(), CodeLimited)
	h.wantRequests(t, 7)
}

func TestRefetchIsLimitedPerDID(t *testing.T) {
	h := newHost(t)
	other := h.did() + ":other"
	h.serve(t, documentOf(t, other, "k", testkit.ECKey(t)))
	b := newBench(t, nil, h)
	for range refetchBurst {
		_, err := b.RefetchKey(context.Background(), other, "#k")
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.ResolveKey(context.Background(), other, "#unknown")
	wantCode(t, err, CodeLimited)
	_, err = b.RefetchKey(context.Background(), h.did(), "#k")
	wantCode(t, err, CodeOtherID)
}

// A refusal always comes of a document fetched for it, never of the cache: the owner may have mended it since.
func TestRefusalsAreNotCached(t *testing.T) {
	for _, c := range []struct {
		name string
		doc  func(t *testing.T, did string) any
		want Code
	}{
		{"key missing", func(t *testing.T, did string) any { return documentOf(t, did, "k2", testkit.ECKey(t)) }, CodeNoKey},
		{"document of another", func(t *testing.T, _ string) any {
			return documentOf(t, "did:web:other.example", "k", testkit.ECKey(t))
		}, CodeOtherID},
		{"controller of another", func(t *testing.T, did string) any {
			doc := documentOf(t, did, "k", testkit.ECKey(t))
			doc["verificationMethod"].([]any)[0].(map[string]any)["controller"] = "did:web:other.example"
			return doc
		}, CodeOtherController},
		{"bad key", func(t *testing.T, did string) any {
			doc := documentOf(t, did, "k", testkit.ECKey(t))
			doc["verificationMethod"].([]any)[0].(map[string]any)["publicKeyJwk"] = map[string]any{"kty": "oct"}
			return doc
		}, CodeBadKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			b := newBench(t, nil, h)
			h.serve(t, c.doc(t, h.did()))
			for i := range int64(2) {
				_, err := b.ask(h)
				e := wantCode(t, err, c.want)
				if !e.Refused() {
					t.Error("a clear answer is no refusal")
				}
				h.wantRequests(t, i+1)
			}
			key := testkit.ECKey(t)
			h.serve(t, documentOf(t, h.did(), "k", key))
			b.wantAsked(t, h, key)
			h.wantRequests(t, 3)
		})
	}
}

func TestFailureIsCached(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.status(http.StatusInternalServerError)
	b := newBench(t, nil, h)
	_, err := b.ask(h)
	if e := wantCode(t, err, CodeStatus); e.RetryAfter() != 30*time.Second {
		t.Errorf("retry after %s, want 30s", e.RetryAfter())
	}
	h.serve(t, documentOf(t, h.did(), "k", key))
	b.clock.Advance(29 * time.Second)
	_, err = b.ask(h)
	if e := wantCode(t, err, CodeStatus); e.RetryAfter() != time.Second {
		t.Errorf("retry after %s, want 1s", e.RetryAfter())
	}
	_, err = b.RefetchKey(context.Background(), h.did(), "#k")
	wantCode(t, err, CodeStatus)
	h.wantRequests(t, 1)
	b.clock.Advance(time.Second)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
	if got, want := b.results.all(), []string{string(CodeStatus), ResultOK}; !slices.Equal(got, want) {
		t.Errorf("results %v, want %v", got, want)
	}
}

// A success ends a failure even where the clock makes it look recent again.
func TestSuccessEndsFailure(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.status(http.StatusServiceUnavailable)
	b := newBench(t, nil, h)
	_, err := b.ask(h)
	wantCode(t, err, CodeStatus)
	b.clock.Advance(31 * time.Second)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b.wantAsked(t, h, key)
	b.clock.Advance(-10 * time.Second)
	_, err = b.ResolveKey(context.Background(), h.did(), "#other")
	wantCode(t, err, CodeNoKey)
}

// Gateways that fail together must not come back together.
func TestFailureHasJitter(t *testing.T) {
	for _, c := range []struct {
		rand float64
		want time.Duration
	}{{0, 22500 * time.Millisecond}, {0.5, 30 * time.Second}, {1, 37500 * time.Millisecond}} {
		h := newHost(t)
		b := newBench(t, func(cfg *Config) { cfg.Rand = func() float64 { return c.rand } }, h)
		_, err := b.ask(h)
		if e := wantCode(t, err, CodeStatus); e.RetryAfter() != c.want {
			t.Errorf("rand %v: %s, want %s", c.rand, e.RetryAfter(), c.want)
		}
	}
}

func TestFailureIsNotCachedIfSo(t *testing.T) {
	h := newHost(t)
	b := newBench(t, func(c *Config) { c.NegativeAge = -1 }, h)
	for i := range int64(3) {
		_, err := b.ask(h)
		wantCode(t, err, CodeStatus)
		h.wantRequests(t, i+1)
	}
}

// While its host fails, a key seen before is good for fifteen minutes more; any other is not.
func TestStaleIfError(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, key)
	h.status(http.StatusServiceUnavailable)

	b.clock.Advance(5 * time.Minute)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
	b.wantAsked(t, h, key) // the failure stands, nobody is asked
	h.wantRequests(t, 2)
	_, err := b.ResolveKey(context.Background(), h.did(), "#other")
	wantCode(t, err, CodeStatus)
	_, err = b.RefetchKey(context.Background(), h.did(), "#k")
	wantCode(t, err, CodeStatus)
	h.wantRequests(t, 2)

	b.clock.Advance(15*time.Minute - time.Second)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 3)
	b.clock.Advance(time.Second)
	_, err = b.ask(h)
	if e := wantCode(t, err, CodeStatus); e.Refused() {
		t.Error("a failing host counts as a no")
	}
}

func TestStaleIfErrorEndsWithACleanAnswer(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, key)
	b.clock.Advance(5 * time.Minute)
	h.serve(t, documentOf(t, h.did(), "k2", testkit.ECKey(t)))
	_, err := b.ask(h)
	wantCode(t, err, CodeNoKey)
	h.status(http.StatusServiceUnavailable)
	b.clock.Advance(5 * time.Minute)
	_, err = b.ask(h)
	wantCode(t, err, CodeStatus)
}

func TestStaleIfErrorOff(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		header []string
	}{
		"by setting":      {func(c *Config) { c.StaleIfError = -1 }, nil},
		"must-revalidate": {nil, []string{"Cache-Control", "max-age=300, must-revalidate"}},
		"no-store":        {nil, []string{"Cache-Control", "no-store"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			key := testkit.ECKey(t)
			h.serve(t, documentOf(t, h.did(), "k", key), c.header...)
			b := newBench(t, c.change, h)
			b.wantAsked(t, h, key)
			h.status(http.StatusServiceUnavailable)
			b.clock.Advance(5 * time.Minute)
			_, err := b.ask(h)
			wantCode(t, err, CodeStatus)
		})
	}
}

// A refetch that fails takes nothing from what is in the cache.
func TestFailedRefetchKeepsTheCache(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	b.wantAsked(t, h, key)
	h.status(http.StatusServiceUnavailable)
	_, err := b.RefetchKey(context.Background(), h.did(), "#k")
	wantCode(t, err, CodeStatus)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
}

func TestMalformedNeverReachesAHost(t *testing.T) {
	h := newHost(t)
	b := newBench(t, nil, h)
	for _, c := range [][2]string{
		{"did:web:user@" + walletName, "#k"}, {h.did(), "did:web:other.example#k"}, {h.did(), ""}, {"did:web:127.0.0.1", "#k"},
	} {
		_, err := b.ResolveKey(context.Background(), c[0], c[1])
		e := wantCode(t, err, CodeMalformed)
		if !e.Refused() {
			t.Errorf("%v: no refusal", c)
		}
	}
	_, err := b.ResolveKey(context.Background(), "did:ethr:0x1", "#k")
	wantCode(t, err, CodeMethod)
	h.wantRequests(t, 0)
}

func TestNewRefusesNonsense(t *testing.T) {
	for name, c := range map[string]Config{
		"relationship": {Relationship: "keyAgreement"},
		"http host":    {AllowHTTP: []string{"http://a.example"}},
		"port":         {AllowPorts: []uint16{0}},
		"negative":     {MaxAge: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c)
			if err == nil {
				t.Error("no error")
			}
		})
	}
	r, err := New(Config{})
	if err != nil {
		t.Fatalf("the zero configuration: %v", err)
	}
	_ = r.Close()
}

package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

const (
	ownDID      = "did:web:consumer.example"
	providerDID = "did:web:provider.example"
	otherDID    = "did:web:other.example"
)

// fixture is a cache and a renewer with everything around them, and a provider.
type fixture struct {
	*Cache
	t        *testing.T
	clock    *testkit.Clock
	store    store.Store
	wallet   *testkit.Wallet
	observer *recorder
	logs     *lockedBuffer
	config   Config
	renewals RenewerConfig
	renewer  *Renewer
	provider *provider
}

func newFixture(t *testing.T, change ...func(*Config, *RenewerConfig)) *fixture {
	t.Helper()
	clock := testkit.NewClock()
	x := &fixture{
		t: t, clock: clock, store: memory.New(clock.Now), wallet: testkit.NewWallet(ownDID),
		observer: &recorder{events: map[string]int{}, results: map[string]int{}}, logs: &lockedBuffer{},
	}
	x.provider = newProvider(t, clock)
	x.config = Config{
		Participant: "default", DID: ownDID, Store: x.store, Sealer: newSealer(t), AllowHTTP: []string{AnyHost}, Observer: x.observer,
		Logger: slog.New(slog.NewJSONHandler(x.logs, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: clock.Now,
		Jitter: func() float64 { return 0.5 },
	}
	signer, err := NewKeySigner(KeySignerConfig{Key: x.wallet.Key, KeyID: x.wallet.KID, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	x.renewals = RenewerConfig{
		Signer: signer, Transport: loopback(t), Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond, Scan: 5 * time.Millisecond,
	}
	for _, c := range change {
		c(&x.config, &x.renewals)
	}
	x.Cache, x.renewer = x.open()
	return x
}

// open returns another cache and renewer over the same store, as another process has them.
func (x *fixture) open() (*Cache, *Renewer) {
	x.t.Helper()
	cache, err := New(x.config)
	if err != nil {
		x.t.Fatal(err)
	}
	c := x.renewals
	c.Cache = cache
	r, err := NewRenewer(c)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(r.Close)
	return cache, r
}

func newSealer(t testing.TB) *tokens.Sealer {
	t.Helper()
	s, err := tokens.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// loopback is a guarded transport that may dial this machine.
func loopback(t testing.TB) http.RoundTripper { return dialtest.Transport(t, "127.0.0.0/8") }

// dps returns an EDR of the provider, as a DPS start delivers it.
func (x *fixture) dps() *EDR {
	return &EDR{
		Dialect: tokens.DPS, Endpoint: x.provider.URL + "/data", EndpointType: dpsProfile + "http-pull", AccessToken: "access-0",
		AuthType: "bearer", Scheme: "Bearer", RefreshToken: "refresh-0", RefreshEndpoint: x.provider.URL + "/token",
		ExpiresIn: 5 * time.Minute,
	}
}

// classic returns an EDR of the provider, as Tractus-X 0.12.1 delivers it.
func (x *fixture) classic() *EDR {
	return &EDR{
		Dialect: tokens.Classic, Endpoint: x.provider.URL + "/data", EndpointType: classicHTTP, AccessToken: "access-0",
		RefreshToken: "refresh-0", RefreshEndpoint: x.provider.URL, RefreshAudience: ownDID, ExpiresIn: 5 * time.Minute,
	}
}

func (x *fixture) put(id string, e *EDR, t Terms) *Entry {
	x.t.Helper()
	entry, err := x.Put(context.Background(), Put{ID: id, EDR: e, Terms: t, Origin: BySignaling})
	if err != nil {
		x.t.Fatal(err)
	}
	return entry
}

// started puts the provider's DPS EDR with its counterparty.
func (x *fixture) started(id string) *Entry {
	x.t.Helper()
	return x.put(id, x.dps(), Terms{Counterparty: providerDID, Asset: "asset-1", Agreement: "agreement-1"})
}

func (x *fixture) get(id string) *Entry {
	x.t.Helper()
	e, err := x.Get(context.Background(), id)
	if err != nil {
		x.t.Fatal(err)
	}
	return e
}

func (x *fixture) must(e *Entry, err error) *Entry {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
	return e
}

func wantCode(t *testing.T, err error, want Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if CodeOf(err) != want {
		t.Fatalf("error %v, want code %s", err, want)
	}
}

func wantToken(t *testing.T, e *Entry, want string) {
	t.Helper()
	if e.EDR == nil || e.EDR.AccessToken.Reveal() != want {
		t.Fatalf("access token is not %s: %+v", want, e)
	}
}

// provider is the other company: a data plane that hands out access-1, access-2, … for the refresh token that fits, and
// accepts only the newest access token for data.
type provider struct {
	*httptest.Server
	clock *testkit.Clock

	mu         sync.Mutex
	generation int
	renewals   []*http.Request // those that arrived, with their forms parsed
	proofs     []string
	data       []string // Authorization of data requests, and their bodies behind a space

	// renew, if set, answers a renewal in place of the data plane and reports whether it did.
	renew func(n int, w http.ResponseWriter, r *http.Request) bool
	// serve, if set, answers an admitted data request.
	serve http.HandlerFunc
	// refuse, if set, answers a refused data request.
	refuse http.HandlerFunc
	// any, if set, admits every token.
	any bool
}

func newProvider(t testing.TB, clock *testkit.Clock) *provider {
	p := &provider{clock: clock}
	mux := http.NewServeMux()
	mux.HandleFunc("/token", p.token)
	mux.HandleFunc("/data/", p.serveData)
	mux.HandleFunc("/data", p.serveData)
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	p.mu.Lock()
	p.renewals = append(p.renewals, r)
	p.proofs = append(p.proofs, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	n, renew := len(p.renewals), p.renew
	p.mu.Unlock()
	if renew != nil && renew(n, w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Retire on acknowledgement: the superseded refresh token is answered again.
	switch r.PostForm.Get("refresh_token") {
	case fmt.Sprintf("refresh-%d", p.generation):
		p.generation++
	case fmt.Sprintf("refresh-%d", p.generation-1):
	default:
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": fmt.Sprintf("access-%d", p.generation), "refresh_token": fmt.Sprintf("refresh-%d", p.generation),
		"expires_in": 300, "token_type": "bearer",
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (p *provider) serveData(w http.ResponseWriter, r *http.Request) {
	authorization := r.Header.Get("Authorization")
	p.mu.Lock()
	good := p.any || strings.TrimPrefix(authorization, "Bearer ") == fmt.Sprintf("access-%d", p.generation)
	p.data = append(p.data, authorization)
	serve, refuse := p.serve, p.refuse
	p.mu.Unlock()
	switch {
	case good && serve != nil:
		serve(w, r)
	case good:
		_, _ = fmt.Fprintf(w, "data of %s?%s", r.URL.Path, r.URL.RawQuery)
	case refuse != nil:
		refuse(w, r)
	default:
		writeJSON(w, http.StatusForbidden, map[string]any{"errors": []string{"Token has expired (exp)"}})
	}
}

func (p *provider) renewed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.renewals)
}

func (p *provider) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.data...)
}

// recorder is an Observer that remembers.
type recorder struct {
	mu      sync.Mutex
	events  map[string]int
	results map[string]int
}

func (r *recorder) Event(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[name]++
}

func (r *recorder) Renewal(result string, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results[result]++
}

func (r *recorder) event(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[name]
}

func (r *recorder) result(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.results[name]
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// brittleStore fails on demand.
type brittleStore struct {
	store.Store
	mu   sync.Mutex
	fail int // so many writes fail
}

var errBroken = errors.New("disk on fire")

func (b *brittleStore) breaks(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = n
}

func (b *brittleStore) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	b.mu.Lock()
	failing := b.fail > 0
	if failing {
		b.fail--
	}
	b.mu.Unlock()
	if failing {
		return store.Record{}, errBroken
	}
	return b.Store.Update(ctx, kind, id, edit)
}

package caddymodule

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

// dataWorld is a token service and a Caddy in this process that runs handlers of the data path over real sockets. The
// app is a fake, so that these tests are about the data path alone.
type dataWorld struct {
	t       testing.TB
	clock   *testkit.Clock
	store   *failingStore
	service *tokens.Service
	app     *fakeApp
	logFile string
	address string
	flows   int
}

const (
	dataHost     = "data.example"
	dataConsumer = "did:web:consumer.example"
	dataCaller   = tokens.Caller("cp")
)

func newDataWorld(t testing.TB) *dataWorld {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: key, State: tokens.KeyActive, Name: "active"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	clock := testkit.NewClock()
	w := &dataWorld{t: t, clock: clock, store: &failingStore{Store: memory.New(clock.Now)}}
	w.service, err = tokens.New(tokens.Config{
		Participant: "default", DID: "did:web:provider.example", Keys: ring, Store: w.store, Live: tokens.NewLive(),
		Resolver: noResolver{}, ControlPlanes: []string{string(dataCaller)}, PublicURL: "http://" + dataHost, Now: clock.Now,
		Route: func(f *tokens.Flow) tokens.Routed { return w.app.routed(f) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.app = &fakeApp{service: w.service, routes: map[string]*routeTarget{}, counts: map[string]int{}}
	w.app.limit.setDefaults()
	return w
}

// failingStore fails to read on demand.
type failingStore struct {
	store.Store
	mu   sync.Mutex
	fail error
}

func (s *failingStore) setFailure(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *failingStore) Get(ctx context.Context, kind, id string) (store.Record, error) {
	s.mu.Lock()
	err := s.fail
	s.mu.Unlock()
	if err != nil {
		return store.Record{}, err
	}
	return s.Store.Get(ctx, kind, id)
}

type noResolver struct{}

func (noResolver) ResolveKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("the data path resolves no DID")
}

func (noResolver) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("the data path resolves no DID")
}

// fakeApp stands in for the app.
type fakeApp struct {
	service  *tokens.Service
	routes   map[string]*routeTarget
	auths    []*Auth
	proxies  []*Proxy
	renewals string // path of renewals
	limit    Limits
	rules    map[string]*requestRules // by route

	mu          sync.Mutex
	unavailable error
	classic     bool
	counts      map[string]int
}

func (a *fakeApp) Service() (*tokens.Service, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unavailable != nil {
		return nil, a.unavailable
	}
	return a.service, nil
}

func (a *fakeApp) metrics() dataObserver { return a }

func (a *fakeApp) limits() *Limits { return &a.limit }

func (a *fakeApp) rulesOf(route string) *requestRules { return a.rules[route] }

func (a *fakeApp) refreshRequest(r *http.Request) bool {
	return a.renewals != "" && r.URL.Path == a.renewals
}

func (a *fakeApp) classicOnly() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.classic
}

// routed gives each flow the route that it was started with.
func (a *fakeApp) routed(f *tokens.Flow) tokens.Routed {
	routed := tokens.Routed{Route: f.Route}
	target, ok := a.routes[f.Route]
	if ok {
		routed.Backend = target
	}
	return routed
}

func (a *fakeApp) registerAuth(h *Auth) error {
	a.auths = append(a.auths, h)
	return nil
}

func (a *fakeApp) registerProxy(h *Proxy) error {
	a.proxies = append(a.proxies, h)
	return nil
}

func (a *fakeApp) Verdict(handler, verdict, reason string) {
	a.count(strings.TrimSuffix(handler+" "+verdict+" "+reason, " "))
}

func (a *fakeApp) Backend(result string) { a.count("backend " + result) }

func (a *fakeApp) DialDenied(connection, reason string) {
	a.count("denied " + connection + " " + reason)
}

func (a *fakeApp) count(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[key]++
}

func (a *fakeApp) counted() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.counts)
}

// flow starts a flow and returns its id and access token.
func (w *dataWorld) flow(change func(*tokens.StartRequest)) (id, token string) {
	w.t.Helper()
	w.flows++
	id = "flow-" + strings.Repeat("x", w.flows)
	r := tokens.StartRequest{
		Dialect: tokens.DPS, MessageID: "start-" + id, ProcessID: id, BPN: "BPNL00000000TEST",
		Endpoint: "http://" + dataHost,
		Terms: tokens.Terms{
			Counterparty: dataConsumer, Dataset: "asset-1", Agreement: "agreement-1",
		},
	}
	if change != nil {
		change(&r)
	}
	if r.Dialect == tokens.Classic {
		r.MessageID = ""
	}
	edr, err := w.service.Start(w.t.Context(), dataCaller, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return id, edr.AccessToken.Reveal()
}

// classicFlow starts a flow with a data address.
func (w *dataWorld) classicFlow(kind string, properties map[string]string) string {
	w.t.Helper()
	return w.classicFlowAt("http://"+dataHost, kind, properties)
}

// classicFlowAt is classicFlow with an endpoint.
func (w *dataWorld) classicFlowAt(endpoint, kind string, properties map[string]string) string {
	w.t.Helper()
	_, token := w.flow(func(r *tokens.StartRequest) {
		r.Dialect = tokens.Classic
		r.Endpoint = endpoint
		r.Terms.Source = &tokens.Source{Type: kind, Properties: properties}
	})
	return token
}

// proxied are the flags with which everything of a request is passed on.
func proxied(baseURL string, more ...string) map[string]string {
	properties := map[string]string{
		"baseUrl": baseURL, "proxyPath": "true", "proxyQueryParams": "true", "proxyMethod": "true", "proxyBody": "true",
	}
	for i := 0; i+1 < len(more); i += 2 {
		properties[more[i]] = more[i+1]
	}
	return properties
}

// discardObserver counts nothing.
type discardObserver struct{}

func (discardObserver) Verdict(string, string, string) {}
func (discardObserver) Backend(string)                 {}
func (discardObserver) DialDenied(string, string)      {}

package tokens

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
)

const (
	providerDID  = "did:web:provider.example"
	consumerDID  = "did:web:consumer.example"
	controlPlane = Caller("cp")
)

// fixture is a service with everything around it.
type fixture struct {
	*Service
	t        *testing.T
	clock    *testkit.Clock
	store    *brittleStore
	resolver *fakeResolver
	wallet   *testkit.Wallet
	observer *recorder
	config   Config
}

func newFixture(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	clock := testkit.NewClock()
	x := &fixture{
		t: t, clock: clock,
		store:    &brittleStore{Store: memory.New(clock.Now)},
		resolver: &fakeResolver{keys: map[string]crypto.PublicKey{}},
		wallet:   testkit.NewWallet(consumerDID),
		observer: &recorder{events: map[string]int{}, issued: map[string]int{}},
	}
	x.resolver.publish(x.wallet)
	x.config = Config{
		Participant: "default", DID: providerDID, Keys: newRing(t, newKey(t)),
		Store: x.store, Live: NewLive(), Resolver: x.resolver, ControlPlanes: []string{string(controlPlane)},
		PublicURL: "https://data.provider.example/public", Observer: x.observer, Now: clock.Now,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&x.config)
	}
	x.Service = x.service(x.config)
	return x
}

func (x *fixture) service(c Config) *Service {
	x.t.Helper()
	s, err := New(c)
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// other returns a second configuration over the same store and live states.
func (x *fixture) other(change func(*Config)) *Service {
	c := x.config
	change(&c)
	return x.service(c)
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRing(t testing.TB, active crypto.Signer, verify ...crypto.Signer) *Ring {
	t.Helper()
	keys := []RingKey{{Signer: active, State: KeyActive, Name: "active"}}
	for _, key := range verify {
		keys = append(keys, RingKey{Signer: key, State: KeyVerify, Name: "verify"})
	}
	ring, err := NewRing(keys, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// dpsStart is a start as a DPS control plane of a consumer with a DID asks for it.
func dpsStart(id string) StartRequest {
	return StartRequest{
		Dialect: DPS, MessageID: "start-" + id, ProcessID: id, ProfileRenews: true, RenewalRequired: true,
		Profile: "https://w3id.org/dspace-sig/profile/http-pull",
		Terms:   Terms{Counterparty: consumerDID, Dataset: "asset-1", Agreement: "agreement-1"},
	}
}

// classicStart is a start as Tractus-X asks for it.
func classicStart(id string) StartRequest {
	return StartRequest{
		Dialect: Classic, ProcessID: id, Profile: "HttpData",
		BPN: "BPNL000000000001",
		Terms: Terms{
			Counterparty: consumerDID, Audience: consumerDID, Dataset: "asset-1", Agreement: "agreement-1",
			Source: &Source{Type: "HttpData", Properties: map[string]string{"baseUrl": "https://backend.example/api", "authCode": "CANARY-backend"}},
		},
	}
}

func (x *fixture) start(r StartRequest) *EDR {
	x.t.Helper()
	edr, err := x.Start(context.Background(), controlPlane, r)
	if err != nil {
		x.t.Fatal(err)
	}
	return edr
}

var (
	atEndpoint = Request{Host: "data.provider.example", Path: "/public/x"}
	anySite    = &Site{AnyDataset: true}
)

func (x *fixture) verify(token Secret) error {
	_, err := x.Verify(context.Background(), token.Reveal(), atEndpoint, anySite)
	return err
}

func (x *fixture) renewWith(refresh, access Secret) (*Renewal, error) {
	return x.Renew(context.Background(), RenewRequest{
		RefreshToken: refresh.Reveal(), Proof: x.wallet.Proof(providerDID, access.Reveal(), x.clock.Now()),
	})
}

func (x *fixture) mustRenew(refresh, access Secret) *Renewal {
	x.t.Helper()
	r, err := x.renewWith(refresh, access)
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

func (x *fixture) message(id, messageID string) Message {
	return Message{ProcessID: id, MessageID: messageID, Dialect: DPS}
}

func (x *fixture) must(e Ending, err error) Ending {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
	return e
}

func (x *fixture) generation(id string) uint64 {
	x.t.Helper()
	f, err := x.Flow(context.Background(), id)
	if err != nil {
		x.t.Fatal(err)
	}
	return f.Generation
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

// brittleStore fails on demand.
type brittleStore struct {
	store.Store
	mu        sync.Mutex
	failGet   error
	failWrite error
}

var errBroken = errors.New("disk on fire")

func (b *brittleStore) fail(get, write error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failGet, b.failWrite = get, write
}

func (b *brittleStore) errors() (get, write error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failGet, b.failWrite
}

func (b *brittleStore) Get(ctx context.Context, kind, id string) (store.Record, error) {
	get, _ := b.errors()
	if get != nil {
		return store.Record{}, get
	}
	return b.Store.Get(ctx, kind, id)
}

func (b *brittleStore) Create(ctx context.Context, r store.Record) (store.Record, error) {
	_, write := b.errors()
	if write != nil {
		return store.Record{}, write
	}
	return b.Store.Create(ctx, r)
}

func (b *brittleStore) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	_, write := b.errors()
	if write != nil {
		return store.Record{}, write
	}
	return b.Store.Update(ctx, kind, id, edit)
}

// fakeResolver serves keys and counts who asks.
type fakeResolver struct {
	mu        sync.Mutex
	keys      map[string]crypto.PublicKey // by kid, as known
	fresh     map[string]crypto.PublicKey // by kid, as a refetch would find; nil: the same
	err       error
	resolved  int
	refetched int
}

type refusal struct{}

func (refusal) Error() string { return "no such key" }
func (refusal) Refused() bool { return true }

func (r *fakeResolver) publish(w *testkit.Wallet) { r.keys[w.KID] = w.Key.Public() }

func (r *fakeResolver) ResolveKey(_ context.Context, _, kid string) (crypto.PublicKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resolved++
	return r.find(r.keys, kid)
}

func (r *fakeResolver) RefetchKey(_ context.Context, _, kid string) (crypto.PublicKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refetched++
	if r.fresh != nil {
		return r.find(r.fresh, kid)
	}
	return r.find(r.keys, kid)
}

func (r *fakeResolver) find(keys map[string]crypto.PublicKey, kid string) (crypto.PublicKey, error) {
	if r.err != nil {
		return nil, r.err
	}
	key := keys[kid]
	if key == nil {
		return nil, refusal{}
	}
	return key, nil
}

func (r *fakeResolver) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resolved + r.refetched
}

// recorder is an Observer that remembers.
type recorder struct {
	mu     sync.Mutex
	events map[string]int
	issued map[string]int
	flows  FlowCount

	unchecked int
}

func (r *recorder) Stage(string, string, time.Duration) {}

func (r *recorder) Issued(reason string, _ bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.issued[reason]++
}

func (r *recorder) Event(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[name]++
}

func (r *recorder) Flows(c FlowCount) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flows = c
}

func (r *recorder) Unchecked(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unchecked = n
}

func (r *recorder) count(event string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[event]
}

// resolverFunc resolves and refetches alike.
type resolverFunc func(ctx context.Context, did, kid string) (any, error)

func (f resolverFunc) ResolveKey(ctx context.Context, did, kid string) (crypto.PublicKey, error) {
	return f(ctx, did, kid)
}

func (f resolverFunc) RefetchKey(ctx context.Context, did, kid string) (crypto.PublicKey, error) {
	return f(ctx, did, kid)
}

// rewrite changes a record behind the service's back.
func (x *fixture) rewrite(id string, change func(*Flow)) {
	x.t.Helper()
	_, err := x.store.Update(context.Background(), flowKind, flowKey("default", id), func(old store.Record) (store.Edit, error) {
		f, err := decodeFlow(old)
		if err != nil {
			return store.Edit{}, err
		}
		change(f)
		data, err := f.encode()
		return store.Edit{Data: data}, err
	})
	if err != nil {
		x.t.Fatal(err)
	}
}

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

func init() { caddy.RegisterModule(remoteStore{}) }

// remoteStore is a store that outlives the process which is taken for one, and that can be cut off: as a server that
// several gateways share.
type remoteStore struct {
	ReplicaSettings
	Server string `json:"server"`
}

func (remoteStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: storeNamespace + ".test_remote", New: func() caddy.Module { return new(remoteStore) }}
}

func (r *remoteStore) Provision(caddy.Context) error { return r.provision(r.Server) }
func (r *remoteStore) StoreKey() string              { return r.Server }
func (r *remoteStore) StoreOptions() string          { return r.options() }
func (r *remoteStore) Replica() *ReplicaSettings     { return &r.ReplicaSettings }

func (r *remoteStore) OpenStore(metrics StoreObserver, logger *slog.Logger) (store.Store, error) {
	opened, err := r.OpenAway(metrics, logger)
	if err != nil {
		return nil, err
	}
	return opened, opened.Health(context.Background())
}

func (r *remoteStore) OpenAway(StoreObserver, *slog.Logger) (store.Store, error) {
	server, ok := servers.Load(r.Server)
	if !ok {
		return nil, errors.New("no such server")
	}
	return &connection{server.(*dbServer)}, nil
}

var servers sync.Map

// dbServer is a server that can be cut off and restored from a backup.
type dbServer struct {
	mu    sync.Mutex
	store store.Store
	cut   bool
	slow  time.Duration // of a look at the log
}

func newServer(t *testing.T) *dbServer {
	s := &dbServer{store: memory.New(time.Now)}
	servers.Store(t.Name(), s)
	t.Cleanup(func() { servers.Delete(t.Name()) })
	return s
}

func (s *dbServer) set(edit func(*dbServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(s)
}

func (s *dbServer) reach() (store.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return nil, errors.New("connection refused")
	}
	return s.store, nil
}

// connection is a gateway's access to a server.
type connection struct{ *dbServer }

func (c *connection) Create(ctx context.Context, r store.Record) (store.Record, error) {
	s, err := c.reach()
	if err != nil {
		return store.Record{}, err
	}
	return s.Create(ctx, r)
}

func (c *connection) Get(ctx context.Context, kind, id string) (store.Record, error) {
	s, err := c.reach()
	if err != nil {
		return store.Record{}, err
	}
	return s.Get(ctx, kind, id)
}

func (c *connection) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	s, err := c.reach()
	if err != nil {
		return store.Record{}, err
	}
	return s.Update(ctx, kind, id, edit)
}

func (c *connection) List(ctx context.Context, q store.Query) ([]store.Record, error) {
	s, err := c.reach()
	if err != nil {
		return nil, err
	}
	return s.List(ctx, q)
}

func (c *connection) Sweep(ctx context.Context, now time.Time, keep time.Duration) (int, error) {
	s, err := c.reach()
	if err != nil {
		return 0, err
	}
	return s.Sweep(ctx, now, keep)
}

func (c *connection) Tail(ctx context.Context, after uint64, limit int) ([]store.Entry, error) {
	s, err := c.reach()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	slow := c.slow
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(slow): // as the way to a server takes
	}
	return s.Tail(ctx, after, limit)
}

func (c *connection) Health(ctx context.Context) error {
	s, err := c.reach()
	if err != nil {
		return err
	}
	return s.Health(ctx)
}

func (c *connection) Close() error { return nil }

// backup copies the records and the log as far as it can be rebuilt from them: flows, each with as many versions.
func (s *dbServer) backup(t *testing.T) store.Store {
	t.Helper()
	copied := memory.New(time.Now)
	records, err := s.store.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		_, err := copied.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
	}
	return copied
}

// remoteApp is an app over the test's server.
func (g *liveGateway) remoteApp(more object) object {
	app := g.app()
	module := object{"module": "test_remote", "server": g.t.Name(), "state_dir": g.path("state"), "max_staleness": "1s"}
	for name, value := range more {
		module[name] = value
	}
	app["store"] = module
	return app
}

func (g *liveGateway) ready() answered {
	g.t.Helper()
	return g.send("signaling", g.request(http.MethodGet, "http://localhost/ready", nil))
}

// becomes waits until data requests with a token are answered with a status.
func (g *liveGateway) becomes(token string, status int) {
	g.t.Helper()
	testkit.Eventually(g.t, fmt.Sprintf("data is answered %d", status), func() bool { return g.get(token).status == status })
}

func (g *liveGateway) terminate(flow string) answered {
	g.t.Helper()
	return g.post("/dataflows/"+flow+"/terminate", object{"messageId": "end-" + flow, "reason": "test"})
}

func TestGatewayCutOffFromItsStore(t *testing.T) {
	server := newServer(t)
	g := newLiveGateway(t)
	g.load(g.remoteApp(nil), g.servers())
	c := newConsumer(t)
	served, ended, unseen := g.start("served", c), g.start("ended", c), g.start("unseen", c)
	g.becomes(served.access, http.StatusOK)
	g.becomes(ended.access, http.StatusOK)
	if answer := g.ready(); answer.status != http.StatusOK || !strings.Contains(answer.body, `"ready"`) {
		t.Errorf("ready: %d %s", answer.status, answer.body)
	}

	server.set(func(s *dbServer) { s.cut = true })
	for what, answer := range map[string]answered{
		"renewal": g.renew(served, c.proof(served.access, nil)),
		"start":   g.post("/dataflows/start", g.startMessage("another", c)),
		"unseen":  g.get(unseen.access),
	} {
		if answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s, want 503 with Retry-After", what, answer.status, answer.body)
		}
	}
	if answer := g.terminate("ended"); answer.status != http.StatusOK {
		t.Errorf("terminate: %d %s, but a control plane takes a refusal for final", answer.status, answer.body)
	}
	if answer := g.get(ended.access); answer.status != http.StatusUnauthorized {
		t.Errorf("the end is not in effect: %d %s", answer.status, answer.body)
	}
	g.becomes(served.access, http.StatusServiceUnavailable)
	if answer := g.get(served.access); answer.header.Get("Retry-After") == "" {
		t.Errorf("stale: %v", answer.header)
	}
	testkit.Eventually(t, "not ready", func() bool { return g.ready().status == http.StatusServiceUnavailable })

	// The process is replaced while the store is away: what was acknowledged is still known.
	err := caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	g.load(g.remoteApp(nil), g.servers())
	if answer := g.get(served.access); answer.status != http.StatusServiceUnavailable {
		t.Errorf("before the first look at the log: %d %s", answer.status, answer.body)
	}
	server.set(func(s *dbServer) { s.cut = false })
	g.becomes(served.access, http.StatusOK)
	g.becomes(unseen.access, http.StatusOK)
	if answer := g.get(ended.access); answer.status != http.StatusUnauthorized {
		t.Errorf("an ended flow is served after recovery: %d %s", answer.status, answer.body)
	}
	if answer := g.renew(served, c.proof(served.access, nil)); answer.status != http.StatusOK {
		t.Errorf("renewal after recovery: %d %s", answer.status, answer.body)
	}
	testkit.Eventually(t, "the end is recorded", func() bool {
		return strings.Contains(g.admin("GET", "/edrgate/flows/ended", "").body, `"state":"TERMINATED"`) &&
			strings.Contains(g.logged(), "ending recorded")
	})
}

// A gateway that starts takes its first requests when it has seen the log, and does not refuse them.
func TestFirstRequestsWaitForTheFirstLook(t *testing.T) {
	server := newServer(t)
	g := newLiveGateway(t)
	g.load(g.remoteApp(nil), g.servers())
	token := g.start("flow-1", newConsumer(t)).access
	err := caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	server.set(func(s *dbServer) { s.slow = 50 * time.Millisecond })
	g.load(g.remoteApp(nil), g.servers())
	if answer := g.get(token); answer.status != http.StatusOK {
		t.Errorf("%d %s", answer.status, answer.body)
	}
}

// A reload to a store that cannot be reached is refused, and the config that runs goes on.
func TestReloadToAStoreThatIsAway(t *testing.T) {
	newServer(t)
	away := &dbServer{store: memory.New(time.Now), cut: true}
	servers.Store(t.Name()+" away", away)
	t.Cleanup(func() { servers.Delete(t.Name() + " away") })
	g := newLiveGateway(t)
	g.load(g.remoteApp(nil), g.servers())
	token := g.start("flow-1", newConsumer(t)).access
	g.becomes(token, http.StatusOK)
	err := g.tryLoad(g.remoteApp(object{"server": t.Name() + " away", "state_dir": g.path("away")}), g.servers())
	if err == nil {
		t.Error("loaded")
	}
	if answer := g.get(token); answer.status != http.StatusOK {
		t.Errorf("the config that ran does not go on: %d %s", answer.status, answer.body)
	}
}

// The endings of a participant that a reload has taken away do not hold up the others for ever.
func TestRestoredStoreWithoutAParticipant(t *testing.T) {
	f := &following{serves: map[string]int{}, logger: slog.New(slog.DiscardHandler)}
	f.started.Do(func() {}) // nothing to follow
	both := []*participant{{name: "gone"}, {name: "kept"}}
	r := &repeater{following: f, live: tokens.NewLive()}
	ending := func(name string) error {
		return r.EndAgain(t.Context(), store.Entry{Kind: "flow", ID: name + "/flow-1", Event: "TERMINATED"})
	}
	f.begin(both)
	f.begin(both[1:])
	if ending("gone") == nil {
		t.Error("passed over although its service is about to begin")
	}
	f.end(both)
	err := ending("gone")
	if err != nil {
		t.Errorf("nothing is ever served again: %v", err)
	}
	if ending("kept") == nil {
		t.Error("passed over although its service is about to begin")
	}
}

func TestStalePolicyServesOn(t *testing.T) {
	server := newServer(t)
	g := newLiveGateway(t)
	g.load(g.remoteApp(object{"stale_policy": "until_token_expiry"}), g.servers())
	token := g.start("flow-1", newConsumer(t)).access
	g.becomes(token, http.StatusOK)
	server.set(func(s *dbServer) { s.cut = true })
	began := time.Now()
	testkit.Eventually(t, "staleness is past", func() bool {
		if answer := g.get(token); answer.status != http.StatusOK {
			t.Fatalf("%d %s", answer.status, answer.body)
		}
		return time.Since(began) > 2*time.Second
	})
}

func TestRestoredStore(t *testing.T) {
	server := newServer(t)
	g := newLiveGateway(t)
	g.load(g.remoteApp(nil), g.servers())
	c := newConsumer(t)
	kept, ended := g.start("kept", c), g.start("ended", c)
	g.becomes(kept.access, http.StatusOK)
	old := server.backup(t)
	if answer := g.terminate("ended"); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	lost := g.start("lost", c)
	g.becomes(lost.access, http.StatusOK)
	testkit.Eventually(t, "the end was seen in the log", func() bool {
		return strings.Contains(g.admin("GET", "/metrics", "").body, "edrgate_store_endings_remembered 1")
	})

	server.set(func(s *dbServer) { s.store = old })
	testkit.Eventually(t, "the status says so", func() bool {
		return strings.Contains(g.admin("GET", "/edrgate/status", "").body, `"store_state":"restored"`)
	})
	g.becomes(kept.access, http.StatusOK)
	if answer := g.get(ended.access); answer.status != http.StatusUnauthorized {
		t.Errorf("an ended flow has come back: %d %s", answer.status, answer.body)
	}
	for what, answer := range map[string]answered{
		"renewal":              g.renew(kept, c.proof(kept.access, nil)),
		"a flow that was lost": g.get(lost.access),
	} {
		if answer.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s, want 503 until the operator accepts", what, answer.status, answer.body)
		}
	}
	if answer := g.ready(); answer.status != http.StatusOK || !strings.Contains(answer.body, "restored") {
		t.Errorf("ready: %d %s", answer.status, answer.body)
	}
	if answer := g.admin("GET", "/metrics", ""); !strings.Contains(answer.body, "edrgate_store_rollback 1") {
		t.Error("the metric does not say so")
	}
	if answer := g.admin("POST", "/edrgate/accept-restore", ""); answer.status != http.StatusOK || !strings.Contains(answer.body, "true") {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	testkit.Eventually(t, "renewals go on", func() bool {
		return g.renew(kept, c.proof(kept.access, nil)).status == http.StatusOK
	})
	if answer := g.get(lost.access); answer.status != http.StatusUnauthorized {
		t.Errorf("a flow that was lost: %d %s", answer.status, answer.body)
	}
	if answer := g.admin("POST", "/edrgate/accept-restore", ""); !strings.Contains(answer.body, "false") {
		t.Errorf("%d %s", answer.status, answer.body)
	}
}

func TestReplicaSettings(t *testing.T) {
	for _, test := range []struct{ name, block, want string }{
		{"defaults", "", ""},
		{"all", "state_dir /tmp/x\nmax_staleness 5s\nstale_policy until_token_expiry\ncanary 0", ""},
		{"staleness too short", "max_staleness 10ms", "max_staleness: must be from 1s to 1h"},
		{"policy", "stale_policy maybe", `stale_policy`},
		{"canary too often", "canary 1ms", "canary: must be at least 1s"},
		{"twice", "canary 1s\ncanary 2s", "canary is already set to another value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings := new(ReplicaSettings)
			d := caddyfile.NewTestDispenser("test {\n" + test.block + "\n}")
			d.Next()
			err := parseBlock(d, "store test", settings.parsers())
			if err == nil {
				err = settings.provision("key")
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

package integration

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestReloadsUnderLoadFailNoRequest: every request gets the right answer. A reload replaces the HTTP server, which closes
// a connection without an answer if its next request arrives just then. A client repeats a GET on its own; that a POST is
// repeated, with the same bytes, is what consumers do (Tractus-X DR 2026-08-10).
func TestReloadsUnderLoadFailNoRequest(t *testing.T) {
	t.Parallel()
	const readers, reads, flows, renewals = 8, 2000, 10, 200
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	parties := make([]*party, flows)
	for i := range parties {
		parties[i] = newParty(g, planes[i%len(planes)], hosts, fmt.Sprintf("consumer-%d", i), "weather")
	}
	failed := make(chan error, readers+flows)
	var served, unanswered, renewed atomic.Int32
	renewing := newClient()
	var wait sync.WaitGroup
	for i := range readers {
		wait.Go(func() {
			token := parties[i%flows].edr.access
			for range reads / readers {
				answer, err := trySend(g.client, g.dataRequest("/", "Bearer "+token))
				for tries := 1; isUnanswered(err) && tries < 5; tries++ {
					unanswered.Add(1)
					answer, err = trySend(g.client, g.dataRequest("/", "Bearer "+token))
				}
				if err != nil || answer.status != http.StatusOK || answer.body != "data of weather" {
					failed <- fmt.Errorf("data request: %w", failure{answer, err})
					return
				}
				served.Add(1)
			}
		})
	}
	for _, c := range parties {
		wait.Go(func() {
			e := c.edr
			for range renewals / flows {
				r := renewalOf(g, c.wallet, e)
				answer, err := r.trySend(g, renewing)
				for tries := 1; err != nil && tries < 5; tries++ {
					answer, err = r.trySend(g, renewing)
				}
				if err == nil && answer.status == http.StatusOK {
					e, err = e.renewedBy(g, answer)
				}
				if err != nil || answer.status != http.StatusOK {
					failed <- fmt.Errorf("renewal: %w", failure{answer, err})
					return
				}
				renewed.Add(1)
			}
		})
	}
	finished := make(chan struct{})
	go func() { wait.Wait(); close(finished) }()

	reloads := 0
	for running := true; running; reloads++ {
		g.config.app = fmt.Sprintf("token_ttl %dm", 5+reloads)
		g.reload()
		select {
		case <-finished:
			running = false
		default:
		}
	}
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	t.Logf("%d data requests (%d more on connections that were closed unanswered) and %d renewals over %d reloads",
		served.Load(), unanswered.Load(), renewed.Load(), reloads)
	m := g.scrape()
	admitted := m.value("edrgate_data_requests_total", "verdict", "admitted")
	if least, most := served.Load(), served.Load()+unanswered.Load(); admitted < float64(least) || admitted > float64(most) {
		t.Errorf("%v data requests were admitted, want %d to %d", admitted, least, most)
	}
	m.wantCount(g, float64(renewed.Load()), "edrgate_renewals_total", "result", "rotated")
}

// TestFailingReloadLeavesEverythingAsItWas.
func TestFailingReloadLeavesEverythingAsItWas(t *testing.T) {
	t.Parallel()
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	good := config{site: serves("weather", weather)}
	g := startGateway(t, good)
	blocked := newParty(g, dpsPlane{}, hosts, "blocked", "weather")
	dpsPlane{}.suspend(g, blocked.terms.flow).want(t, http.StatusOK)
	doomed := newParty(g, dpsPlane{}, hosts, "doomed", "weather")
	c := newParty(g, dpsPlane{}, hosts, "consumer", "weather")
	wantData(t, g, "/", c.edr.access, "data of weather")
	admitted := 1.0

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	faults := map[string]struct {
		config config
		says   string
	}{
		"unknown option":      {config{site: good.site, app: "tokenttl 5m"}, "tokenttl"},
		"missing key":         {config{site: good.site, keys: "signing_key " + g.path("keys", "none.pem")}, "signing_key"},
		"no refresh endpoint": {config{site: good.site, noRefresh: true}, "edr_refresh"},
		"no dataset":          {config{site: "edr_auth\nreverse_proxy " + weather.address()}, "dataset"},
		"contradiction":       {config{site: good.site, app: "refresh_ttl 1m\ntoken_ttl 5m"}, "refresh_ttl"},
		"unknown route":       {config{site: "edr_auth {\nroute nowhere\n}\nreverse_proxy " + weather.address()}, "nowhere"},
		"address in use": {
			config{site: good.site, more: "http://" + taken.Addr().String() + " {\nrespond ok\n}"}, "address already in use",
		},
		"store in a bad place": {config{site: good.site, storePath: g.caddyfile()}, "store"},
	}
	saved := read(t, g.autosave())
	running := g.adminGet("/config/").want(t, http.StatusOK).body
	for name, fault := range faults {
		g.config = fault.config
		g.config.storePath = orDefault(fault.config.storePath, g.path("store"))
		g.writeConfig()
		output, err := g.tryReload()
		if err == nil {
			t.Fatalf("%s: the configuration was loaded", name)
		}
		if !strings.Contains(output, fault.says) {
			t.Errorf("%s: the message does not name %q: %s", name, fault.says, output)
		}
		wantData(t, g, "/", c.edr.access, "data of weather")
		wantRefusal(t, g.get("/", blocked.edr.access), "suspended", http.StatusForbidden, "flow_suspended")
		c.edr = renew(g, c.wallet, c.edr)
		if g.adminGet("/config/").body != running || read(t, g.autosave()) != saved {
			t.Errorf("%s: the failed configuration was kept", name)
		}
		// Caddy leaves the admin endpoint of the failed configuration in place. It must speak for the running one.
		admitted++
		g.scrape().wantCount(g, admitted, "edrgate_data_requests_total", "verdict", "admitted")
		shown := showFlow(g, blocked.terms.flow)
		if shown.State != "SUSPENDED" || len(listFlows(g)) != 3 {
			t.Errorf("%s: the suspended flow is shown as %+v", name, shown)
		}
	}
	g.adminDo(http.MethodPost, flowPath(doomed.terms.flow)+"/revoke", "").want(t, http.StatusOK)
	wantRefusal(t, g.get("/", doomed.edr.access), "revoked", http.StatusUnauthorized, "")

	g.config = good
	g.config.storePath = g.path("store")
	g.config.app = "token_ttl 7m"
	g.reload()
	c.edr = renew(g, c.wallet, c.edr)
	if c.edr.expiresIn != 7*60 {
		t.Errorf("after a good reload a token lives for %d s, want 420", c.edr.expiresIn)
	}
	dpsPlane{}.terminate(g, c.terms.flow).want(t, http.StatusOK)
	wantRefusal(t, g.get("/", c.edr.access), "terminated", http.StatusUnauthorized, "")
}

// TestValidateBesideTheLiveServer: the live one holds the store's lock, and a check must leave nothing behind.
func TestValidateBesideTheLiveServer(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, classicPlane{}, newDIDHost(t), "consumer", "weather")
	awaitStorageCleaned(g)
	before := filesOf(t, g.dir)
	validate := func() {
		t.Helper()
		stdout, stderr, err := g.cli("validate", "--config", g.caddyfile(), "--adapter", "caddyfile")
		if err != nil {
			t.Errorf("caddy validate: %v: %s%s", err, stdout, stderr)
		}
	}
	validate()
	g.config.storePath = g.path("not-yet", "store")
	g.writeConfig()
	validate()
	g.config.storePath = g.path("store")
	after := filesOf(t, g.dir)
	if !slices.Equal(after, before) {
		t.Errorf("validate made files: there were %v, there are %v", before, after)
	}
	wantData(t, g, "/", c.edr.access, "data of weather")
	renew(g, c.wallet, c.edr)
}

// awaitStorageCleaned waits for what Caddy does to its own storage after its start, once a day: it takes a lock, and
// writes under a name of the moment when it was done.
func awaitStorageCleaned(g *gateway) {
	g.t.Helper()
	storage := g.path("xdg-data", "caddy")
	testkit.Eventually(g.t, "Caddy has cleaned its storage", func() bool {
		_, err := os.Stat(filepath.Join(storage, "last_clean.json"))
		locks, globErr := filepath.Glob(filepath.Join(storage, "locks", "*"))
		return err == nil && globErr == nil && len(locks) == 0
	})
}

// filesOf returns the paths below a directory.
func filesOf(t testing.TB, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// TestManyHandlersShareTheMetrics: handlers that each register metrics of their own panic at the second one, and forget
// their counters on a reload.
func TestManyHandlersShareTheMetrics(t *testing.T) {
	t.Parallel()
	hosts, weather, prices := newDIDHost(t), newBackend(t, "weather"), newBackend(t, "prices")
	second := freeAddress(t)
	both := fmt.Sprintf("handle /weather/* {\n%s\n}\nhandle /prices/* {\n%s\n}\nhandle {\nedr_proxy {\nbackends %s\n}\n}",
		serves("weather", weather), serves("prices", prices), weather.address())
	g := startGateway(t, config{
		app:  fmt.Sprintf("route second {\ndataset second\npublic_url http://%s\n}", second),
		site: both,
		more: fmt.Sprintf("http://%s {\nedr_refresh\n%s\nhandle /second/* {\nedr_auth {\nroute second\n}\nreverse_proxy %s\n}\n}",
			second, both, weather.address()),
	})
	c := newParty(g, dpsPlane{}, hosts, "weather", "weather")
	d := newParty(g, dpsPlane{}, hosts, "prices", "prices")
	for i := range 3 {
		wantData(t, g, "/weather/", c.edr.access, "data of weather")
		wantData(t, g, "/prices/", d.edr.access, "data of prices")
		wantRefusal(t, g.get("/prices/", c.edr.access), "the weather's", http.StatusForbidden, "")
		g.reload()
		m := g.scrape()
		m.wantCount(g, float64(2*(i+1)), "edrgate_data_requests_total", "handler", "edr_auth", "verdict", "admitted")
		m.wantCount(g, float64(i+1), "edrgate_data_requests_total", "handler", "edr_auth", "reason", "wrong_dataset")
		m.wantCount(g, 2, "edrgate_tokens_issued_total", "reason", "start")
	}
}

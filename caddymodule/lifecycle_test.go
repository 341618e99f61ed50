package caddymodule

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	dto "github.com/prometheus/client_model/go"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// validateEnv makes this test binary a second process that validates a config, as `caddy validate` is.
const validateEnv = "EDRGATE_TEST_VALIDATE"

func TestMain(m *testing.M) {
	file := os.Getenv(validateEnv)
	if file == "" {
		os.Exit(m.Run())
	}
	data, err := os.ReadFile(file)
	if err == nil {
		var config *caddy.Config
		err = json.Unmarshal(data, &config)
		if err == nil {
			err = caddy.Validate(config)
		}
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// validate validates a config in another process and returns its complaint.
func (g *liveGateway) validate(app, servers object) string {
	g.t.Helper()
	file := g.path("validate.json")
	err := os.WriteFile(file, g.config(app, servers), 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), validateEnv+"="+file)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	err = cmd.Run()
	if err != nil && complaint.Len() == 0 {
		g.t.Fatal(err)
	}
	if err == nil {
		return ""
	}
	return complaint.String()
}

func TestValidateBesideLiveGateway(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	complaint := g.validate(g.app(), g.servers())
	if complaint != "" {
		t.Errorf("a valid config was refused: %s", complaint)
	}

	// Of a directory that does not exist yet, nothing is created.
	app := g.app()
	app["store"] = object{"module": "badger", "path": g.path("fresh")}
	complaint = g.validate(app, g.servers())
	if complaint != "" {
		t.Errorf("a valid config was refused: %s", complaint)
	}
	_, err := os.Stat(g.path("fresh"))
	if !os.IsNotExist(err) {
		t.Errorf("validating created the store's directory: %v", err)
	}

	app["signing_keys"] = []object{{"file": g.path("missing.pem")}}
	complaint = g.validate(app, g.servers())
	if !strings.Contains(complaint, "signing_key") || !strings.Contains(complaint, "cannot open the file") {
		t.Errorf("a missing key file: %q", complaint)
	}
}

func TestReloadKeepsStoreAndCounters(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	first := g.running()
	issued := counterValue(t, "start")
	e := g.start("flow-1", newConsumer(t))

	for range 3 {
		app := g.app()
		app["token_ttl"] = "7m"
		g.load(app, g.servers())
	}
	second := g.running()
	if first == second || first.engine != second.engine {
		t.Error("the store was not handed on")
	}
	if n := g.references("store"); n != 1 {
		t.Errorf("%d configs hold the store", n)
	}
	if answer := g.get(e.access); answer.status != http.StatusOK || answer.body != "data" {
		t.Errorf("a token from before the reload: %d %s", answer.status, answer.body)
	}
	g.start("flow-2", newConsumer(t))
	if grown := counterValue(t, "start") - issued; grown != 2 {
		t.Errorf("tokens counted over the reload: %v", grown)
	}
}

// counterValue reads edrgate_tokens_issued_total from the running config's registry.
func counterValue(t *testing.T, reason string) float64 {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	found := false
	for _, family := range families {
		if family.GetName() != "edrgate_tokens_issued_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if labelOf(metric, "reason") == reason {
				total += metric.GetCounter().GetValue()
				found = true
			}
		}
	}
	if !found {
		t.Fatalf("no counter for %s", reason)
	}
	return total
}

func labelOf(metric *dto.Metric, name string) string {
	for _, pair := range metric.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

func TestRequestUnderWaySurvivesReload(t *testing.T) {
	g := newLiveGateway(t)
	servers := g.servers()
	servers["data"] = g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_test_hold"},
		object{"handler": "edr_auth", "any_dataset": true}, object{"handler": "static_response", "body": "data"})
	g.load(g.app(), servers)
	e := g.start("flow-1", newConsumer(t))

	answers := make(chan answered)
	go func() {
		r := g.request(http.MethodGet, "http://data.example/thing", nil, "Authorization", "Bearer "+e.access, "X-Hold", "1")
		answers <- g.send("data", r)
	}()
	<-held.arrived
	app := g.app()
	app["token_ttl"] = "9m"
	g.load(app, servers)
	held.release <- struct{}{}
	answer := <-answers
	if answer.status != http.StatusOK || answer.body != "data" {
		t.Errorf("request of the old config: %d %s", answer.status, answer.body)
	}
	if n := g.references("store"); n != 1 {
		t.Errorf("%d configs hold the store", n)
	}
}

func TestFailingReloadsChangeNothing(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	before := g.running()
	e := g.start("flow-1", newConsumer(t))

	badKey := g.app()
	badKey["signing_keys"] = []object{{"file": g.path("missing.pem")}}
	badListener := g.servers()
	badListener["broken"] = object{"listen": []string{"unix/" + g.path("no/such/dir/socket")}}
	noRefresh := g.servers()
	noRefresh["data"] = g.site("data", object{"handler": "edr_auth", "any_dataset": true})
	locked := g.app()
	err := os.WriteFile(g.path("file"), nil, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	locked["store"] = object{"module": "badger", "path": g.path("file")}

	for name, config := range map[string][2]object{
		"key file missing":       {badKey, g.servers()},
		"listener cannot bind":   {g.app(), badListener},
		"contradictory sites":    {g.app(), noRefresh},
		"store cannot be opened": {locked, g.servers()},
	} {
		for range 3 {
			err := g.tryLoad(config[0], config[1])
			if err == nil {
				t.Fatalf("%s: loaded", name)
			}
		}
		if n := g.references("store"); n != 1 {
			t.Errorf("%s: %d configs hold the store", name, n)
		}
	}
	if g.running() != before {
		t.Error("another config is running")
	}
	if answer := g.get(e.access); answer.status != http.StatusOK {
		t.Errorf("data request: %d %s", answer.status, answer.body)
	}
}

func TestStoreOptionsAndDirectories(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	e := g.start("flow-1", newConsumer(t))
	first := g.running()

	app := g.app()
	app["store"] = object{"module": "badger", "path": g.path("store") + "/../store/", "reserve_bytes": 32 << 20}
	g.load(app, g.servers())
	if g.running().engine != first.engine || g.references("store") != 1 {
		t.Error("another option opened the store again")
	}
	if !strings.Contains(g.logged(), "the new ones count after a restart") {
		t.Error("no warning about the option")
	}

	app["store"] = object{"module": "badger", "path": g.path("other")}
	g.load(app, g.servers())
	if g.references("store") != 0 || g.references("other") != 1 {
		t.Errorf("references: %d and %d", g.references("store"), g.references("other"))
	}
	if answer := g.get(e.access); answer.status != http.StatusUnauthorized {
		t.Errorf("a flow of the other store: %d %s", answer.status, answer.body)
	}
	// Handlers of the first config go on with a closed store: cannot tell, and never a new reference.
	service, err := first.participants[0].Service()
	if err != nil {
		t.Fatal(err)
	}
	_, err = service.Flow(t.Context(), "flow-1")
	if err == nil || g.references("store") != 0 {
		t.Errorf("closed store: %v, %d references", err, g.references("store"))
	}

	err = caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if g.references("other") != 0 {
		t.Error("the store is held after the end")
	}
	g.load(g.app(), g.servers())
	if answer := g.get(e.access); answer.status != http.StatusOK {
		t.Errorf("after a restart: %d %s", answer.status, answer.body)
	}
}

// An app that was cleaned up before any request must not take a reference: nobody would give it back.
func TestServiceAfterCleanup(t *testing.T) {
	g := newLiveGateway(t)
	app := &App{opener: &BadgerStore{dir: g.path("store")}}
	err := app.Cleanup()
	if err != nil {
		t.Fatal(err)
	}
	err = app.open()
	if err == nil || g.references("store") != 0 {
		t.Errorf("%v, %d references", err, g.references("store"))
	}
}

// What ends access under a new config must stop what was admitted under the old one.
func TestTerminateReachesOldConfig(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	e := g.start("flow-1", newConsumer(t))
	if answer := g.get(e.access); answer.status != http.StatusOK {
		t.Fatalf("data request: %d", answer.status)
	}
	old := g.running()
	app := g.app()
	app["token_ttl"] = "8m"
	g.load(app, g.servers())
	if answer := g.post("/dataflows/flow-1/terminate", object{"messageId": "m-2"}); answer.status != http.StatusOK {
		t.Fatalf("terminate: %d %s", answer.status, answer.body)
	}
	service, err := old.participants[0].Service()
	if err != nil {
		t.Fatal(err)
	}
	gate := old.participants[0].sites.auths[0].gate
	_, err = service.Verify(t.Context(), e.access, tokens.Request{Host: "data.example", Path: "/thing"}, gate.site)
	if err == nil {
		t.Error("the old config still admits")
	}
}

func TestManyHandlersOneRegistry(t *testing.T) {
	g := newLiveGateway(t)
	servers := g.servers()
	for _, name := range []string{"second", "third"} {
		servers[name] = g.site(name, object{"handler": "edr_refresh"}, object{"handler": "edr_refresh"}, object{"handler": "edr_health"},
			object{"handler": "edr_signaling"}, object{"handler": "edr_auth", "any_dataset": true}, object{"handler": "edr_auth", "datasets": []string{"asset-1"}},
			object{"handler": "edr_proxy", "backends": []string{"backend:8080"}})
	}
	g.load(g.app(), servers)
	g.load(g.app(), servers)
	counterValue(t, "start")
}

func TestHealth(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	for path, want := range map[string]string{"/live": `{"status":"live"}`, "/ready": `{"status":"ready"}`, "/ready/": `{"status":"ready"}`} {
		answer := g.send("signaling", g.request(http.MethodGet, "http://localhost"+path, nil))
		if answer.status != http.StatusOK || answer.body != want {
			t.Errorf("%s: %d %s", path, answer.status, answer.body)
		}
	}
	health := &Health{app: g.running()}
	err := g.running().engine.store.Close()
	if err != nil {
		t.Fatal(err)
	}
	status, body := health.ready(t.Context())
	if status != http.StatusServiceUnavailable || body.Reason != "store cannot be used" {
		t.Errorf("closed store: %d %v", status, body)
	}
	if strings.Contains(body.Reason, filepath.Base(g.dir)) {
		t.Error("the answer tells the directory")
	}
}

// shortStore is a store that is short of space.
type shortStore struct{ store.Store }

func (shortStore) Health(context.Context) error { return fmt.Errorf("guard: %w", store.ErrFull) }

// A gateway that is short of space still checks tokens and ends access, so it must not be taken out of service.
func TestHealthShortOfSpace(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	app := g.running()
	opened := app.engine
	app.engine = &engine{store: shortStore{}}
	defer func() { app.engine = opened }()
	status, body := (&Health{app: app}).ready(t.Context())
	if status != http.StatusOK || body.Status != "degraded" {
		t.Errorf("%d %+v", status, body)
	}
}

func TestWarningOfLostKey(t *testing.T) {
	g := newLiveGateway(t)
	err := keygen(io.Discard, rand.Reader, g.path("new.pem"), "ES256", "")
	if err != nil {
		t.Fatal(err)
	}
	const warning = "the key that signed until now is not listed any more"
	g.load(g.app(), g.servers())
	e := g.start("flow-1", newConsumer(t))
	app := g.app()
	app["signing_keys"] = []object{{"file": g.path("new.pem")}, {"file": g.path("signing.pem"), "state": "verify"}}
	g.load(app, g.servers())
	if answer := g.get(e.access); answer.status != http.StatusOK || strings.Contains(g.logged(), warning) {
		t.Errorf("rotation as it should be: %d", answer.status)
	}
	app["signing_keys"] = []object{{"file": g.path("signing.pem")}}
	g.load(app, g.servers())
	if !strings.Contains(g.logged(), warning) {
		t.Error("no warning")
	}
}

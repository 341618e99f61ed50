package caddymodule

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestControlPlaneCaddyfile(t *testing.T) {
	app := new(App)
	err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`edrgate {
		control_plane main {
			formerly a b
			formerly c
			callback http://cp:9191/control
		}
		control_plane other
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []ControlPlane{
		{Name: "main", Formerly: []string{"a", "b", "c"}, Callback: "http://cp:9191/control"},
		{Name: "other"},
	}
	if !reflect.DeepEqual(app.ControlPlanes, want) {
		t.Errorf("%+v", app.ControlPlanes)
	}
	for _, bad := range []string{
		"callback", "callback a b", "callback http://a\ncallback http://b", "formerly", "callbacks http://a", "callback http://a {\nx\n}",
	} {
		err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\ncontrol_plane main {\n" + bad + "\n}\n}"))
		if err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestCallbackSettings(t *testing.T) {
	g := newLiveGateway(t)
	for bad, want := range map[string]string{
		"cp:9191":                "must be an absolute http or https URL",
		"http://u:secret@cp":     "must have no user, query or fragment",
		"http://cp/control?x=1":  "must have no user, query or fragment",
		"{file./does/not/exist}": "control_plane default: callback",
	} {
		app := g.app()
		app["control_planes"] = []object{{"name": "default", "callback": bad}}
		err := g.tryLoad(app, g.servers())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestUnacknowledgedTTLCaddyfile(t *testing.T) {
	for input, want := range map[string]string{
		"": "null", "unacknowledged_ttl 7d": "604800000000000", "unacknowledged_ttl 0": "0",
		"unacknowledged_ttl 0\nunacknowledged_ttl 0": "0",
	} {
		app := new(App)
		err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\n" + input + "\n}"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(app.UnacknowledgedTTL)
		if err != nil || string(got) != want {
			t.Errorf("%q: %s %v", input, got, err)
		}
		app.setDefaults()
		if input == "" && time.Duration(*app.UnacknowledgedTTL) != 30*24*time.Hour {
			t.Errorf("default %d", *app.UnacknowledgedTTL)
		}
	}
	for _, bad := range []string{"unacknowledged_ttl", "unacknowledged_ttl month", "unacknowledged_ttl 0\nunacknowledged_ttl 7d"} {
		err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\n" + bad + "\n}"))
		if err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// calls is a control plane that notes what it is told.
type calls struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	got    []string // path and body
}

func newCalls(t *testing.T, status int) *calls {
	t.Helper()
	c := &calls{status: status}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got = append(c.got, r.URL.Path+" "+string(body))
		w.WriteHeader(c.status)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *calls) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

func (c *calls) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.got...)
}

func (c *calls) about(path string) int {
	n := 0
	for _, got := range c.all() {
		if strings.HasPrefix(got, path+" ") {
			n++
		}
	}
	return n
}

// A revoked flow is reported to its control plane by the address that the operator gave, in the words of its dialect.
func TestRevocationIsReported(t *testing.T) {
	g := newLiveGateway(t)
	plane := newCalls(t, http.StatusOK)
	app := g.app()
	app["control_planes"] = []object{{"name": "default", "callback": plane.URL + "/control"}}
	servers := g.servers()
	servers["proxy"] = g.site("proxy", object{"handler": "edr_proxy", "backends": []string{"backend:8080"}})
	g.load(app, servers)
	c := newConsumer(t)
	for _, flow := range []string{"dps", "quiet", "suspended"} {
		g.start(flow, c)
	}
	if answer := g.classicStart("classic", c); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	if answer := g.post("/dataflows/suspended/suspend", object{"messageId": "m"}); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	for flow, want := range map[string]struct{ body, told string }{
		"dps":       {"", "promised"},
		"classic":   {`{"reason":"nobody else's business"}`, "promised"},
		"quiet":     {`{"quiet":true}`, "quiet"},
		"suspended": {"", "suspended"},
	} {
		answer := g.admin("POST", "/edrgate/flows/"+flow+"/revoke", want.body)
		if answer.status != http.StatusOK || !strings.Contains(answer.body, `"control_plane":"`+want.told+`"`) {
			t.Errorf("%s: %d %s", flow, answer.status, answer.body)
		}
	}
	testkit.Eventually(t, "both reports", func() bool { return len(plane.all()) >= 2 })
	testkit.Eventually(t, "nothing owed", func() bool { _, owed := g.participant().service.Load().DueReports(); return len(owed) == 0 })
	if plane.about("/control/transfers/dps/dataflow/completed") != 1 || plane.about("/control/transferprocess/classic/fail") != 1 || len(plane.all()) != 2 {
		t.Errorf("%v", plane.all())
	}
	for _, got := range plane.all() {
		if strings.Contains(got, "business") {
			t.Errorf("the operator's reason left the house: %s", got)
		}
	}
	if answer := g.admin("POST", "/edrgate/flows/dps/revoke", ""); strings.Contains(answer.body, "control_plane\":\"promised") {
		t.Errorf("promised again: %s", answer.body)
	}
}

// The control plane is broken when the flow is revoked, and the gateway is restarted meanwhile: the report arrives.
func TestReportSurvivesARestart(t *testing.T) {
	g := newLiveGateway(t)
	plane := newCalls(t, http.StatusInternalServerError)
	app := g.app()
	app["control_planes"] = []object{{"name": "default", "callback": plane.URL}}
	g.load(app, g.servers())
	g.start("flow-1", newConsumer(t))
	if answer := g.admin("POST", "/edrgate/flows/flow-1/revoke", ""); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	testkit.Eventually(t, "a refused attempt, settled", func() bool {
		f, err := g.participant().service.Load().Flow(context.Background(), "flow-1")
		if err != nil {
			t.Fatal(err)
		}
		return f.Report.Attempt > 0 && time.Until(f.Report.Due) < 10*time.Second
	})
	err := caddy.Stop()
	if err != nil {
		t.Fatal(err)
	}
	plane.answer(http.StatusOK)
	before := len(plane.all())
	g.load(app, g.servers())
	testkit.Eventually(t, "the report, delivered", func() bool {
		f, err := g.participant().service.Load().Flow(context.Background(), "flow-1")
		if err != nil {
			t.Fatal(err)
		}
		return f.Report == nil
	})
	if n := len(plane.all()) - before; n != 1 {
		t.Errorf("%d reports after the restart", n)
	}
}

// A control plane of Data Plane Signaling RC3 names no address in its messages: it registers one.
func TestRegisteredControlPlaneIsTold(t *testing.T) {
	g := newLiveGateway(t)
	plane := newCalls(t, http.StatusOK)
	app := g.app()
	app["control_planes"] = []object{{"name": "default", "callback": plane.URL}}
	g.load(app, g.servers())
	register := func(endpoint string) answered {
		body := `{"controlplaneId":"cp-1","endpoint":"` + endpoint + `"}`
		return g.send("signaling", g.request(http.MethodPut, "http://localhost/controlplanes", strings.NewReader(body), "Content-Type", "application/json"))
	}
	if answer := register("http://attacker.example/signaling"); answer.status != http.StatusBadRequest || strings.Contains(answer.body, "127.0.0.1") {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if answer := register(plane.URL + "/tenant-1/signaling"); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	g.start("flow-1", newConsumer(t))
	if answer := g.admin("POST", "/edrgate/flows/flow-1/revoke", ""); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	testkit.Eventually(t, "the report", func() bool { return plane.about("/tenant-1/signaling/transfers/flow-1/dataflow/completed") == 1 })
	gone := g.send("signaling", g.request(http.MethodDelete, "http://localhost/controlplanes/cp-1", nil))
	if gone.status != http.StatusNoContent {
		t.Errorf("%d %s", gone.status, gone.body)
	}
}

func TestRevocationWithoutCallback(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	g.start("flow-1", newConsumer(t))
	answer := g.admin("POST", "/edrgate/flows/flow-1/revoke", "")
	if !strings.Contains(answer.body, `"control_plane":"no_callback"`) {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	testkit.Eventually(t, "a warning", func() bool { return strings.Contains(g.logged(), "it has no callback") })
}

package signaling

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/tokens"
)

// TestEndings: what suspend, terminate and complete answer in every situation. EDC leaves its counterparty's side open
// when a terminate is refused.
func TestEndings(t *testing.T) {
	const foreign = "foreign"
	situations := []struct {
		name  string
		state tokens.State // of the flow; "": unknown
	}{
		{"unknown", ""},
		{foreign, tokens.Started},
		{"started", tokens.Started},
		{"suspended", tokens.Suspended},
		{"completed", tokens.Completed},
		{"terminated", tokens.Terminated},
	}
	operations := []struct {
		path string
		want map[string]int
	}{
		{"/v1/dataflows/tp-1/suspend", map[string]int{}},
		{"/v1/dataflows/tp-1/terminate", map[string]int{}},
		{"/dataflows/tp-1/suspend", map[string]int{"unknown": 404, foreign: 404, "completed": 409, "terminated": 409}},
		{"/dataflows/tp-1/terminate", map[string]int{}},
		{"/dataflows/tp-1/completed", map[string]int{}},
	}
	for _, op := range operations {
		for _, s := range situations {
			t.Run(op.path+" "+s.name, func(t *testing.T) {
				x := newFixture(t)
				owner := DefaultControlPlane
				if s.name == foreign {
					owner = "other"
				}
				if s.state != "" {
					x.flows.flows["tp-1"] = &fakeFlow{flow: tokens.Flow{ID: "tp-1", State: s.state, ControlPlane: owner}}
				}
				want, special := op.want[s.name]
				if !special {
					want = http.StatusOK
					if strings.HasPrefix(op.path, classicRoot) {
						want = http.StatusNoContent
					}
				}
				a := x.post(op.path, `{"messageId":"m-2","reason":"because"}`).want(t, want)
				if want < 300 && a.Body.Len() > 0 {
					t.Errorf("body %s", a.Body)
				}
				m := x.flows.messages[0]
				if m.ProcessID != "tp-1" || m.Reason != "because" {
					t.Errorf("message %+v", m)
				}
				surprise := s.name == foreign || want < 300 && (s.name == "unknown" ||
					strings.HasSuffix(op.path, "suspend") && s.state.Ended())
				if level := x.lastLog()["level"]; surprise != (level == "WARN") {
					t.Errorf("level %v", level)
				}
			})
		}
	}
}

// TestLife walks each dialect through a flow's life.
func TestLife(t *testing.T) {
	const dpsFlow, classicFlow = "/dataflows/tp-1", "/v1/dataflows/tp-1"
	steps := map[string][]struct {
		path, body string
		status     int
		outcome    string
	}{
		"dps": {
			{dpsRoot + "/start", dpsStart(nil), 200, "applied"},
			{dpsRoot + "/start", dpsStart(nil), 200, "already"},
			{dpsRoot + "/start", dpsStart(map[string]any{"messageId": "m-9"}), 200, "already"}, // after a crash of EDC
			{dpsRoot + "/start", dpsStart(map[string]any{"datasetId": "asset-2"}), 409, "conflict"},
			{dpsFlow + "/suspend", `{"messageId":"m-2"}`, 200, "applied"},
			{dpsFlow + "/suspend", `{"messageId":"m-2"}`, 200, "already"},
			{dpsRoot + "/start", dpsStart(nil), 409, "state"},
			{dpsFlow + "/resume", `{"messageId":"m-3"}`, 200, "applied"},
			{dpsFlow + "/resume", `{"messageId":"m-3"}`, 200, "already"},
			{dpsFlow + "/completed", ``, 200, "applied"},
			{dpsFlow + "/terminate", `{"messageId":"m-4"}`, 200, "already"},
			{dpsFlow + "/resume", `{"messageId":"m-5"}`, 409, "state"},
			{dpsRoot + "/start", dpsStart(nil), 409, "state"},
			{dpsRoot + "/tp-2/resume", `{"messageId":"m-6"}`, 404, "flow_unknown"},
			{dpsRoot + "/tp-3/terminate", `{"messageId":"m-7"}`, 200, "unknown"},
			{dpsRoot + "/start", dpsStart(map[string]any{"processId": "tp-3"}), 409, "state"}, // too late
		},
		"edc": {
			{classicRoot + "/start", classicStart(nil), 200, "applied"},
			{classicRoot, classicStart(nil), 200, "already"},
			{classicFlow + "/start", classicStart(map[string]any{"processId": absent}), 200, "already"},
			{classicRoot + "/start", classicStart(map[string]any{"sourceDataAddress": source("HttpData", edcNS+"baseUrl", "http://other.example")}), 409, "conflict"},
			{classicFlow + "/suspend", `{}`, 204, "applied"},
			{classicRoot + "/start", classicStart(nil), 200, "applied"}, // resume
			{classicFlow + "/terminate", `{}`, 204, "applied"},
			{classicFlow + "/terminate", `{}`, 204, "already"},
			{classicFlow + "/suspend", `{}`, 204, "state"},
			{classicRoot + "/start", classicStart(nil), 409, "state"},
		},
	}
	for dialect, list := range steps {
		t.Run(dialect, func(t *testing.T) {
			x := newFixture(t)
			for i, s := range list {
				a := x.post(s.path, s.body)
				if a.Code != s.status || x.lastLog()["outcome"] != s.outcome {
					t.Fatalf("step %d: status %d, outcome %v, want %d, %s: %s", i, a.Code, x.lastLog()["outcome"], s.status, s.outcome, a.Body)
				}
			}
		})
	}
}

// TestResumeAnswersWithAnEDR: without one, EDC ends the provider's side and leaves the consumer's in RESUMED.
func TestResumeAnswersWithAnEDR(t *testing.T) {
	x := newFixture(t)
	x.post("/dataflows/start", dpsStart(nil)).want(t, 200)
	x.post("/dataflows/tp-1/suspend", `{"messageId":"m-2"}`).want(t, 200)
	a := x.post("/dataflows/tp-1/resume", `{"messageId":"m-3"}`).want(t, 200)
	for _, part := range []string{`"state":"STARTED"`, `"dataFlowId":"tp-1"`, `"refresh-token-1"`, `"access-token-2"`} {
		if !strings.Contains(a.Body.String(), part) {
			t.Errorf("no %s in %s", part, a.Body)
		}
	}
}

func TestStatus(t *testing.T) {
	x := newFixture(t)
	x.post("/v1/dataflows/start", classicStart(nil)).want(t, 200)
	for path, want := range map[string]string{
		"/dataflows/tp-1/status":   `{"dataFlowId":"tp-1","state":"STARTED"}`,
		"/v1/dataflows/tp-1/state": `{"@context":{"@vocab":"` + edcNS + `","edc":"` + edcNS + `"},"@type":"DataFlowState","state":"STARTED"}`,
	} {
		got := strings.TrimSpace(x.get(path).want(t, 200).Body.String())
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	x.get("/dataflows/tp-9/status").want(t, 404)
	x.get("/v1/dataflows/tp-9/state").want(t, 404)
}

// TestSourceIsAdmitted: only an address that passes the operator's list becomes part of a flow.
func TestSourceIsAdmitted(t *testing.T) {
	var asked *tokens.Source
	denied := errors.New("backend backend.example:80 is not listed")
	x := newFixture(t, func(c *Config) {
		c.CheckSource = func(s *tokens.Source) error { asked = s; return denied }
	})
	a := x.post("/v1/dataflows/start", classicStart(nil)).want(t, 400).wantText(t, "does not serve the source address")
	if strings.Contains(a.Body.String(), "backend.example") {
		t.Errorf("body tells of the network: %s", a.Body)
	}
	if !strings.Contains(x.lastLog()["reason"].(string), "not listed") {
		t.Errorf("log line %v", x.lastLog())
	}
	if asked == nil || asked.Properties["baseUrl"] != "http://backend.example/api" || len(x.flows.starts) != 0 {
		t.Errorf("asked %v, starts %v", asked, x.flows.starts)
	}

	x = newFixture(t, func(c *Config) { c.CheckSource = nil })
	x.post("/v1/dataflows/start", classicStart(nil)).want(t, 400)
	if !strings.Contains(x.lastLog()["reason"].(string), "no backends are configured") {
		t.Errorf("log line %v", x.lastLog())
	}
}

func TestStartBeforeTheSitesAreKnown(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.Serving = func() *Serving { return nil } })
	x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusServiceUnavailable)
}

// TestWhatServesAStart: the rows of the decision, from the outside.
func TestWhatServesAStart(t *testing.T) {
	route := []Route{{Name: "r", Match: routing.Match{Datasets: []string{"asset-*"}}, PublicURL: "https://r.example/data"}}
	named := []Site{{Datasets: []string{"asset-1"}}}
	ignoring := []Site{{Datasets: []string{"asset-1"}, IgnoreSourceAddress: true}}
	oauth2 := classicStart(map[string]any{"sourceDataAddress": source("HttpData", "oauth2:clientId", "x", "header:Edc-Bpn", "BPNL000000000001")})
	bare := classicStart(map[string]any{"sourceDataAddress": absent})
	tests := []struct {
		name     string
		routes   []Route
		sites    []Site
		own      bool
		body     string
		status   int
		reason   string // part of the log's
		kept     bool   // the source address is in the flow
		ignored  bool   // and the log says so
		endpoint string
	}{
		{name: "classic, nothing", body: classicStart(nil), status: 400, reason: "no route"},
		{name: "classic, own backend", own: true, body: classicStart(nil), status: 200, kept: true},
		{name: "classic, named", sites: named, body: classicStart(nil), status: 400, reason: "ignore_source_address"},
		{name: "classic, named, ignoring", sites: ignoring, body: classicStart(nil), status: 200, ignored: true},
		{name: "classic, any, ignoring", sites: []Site{{AnyDataset: true, IgnoreSourceAddress: true}}, body: classicStart(nil), status: 200, ignored: true},
		{name: "classic, named, ignoring, unusable address", sites: ignoring, body: oauth2, status: 200, ignored: true},
		{name: "classic, own backend, unusable address", own: true, sites: ignoring, body: oauth2, status: 400, reason: "baseUrl"},
		{name: "classic, named, no address", sites: named, body: bare, status: 200},
		{name: "classic, own backend, no address", own: true, body: bare, status: 400, reason: "no route"},
		{name: "classic, route", routes: route, body: classicStart(nil), status: 200, ignored: true, endpoint: "https://r.example/data"},
		{name: "classic, route and own backend", routes: route, own: true, body: classicStart(nil), status: 200, kept: true, endpoint: "https://r.example/data"},
		{name: "dps, nothing", body: dpsStart(nil), status: 400, reason: "no route"},
		{name: "dps, own backend", own: true, body: dpsStart(nil), status: 400, reason: "no route"},
		{name: "dps, named", sites: named, body: dpsStart(nil), status: 200},
		{name: "dps, named another", sites: named, body: dpsStart(map[string]any{"datasetId": "asset-2"}), status: 400, reason: "no route"},
		{name: "dps, route", routes: route, body: dpsStart(nil), status: 200, endpoint: "https://r.example/data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := NewServing(tt.routes, tt.sites, tt.own)
			if err != nil {
				t.Fatal(err)
			}
			x := newFixture(t, func(c *Config) { c.Serving = func() *Serving { return s } })
			path := "/v1/dataflows/start"
			if strings.HasPrefix(tt.name, "dps") {
				path = "/dataflows/start"
			}
			a := x.post(path, tt.body).want(t, tt.status)
			line := x.lastLog()
			if tt.status != 200 {
				reason, _ := line["reason"].(string)
				if !strings.Contains(reason, tt.reason) || len(x.flows.starts) != 0 {
					t.Errorf("reason %q, want %q in it", reason, tt.reason)
				}
				if strings.Contains(a.Body.String(), "ignore_source_address") {
					t.Errorf("the body names our option: %s", a.Body)
				}
				return
			}
			start := x.flows.starts[0]
			if (start.Terms.Source != nil) != tt.kept || start.Endpoint != tt.endpoint || (start.Route == "r") != (tt.routes != nil) {
				t.Errorf("start %+v", start)
			}
			if (line["source_address"] == "ignored") != tt.ignored {
				t.Errorf("log line %v", line)
			}
			if tt.body == oauth2 && start.BPN != "BPNL000000000001" {
				t.Errorf("BPN %q", start.BPN) // asserted to the backend whoever proxies
			}
		})
	}
}

// TestStartByItsRoute: what a start says chooses the route, and what the route cannot do with it ends the start. The answer is
// fixed, the log says which route and why.
func TestStartByItsRoute(t *testing.T) {
	routes := []Route{
		{Name: "tenant", Match: routing.Match{Metadata: []routing.Member{{Path: "tenant", Values: []string{"acme"}}}}, PublicURL: "https://t.example"},
		{Name: "gold", Match: routing.Match{Labels: []string{"gold"}}},
		{Name: "profile", Match: routing.Match{Datasets: []string{"asset-*"}, Profiles: []string{"HttpData-PULL"}}},
		{Name: "refused", Match: routing.Match{Datasets: []string{"asset-refused"}}},
	}
	s, err := NewServing(routes, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		path   string
		body   string
		route  string
		reason string // of a refusal
	}{
		{"metadata", "/dataflows", dpsStart(map[string]any{"metadata": map[string]any{"tenant": "acme"}}), "tenant", ""},
		{"label", "/dataflows", dpsStart(map[string]any{"labels": []any{"x", "gold"}}), "gold", ""},
		{"profile", "/dataflows", dpsStart(map[string]any{"profile": "HttpData-PULL"}), "profile", ""},
		{"transfer type of RC2", "/dataflows", dpsStart(map[string]any{"profile": absent, "transferType": "HttpData-PULL"}), "profile", ""},
		{"classic", "/v1/dataflows", classicStart(map[string]any{"sourceDataAddress": absent, "transferType": "HttpData-PULL"}), "profile", ""},
		{"none", "/dataflows", dpsStart(map[string]any{"labels": []any{"silver"}}), "", `route gold wants the label "gold"`},
		{
			"two", "/dataflows", dpsStart(map[string]any{"labels": []any{"gold"}, "metadata": map[string]any{"tenant": "acme"}}), "",
			"the flow matches the routes gold, tenant equally well",
		},
		{"refused", "/dataflows", dpsStart(map[string]any{"datasetId": "asset-refused"}), "", "route refused: {edr.metadata.x} is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t, func(c *Config) {
				c.Serving = func() *Serving { return s }
				c.CheckRoute = func(route string, f *routing.Facts) error {
					if route == "refused" && f.Dataset() == "asset-refused" {
						return errors.New("{edr.metadata.x} is missing")
					}
					return nil
				}
			})
			a := x.post(tt.path+"/start", tt.body)
			if tt.reason == "" {
				a.want(t, 200)
				start := x.flows.starts[0]
				if start.Route != tt.route || (start.Endpoint == "https://t.example") != (tt.route == "tenant") {
					t.Errorf("start %+v", start)
				}
				return
			}
			a.want(t, 400)
			if a.text() != textUnserved || len(x.flows.starts) != 0 {
				t.Errorf("text %q", a.text())
			}
			line := x.lastLog()
			if reason, _ := line["reason"].(string); !strings.Contains(reason, tt.reason) || line["outcome"] != outcomeUnserved {
				t.Errorf("log line %v", line)
			}
		})
	}
	// The backend of a classic start's own address is used, so that of the route needs no value.
	x := newFixture(t, func(c *Config) {
		c.Serving = func() *Serving { return s }
		c.CheckRoute = func(string, *routing.Facts) error { return errors.New("asked") }
	})
	x.post("/v1/dataflows/start", classicStart(nil)).want(t, 200)
	x.post("/dataflows/start", dpsStart(map[string]any{"processId": "tp-2", "labels": []any{"gold"}})).want(t, 400)
}

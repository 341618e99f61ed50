package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/internal/testkit"
)

// tenant is one participant of a gateway of several, as its control plane and its consumers see it.
type tenant struct {
	name, did string
	prefix    string // of its signaling paths
	bearer    string // of its control plane
	public    string
	data      string // an address below public
}

// tenants share what participants may share: acme lies below the address of the default one, and bolt has its key.
var tenants = []*tenant{
	{name: "default", did: "did:web:provider.example", bearer: "bearer-of-default", public: "https://data.example", data: "http://data.example/thing"},
	{name: "acme", did: "did:web:acme.example", prefix: "/acme", bearer: "bearer-of-acme-1", public: "https://data.example/acme", data: "http://data.example/acme/thing"},
	{name: "bolt", did: "did:web:bolt.example", prefix: "/bolt", bearer: "bearer-of-bolt-1", public: "https://bolt.example", data: "http://bolt.example/thing"},
}

// tenantsApp is the config of an app with all of them.
func (g *liveGateway) tenantsApp() object {
	g.t.Helper()
	err := keygen(io.Discard, deterministic{}, g.path("acme.pem"), "EdDSA", "")
	if err != nil && !strings.Contains(err.Error(), "exists") {
		g.t.Fatal(err)
	}
	app := g.app()
	app["participants"] = object{
		"acme": object{"did": "did:web:acme.example", "signing_keys": []object{{"file": g.path("acme.pem")}}, "public_url": "https://data.example/acme"},
		"bolt": object{"did": "did:web:bolt.example", "signing_keys": []object{{"file": g.path("signing.pem")}}, "public_url": "https://bolt.example"},
	}
	return app
}

// tenantsServers are the sites of all of them: one for the data of all, one for signaling.
func (g *liveGateway) tenantsServers() object {
	g.t.Helper()
	data := g.site("data")
	site := func(participant string) []object {
		gate := object{"handler": "edr_auth", "any_dataset": true}
		if participant != "" {
			gate["participant"] = participant
		}
		return []object{gate, {"handler": "static_response", "body": "data of " + participant}}
	}
	data["routes"] = []object{
		handle(object{"handler": "edr_refresh"}),
		{"match": []object{{"host": []string{"bolt.example"}}}, "handle": site("bolt"), "terminal": true},
		{"match": []object{{"path": []string{"/acme/*"}}}, "handle": site("acme"), "terminal": true},
		{"handle": site("")},
	}
	ways := []object{}
	for _, p := range tenants {
		way := object{"bearer": p.bearer + "-long-enough"}
		if p.prefix != "" {
			way["participant"] = p.name
		}
		ways = append(ways, way)
	}
	return object{"data": data, "signaling": g.site("signaling", object{"handler": "edr_signaling", "auth": ways})}
}

// signal sends a signaling message to a participant with the credential of a control plane.
func (g *liveGateway) signal(to, as *tenant, path string, message object) answered {
	g.t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.send("signaling", g.request(http.MethodPost, "http://localhost"+to.prefix+path, bytes.NewReader(body),
		"Content-Type", "application/json", "Authorization", "Bearer "+as.bearer+"-long-enough"))
}

func startOf(p *tenant, flow string, c *didHolder) object {
	return object{
		"messageId": "start-" + flow, "processId": flow, "participantId": p.did, "counterPartyId": c.did,
		"datasetId": "asset-1", "agreementId": "agreement-1", "profile": "https://w3id.org/dspace-sig/profile/http-pull",
	}
}

func (g *liveGateway) startAt(p *tenant, flow string, c *didHolder) edr {
	g.t.Helper()
	answer := g.signal(p, p, "/dataflows/start", startOf(p, flow, c))
	if answer.status != http.StatusOK {
		g.t.Fatalf("start at %s: %d %s", p.name, answer.status, answer.body)
	}
	return g.readEDR(flow, answer.body)
}

func (g *liveGateway) dataAt(p *tenant, access string) answered {
	g.t.Helper()
	return g.send("data", g.request(http.MethodGet, p.data, nil, "Authorization", "Bearer "+access))
}

func (g *liveGateway) renewAt(address string, e edr, proof string) answered {
	g.t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {e.refresh}}.Encode()
	return g.send("data", g.request(http.MethodPost, strings.Replace(address, "https:", "http:", 1), strings.NewReader(form),
		"Authorization", "Bearer "+proof, "Content-Type", "application/x-www-form-urlencoded"))
}

// Flows of the same id, dataset, agreement and consumer at each participant: what belongs to one opens nothing at another,
// at whatever address and over whatever path.
func TestParticipantsOpenNothingOfEachOther(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.tenantsApp(), g.tenantsServers())
	c := newConsumer(t)
	edrs := map[*tenant]edr{}
	for _, p := range tenants {
		edrs[p] = g.startAt(p, "flow-1", c)
	}
	stranger := g.dataAt(tenants[0], "x.y.z")
	for _, owner := range tenants {
		e := edrs[owner]
		for _, at := range tenants {
			mine := owner == at
			answer := g.dataAt(at, e.access)
			if (answer.status == http.StatusOK) != mine {
				t.Errorf("access token of %s at %s: %d %s", owner.name, at.name, answer.status, answer.body)
			}
			if !mine && (answer.status != stranger.status || answer.header.Get("WWW-Authenticate") != stranger.header.Get("WWW-Authenticate")) {
				t.Errorf("access token of %s at %s is not refused as a stranger's: %d %s", owner.name, at.name, answer.status, answer.body)
			}
			// The credential of a control plane, for all that it could want to do.
			for path, message := range map[string]object{
				"/dataflows/start":            startOf(at, "flow-2", c),
				"/dataflows/flow-1/suspend":   {"messageId": "m-suspend"},
				"/dataflows/flow-1/terminate": {"messageId": "m-terminate"},
				"/v1/dataflows/flow-1/start":  {},
			} {
				if mine {
					continue
				}
				answer := g.signal(at, owner, path, message)
				if answer.status != http.StatusUnauthorized || !strings.Contains(answer.body, "not authenticated") {
					t.Errorf("control plane of %s at %s%s: %d %s", owner.name, at.name, path, answer.status, answer.body)
				}
			}
			if mine {
				continue
			}
			for name, answer := range map[string]answered{
				"renewal at the other's address":   g.renewAt(at.public+"/token", e, c.proof(e.access, object{"aud": at.did})),
				"the other's refresh token":        g.renewAt(owner.public+"/token", edr{refresh: edrs[at].refresh}, c.proof(e.access, object{"aud": owner.did})),
				"a proof about the other's token":  g.renewAt(owner.public+"/token", e, c.proof(edrs[at].access, object{"aud": owner.did})),
				"a proof for the other":            g.renewAt(owner.public+"/token", e, c.proof(e.access, object{"aud": at.did})),
				"the other's tokens, its audience": g.renewAt(owner.public+"/token", edrs[at], c.proof(edrs[at].access, object{"aud": at.did})),
			} {
				if answer.status != http.StatusUnauthorized && answer.status != http.StatusBadRequest {
					t.Errorf("%s, of %s and %s: %d %s", name, owner.name, at.name, answer.status, answer.body)
				}
			}
		}
	}
	for _, p := range tenants {
		e := edrs[p]
		answer := g.renewAt(p.public+"/token", e, c.proof(e.access, object{"aud": p.did}))
		if answer.status != http.StatusOK {
			t.Errorf("renewal of %s: %d %s", p.name, answer.status, answer.body)
		}
	}
	// The end of one flow is not the end of the others of its id.
	if answer := g.signal(tenants[1], tenants[1], "/dataflows/flow-1/terminate", object{"messageId": "end"}); answer.status != http.StatusOK {
		t.Fatalf("terminate: %d %s", answer.status, answer.body)
	}
	for _, p := range tenants {
		if answer := g.dataAt(p, edrs[p].access); (answer.status == http.StatusOK) != (p.name != "acme") {
			t.Errorf("after the end at acme, %s: %d", p.name, answer.status)
		}
	}
	// A start that names another participant than the path does.
	if answer := g.signal(tenants[1], tenants[1], "/dataflows/start", startOf(tenants[2], "flow-3", c)); answer.status != http.StatusBadRequest {
		t.Errorf("participantId of another: %d %s", answer.status, answer.body)
	}
}

// The app's own participant is signaled to with and without its name, a named one only below its name.
func TestSignalingPathsOfParticipants(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.tenantsApp(), g.tenantsServers())
	c := newConsumer(t)
	own, acme := tenants[0], tenants[1]
	withName := *own
	withName.prefix = "/default"
	if answer := g.signal(&withName, own, "/dataflows/start", startOf(own, "flow-1", c)); answer.status != http.StatusOK {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if answer := g.signal(own, own, "/dataflows/flow-1/suspend", object{"messageId": "m-1"}); answer.status != http.StatusOK {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if answer := g.signal(own, acme, "/dataflows/flow-1/terminate", object{"messageId": "m-2"}); answer.status != http.StatusUnauthorized {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	for _, path := range []string{"/nobody/dataflows/start", "/acme", "/acme/default/dataflows/start"} {
		answer := g.signal(own, own, path, startOf(own, "flow-2", c))
		if answer.status != http.StatusOK || answer.body != "" { // Caddy's own end of the chain
			t.Errorf("%s: %d %s", path, answer.status, answer.body)
		}
	}
	// A site at which acme lets nobody in has no path of acme's.
	servers := g.tenantsServers()
	servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{{"bearer": own.bearer + "-long-enough"}}})
	g.load(g.tenantsApp(), servers)
	if answer := g.signal(acme, own, "/dataflows/start", startOf(acme, "flow-3", c)); answer.body != "" {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if !strings.Contains(g.logged(), `no site has edr_signaling: no control plane can start flows","participant":"acme"`) {
		t.Error("no warning")
	}
}

// The key set at an address is that of its participant, and so are renewals; what comes to nobody's address is neither.
func TestAddressesOfParticipants(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.tenantsApp(), g.tenantsServers())
	app := g.running()
	for _, p := range tenants {
		of, err := app.findParticipant(p.name)
		if err != nil {
			t.Fatal(err)
		}
		answer := g.send("data", g.request(http.MethodGet, strings.Replace(p.public, "https:", "http:", 1)+"/jwks.json", nil))
		if answer.status != http.StatusOK || answer.body != string(of.keySet) {
			t.Errorf("key set of %s: %d %s", p.name, answer.status, answer.body)
		}
	}
	if tenants[0].did == tenants[1].did || string(app.participants[0].keySet) == string(app.participants[1].keySet) {
		t.Error("the key sets are not told apart")
	}

	c := newConsumer(t)
	e := g.startAt(tenants[1], "flow-1", c)
	proof := func() string { return c.proof(e.access, object{"aud": "did:web:acme.example"}) }
	answer := g.renewAt("http://other.example/token", e, proof())
	if answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
		t.Errorf("to nobody's address: %d %v %s", answer.status, answer.header, answer.body)
	}
	if !strings.Contains(g.logged(), "nobody can tell whose tokens it renews") {
		t.Error("the log does not say why")
	}
	answer = g.send("data", g.request(http.MethodGet, "http://other.example/jwks.json", nil))
	if strings.Contains(answer.body, "keys") {
		t.Errorf("a key set at nobody's address: %s", answer.body)
	}
	// A renewal that no edr_refresh took is kept from every participant's backend, not only its own.
	servers := g.tenantsServers()
	servers["data"] = g.site("data", object{"handler": "edr_auth", "any_dataset": true}, object{"handler": "static_response", "body": "data"})
	servers["refresh"] = g.site("refresh", object{"handler": "edr_refresh"})
	g.load(g.tenantsApp(), servers)
	if answer := g.renewAt("https://data.example/acme/token", e, proof()); answer.status != http.StatusServiceUnavailable {
		t.Errorf("astray: %d %s", answer.status, answer.body)
	}
	// edr_refresh of one participant: it takes what has lost its prefix on the way here, and nothing of the others.
	servers["data"] = g.site("data", object{"handler": "edr_refresh", "participant": "acme"}, object{"handler": "static_response", "body": "next"})
	g.load(g.tenantsApp(), servers)
	if answer := g.renewAt("http://other.example/token", e, proof()); answer.status != http.StatusOK {
		t.Errorf("only acme's: %d %s", answer.status, answer.body)
	}
	if answer := g.renewAt("https://bolt.example/token", e, proof()); answer.body != "next" {
		t.Errorf("bolt's: %d %s", answer.status, answer.body)
	}
}

// With one named participant and nothing else, nothing has to say which one is meant.
func TestOnlyNamedParticipant(t *testing.T) {
	g := newLiveGateway(t)
	app := g.tenantsApp()
	for _, option := range []string{"did", "signing_keys", "public_url"} {
		delete(app, option)
	}
	delete(app["participants"].(object), "bolt")
	app["participants"].(object)["acme"].(object)["public_url"] = "https://data.example"
	g.load(app, g.servers())
	acme := *tenants[1]
	c := newConsumer(t)
	e := g.startAt(&acme, "flow-1", c)
	if answer := g.get(e.access); answer.status != http.StatusOK {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if answer := g.renew(e, c.proof(e.access, object{"aud": acme.did})); answer.status != http.StatusOK {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if answer := g.admin(http.MethodGet, "/edrgate/flows/flow-1", ""); answer.status != http.StatusOK {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if answer := g.post("/dataflows/start", startOf(&acme, "flow-2", c)); answer.body != "" {
		t.Errorf("without its name: %d %s", answer.status, answer.body)
	}
}

func TestAdministrationOfParticipants(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.tenantsApp(), g.tenantsServers())
	c := newConsumer(t)
	edrs := map[string]edr{}
	for _, p := range tenants {
		edrs[p.name] = g.startAt(p, "flow-1", c)
	}
	g.startAt(tenants[1], "flow-2", c)
	for _, tt := range []struct {
		method, path string
		status       int
		want, not    string
	}{
		{"GET", "/edrgate/status", 200, `"participant":"default","participants":["default","acme","bolt"]`, ""},
		{"GET", "/edrgate/status?participant=acme", 200, `"refresh_endpoint":"https://data.example/acme/token"`, ""},
		{"GET", "/edrgate/flows", 200, `"id":"flow-1"`, "flow-2"},
		{"GET", "/edrgate/flows?participant=acme&limit=1", 200, `"next":"flow-1"`, "flow-2"},
		{"GET", "/edrgate/flows?participant=acme&after=flow-1", 200, `"id":"flow-2"`, `"flow-1"`},
		{"GET", "/edrgate/flows/flow-2?participant=bolt", 404, "flow_unknown", ""},
		{"GET", "/edrgate/keys?participant=acme", 200, `"alg":"EdDSA"`, "ES256"},
		{"GET", "/edrgate/flows?participant=coyote", 404, "there is no participant \\\"coyote\\\", only default, acme, bolt", ""},
		{"GET", "/edrgate/flows?participant=%zz", 400, "the query is not well encoded", ""},
		{"POST", "/edrgate/flows/flow-1/revoke?participant=acme", 200, `"outcome":"applied"`, ""},
	} {
		answer := g.admin(tt.method, tt.path, "")
		if answer.status != tt.status || !strings.Contains(answer.body, tt.want) || tt.not != "" && strings.Contains(answer.body, tt.not) {
			t.Errorf("%s: %d %s", tt.path, answer.status, answer.body)
		}
	}
	for _, p := range tenants {
		if answer := g.dataAt(p, edrs[p.name].access); (answer.status == http.StatusOK) != (p.name != "acme") {
			t.Errorf("after the revocation at acme, %s: %d", p.name, answer.status)
		}
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := edrCommand()
		cmd.SetArgs(append(args, "--address", "unix/"+g.path("admin")))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.Execute()
		return out.String(), err
	}
	for _, tt := range []struct{ args, want string }{
		{"list", "flow-1  STARTED"},
		{"list --participant acme", "flow-1  TERMINATED"},
		{"show flow-2 --participant acme", `"state": "STARTED"`},
		{"keys --participant acme", "EdDSA"},
		{"revoke flow-1 --participant bolt", "flow-1: applied"},
	} {
		out, err := run(strings.Fields(tt.args)...)
		if err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, %q", tt.args, err, out)
		}
	}
	_, err := run("show", "flow-2")
	if err == nil || !strings.Contains(err.Error(), "flow_unknown") {
		t.Errorf("flow of another participant: %v", err)
	}
	// Named ones only: nobody can tell which one is meant.
	app, servers := g.tenantsApp(), g.tenantsServers()
	for _, option := range []string{"did", "signing_keys", "public_url"} {
		delete(app, option)
	}
	servers["data"] = g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_auth", "participant": "acme", "any_dataset": true})
	servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling"})
	g.load(app, servers)
	_, err = run("list")
	if err == nil || err.Error() != "there are several participants: say which with participant, one of acme, bolt" {
		t.Errorf("%v", err)
	}
}

// Each participant registers as itself, with a path of its own.
func TestParticipantsRegister(t *testing.T) {
	g := newLiveGateway(t)
	app := g.tenantsApp()
	register := func(plane *dataPlanes) []object {
		return []object{{"name": "cp", "register": []object{{"protocol": "classic", "url": plane.URL + "/v1/dataplanes", "signaling_url": "http://10.0.0.5:8181"}}}}
	}
	planes := map[string]*dataPlanes{"default": newDataPlanes(t), "acme": newDataPlanes(t)}
	app["control_planes"] = register(planes["default"])
	app["participants"].(object)["acme"].(object)["control_planes"] = register(planes["acme"])
	g.load(app, g.tenantsServers())
	for name, want := range map[string]string{"default": "http://10.0.0.5:8181/v1/dataflows", "acme": "http://10.0.0.5:8181/acme/v1/dataflows"} {
		testkit.Eventually(t, "a registration", func() bool { n, _ := planes[name].registrations(); return n == 1 })
		_, body := planes[name].registrations()
		if !strings.Contains(body, `"@id":"edrgate-`+name+`"`) || !strings.Contains(body, `"url":"`+want+`"`) {
			t.Errorf("%s: %s", name, body)
		}
	}
}

// The label participant has the names of the configuration, and what happens at one participant counts for it alone.
func TestMetricsOfParticipants(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.tenantsApp(), g.tenantsServers())
	value := func(metric string, labels map[string]string) float64 {
		t.Helper()
		ctx := caddy.ActiveContext()
		families, err := ctx.GetMetricsRegistry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		total := 0.0
		for _, family := range families {
			if family.GetName() != metric {
				continue
			}
			for _, m := range family.GetMetric() {
				fits := true
				for label, want := range labels {
					fits = fits && labelOf(m, label) == want
				}
				if fits {
					total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		return total
	}
	before := map[string][3]float64{}
	read := func(name string) [3]float64 {
		return [3]float64{
			value("edrgate_tokens_issued_total", map[string]string{"participant": name}),
			value("edrgate_data_requests_total", map[string]string{"participant": name}),
			value("edrgate_signaling_requests_total", map[string]string{"participant": name, "outcome": "applied"}),
		}
	}
	for _, p := range tenants {
		before[p.name] = read(p.name)
	}
	e := g.startAt(tenants[1], "flow-1", newConsumer(t))
	g.dataAt(tenants[1], e.access)
	for _, p := range tenants {
		after, want := read(p.name), before[p.name]
		if p.name == "acme" {
			want = [3]float64{want[0] + 1, want[1] + 1, want[2] + 1}
		}
		if after != want {
			t.Errorf("%s: %v, want %v", p.name, after, want)
		}
	}
}

// The participant outside of the blocks gets a block under its name, and keeps its flows.
func TestParticipantGetsABlock(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	c := newConsumer(t)
	e := g.start("flow-1", c)
	own := g.app()
	block := object{}
	for _, option := range []string{"did", "signing_keys", "public_url"} {
		block[option] = own[option]
		delete(own, option)
	}
	own["participants"] = object{"default": block}
	g.load(own, g.servers())
	if answer := g.get(e.access); answer.status != http.StatusOK {
		t.Errorf("data: %d %s", answer.status, answer.body)
	}
	if answer := g.renew(e, c.proof(e.access, nil)); answer.status != http.StatusOK {
		t.Errorf("renewal: %d %s", answer.status, answer.body)
	}
	if answer := g.post("/default/dataflows/flow-1/terminate", object{"messageId": "m-1"}); answer.status != http.StatusOK {
		t.Errorf("terminate: %d %s", answer.status, answer.body)
	}
	if answer := g.get(e.access); answer.status != http.StatusUnauthorized {
		t.Errorf("after its end: %d %s", answer.status, answer.body)
	}
}

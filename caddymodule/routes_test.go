package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// routeGateway is a gateway whose routes go to recording backends by edr_proxy.
type routeGateway struct {
	*liveGateway
	consumer      *didHolder
	first, second *recordingBackend
	started       int
}

func newRouteGateway(t *testing.T) *routeGateway {
	return &routeGateway{
		liveGateway: newLiveGateway(t), consumer: newConsumer(t),
		first: newRecordingBackend(t, nil), second: newRecordingBackend(t, nil),
	}
}

// loadRoutes loads routes. Further handlers come before edr_proxy.
func (g *routeGateway) loadRoutes(routes object, handlers ...object) {
	g.t.Helper()
	app, servers := g.app(), g.servers()
	app["routes"] = routes
	proxy := object{
		"handler": "edr_proxy", "backends": []string{g.first.hostport(), g.second.hostport()},
		"secrets": object{
			"key-acme":  object{"value": "CANARY-acme", "for": []string{g.first.URL + "/t/acme"}},
			"key-other": object{"value": "CANARY-other", "for": []string{g.second.URL + "/"}},
		},
	}
	servers["data"] = g.site("data", append(append([]object{{"handler": "edr_refresh"}}, handlers...), proxy)...)
	g.load(app, servers)
}

// dps starts a flow and returns the answer and the access token, if there is one.
func (g *routeGateway) dps(change object) (answered, string) {
	g.t.Helper()
	g.started++
	message := object{
		"messageId": fmt.Sprintf("m-%d", g.started), "processId": fmt.Sprintf("p-%d", g.started), "participantId": "did:web:provider.example",
		"counterPartyId": g.consumer.did, "datasetId": "asset-1", "agreementId": "agreement-1", "profile": "HttpData-PULL",
	}
	for name, value := range change {
		message[name] = value
	}
	answer := g.post("/dataflows/start", message)
	_, rest, _ := strings.Cut(answer.body, `"name":"authorization","value":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return answer, token
}

// mustStart starts a flow and returns its access token.
func (g *routeGateway) mustStart(change object) string {
	g.t.Helper()
	answer, token := g.dps(change)
	if answer.status != http.StatusOK || token == "" {
		g.t.Fatalf("start: %d %s", answer.status, answer.body)
	}
	return token
}

// TestRouteByWhatTheStartSays: the backend's path, query, headers and credential come from the message, to the data path.
func TestRouteByWhatTheStartSays(t *testing.T) {
	t.Setenv("EDRGATE_TEST_TEXT", "{edr.dataset}")
	g := newRouteGateway(t)
	g.loadRoutes(object{
		"erp": object{
			"datasets": []string{"*"}, "labels": []string{"erp"}, "metadata": []object{{"member": "version", "values": []string{"2", "3"}}},
			"backend": g.first.URL + "/t/{edr.metadata.tenant}/{edr.metadata.o.path}?v={edr.metadata.version}",
			"headers": object{
				"X-Dataset": "{edr.dataset}", "X-About": "{edr.metadata.about} {env.EDRGATE_TEST_TEXT}", "X-Role": "{edr.claims.role}",
				"X-Who": "{edr.counterparty} {edr.agreement} {edr.flow} {edr.profile}",
			},
			"secrets": object{"Authorization": object{"name": "key-{edr.metadata.tenant}", "scheme": "Bearer"}},
		},
		"other": object{"datasets": []string{"*"}, "backend": g.second.URL},
	})
	token := g.mustStart(object{
		"labels": []string{"x", "erp"}, "claims": object{"role": "admin"},
		"metadata": object{"tenant": "acme", "version": 3.0, "o": object{"path": "a/b c"}, "about": "{env.HOME}{http.request.host}"},
	})
	for range 2 {
		got := g.send("data", g.request(http.MethodGet, "http://data.example/thing?q=1", nil, "Authorization", "Bearer "+token))
		if got.status != http.StatusOK {
			t.Fatalf("got %d %s", got.status, got.body)
		}
		request := g.first.last(t)
		if request.target != "/t/acme/a%2Fb%20c/thing?v=3&q=1" {
			t.Errorf("target %s", request.target)
		}
		for name, want := range map[string]string{
			"Authorization": "Bearer CANARY-acme", "X-Dataset": "asset-1", "X-Role": "admin",
			"X-About": "{env.HOME}{http.request.host} {edr.dataset}", // neither is ever a placeholder
			"X-Who":   g.consumer.did + " agreement-1 p-1 HttpData-PULL",
		} {
			if request.header.Get(name) != want {
				t.Errorf("%s: %q, want %q", name, request.header.Get(name), want)
			}
		}
	}
	// A flow that the conditions leave out takes the other route.
	got := g.get(g.mustStart(object{"labels": []string{"erp"}, "metadata": object{"tenant": "acme", "version": 4}}))
	if got.status != http.StatusOK {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	g.second.last(t)
	g.first.none(t)
}

// TestStartThatNoRouteServes: a start fails at once, with a fixed text; our log names the route and the reason, and nothing
// that the message said.
func TestStartThatNoRouteServes(t *testing.T) {
	g := newRouteGateway(t)
	g.loadRoutes(object{
		"tenant": object{
			"labels": []string{"tenant"}, "backend": g.first.URL + "/t/{edr.metadata.tenant}",
			"secrets": object{"X-Key": object{"name": "key-{edr.metadata.tenant}"}},
		},
		"host":   object{"labels": []string{"host"}, "backend": "http://{edr.metadata.host}:8080/"},
		"header": object{"labels": []string{"header"}, "backend": g.first.URL, "headers": object{"X-V": "{edr.metadata.v}"}},
		"vhost":  object{"labels": []string{"vhost"}, "backend": g.first.URL, "headers": object{"Host": "{edr.metadata.v}"}},
		"role":   object{"labels": []string{"role"}, "backend": g.first.URL + "/{edr.claims.role}"},
		"number": object{"metadata": []object{{"member": "n", "values": []string{"1"}}}, "backend": g.first.URL},
	})
	long := strings.Repeat("CANARY", 1000)
	for name, c := range map[string]struct {
		label    string
		metadata object
		claims   object
		reason   string
	}{
		"no label":             {"", object{"tenant": "CANARY"}, nil, `route tenant wants the label \"tenant\"`},
		"other metadata":       {"", object{"n": 12345}, nil, "route number wants another value of the metadata member n"},
		"metadata missing":     {"tenant", nil, nil, "route tenant: backend: {edr.metadata.tenant} is not in the start message"},
		"metadata null":        {"tenant", object{"tenant": nil}, nil, "{edr.metadata.tenant} is not in the start message"},
		"an object":            {"tenant", object{"tenant": object{"CANARY": "CANARY"}}, nil, "{edr.metadata.tenant} is an object or a list"},
		"dots":                 {"tenant", object{"tenant": ".."}, nil, "{edr.metadata.tenant} is . or .."},
		"encoded climb":        {"tenant", object{"tenant": "../CANARY"}, nil, "ambiguous dot segment"},
		"twice encoded dots":   {"tenant", object{"tenant": "%2e%2e"}, nil, "path refused"},
		"backslash":            {"tenant", object{"tenant": `CANARY\x`}, nil, "backslash"},
		"line break":           {"tenant", object{"tenant": "CANARY\r\n"}, nil, "control character"},
		"too long":             {"tenant", object{"tenant": long}, nil, "longer than"},
		"secret unknown":       {"tenant", object{"tenant": "CANARY"}, nil, "secret X-Key: key-{edr.metadata.tenant}: no secret of this name is declared"},
		"secret as a path":     {"tenant", object{"tenant": "x/../CANARY"}, nil, "ambiguous dot segment"},
		"secret elsewhere":     {"tenant", object{"tenant": "other"}, nil, "secret X-Key: key-{edr.metadata.tenant}: the secret is not declared for this destination"},
		"backend not listed":   {"host", object{"host": "CANARY.example"}, nil, "backend http://{edr.metadata.host}:8080/: not in backends"},
		"host with a path":     {"host", object{"host": "127.0.0.1/CANARY"}, nil, "{edr.metadata.host} holds a character"},
		"not ASCII in header":  {"header", object{"v": "CANARYä"}, nil, "X-V: the value cannot stand in a header"},
		"empty header":         {"header", object{"v": ""}, nil, "{edr.metadata.v} is empty"},
		"space at the end":     {"header", object{"v": "CANARY "}, nil, "X-V: the value cannot stand in a header"},
		"header, line break":   {"header", object{"v": "CANARY\nX: y"}, nil, "{edr.metadata.v} holds a control character"},
		"virtual host":         {"vhost", object{"v": "CANARY.example"}, nil, "Host: not in backends"},
		"claim missing":        {"role", nil, object{"other": "CANARY"}, "{edr.claims.role} is not in the start message"},
		"metadata is no claim": {"role", object{"role": "CANARY"}, nil, "{edr.claims.role} is not in the start message"},
	} {
		change := object{"metadata": c.metadata, "claims": c.claims}
		if c.label != "" {
			change["labels"] = []string{c.label}
		}
		before := len(g.logged())
		answer, _ := g.dps(change)
		if answer.status != http.StatusBadRequest || !strings.Contains(answer.body, `"this data plane does not serve the dataset"`) {
			t.Errorf("%s: %d %s", name, answer.status, answer.body)
		}
		logged := g.logged()[before:]
		if !strings.Contains(logged, c.reason) || strings.Contains(logged+answer.body, "CANARY") {
			t.Errorf("%s: want %s in the log, got %s", name, c.reason, logged)
		}
	}
	g.first.none(t)
}

// TestTwoRoutesMatchAtAStart: neither is chosen, and the log names both.
func TestTwoRoutesMatchAtAStart(t *testing.T) {
	g := newRouteGateway(t)
	g.loadRoutes(object{
		"gold": object{"labels": []string{"gold"}, "backend": g.first.URL},
		"eu":   object{"labels": []string{"eu"}, "backend": g.second.URL},
	}, object{"handler": "edr_auth", "any_dataset": true, "ignore_source_address": true})
	answer, _ := g.dps(object{"labels": []string{"gold", "eu"}})
	if answer.status != http.StatusBadRequest || strings.Contains(answer.body, "gold") {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if !strings.Contains(g.logged(), "the flow matches the routes eu, gold equally well") {
		t.Error("the log does not name the routes")
	}
}

// TestRouteOfARunningFlow: a flow keeps its route over reloads that leave it that route, and no other one opens to it.
func TestRouteOfARunningFlow(t *testing.T) {
	g := newRouteGateway(t)
	erp := func(change object) object {
		route := object{"labels": []string{"erp"}, "backend": g.first.URL + "/t/{edr.metadata.tenant}"}
		for name, value := range change {
			route[name] = value
		}
		return route
	}
	g.loadRoutes(object{"erp": erp(nil)})
	token := g.mustStart(object{"labels": []string{"erp", "eu"}, "metadata": object{"tenant": "acme", "o": object{"CANARY": 1}}})
	second := g.second.URL
	for _, c := range []struct {
		name   string
		routes object
		status int
		target string // at the first backend
	}{
		{"as it was", object{"erp": erp(nil)}, 200, "/t/acme/thing"},
		{"another path", object{"erp": erp(object{"backend": g.first.URL + "/v2/{edr.metadata.tenant}"})}, 200, "/v2/acme/thing"},
		{"a route that asks for more", object{"erp": erp(nil), "eu": erp(object{"labels": []string{"eu", "erp"}, "backend": second})}, 403, ""},
		{"a route of the dataset", object{"erp": erp(nil), "one": object{"datasets": []string{"asset-1"}, "backend": second}}, 403, ""},
		{"a route of equal rank", object{"erp": erp(nil), "eu": erp(object{"labels": []string{"eu"}, "backend": second})}, 403, ""},
		{"the name given away", object{"erp": erp(object{"labels": []string{"us"}, "backend": second})}, 403, ""},
		{"a condition that it does not meet", object{"erp": erp(object{"datasets": []string{"asset-2"}})}, 403, ""},
		{"a placeholder that it has no value for", object{"erp": erp(object{"backend": g.first.URL + "/{edr.metadata.region}"})}, 502, ""},
		{"a placeholder that is an object", object{"erp": erp(object{"headers": object{"X": "{edr.metadata.o}"}})}, 502, ""},
		{"a backend that is not listed", object{"erp": erp(object{"backend": "http://{edr.metadata.tenant}.example/"}), "x": object{"datasets": []string{"x"}, "backend": second}}, 502, ""},
		{"a secret that is not declared", object{"erp": erp(object{"secrets": object{"X": object{"name": "{edr.metadata.tenant}"}}})}, 502, ""},
		{"as it was, again", object{"erp": erp(nil)}, 200, "/t/acme/thing"},
	} {
		g.loadRoutes(c.routes)
		for range 2 {
			got := g.get(token)
			if got.status != c.status || strings.Contains(got.body, "acme") {
				t.Errorf("%s: %d %s, want %d", c.name, got.status, got.body, c.status)
			}
			g.second.none(t)
			if c.target == "" {
				g.first.none(t)
				continue
			}
			if target := g.first.last(t).target; target != c.target {
				t.Errorf("%s: target %s, want %s", c.name, target, c.target)
			}
		}
	}
	logged := g.logged()
	if !strings.Contains(logged, "route erp: backend: {edr.metadata.region} is not in the start message") || strings.Contains(logged, "CANARY") {
		t.Error("the log does not say why, or more than that")
	}
}

// TestRouteOfAClassicStart: classic messages have no labels and no metadata, but a dataset and a transfer type.
func TestRouteOfAClassicStart(t *testing.T) {
	g := newRouteGateway(t)
	g.loadRoutes(object{
		"labelled": object{"datasets": []string{"asset-1"}, "labels": []string{"x"}, "backend": g.second.URL},
		"pull": object{
			"datasets": []string{"asset-*"}, "profiles": []string{"HttpData-PULL"}, "backend": g.first.URL + "/{edr.dataset}",
			"headers": object{"X-Bpn": "{edr.bpn}"},
		},
	})
	start := func(transferType string) answered {
		g.started++
		return g.post("/v1/dataflows/start", object{
			"@context": object{"@vocab": "https://w3id.org/edc/v0.0.1/ns/"}, "@type": "DataFlowStartMessage",
			"processId": fmt.Sprintf("c-%d", g.started), "datasetId": "asset-1", "agreementId": "agreement-1",
			"participantId": "BPNL000000000001", "transferType": transferType, "flowType": "PULL",
		})
	}
	answer := start("HttpData-PULL")
	if answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	record, err := g.participant().service.Load().Status(t.Context(), "default", "c-1")
	if err != nil || record.Route != "pull" {
		t.Errorf("%+v, %v", record, err)
	}
	answer = start("ProxyHttpData-PULL")
	if answer.status != http.StatusBadRequest {
		t.Errorf("%d %s", answer.status, answer.body)
	}
}

// TestRouteBehindEdrAuth: edr_auth goes by the route that a flow takes, whatever else has the dataset.
func TestRouteBehindEdrAuth(t *testing.T) {
	g := newRouteGateway(t)
	auth := object{"handler": "subroute", "routes": []object{handle(
		object{"handler": "edr_auth", "routes": []string{"gold"}},
		object{"handler": "static_response", "body": "gold"},
	)}}
	routes := object{
		"gold":  object{"labels": []string{"gold"}, "public_url": "https://data.example"},
		"other": object{"datasets": []string{"*"}, "backend": g.first.URL},
	}
	g.loadRoutes(routes, auth)
	plain := g.mustStart(nil)
	routes["other"] = object{"profiles": []string{"HttpData-PULL"}, "backend": g.first.URL}
	routes["gold"] = object{"labels": []string{"gold"}, "metadata": []object{{"member": "m", "values": []string{"1"}}}, "public_url": "https://data.example"}
	g.loadRoutes(routes, auth)
	gold := g.mustStart(object{"labels": []string{"gold"}, "metadata": object{"m": 1.0}})
	if got := g.get(gold); got.status != http.StatusOK || got.body != "gold" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := g.get(plain); got.status != http.StatusForbidden {
		t.Errorf("%d %s", got.status, got.body)
	}
	g.first.none(t)
}

// TestQueryOfARoute: the consumer adds to it and cannot take it away.
func TestQueryOfARoute(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	w.app.routes["r"] = &routeTarget{Backend: backend.URL + "/api?tenant=acme"}
	_, token := w.flow(func(r *tokens.StartRequest) { r.Route = "r" })
	for path, want := range map[string]string{"/x": "/api/x?tenant=acme", "/x?a=%26": "/api/x?tenant=acme&a=%26"} {
		w.get(path, token)
		if got := backend.last(t).target; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestReferenceBelowABaseThatAHeaderRepeats: what the rewriting takes out of a reference is not given away by it.
func TestReferenceBelowABaseThatAHeaderRepeats(t *testing.T) {
	location := ""
	backend := newRecordingBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusCreated)
	})
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	w.app.routes["r"] = &routeTarget{Backend: backend.URL + "/t/acme-corp", Headers: map[string]string{"X-Tenant": "acme-corp"}}
	_, token := w.flow(func(r *tokens.StartRequest) { r.Route = "r" })
	for given, want := range map[string]string{
		"/t/acme-corp/things/1":               "/things/1",
		backend.URL + "/t/acme-corp/things/1": "/things/1",
		"/t/acme-corp/things/acme-corp":       "",
		"/t/acme-corp/things?t=acme-corp":     "",
	} {
		location = given
		got := w.get("/things", token)
		if got.StatusCode != http.StatusCreated || got.Header.Get("Location") != want {
			t.Errorf("%s: %d, %q, want %q", given, got.StatusCode, got.Header.Get("Location"), want)
		}
	}
}

// TestSecretAndHostOfARoute: a front end chooses its backend by Host, so the secret must be declared for what that names too.
func TestSecretAndHostOfARoute(t *testing.T) {
	for host, want := range map[string]error{"backend": nil, "backend:80": nil, "both": errSecretElsewhere, "both:8080": errSecretElsewhere} {
		_, err := newRouteTarget(&routeTarget{
			Backend: "http://backend/base/x", Headers: map[string]string{"Host": host}, Secrets: []routeSecret{{header: "X-Key", name: "key"}},
		}, testBackends(t), testSecrets(t))
		if !errors.Is(err, want) {
			t.Errorf("Host %s: %v, want %v", host, err, want)
		}
	}
}

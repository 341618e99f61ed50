package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// A route that is given to another dataset must not open to the flows that were started for the one before.
func TestRouteGivenToAnotherDataset(t *testing.T) {
	for name, handler := range map[string]func(first, second string) object{
		"edr_proxy": func(first, second string) object {
			return object{"handler": "edr_proxy", "backends": []string{first, second}}
		},
		"edr_auth": func(_, second string) object {
			return object{"handler": "subroute", "routes": []object{{"handle": []object{
				{"handler": "edr_auth", "routes": []string{"reports"}},
				{"handler": "reverse_proxy", "upstreams": []object{{"dial": second}}},
			}}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newLiveGateway(t)
			first, second := newRecordingBackend(t, nil), newRecordingBackend(t, nil)
			load := func(dataset string, backend *recordingBackend) {
				app, servers := g.app(), g.servers()
				app["routes"] = object{"reports": object{"datasets": []string{dataset}, "backend": backend.URL}}
				servers["data"] = g.site("data", object{"handler": "edr_refresh"}, handler(first.hostport(), second.hostport()))
				g.load(app, servers)
			}
			load("asset-1", first)
			service, err := g.participant().Service()
			if err != nil {
				t.Fatal(err)
			}
			edr, err := service.Start(t.Context(), "default", tokens.StartRequest{
				Dialect: tokens.DPS, MessageID: "m", ProcessID: "p", Route: "reports",
				Terms: tokens.Terms{Counterparty: "did:web:consumer.example", Dataset: "asset-1", Agreement: "a"},
			})
			if err != nil {
				t.Fatal(err)
			}
			got := g.get(edr.AccessToken.Reveal())
			if got.status != http.StatusOK {
				t.Fatalf("before: %d %s", got.status, got.body)
			}
			reached := second.count()
			load("asset-2", second)
			got = g.get(edr.AccessToken.Reveal())
			if got.status != http.StatusForbidden || second.count() != reached {
				t.Fatalf("after: %d %s", got.status, got.body)
			}
		})
	}
}

// The URI of a request whose query holds a refresh token must not come into Caddy's error log either.
func TestQueryOfAFailingRequestAtTheRefreshPathIsNotLogged(t *testing.T) {
	g := newLiveGateway(t)
	servers := g.servers()
	servers["data"] = g.site("data", object{"handler": "edr_refresh"}, object{"handler": "reverse_proxy", "upstreams": []object{{"dial": "127.0.0.1:1"}}})
	g.load(g.app(), servers)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/token", http.StatusBadGateway},
		{http.MethodPut, "/token/", http.StatusBadGateway},
		{http.MethodPost, "/token", http.StatusUnauthorized},
		{http.MethodPost, "//token", http.StatusUnauthorized}, // a consumer that joins carelessly
	} {
		request := g.request(c.method, "http://data.example"+c.path+"?grant_type=refresh_token&refresh_token=CANARY", nil)
		got := g.send("data", request)
		if got.status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, got.status, got.body)
		}
	}
	for line := range strings.Lines(g.logged()) {
		if strings.Contains(line, "CANARY") && !strings.Contains(line, `"level":"debug"`) {
			t.Errorf("%.300s", line)
		}
	}
}

func TestTokenInTheQueryOfADataRequestIsNotLogged(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(nil, w.auth("auth", &Auth{Datasets: []string{"asset-1"}}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(nil)
	got := w.send("GET", "/x?access_token="+token, "", "")
	if got.StatusCode != http.StatusUnauthorized {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	log := w.log("whose query names a token")
	if log == "" || strings.Contains(log, token) {
		t.Fatal("the line of our own")
	}
	got = w.get("/x?pageToken=next", token)
	if got.StatusCode != http.StatusOK || !strings.Contains(w.log("handled request"), "pageToken=next") {
		t.Fatalf("%d: an ordinary query is not logged", got.StatusCode)
	}
	if strings.Contains(w.log("handled request"), token) {
		t.Fatal("the token is in the access log")
	}
}

// A client that writes its token where nobody looks for it must not find it in the access log, which masks Authorization and
// cookies only, nor hand it on to the backend.
func TestTokenInAnotherHeaderIsNotLogged(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(nil, w.auth("auth", &Auth{Datasets: []string{"asset-1"}}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(nil)
	for _, c := range []struct {
		path, authorization, header string
		status                      int
	}{
		{"/missing", "", "X-Api-Key: " + token, http.StatusUnauthorized},
		{"/scheme", "", "X-Authorization: Bearer " + token, http.StatusUnauthorized},
		{"/malformed", "{http.request.header.X-Token}", "X-Token: " + token, http.StatusBadRequest},
		{"/a//b", token, "X-Token: " + token, http.StatusBadRequest},
		{"/admitted", token, "X-Copy: " + token + ", x", http.StatusOK},
	} {
		got := w.send("GET", c.path, c.authorization, "", c.header)
		if got.StatusCode != c.status {
			t.Errorf("%s: %d %s", c.path, got.StatusCode, got.body)
		}
		if log := w.log(`"path":"` + c.path + `"`); !strings.Contains(log, "it is not logged") || strings.Contains(log, token) {
			t.Errorf("%s: the line of our own", c.path)
		}
	}
	if backend.last(t).header.Get("X-Copy") != "" {
		t.Error("the backend got the token")
	}
	got := w.get("/other", token, "X-Page: eyJuIjoxfQ", "X-Other: a.b.c")
	if got.StatusCode != http.StatusOK || !strings.Contains(w.log(`"uri":"/other"`), "eyJuIjoxfQ") {
		t.Errorf("%d: a request with ordinary headers is not logged", got.StatusCode)
	}
	if strings.Contains(w.log("handled request"), token) {
		t.Error("the token is in the access log")
	}
}

// Some backends take another path or method than the one that was decided on from these.
func TestHeadersThatReroute(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(nil, w.auth("auth", &Auth{Datasets: []string{"asset-1"}}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(nil)
	names := []string{
		"X-Original-URL", "X-Rewrite-URL", "x-http-method-override", "X-HTTP-Method", "X-Method-Override", "Forwarded", "X-Real-Ip", "X-Api-Key",
	}
	var headers []string
	for _, name := range names {
		headers = append(headers, name+": /elsewhere")
	}
	got := w.get("/x", token, headers...)
	if got.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	reached := backend.last(t)
	for _, name := range names {
		if value := reached.header.Get(name); value != "" {
			t.Errorf("the backend got %s: %s", name, value)
		}
	}
}

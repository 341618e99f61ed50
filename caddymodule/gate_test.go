package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func TestTokenIsFoundAndRefused(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(nil, w.auth("auth", &Auth{Datasets: []string{"asset-1"}}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(nil)

	cases := []struct {
		name      string
		headers   []string
		status    int
		challenge string
		body      string
	}{
		{"no header", nil, 401, `Bearer realm="edr"`, `{"errors":["Missing Authorization Header"]}`},
		{"Basic", []string{"Authorization: Basic dXNlcjpwYXNz"}, 401, `Bearer realm="edr"`, `{"errors":["Missing Authorization Header"]}`},
		{"empty", []string{"Authorization:"}, 401, `Bearer realm="edr", error="invalid_token"`, `{"errors":["Failed to decode token"]}`},
		{"Bearer without a token", []string{"Authorization: Bearer"}, 400, `Bearer realm="edr", error="invalid_request"`, ""},
		{"two tokens in one header", []string{"Authorization: Bearer " + token + " " + token}, 400, `Bearer realm="edr", error="invalid_request"`, ""},
		{"tab", []string{"Authorization: Bearer\t" + token}, 400, `Bearer realm="edr", error="invalid_request"`, ""},
		{"not ASCII", []string{"Authorization: Bearer \xc3\xa4" + token}, 400, `Bearer realm="edr", error="invalid_request"`, ""},
		{"two headers", []string{"Authorization: " + token, "Authorization: " + token}, 400, `Bearer realm="edr", error="invalid_request"`, ""},
		{"abc", []string{"Authorization: abc"}, 401, `Bearer realm="edr", error="invalid_token"`, `{"errors":["Failed to decode token"]}`},
		{"changed signature", []string{"Authorization: Bearer " + flipSignature(token)}, 401, `Bearer realm="edr", error="invalid_token"`, `{"errors":["Token verification failed"]}`},
		{"bare", []string{"Authorization: " + token}, 200, "", "data"},
		{"Bearer", []string{"Authorization: Bearer " + token}, 200, "", "data"},
		{"scheme in lower case", []string{"authorization: bearer " + token}, 200, "", "data"},
		{"two spaces", []string{"Authorization: Bearer  " + token}, 200, "", "data"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := w.send("GET", "/x?access_token="+token, "", "", c.headers...)
			if got.StatusCode != c.status || got.Header.Get("WWW-Authenticate") != c.challenge {
				t.Errorf("got %d, %q; want %d, %q", got.StatusCode, got.Header.Get("WWW-Authenticate"), c.status, c.challenge)
			}
			if c.body != "" && got.body != c.body {
				t.Errorf("got body %s, want %s", got.body, c.body)
			}
			if c.status != 200 {
				backend.none(t)
				return
			}
			backend.last(t)
		})
	}
	t.Run("OPTIONS needs a token", func(t *testing.T) {
		got := w.send("OPTIONS", "/x", "", "")
		if got.StatusCode != 401 {
			t.Errorf("got %d, want 401", got.StatusCode)
		}
		backend.none(t)
	})
}

// flipSignature changes a character of the signature's middle, so that it decodes to other bytes.
func flipSignature(token string) string {
	i := strings.LastIndexByte(token, '.') + 10
	replacement := byte('A')
	if token[i] == replacement {
		replacement = 'B'
	}
	return token[:i] + string(replacement) + token[i+1:]
}

func TestStatusesByDialectAndOption(t *testing.T) {
	type want struct {
		status int
		body   string
	}
	for _, option := range []string{"", formRFC6750, formTractusX} {
		for _, dialect := range []tokens.Dialect{tokens.DPS, tokens.Classic} {
			t.Run(option+" "+string(dialect), func(t *testing.T) {
				w := newDataWorld(t)
				backend := newRecordingBackend(t, nil)
				w.run(nil, w.auth("auth", &Auth{Datasets: []string{"asset-1"}, GateOptions: GateOptions{RefusalStatus: option}}),
					reverseProxyTo(backend.hostport()))
				change := func(r *tokens.StartRequest) { r.Dialect = dialect }
				dead := 401
				if option == formTractusX || option == "" && dialect == tokens.Classic {
					dead = 403
				}
				check := func(name, token string, want want) {
					t.Helper()
					got := w.get("/x", token)
					if got.StatusCode != want.status || got.body != want.body {
						t.Errorf("%s: got %d %s, want %d %s", name, got.StatusCode, got.body, want.status, want.body)
					}
					if got.Header.Get("WWW-Authenticate") == "" {
						t.Errorf("%s: no WWW-Authenticate", name)
					}
					if got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Content-Type") != "application/json" {
						t.Errorf("%s: headers %v", name, got.Header)
					}
				}
				noSuchFlow := func(token, more string) string {
					return `{"errors":["AccessTokenData with ID '` + tokenIDOf(t, token) + `' does not exist."]` + more + `}`
				}

				id, token := w.flow(change)
				_, err := w.service.Suspend(t.Context(), dataCaller, tokens.Message{ProcessID: id, MessageID: "s", Dialect: dialect})
				if err != nil {
					t.Fatal(err)
				}
				check("suspended", token, want{403, noSuchFlow(token, `,"code":"flow_suspended"`)})

				_, err = w.service.Terminate(t.Context(), dataCaller, tokens.Message{ProcessID: id, MessageID: "t", Dialect: dialect})
				if err != nil {
					t.Fatal(err)
				}
				check("terminated", token, want{dead, noSuchFlow(token, "")})

				_, foreign := w.flow(func(r *tokens.StartRequest) { change(r); r.Terms.Dataset = "asset-2" })
				check("other dataset", foreign, want{403, `{"errors":["The token does not open this resource"]}`})

				_, elsewhere := w.flow(func(r *tokens.StartRequest) { change(r); r.Endpoint = "http://" + dataHost + "/other" })
				check("other endpoint", elsewhere, want{403, `{"errors":["The token does not open this resource"]}`})

				_, otherHost := w.flow(func(r *tokens.StartRequest) { change(r); r.Endpoint = "http://elsewhere.example" })
				check("other host", otherHost, want{403, `{"errors":["The token does not open this resource"]}`})

				_, expired := w.flow(change)
				w.get("/x", expired)
				w.clock.Advance(400 * 24 * 60 * 60 * 1e9)
				check("expired", expired, want{dead, `{"errors":["Token has expired (exp)"]}`})
			})
		}
	}
}

func tokenIDOf(t *testing.T, token string) string {
	t.Helper()
	claims := decodeClaims(t, token)
	id, ok := claims["jti"].(string)
	if !ok {
		t.Fatal("no jti")
	}
	return id
}

func TestTokenOfNoFlowIsRefusedByEnabledDialects(t *testing.T) {
	w := newDataWorld(t)
	w.run(nil, w.auth("auth", &Auth{AnyDataset: true}))
	got := w.get("/", "abc")
	if got.StatusCode != 401 {
		t.Errorf("got %d, want 401", got.StatusCode)
	}
	w.app.mu.Lock()
	w.app.classic = true
	w.app.mu.Unlock()
	got = w.get("/", "abc")
	if got.StatusCode != 403 {
		t.Errorf("with the classic dialect alone: got %d, want 403", got.StatusCode)
	}
	got = w.get("/", "")
	if got.StatusCode != 401 {
		t.Errorf("without a token: got %d, want 401", got.StatusCode)
	}
}

func TestCannotTellIsUnavailable(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(nil, w.auth("auth", &Auth{Datasets: []string{"asset-1"}}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(nil)
	check := func(t *testing.T) {
		t.Helper()
		got := w.get("/x", token)
		if got.StatusCode != 503 || got.Header.Get("Retry-After") != "1" || got.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("got %d, Retry-After %q, WWW-Authenticate %q", got.StatusCode, got.Header.Get("Retry-After"), got.Header.Get("WWW-Authenticate"))
		}
		if got.body != `{"errors":["The token cannot be checked at the moment"]}` {
			t.Errorf("got body %s", got.body)
		}
		backend.none(t)
	}
	t.Run("store", func(t *testing.T) {
		w.store.setFailure(errors.New("disk on fire"))
		defer w.store.setFailure(nil)
		check(t)
		if strings.Contains(w.log("cannot check data request"), token) {
			t.Error("the token is in the log")
		}
	})
	t.Run("service", func(t *testing.T) {
		w.app.mu.Lock()
		w.app.unavailable = errors.New("locked")
		w.app.mu.Unlock()
		check(t)
		w.app.mu.Lock()
		w.app.unavailable = nil
		w.app.mu.Unlock()
	})
	t.Run("and then it can", func(t *testing.T) {
		got := w.get("/x", token)
		if got.StatusCode != 200 {
			t.Errorf("got %d, want 200", got.StatusCode)
		}
	})
	counted := w.app.counted()
	if counted["edr_auth unavailable unavailable"] != 2 || counted["edr_auth admitted"] != 1 {
		t.Errorf("counted %v", counted)
	}
}

func TestMisroutedRenewal(t *testing.T) {
	for _, name := range []string{"edr_auth", "edr_proxy"} {
		t.Run(name, func(t *testing.T) {
			w := newDataWorld(t)
			w.app.renewals = "/token"
			backend := newRecordingBackend(t, nil)
			token := w.classicFlow(typeHTTPData, proxied(backend.URL))
			if name == "edr_auth" {
				w.run(nil, w.auth("h", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()))
			} else {
				w.run(nil, w.proxy("h", &Proxy{Backends: []string{backend.hostport()}}))
			}
			got := w.send("POST", "/x/../token?grant_type=refresh_token&refresh_token=CANARY-refresh", token, "", "Content-Length: 0")
			if got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
				t.Errorf("got %d, want 503 with Retry-After", got.StatusCode)
			}
			backend.none(t)

			// Another request afterwards, so that the access log of the first one would have been written.
			got = w.get("/token", token)
			if got.StatusCode != 200 {
				t.Errorf("GET of the refresh path: got %d, want 200", got.StatusCode)
			}
			backend.last(t)
			log := w.log("handled request")
			if strings.Contains(log, "CANARY-refresh") {
				t.Error("the refresh token is in the log")
			}
			if !strings.Contains(log, "put edr_refresh before it") {
				t.Error("no error tells the operator")
			}
			if w.app.counted()[name+" misrouted refresh_request"] != 1 {
				t.Errorf("counted %v", w.app.counted())
			}
		})
	}
}

// TestMisroutedRenewalAtARuledSite: neither what a site lets pass nor a path that it refuses makes a 4xx of a renewal, which
// its consumer would take for final.
func TestMisroutedRenewalAtARuledSite(t *testing.T) {
	rules := GateOptions{RequestRules: RequestRules{Methods: []string{"GET"}, NoQuery: true}}
	for _, name := range []string{"edr_auth", "edr_proxy"} {
		t.Run(name, func(t *testing.T) {
			w := newDataWorld(t)
			backend := newRecordingBackend(t, nil)
			token := w.classicFlow(typeHTTPData, proxied(backend.URL))
			if name == "edr_auth" {
				w.run(nil, w.auth("h", &Auth{AnyDataset: true, GateOptions: rules}), reverseProxyTo(backend.hostport()))
			} else {
				w.run(nil, w.proxy("h", &Proxy{Backends: []string{backend.hostport()}, GateOptions: rules}))
			}
			for _, path := range []string{"/token", "//token"} {
				w.app.renewals = path
				got := w.send("POST", path+"?grant_type=refresh_token&refresh_token=CANARY-refresh", token, "", "Content-Length: 0")
				if got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
					t.Errorf("%s: got %d, want 503 with Retry-After", path, got.StatusCode)
				}
			}
			backend.none(t)
			if got := w.send("POST", "/x", token, "", "Content-Length: 0"); got.StatusCode != 405 {
				t.Errorf("another POST: got %d, want 405", got.StatusCode)
			}
			if w.app.counted()[name+" misrouted refresh_request"] != 2 {
				t.Errorf("counted %v", w.app.counted())
			}
		})
	}
}

func TestMethodsAndUpgrades(t *testing.T) {
	cases := []struct {
		name    string
		method  string
		headers []string
		auth    int // edr_auth
		allowed int // edr_auth with allow_upgrade
		proxy   int
	}{
		{"TRACE", "TRACE", nil, 405, 405, 405},
		{"CONNECT", "CONNECT", nil, 405, 405, 405},
		{"PROPFIND", "PROPFIND", nil, 200, 200, 405},
		{"WebSocket", "GET", []string{"Connection: Upgrade", "Upgrade: websocket"}, 400, 200, 400},
		{"h2c is ignored", "GET", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"}, 200, 200, 200},
		{"OPTIONS", "OPTIONS", nil, 200, 200, 200},
	}
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	w.run(object{"routes": []object{
		{"match": []object{{"header": object{"X-Site": []string{"auth"}}}}, "handle": []object{
			w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()),
		}},
		{"match": []object{{"header": object{"X-Site": []string{"allowed"}}}}, "handle": []object{
			w.auth("allowed", &Auth{AnyDataset: true, AllowUpgrade: true}), reverseProxyTo(backend.hostport()),
		}},
		{"handle": []object{w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}})}},
	}})
	for _, c := range cases {
		for site, status := range map[string]int{"auth": c.auth, "allowed": c.allowed, "proxy": c.proxy} {
			t.Run(c.name+" "+site, func(t *testing.T) {
				path := "/x"
				if c.method == "CONNECT" {
					path = dataHost + ":443"
				}
				got := w.send(c.method, path, token, "", append([]string{"X-Site: " + site}, c.headers...)...)
				if got.StatusCode != status {
					t.Fatalf("got %d %s, want %d", got.StatusCode, got.body, status)
				}
				if status == 405 && !strings.Contains(got.Header.Get("Allow"), "GET") {
					t.Error("405 without Allow")
				}
				if status != 200 {
					backend.none(t)
					return
				}
				upgrade := backend.last(t).header.Get("Upgrade")
				if (upgrade == "websocket") != (site == "allowed" && c.name == "WebSocket") || upgrade == "h2c" {
					t.Errorf("the backend saw Upgrade %q", upgrade)
				}
			})
		}
	}
	t.Run("a bad token learns nothing of upgrades", func(t *testing.T) {
		got := w.get("/x", "abc", "X-Site: auth", "Connection: Upgrade", "Upgrade: websocket")
		if got.StatusCode != 401 {
			t.Errorf("got %d, want 401", got.StatusCode)
		}
	})
}

func TestExpectIsRefusedBeforeTheBody(t *testing.T) {
	w := newDataWorld(t)
	w.run(nil, w.auth("auth", &Auth{AnyDataset: true}))
	got := w.send("POST", "/x", "abc", "", "Expect: 100-continue", "Content-Length: 1000000")
	if got.StatusCode != http.StatusUnauthorized || len(got.interim) != 0 {
		t.Errorf("got %d after %d interim answers, want 401 at once", got.StatusCode, len(got.interim))
	}
}

func TestPlaceholdersOfARequest(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	show := object{"handler": "headers", "response": object{"deferred": true, "set": object{
		"X-User":      []string{"{http.auth.user.id}"},
		"X-Agreement": []string{"{http.auth.user.agreement_id}"},
		"X-Asset":     []string{"{http.auth.user.asset_id}"},
		"X-Flow":      []string{"{http.auth.user.flow_id}"},
		"X-Var":       []string{"{http.vars.edr.flow}"},
		"X-Delivery":  []string{"{http.vars.edr.delivery}"},
		"X-Error":     []string{"{http.edr.error}"},
	}}}
	w.run(nil, show, w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}}))
	token := w.classicFlow(typeHTTPData, proxied(backend.URL, "authKey", "X-Key", "authCode", "CANARY-credential"))
	got := w.get("/x", token)
	want := map[string]string{
		"X-User": dataConsumer, "X-Agreement": "agreement-1", "X-Asset": "asset-1", "X-Flow": "flow-x", "X-Var": "flow-x", "X-Delivery": "flow-x",
	}
	for name, value := range want {
		if got.Header.Get(name) != value {
			t.Errorf("%s: got %q, want %q", name, got.Header.Get(name), value)
		}
	}
	if strings.Contains(w.log(`"user_id":"`+dataConsumer+`"`), "CANARY") {
		t.Error("the backend's credential is in the log")
	}
	got = w.get("/x", "abc")
	if got.Header.Get("X-Error") != "token_malformed" {
		t.Errorf("got error %q", got.Header.Get("X-Error"))
	}
}

func decodeClaims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("not a compact JWS")
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	err = json.Unmarshal(data, &claims)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

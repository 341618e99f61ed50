package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// TestBackendSeesOnlyOurIdentity sends every trick to pass for somebody else through both ways to a backend.
func TestBackendSeesOnlyOurIdentity(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	w.run(object{
		// Caddy drops these names by itself unless the operator expects them.
		"expected_underscore_headers": []string{"Edc_Bpn", "X_Api_Key"},
		"expected_dot_headers":        []string{"Edc.Bpn"},
		"routes": []object{
			{"match": []object{{"header": object{"X-Site": []string{"auth"}}}}, "handle": []object{
				w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()),
			}},
			{"handle": []object{w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}, RequestHeaders: []string{"X-Custom"}})}},
		},
	})
	headers := []string{
		"Edc-Bpn: evil", "eDc-BPN: evil", "Edc_Bpn: evil", "Edc.Bpn: evil", "Edc!Bpn: evil", "edc-contract-agreement-id: evil",
		"Connection: close, Edc-Bpn, edc-contract-agreement-id, X-Hop, Authorization", "X-Hop: hop", "Keep-Alive: timeout=5",
		"Cookie: session=1", "Proxy-Authorization: Basic eA==", "X-Api-Key: evil", "X_Api_Key: evil", "X-Forwarded-User: evil", "X-Forwarded-For: 1.2.3.4",
		"X-Custom: kept", "Trailer: Edc-Bpn, X-Trailer", "Transfer-Encoding: chunked",
	}
	for _, site := range []string{"auth", "proxy"} {
		t.Run(site, func(t *testing.T) {
			got := w.send("POST", "/x", token, "3\r\nabc\r\n0\r\nEdc-Bpn: evil\r\nX-Trailer: evil\r\nX-Undeclared: evil\r\n\r\n",
				append([]string{"X-Site: " + site, "Content-Type: text/plain"}, headers...)...)
			if got.StatusCode != 200 {
				t.Fatalf("got %d %s", got.StatusCode, got.body)
			}
			request := backend.last(t)
			if request.body != "abc" {
				t.Errorf("the backend got the body %q", request.body)
			}
			if len(request.trailer) != 0 {
				t.Errorf("the backend got trailers %v", request.trailer)
			}
			for name, values := range request.header {
				for _, value := range values {
					if strings.Contains(value, "evil") || strings.Contains(value, token) {
						t.Errorf("the backend got %s: %s", name, value)
					}
				}
			}
			for name, want := range map[string]string{"Edc-Bpn": "BPNL00000000TEST", "Edc-Contract-Agreement-Id": "agreement-1", "X-Custom": "kept"} {
				if !slices.Equal(request.header[name], []string{want}) {
					t.Errorf("%s: got %q, want %q", name, request.header[name], want)
				}
			}
			for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization", "X-Api-Key", "X_api_key", "X-Hop", "Keep-Alive", "X-Forwarded-User"} {
				if request.header[name] != nil {
					t.Errorf("the backend got %s", name)
				}
			}
			if site == "proxy" && (request.header["X-Forwarded-For"] != nil || request.header["Via"] != nil || request.header["X-Site"] != nil) {
				t.Errorf("edr_proxy passed what is not allowed: %v", request.header)
			}
		})
	}
}

func TestUnknownIdentityIsNotAsserted(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(nil, w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(func(r *tokens.StartRequest) { r.BPN = "" })
	got := w.get("/x", token, "Edc-Bpn: evil")
	if got.StatusCode != 200 {
		t.Fatalf("got %d", got.StatusCode)
	}
	if values := backend.last(t).header["Edc-Bpn"]; values != nil {
		t.Errorf("the backend got Edc-Bpn %q", values)
	}
}

func TestTrustedProxyKeepsForwardedFor(t *testing.T) {
	for name, server := range map[string]object{
		"trusted":     {"trusted_proxies": object{"source": "static", "ranges": []string{"127.0.0.0/8"}}},
		"not trusted": nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := newDataWorld(t)
			backend := newRecordingBackend(t, nil)
			w.run(server, w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()))
			_, token := w.flow(nil)
			w.get("/x", token, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-User: evil")
			header := backend.last(t).header
			want := "127.0.0.1"
			if name == "trusted" {
				want = "192.0.2.1, 127.0.0.1"
			}
			if header.Get("X-Forwarded-For") != want || header["X-Forwarded-User"] != nil {
				t.Errorf("the backend got %v", header)
			}
		})
	}
}

// TestHeaderReplaceDoesNotReachOtherRequests is about Caddy's replace operation, which writes into the slices it finds.
func TestHeaderReplaceDoesNotReachOtherRequests(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	spoil := object{"handler": "headers", "request": object{"replace": object{"Edc-Bpn": []object{{"search": "BPNL", "replace": "EVIL"}}}}}
	w.run(object{"routes": []object{
		{"match": []object{{"path": []string{"/spoil"}}}, "handle": []object{w.auth("one", &Auth{AnyDataset: true}), spoil, reverseProxyTo(backend.hostport())}},
		{"handle": []object{w.auth("two", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport())}},
	}})
	_, token := w.flow(nil)
	w.get("/spoil", token)
	if got := backend.last(t).header.Get("Edc-Bpn"); got != "EVIL00000000TEST" {
		t.Fatalf("the operation did nothing: %q", got)
	}
	w.get("/x", token)
	if got := backend.last(t).header.Get("Edc-Bpn"); got != "BPNL00000000TEST" {
		t.Errorf("the next request was given %q", got)
	}
}

// TestIdempotencyKeyIsNoLeaveToRepeat breaks a reused connection after the request was read. net/http would deliver an
// empty POST with this header twice.
func TestIdempotencyKeyIsNoLeaveToRepeat(t *testing.T) {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		for _, site := range []string{"auth", "proxy"} {
			t.Run(name+" "+site, func(t *testing.T) {
				w := newDataWorld(t)
				keys := make(chan string, 8)
				backend := newScriptedBackend(t, func(n int, r *http.Request) string {
					if n == 1 {
						return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
					}
					keys <- r.Header.Get(name)
					return ""
				})
				hostport := strings.TrimPrefix(backend.url(), "http://")
				token := w.classicFlow(typeHTTPData, proxied(backend.url()))
				if site == "auth" {
					w.run(nil, w.auth("h", &Auth{AnyDataset: true}), reverseProxyTo(hostport))
				} else {
					w.run(nil, w.proxy("h", &Proxy{Backends: []string{hostport}, RequestHeaders: []string{name}}))
				}
				got := w.get("/x", token)
				if got.StatusCode != 200 {
					t.Fatalf("first request: %d", got.StatusCode)
				}
				got = w.send("POST", "/x", token, "", name+": key-1", "Content-Length: 0")
				if got.StatusCode != 502 {
					t.Errorf("got %d, want 502", got.StatusCode)
				}
				requests, conns := backend.counts()
				if requests != 2 || conns != 1 {
					t.Errorf("the backend got %d requests over %d connections, want 2 over 1", requests, conns)
				}
				if key := <-keys; key != "key-1" {
					t.Errorf("the backend saw the key %q", key)
				}
			})
		}
	}
}

func TestFolding(t *testing.T) {
	drops := []string{
		"Edc-Bpn", "eDc-bPN", "Edc_Bpn", "Edc.Bpn", "Edc!Bpn", "Edc Bpn", "Edc~Contract|Agreement^Id", "Authorization", "aUTHORIZATION",
		"Cookie", "Cookie2", "Proxy-Authorization", "Proxy_Connection", "X-Api-Key", "x_api_key", "X-Forwarded-For", "X_Forwarded_Host", "",
	}
	keeps := []string{"Edc-Bpn2", "Edc-Bp", "Edc-Bpn-", "Accept", "Content-Type", "Proxyy", "X-Api-Keys", "X-Forwarded", "Edc-Bpnı"}
	rules := identityRules{denyList: true}
	for _, name := range drops {
		if !rules.drops(name, false) {
			t.Errorf("%q is kept", name)
		}
	}
	for _, name := range keeps {
		if rules.drops(name, false) {
			t.Errorf("%q is dropped", name)
		}
	}
	if rules.drops("X-Forwarded-For", true) || !rules.drops("X-Forwarded-User", true) || !rules.drops("X_Forwarded_For", true) {
		t.Error("a trusted proxy's headers are not told from others")
	}
}

func TestValueThatCannotStandInAHeader(t *testing.T) {
	for value, want := range map[string]bool{
		"BPNL1": true, "did:web:x": true, "a b": true, "": false, "a\r\nEdc-Bpn: evil": false, "a\x00": false, "ä": false, " a": false, "a ": false,
	} {
		if isFieldValue(value) != want {
			t.Errorf("%q: got %v", value, !want)
		}
	}
}

// FuzzStripLeavesNoAlias checks that whatever name a client chooses, nothing that a backend may read as an asserted
// header is left.
func FuzzStripLeavesNoAlias(f *testing.F) {
	for _, seed := range []string{"Edc-Bpn", "edc_bpn", "EDC.CONTRACT-agreement!id", "Connection", "X", ""} {
		f.Add(seed, "Edc-Bpn, close")
	}
	f.Fuzz(func(t *testing.T, name, connection string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header[name] = []string{"evil"}
		r.Header["Connection"] = append(r.Header["Connection"], connection)
		(identityRules{denyList: true}).strip(r)
		for key := range r.Header {
			folded := strings.Map(func(c rune) rune {
				switch {
				case 'A' <= c && c <= 'Z':
					return c | 0x20
				case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
					return c
				}
				return '-'
			}, key)
			switch folded {
			case "edc-bpn", "edc-contract-agreement-id", "authorization", "cookie", "connection", "trailer", "x-api-key":
				t.Errorf("%q is left", key)
			}
		}
	})
}

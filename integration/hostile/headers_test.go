package hostile

import (
	"fmt"
	"net/http"
	"strings"
)

// headerShapes are header fields with which a client would pass for somebody else, have a header of ours removed, or have
// two servers read two different requests.
func headerShapes(*world) []shape {
	return append(append(append(authorizationShapes(), spoofShapes()...), connectionShapes()...), append(upgradeShapes(), tokenElsewhereShapes()...)...)
}

// marker is the value of everything that must not reach a backend.
const marker = "BPNL00000SPOOFED"

// authorizationShapes are requests without exactly one token (RFC 6750 §2.1, §3.1).
func authorizationShapes() []shape {
	var shapes []shape
	const (
		missing   = `Bearer realm="edr"` + "\r\n"
		malformed = `error="invalid_request"`
		invalid   = `error="invalid_token"`
	)
	for name, c := range map[string]struct {
		headers string
		status  int
		code    string
	}{
		"none":                      {"X: y", 401, missing},
		"empty":                     {"Authorization:", 401, invalid}, // Tractus-X takes it for a token that is empty
		"Basic":                     {"Authorization: Basic {token}", 401, missing},
		"Digest":                    {"Authorization: Digest {token}", 401, missing},
		"DPoP":                      {"Authorization: DPoP {token}", 401, missing},
		"the scheme alone":          {"Authorization: Bearer", 400, malformed},
		"a tab":                     {"Authorization: Bearer\t{token}", 400, malformed},
		"a comma":                   {"Authorization: Bearer {token},", 400, malformed},
		"a comma and Basic":         {"Authorization: Bearer {token}, Basic eDp5", 400, malformed},
		"Basic first":               {"Authorization: Basic eDp5, Bearer {token}", 401, missing},
		"two tokens":                {"Authorization: Bearer {token} {token}", 400, malformed},
		"two headers":               {"Authorization: Bearer {token}\r\nAuthorization: Bearer {token}", 400, malformed},
		"two headers, one raw":      {"Authorization: Bearer {token}\r\nauthorization: {token}", 400, malformed},
		"two headers, one empty":    {"Authorization:\r\nAuthorization: Bearer {token}", 400, malformed},
		"two headers, one Basic":    {"Authorization: Basic eDp5\r\nAuthorization: Bearer {token}", 400, malformed},
		"quoted":                    {`Authorization: Bearer "{token}"`, 400, malformed},
		"as a parameter":            {"Authorization: Bearer token={token}", 400, malformed},
		"a NUL behind":              {"Authorization: Bearer {token}\x00", 400, "400 Bad Request"},
		"a carriage return":         {"Authorization: Bearer {token}\rX: y", 400, "400 Bad Request"},
		"a vertical tab":            {"Authorization: Bearer {token}\v", 400, "400 Bad Request"},
		"not ASCII":                 {"Authorization: Bearer {token}\xc3\xa4", 400, malformed},
		"folded over two lines":     {"Authorization: Bearer\r\n {token}", 200, ""}, // RFC 9112 §5.2: a server may read it as a space
		"in Proxy-Authorization":    {"Proxy-Authorization: Bearer {token}", 401, missing},
		"in X-Authorization":        {"X-Authorization: Bearer {token}", 401, missing},
		"in a cookie":               {"Cookie: Authorization=Bearer {token}", 401, missing},
		"in X-Api-Key":              {"X-Api-Key: {token}", 401, missing},
		"a name with an underscore": {"Author_ization: Bearer x.y.z", 401, missing},             // which Caddy drops, and logs as it came
		"a name with a space":       {"Authorization : Bearer {token}", 400, "400 Bad Request"}, // RFC 9112 §5.1
		"a placeholder":             {"Authorization: {http.request.header.X-Token}\r\nX-Token: {token}", 400, malformed},
		"a placeholder and Bearer":  {"Authorization: Bearer {env.TOKEN}", 400, malformed},
		"16 KiB and a byte":         {"Authorization: Bearer " + strings.Repeat("a", 16<<10+1), 400, malformed},
		"a million dots":            {"Authorization: Bearer " + strings.Repeat(".", 1_000_000), 431, ""},
		"2 MB":                      {"Authorization: Bearer " + strings.Repeat("a", 2<<20), 431, ""},
	} {
		s := shape{name: "authorization: " + name, status: c.status, code: c.code, backend: c.status == 200, send: func(w *world) string {
			return get(w.data, "/x", strings.ReplaceAll(c.headers, "{token}", w.dps.access))
		}}
		shapes = append(shapes, s)
	}
	for name, authorization := range map[string]string{"lower case": "authorization: bearer {token}", "raw": "Authorization: {token}", "many spaces": "Authorization: Bearer    {token}"} {
		shapes = append(shapes, shape{name: "authorization, odd but good: " + name, status: http.StatusOK, backend: true, send: func(w *world) string {
			return get(w.data, "/x", strings.ReplaceAll(authorization, "{token}", w.dps.access))
		}, also: noToken})
	}
	for _, name := range []string{"access_token", "token", "authorization", "bearer_token", "ACCESS_TOKEN", "access%5ftoken"} {
		shapes = append(shapes, shape{name: "authorization: in the query as " + name, status: http.StatusUnauthorized, code: missing, send: func(w *world) string {
			return get(w.data, "/x?"+name+"=unknown.to.us") // RFC 6750 §2.3 is not supported
		}})
	}
	return append(shapes,
		shape{name: "authorization: in a form", status: http.StatusUnauthorized, code: missing, send: func(w *world) string {
			return post(w.data, "/x", formType, "access_token="+w.dps.access) // RFC 6750 §2.2
		}},
		shape{name: "authorization: in the query as access_token, a good one", status: http.StatusUnauthorized, code: missing, send: func(w *world) string {
			return get(w.data, "/x?access_token="+w.dps.access)
		}},
		shape{name: "authorization: OPTIONS without a token", status: http.StatusUnauthorized, code: missing, send: func(w *world) string {
			return lines("OPTIONS /x HTTP/1.1", "Host: "+w.data, "Connection: close", "Origin: https://attacker.example", "Access-Control-Request-Method: GET")
		}},
	)
}

// noToken checks that the consumer's token did not go on to the backend.
func noToken(w *world, _ reply) string {
	for name, values := range w.lastSeen(data).header {
		for _, value := range values {
			if strings.Contains(value, w.dps.access) {
				return "the backend got the consumer's token in " + name
			}
		}
	}
	return ""
}

// asserted are the headers that tell a backend for whom a request is, and the value of the flow dps; "" where it has none.
func (w *world) asserted(f *flow) map[string]string {
	return map[string]string{"Edc-Bpn": "", "Edc-Contract-Agreement-Id": f.agreement}
}

// unspoofed checks that the backend got what we assert, and nowhere what the client said.
func unspoofed(to surface) func(*world, reply) string {
	return func(w *world, answer reply) string {
		f := w.dps
		if to == proxied {
			f = w.classic
		}
		sent := w.lastSeen(to)
		for name, values := range sent.header {
			if strings.Contains(strings.Join(values, ","), marker) {
				return fmt.Sprintf("the backend got the client's value in %s", name)
			}
		}
		for name, want := range w.asserted(f) {
			if strings.Join(sent.header.Values(name), ",") != want {
				return fmt.Sprintf("the backend got %s %q, want %q", name, sent.header.Values(name), want)
			}
		}
		if to == proxied && sent.header.Get("X-Api-Key") != backendKey {
			return "the backend did not get its credential"
		}
		return noToken(w, answer)
	}
}

// spoofShapes have a good token, and headers that a backend would believe. The request is served without them.
func spoofShapes() []shape {
	var shapes []shape
	add := func(name string, to surface, headers ...string) {
		shapes = append(shapes, shape{name: name, to: to, status: http.StatusOK, backend: true, also: unspoofed(to), send: func(w *world) string {
			if to == proxied {
				return get(w.proxied, "/api/x", append(headers, bearer(w.classic.access))...)
			}
			return get(w.data, "/x", append(headers, bearer(w.dps.access))...)
		}})
	}
	for _, name := range []string{
		"Edc-Bpn", "edc-bpn", "EDC-BPN", "eDc-bPn", "Edc_Bpn", "EDC_BPN", "Edc.Bpn", "Edc-Contract-Agreement-Id", "EDC-CONTRACT-AGREEMENT-ID",
		"edc_contract_agreement_id", "Edc-Contract_Agreement-Id", "Edc.Contract.Agreement.Id", "Edc~Bpn", "Edc!Bpn", "Edc+Bpn", "Edc*Bpn", "Edc'Bpn", "Edc|Bpn", "Edc^Bpn",
		"Edc`Bpn", "Edc#Bpn", "Edc$Bpn", "Edc%Bpn", "Edc&Bpn",
	} {
		add("spoofed at edr_auth: "+name, data, name+": "+marker)
		add("spoofed at edr_proxy: "+name, proxied, name+": "+marker)
	}
	for _, name := range []string{
		"Cookie", "Cookie2", "X-Api-Key", "x_api_key", "X.Api.Key", "Proxy-Authorization", "Proxy-Connection", "Proxy-Anything", "Forwarded", "X-Forwarded-For",
		"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-User", "x_forwarded_user", "X-Forwarded-Port", "X-Real-Ip",
		"X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X_Original_Url",
	} {
		add("not passed on by edr_auth: "+name, data, name+": "+marker)
	}
	for _, name := range []string{"X-Api-Key", "Cookie", "X-Anything", "X-Forwarded-For", "X-Original-Url", "Host-Override", "Origin", "Referer", "Forwarded", "From", "Via"} {
		add("not passed on by edr_proxy: "+name, proxied, name+": "+marker)
	}
	add("an identity header many times", data, strings.Repeat("Edc-Bpn: "+marker+"\r\n", 49)+"Edc-Bpn: "+marker)
	add("an identity header, folded", data, "Edc-Bpn:\r\n "+marker)
	add("an identity header behind a comma", data, "X: y, Edc-Bpn: z", "Edc-Bpn: a, "+marker)
	return shapes
}

// connectionShapes name headers of ours as those of the connection, so that the proxy would remove them (RFC 9110 §7.6.1).
func connectionShapes() []shape {
	var shapes []shape
	for name, headers := range map[string]string{
		"an identity header":                  "Connection: close, Edc-Contract-Agreement-Id",
		"an identity header, in small":        "Connection: close, edc-contract-agreement-id, edc-bpn",
		"the credential":                      "Connection: close, X-Api-Key",
		"the token":                           "Connection: close, Authorization",
		"all, in two lines":                   "Connection: close, Edc-Bpn\r\nConnection: X-Api-Key, Edc-Contract-Agreement-Id",
		"with odd spaces":                     "Connection: close ,\tEdc-Contract-Agreement-Id\t, X-Api-Key",
		"the host":                            "Connection: close, Host",
		"X-Forwarded-For":                     "Connection: close, X-Forwarded-For, X-Forwarded-Host",
		"the length":                          "Connection: close, Content-Length",
		"empty items":                         "Connection: close,,,Edc-Contract-Agreement-Id,,",
		"a thousand items":                    "Connection: close" + strings.Repeat(", Edc-Contract-Agreement-Id", 300),
		"Keep-Alive":                          "Connection: close, Keep-Alive\r\nKeep-Alive: " + marker,
		"an item that is no name":             "Connection: close, \xff, Edc-Contract-Agreement-Id",
		"a trailer":                           "Connection: close, TE\r\nTE: trailers\r\nTrailer: Edc-Bpn",
		"Proxy-Connection":                    "Connection: close\r\nProxy-Connection: Edc-Contract-Agreement-Id",
		"a spoofed header that it also names": "Connection: close, Edc-Bpn\r\nEdc-Bpn: " + marker,
	} {
		for _, to := range []surface{data, proxied} {
			at := map[surface]string{data: "edr_auth", proxied: "edr_proxy"}[to]
			shapes = append(shapes, shape{
				name: "connection at " + at + " names " + name, to: to, status: http.StatusOK, backend: true, also: unspoofed(to),
				send: func(w *world) string {
					if to == proxied {
						return lines("GET /api/x HTTP/1.1", "Host: "+w.proxied, headers, bearer(w.classic.access))
					}
					return lines("GET /x HTTP/1.1", "Host: "+w.data, headers, bearer(w.dps.access))
				},
			})
		}
	}
	for name, trailer := range map[string]string{"an identity header": "Edc-Bpn: " + marker, "a token": "X-Token: Bearer x"} {
		shapes = append(shapes, shape{
			name: "a trailer that is " + name, status: http.StatusOK, backend: true, also: unspoofed(data),
			send: func(w *world) string {
				return lines("POST /x HTTP/1.1", "Host: "+w.data, "Connection: close", "Transfer-Encoding: chunked", "Trailer: "+strings.Split(trailer, ":")[0],
					bearer(w.dps.access)) + "1\r\na\r\n0\r\n" + trailer + "\r\n\r\n"
			},
		})
	}
	return shapes
}

// tokenElsewhereShapes have the flow's token in another header too, which neither a log nor the backend may get.
func tokenElsewhereShapes() []shape {
	var shapes []shape
	for _, name := range []string{"X-Api-Key", "X-Token", "X-Authorization", "Accept", "User-Agent", "X-Request-Id", "Referer"} {
		shapes = append(shapes, shape{
			name: "token also in " + name, status: http.StatusOK, backend: true, also: noToken,
			send: func(w *world) string { return get(w.data, "/x", bearer(w.dps.access), name+": "+w.dps.access) },
		}, shape{
			name: "token also in " + name + ", with a bad path", status: http.StatusBadRequest, code: emptySegment,
			send: func(w *world) string {
				return get(w.data, "/x//y", bearer(w.dps.access), name+": Bearer "+w.dps.access)
			},
		})
	}
	return shapes
}

// upgradeShapes ask for another protocol, or to go on before the token was looked at.
func upgradeShapes() []shape {
	var shapes []shape
	for name, c := range map[string]struct {
		headers string
		good    bool // has a good token
		status  int
		code    string
	}{
		"WebSocket, no token":      {"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13", false, 401, "Bearer realm"},
		"WebSocket, good token":    {"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13", true, 400, "upgrades are not supported"},
		"h2c, no token":            {"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", false, 401, "Bearer realm"},
		"TLS":                      {"Connection: Upgrade\r\nUpgrade: TLS/1.0", true, 400, "upgrades are not supported"},
		"two protocols":            {"Connection: Upgrade\r\nUpgrade: h2c, websocket", true, 400, "upgrades are not supported"},
		"two headers":              {"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket", true, 400, "upgrades are not supported"},
		"without Connection":       {"Connection: close\r\nUpgrade: websocket", true, 400, "upgrades are not supported"},
		"Expect, no token":         {"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 1000000", false, 401, "Bearer realm"},
		"Expect of something else": {"Connection: close\r\nExpect: 200-ok", true, 417, ""},
		"a body that never comes":  {"Connection: close\r\nContent-Length: 5\r\nExpect: 100-continue", false, 401, "Bearer realm"},
	} {
		shapes = append(shapes, shape{name: "upgrade: " + name, status: c.status, code: c.code, send: func(w *world) string {
			token := "X: y"
			if c.good {
				token = bearer(w.dps.access)
			}
			return lines("GET /x HTTP/1.1", "Host: "+w.data, c.headers, token)
		}, also: func(_ *world, answer reply) string {
			if strings.Contains(answer.raw, "100 Continue") {
				return "the client was told to send its body"
			}
			return ""
		}})
	}
	return shapes
}

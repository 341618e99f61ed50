package hostile

import (
	"fmt"
	"net/http"
	"strings"
)

// egressShapes are requests to edr_egress that would get a token to where it does not belong, or what belongs to the client
// to the provider.
func egressShapes(w *world) []shape {
	const place = "egress"
	id := w.hold(place, "egress")
	w.hold("twin-a", "twin")
	w.hold("twin-b", "twin")
	shapes := append(egressPaths(w, place, id), egressHeaders(w, place, id)...)
	return append(append(shapes, selections()...), proxyRequests(w, place, id)...)
}

// untouched checks that the provider was not asked, or was asked for what the status says.
func untouched(w *world, place string, send func(w *world) string, s shape) shape {
	before := 0
	s.to, s.send = egress, func(w *world) string {
		before, _ = w.provider.seen(place)
		return send(w)
	}
	also := s.also
	s.also = func(w *world, answer reply) string {
		now, last := w.provider.seen(place)
		switch {
		case s.status >= http.StatusBadRequest && now != before:
			return "the provider was asked for " + last.target
		case s.status < http.StatusBadRequest && now != before+1:
			return fmt.Sprintf("the provider was asked %d times", now-before)
		case s.status < http.StatusBadRequest && !strings.HasPrefix(last.target, "/"+place+"/base"):
			return "the provider was asked for " + last.target
		case also != nil:
			return also(w, answer)
		}
		return ""
	}
	return s
}

func egressPaths(w *world, place, id string) []shape {
	var shapes []shape
	add := func(name string, status int, code, method, target string, headers ...string) {
		shapes = append(shapes, untouched(w, place, func(w *world) string {
			return call(w.egress, method, strings.ReplaceAll(target, "{id}", id), "", headers...)
		}, shape{name: "egress: " + name, status: status, code: code}))
	}
	const outside = "does not lie under the EDR's endpoint"
	for _, path := range []string{
		"/..", "/../", "/../x", "/x/../../y", "/%2e%2e/x", "/%2E%2e/x", "/.%2e/x", "/..;/x", "/..;a=b/x", `/..\x`, `/x\..\..\y`, "/%5c..%5cx", "/x%5cy", "/%00", "/x%0d%0aX:%20y", "/%ff", "/%c0%ae%c0%ae/x",
		"/%7f", "/x/%2e/y", "/..%00/x", "/%2e%2e%3b/x", "/\\\\attacker.example/x",
	} {
		add("path "+printable(path), http.StatusBadRequest, outside, http.MethodGet, "/{id}"+path)
	}
	for _, path := range []string{"//attacker.example/x", "/http://attacker.example/x", "/@attacker.example", "/x;y", "/%2f%2fattacker.example", "/{env.HOME}", "/x%25y", "/%3F", "/%23", "//", "/../{id}"} {
		if path == "/../{id}" {
			add("path that comes back", http.StatusBadRequest, outside, http.MethodGet, "/{id}"+path)
			continue
		}
		add("path, odd but below the endpoint "+printable(path), http.StatusOK, "", http.MethodGet, "/{id}"+path)
	}
	add("no path", http.StatusOK, "", http.MethodGet, "/{id}")
	add("a placeholder in the query", http.StatusOK, "", http.MethodGet, "/{id}/x?y={env.HOME}&{http.request.header.Authorization}")
	for name, c := range map[string]struct {
		id     string
		status int
	}{
		"empty": {"", 404}, "of nobody": {"unheard-of", 404}, "dots": {"..", 404}, "a dot": {".", 404}, "in capitals": {"TRANSFER-EGRESS", 404}, "with a slash": {"a%2Fb", 400}, "that climbs": {"..%2Fx", 400}, "with NUL": {"a%00", 400}, "with a line break": {"a%0ab", 400},
		"too long": {strings.Repeat("a", 256), 400}, "not UTF-8": {"%ff", 400}, "encoded twice": {"transfer%252Degress", 404}, "a placeholder": {"%7Benv.HOME%7D", 404}, "a host": {"attacker.example", 404}, "a URL": {"http:%2F%2Fattacker.example", 400},
		"of the proxy, as GET": {"aas", 404}, "with a parameter": {id + ";x", 404}, "with a space": {id + "%20", 400},
	} {
		add("id "+name, c.status, "", http.MethodGet, "/"+c.id+"/x")
	}
	add("an empty segment first", http.StatusNotFound, "must begin with the id", http.MethodGet, "//{id}/x")
	for _, method := range []string{http.MethodTrace, http.MethodConnect} {
		add("method "+method, http.StatusMethodNotAllowed, "the method is not supported", method, "/{id}/x", "Max-Forwards: 0")
	}
	shapes = append(shapes, untouched(w, place, func(w *world) string {
		return lines("CONNECT "+w.egress+" HTTP/1.1", "Host: "+w.egress, "Connection: close")
	}, shape{name: "egress: CONNECT to ourselves", status: http.StatusMethodNotAllowed, code: "the method is not supported"}),
		untouched(w, place, func(w *world) string {
			return lines("CONNECT 169.254.169.254:80 HTTP/1.1", "Host: 169.254.169.254:80", "Connection: close")
		}, shape{name: "egress: CONNECT elsewhere", status: http.StatusMisdirectedRequest, code: "does not name this site"}),
		untouched(w, place, func(w *world) string {
			return lines("GET http://attacker.example/"+id+"/x HTTP/1.1", "Host: "+w.egress, "Connection: close")
		}, shape{name: "egress: a target of another host, as to a proxy", status: http.StatusMisdirectedRequest, code: "does not name this site"}),
		untouched(w, place, func(w *world) string {
			return lines("GET http://user@"+w.egress+"/"+id+"/x HTTP/1.1", "Host: "+w.egress, "Connection: close")
		}, shape{name: "egress: a target with userinfo", status: http.StatusOK}))
	for name, headers := range map[string]string{
		"WebSocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13",
		"TLS":       "Connection: upgrade\r\nUpgrade: TLS/1.3", "two": "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket",
	} {
		shapes = append(shapes, untouched(w, place, func(w *world) string {
			return lines("GET /"+id+"/x HTTP/1.1", "Host: "+w.egress, headers)
		}, shape{name: "egress: upgrade to " + name, status: http.StatusBadRequest, code: "upgrades are not supported"}))
	}
	return shapes
}

// egressHeaders stay with the client's own network; and none of them may take the token out of the request.
func egressHeaders(w *world, place, id string) []shape {
	var shapes []shape
	add := func(name string, headers ...string) {
		shapes = append(shapes, untouched(w, place, func(w *world) string {
			return lines(append([]string{"GET /" + id + "/x HTTP/1.1", "Host: " + w.egress}, headers...)...)
		}, shape{name: "egress, not passed on: " + name, status: http.StatusOK, also: func(w *world, _ reply) string {
			_, last := w.provider.seen(place)
			for name, values := range last.header {
				if strings.Contains(strings.Join(values, ","), marker) {
					return "the provider got " + name
				}
			}
			authorization := last.header.Values("Authorization")
			if len(authorization) != 1 || !strings.HasPrefix(authorization[0], "Bearer access-token-of-"+place) {
				return fmt.Sprintf("the provider got %d Authorization headers, or another one", len(authorization))
			}
			return ""
		}}))
	}
	for _, name := range []string{
		"Authorization", "authorization", "Cookie", "cookie", "X-Api-Key", "Forwarded", "Via", "Referer", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Uri", "x-forwarded-anything", "X-Real-Ip", "Proxy-Authorization",
		"Proxy-Connection", "Keep-Alive", "Sec-Fetch-Mode", "Sec-WebSocket-Key", "Sec-Anything", "TE", "Trailer",
	} {
		add(name, "Connection: close", name+": "+marker)
	}
	for name, connection := range map[string]string{
		"Authorization": "Connection: close, Authorization", "in two lines": "Connection: close\r\nConnection: authorization", "Host": "Connection: close, Host", "the length": "Connection: close, Content-Length", "all": "Connection: close, *, Authorization, Host, User-Agent, Accept",
		"a header of its own": "Connection: close, X-Own\r\nX-Own: " + marker,
	} {
		add("what Connection names: "+name, connection)
	}
	add("a bearer token twice", "Connection: close", "Authorization: Bearer "+marker, "Authorization: Bearer "+marker)
	return shapes
}

// selections are queries by asset that name none, or several EDRs.
func selections() []shape {
	var shapes []shape
	for name, c := range map[string]struct {
		query  string
		status int
		code   string
	}{
		"no query": {"", 400, "asset is missing"}, "asset empty": {"?asset=", 400, "asset must be there once"}, "asset twice": {"?asset=twin&asset=egress", 400, "asset must be there once"}, "asset twice, the same": {"?asset=twin&asset=twin", 400, "asset must be there once"},
		"asset broken": {"?asset=%zz", 400, "asset must be there once"}, "asset not by this name": {"?Asset=egress", 400, "asset is missing"}, "asset's name encoded": {"?a%73set=egress", 400, "asset is missing"}, "asset behind a semicolon": {"?x=y;asset=egress", 400, "asset is missing"},
		"provider empty": {"?asset=twin&provider=", 400, "provider must be there once"}, "provider twice": {"?asset=twin&provider=a&provider=b", 400, "provider must be there once"}, "provider without asset": {"?provider=did:web:provider.example", 400, "asset is missing"},
		"asset of nobody": {"?asset=unheard-of", 404, "no EDR found"}, "asset a glob": {"?asset=*", 404, "no EDR found"}, "asset in capitals": {"?asset=EGRESS", 404, "no EDR found"}, "asset with NUL": {"?asset=egress%00", 404, "no EDR found"}, "asset of 5,000 characters": {"?asset=" + strings.Repeat("a", 5000), 404, "no EDR found"},
		"asset with a slash": {"?asset=x/../egress", 404, "no EDR found"}, "asset SQL": {"?asset=%27%20OR%201=1", 404, "no EDR found"}, "asset a placeholder": {"?asset={env.HOME}", 404, "no EDR found"}, "provider of 5,000 characters": {"?asset=egress&provider=" + strings.Repeat("a", 5000), 404, "no EDR found"},
		"provider of another": {"?asset=egress&provider=did:web:attacker.example", 404, "no EDR found"}, "two that fit": {"?asset=twin", 428, "2 EDRs found"}, "two that fit, of one provider": {"?asset=twin&provider=did:web:provider.example", 428, "2 EDRs found"},
	} {
		shapes = append(shapes, shape{name: "selection: " + name, to: egress, status: c.status, code: c.code, send: func(w *world) string {
			return call(w.egress, http.MethodGet, "/-/x"+c.query, "")
		}})
	}
	return shapes
}

// proxyRequests are bodies of POST /aas/request.
func proxyRequests(w *world, place, id string) []shape {
	var shapes []shape
	add := func(name string, status int, code, body string) {
		shapes = append(shapes, untouched(w, place, func(w *world) string {
			return call(w.egress, http.MethodPost, "/aas/request", strings.ReplaceAll(body, "{id}", id))
		}, shape{name: "aas: " + name, status: status, code: code}))
	}
	for name, body := range map[string]string{
		"empty": " ", "a list": "[]", "text": `"x"`, "null": "null", "not closed": "{", "an empty object": "{}", "a member of no meaning": `{"transferProcessId":"{id}","url":"http://attacker.example"}`, "a member twice": `{"transferProcessId":"{id}","transferProcessId":"x"}`,
		"twice, in escapes": `{"transferProcessId":"{id}","\u0074ransferProcessId":"x"}`, "id a number": `{"transferProcessId":1}`, "id a list": `{"transferProcessId":["{id}"]}`, "id an object": `{"transferProcessId":{}}`, "all null": `{"transferProcessId":null,"assetId":null}`, "all empty": `{"transferProcessId":"","assetId":""}`,
		"id with a slash": `{"transferProcessId":"../{id}"}`, "id with NUL": `{"transferProcessId":"{id}\u0000"}`, "id too long": `{"transferProcessId":"` + strings.Repeat("a", 256) + `"}`, "deep": `{"x":` + string(deepJSON(10_000)) + `}`, "not UTF-8": "{\"assetId\":\"\xff\"}", "a lone surrogate": `{"assetId":"\ud800"}`,
		"provider alone": `{"providerId":"did:web:provider.example"}`, "asset of nobody": `{"assetId":"unheard-of"}`, "asset of 5,000 characters": `{"assetId":"` + strings.Repeat("a", 5000) + `"}`, "asset with NUL": `{"assetId":"egress\u0000"}`, "path a list": `{"transferProcessId":"{id}","pathSegments":["x"]}`,
		"path broken": `{"transferProcessId":"{id}","pathSegments":"%zz"}`, "query a list": `{"transferProcessId":"{id}","queryParams":[]}`, "query an object": `{"transferProcessId":"{id}","queryParams":{"a":"b"}}`,
	} {
		add(name, http.StatusBadRequest, invalidRequest, body)
	}
	add("id of nobody", http.StatusNotFound, notFound, `{"transferProcessId":"unheard-of"}`)
	add("two that fit", http.StatusPreconditionRequired, "2 EDRs found", `{"assetId":"twin"}`)
	add("64 KiB and a byte", http.StatusRequestEntityTooLarge, "larger than", `{"assetId":"`+strings.Repeat("a", 64<<10)+`"}`)
	for _, path := range []string{
		"..", "../x", "../../x", "x/../../y", "%2e%2e/x", `..\\x`, "..;/x", "%00", "x\\r\\nX-Injected: y", "\\u0000", "\\u00ff/../..", "%ff", "%0d%0a", "%5c..%5cx", "/../x", "x/%2e%2e", "\\t",
	} {
		add("path "+path, http.StatusBadRequest, "", `{"transferProcessId":"{id}","pathSegments":"`+path+`"}`)
	}
	for _, path := range []string{"//attacker.example/x", "http://attacker.example/x", "@attacker.example", "x?y=z", "x#y", "{env.HOME}"} {
		add("path, odd but below the endpoint "+path, http.StatusOK, "", `{"transferProcessId":"{id}","pathSegments":"`+path+`"}`)
	}
	for _, query := range []string{"a=b c", "a=b#c", "a\\r\\nX-Injected: y", "a\\u0000", "\\u00e4", "a\\tb", "\\u007f"} {
		add("query "+query, http.StatusBadRequest, "queryParams", `{"transferProcessId":"{id}","queryParams":"`+query+`"}`)
	}
	return shapes
}

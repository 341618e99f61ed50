package hostile

import (
	"net/http"
	"strings"
)

// What a refused path is answered with (docs/decisions: canonical path). The reasons quote nothing of the request.
const (
	encodedDot     = "Malformed path: encoded dot"
	encodedSlash   = "Malformed path: encoded slash"
	encodedPercent = "Malformed path: encoded percent sign"
	backslash      = "Malformed path: backslash"
	controlByte    = "Malformed path: control character"
	notUTF8        = "Malformed path: not UTF-8"
	emptySegment   = "Malformed path: empty segment"
	dotSegment     = "Malformed path: ambiguous dot segment"
	aboveRoot      = "Malformed path: path leads above the root"
	tooLong        = "Malformed path: path is too long"
	notAbsolute    = "Malformed path: path does not start with a slash"
	outOfScope     = `error="insufficient_scope"`
	noHTTP         = "400 Bad Request" // net/http's own answer: not a request target at all
)

// refusedPaths have no canonical form, or none that two servers would agree on.
var refusedPaths = map[string][]string{
	encodedDot: {
		"/%2e%2e/x", "/%2E%2E/x", "/%2e%2E/x", "/.%2e/x", "/%2e./x", "/a/%2e%2e/b", "/a/%2e/b", "/a/%2e", "/a/%2e%2e", "/%2e",
		"/%2e%2e", "/a%2eb", "/%2e%2e;/x", "/..%2e/x", "/a/%2e%2e/%2e%2e/%2e%2e/x", "/public/%2E%2e/private", "/%2e%2e?x=1",
	},
	encodedSlash: {
		"/a%2fb", "/a%2Fb", "/%2f", "/%2F%2f", "/..%2fx", "/..%2Fx", "/a/..%2f..%2fx", "/%2fetc%2fpasswd", "/a%2f..%2fb", "/a%2f%2e%2e%2fb",
		"/x%2f", "/;%2fx",
	},
	encodedPercent: {
		"/%25", "/a%25b", "/%252e%252e/x", "/%252f", "/%25252e%25252e/x", "/a%255cb", "/%2500", "/..%252f..%252fx", "/%25%32%65",
	},
	backslash: {
		`/a\b`, `/..\x`, `/a\..\b`, `/\\host\share`, "/a%5cb", "/a%5Cb", "/..%5cx", "/..%5c..%5cx", "/%5c%5chost", "/a/%5C../b",
	},
	controlByte: {
		"/a%00b", "/%00", "/a%00.json", "/a%0ab", "/a%0d%0aX:1", "/a%0d%0a%0d%0aGET", "/%09", "/a%1fb", "/a%7fb", "/%08", "/a%1b[31m",
	},
	notUTF8: {
		"/%ff", "/%c0%ae%c0%ae/x", "/%c0%af", "/%e0%80%ae", "/%e0%80%af", "/%f0%80%80%ae", "/%c1%9c", "/%E4", "/%ed%a0%80", "/%f8%88%80%80%80",
		"/%c3", "/%f4%90%80%80", "/\xff", "/a\xc0\xafb", "/%80",
	},
	emptySegment: {
		"//", "//x", "/a//b", "/a//", "///", "//host/x", "/a///b", "//%20", "/.//x", "/a/.//b",
	},
	dotSegment: {
		"/..;/x", "/.;/x", "/a/..;x=1/b", "/a/..;", "/a/.;v=1/b", "/..;a=b;c/x", "/a/b/..;/..;/c", "/a;..", "/a;../b", "/a;..;b",
	},
	aboveRoot: {
		"/..", "/../", "/../x", "/../../x", "/a/../../x", "/./../x", "/a/b/../../../x", "/..?x=/a", "/a/./../../b",
	},
	notAbsolute: {"x:http://127.0.0.1/x", "http:x", "mailto:a@b", "file:etc/passwd", "x:%2e%2e"},
	noHTTP:      {"/%", "/%2", "/%zz", "/%u002e", "/a%g0", "/a b", "/\x00", "/a\x01b", "/a\x7fb", "x", "../x", "?x", "#x", "\\x", "http://[::1/x", "http://a:b:c/x"},
}

// forwardedPaths are odd, but mean one thing: what is authorised is what the backend gets.
var forwardedPaths = map[string]string{
	"/./a":                           "/a",
	"/a/./b":                         "/a/b",
	"/a/../b":                        "/b",
	"/a/b/../../c":                   "/c",
	"/a/.":                           "/a/",
	"/a/..":                          "/",
	"/a/b/..":                        "/a/",
	"/...":                           "/...",
	"/.../x":                         "/.../x",
	"/..a/x":                         "/..a/x",
	"/a../x":                         "/a../x",
	"/.a":                            "/.a",
	"/a.":                            "/a.",
	"/a;v=1/b":                       "/a;v=1/b",
	"/;":                             "/;",
	"/%41":                           "/%41",
	"/%7e":                           "/%7E",
	"/%c3%a4":                        "/%C3%A4",
	"/\xc3\xa4":                      "/%C3%A4",
	"/%c3%A4":                        "/%C3%A4",
	"/a%20b":                         "/a%20b",
	"/a+b":                           "/a+b",
	"/a%3fb":                         "/a%3Fb",
	"/a%23b":                         "/a%23b",
	"/a%3Bb":                         "/a%3Bb",
	"/%3a":                           "/%3A",
	"/a:b@c":                         "/a:b@c",
	"/[x]":                           "/%5Bx%5D",
	"/a|b":                           "/a%7Cb",
	"/{env.HOME}":                    "/%7Benv.HOME%7D",
	"/%7Benv.HOME%7D":                "/%7Benv.HOME%7D",
	"/{http.request.header.Host}":    "/%7Bhttp.request.header.Host%7D",
	"/<script>":                      "/%3Cscript%3E",
	"/%EF%BC%8E%EF%BC%8E/x":          "/%EF%BC%8E%EF%BC%8E/x", // full-width dots are no dots
	"/%E2%88%95":                     "/%E2%88%95",            // a division slash is no slash
	"/%EF%BB%BFx":                    "/%EF%BB%BFx",
	"/a?x=/../b":                     "/a?x=/../b",
	"/a?x=%2e%2e%2f":                 "/a?x=%2e%2e%2f",
	"/a?x=%00":                       "/a?x=%00",
	"/a?x=%zz":                       "/a?x=%zz",
	"/a??":                           "/a??",
	"/a?":                            "/a?",
	"/a?x={env.HOME}":                "/a?x={env.HOME}",
	"/":                              "/",
	"/?":                             "/?",
	"/" + strings.Repeat("a", 6000):  "/" + strings.Repeat("a", 6000),
	"/" + strings.Repeat("a/", 2000): "/" + strings.Repeat("a/", 2000),
	strings.Repeat("/x/..", 1000):    "/",
}

func pathShapes(w *world) []shape {
	var shapes []shape
	add := func(s shape) { shapes = append(shapes, s) }
	withToken := func(path string) func(*world) string {
		return func(w *world) string { return get(w.data, path, bearer(w.dps.access)) }
	}
	for reason, paths := range refusedPaths {
		for _, path := range paths {
			add(shape{name: printable(path), send: withToken(path), status: http.StatusBadRequest, code: reason})
		}
	}
	for path, target := range forwardedPaths {
		add(shape{name: printable(path), send: withToken(path), status: http.StatusOK, backend: true, target: target})
	}
	for name, path := range map[string]string{
		"one byte longer than a path may be": "/" + strings.Repeat("a", 8<<10), "escapes that are longer than a path may be": strings.Repeat("/%41", 3000),
	} {
		add(shape{name: name, send: withToken(path), status: http.StatusBadRequest, code: tooLong})
	}
	add(shape{
		name: "a path that gets too long by being encoded", send: withToken("/" + strings.Repeat("\xc3\xa4", 3000)),
		status: http.StatusBadRequest, code: tooLong,
	})
	return append(append(shapes, targetShapes()...), scopeShapes(w)...)
}

// targetShapes are request targets in forms other than a path (RFC 9112 §3.2), and methods with targets of their own.
func targetShapes() []shape {
	withMethod := func(method, target string, headers ...string) func(*world) string {
		return func(w *world) string {
			target := strings.ReplaceAll(target, "{data}", w.data)
			return lines(append([]string{method + " " + target + " HTTP/1.1", "Host: " + w.data, "Connection: close", bearer(w.dps.access)}, headers...)...)
		}
	}
	return []shape{
		{name: "absolute form", send: withMethod("GET", "http://{data}/a"), status: 200, backend: true, target: "/a"},
		{name: "absolute form with dots", send: withMethod("GET", "http://{data}/%2e%2e/a"), status: 400, code: encodedDot},
		{name: "absolute form without a path", send: withMethod("GET", "http://{data}"), status: 200, backend: true, target: "/"},
		{name: "absolute form of a scheme without meaning", send: withMethod("GET", "gopher://{data}/a"), status: 200, backend: true, target: "/a"},
		{name: "asterisk with GET", send: withMethod("GET", "*"), status: 400},
		{name: "asterisk with OPTIONS", send: withMethod("OPTIONS", "*"), status: 200}, // RFC 9110 §9.3.7: about the server, no resource
		{name: "CONNECT to a host", send: withMethod("CONNECT", "127.0.0.1:22"), status: 405},
		{name: "CONNECT to itself", send: withMethod("CONNECT", "{data}"), status: 405},
		{name: "CONNECT with a path", send: withMethod("CONNECT", "/a"), status: 405},
		{name: "TRACE", send: withMethod("TRACE", "/a"), status: 405, code: "Allow: "},
	}
}

// scopeShapes try to reach with one token what belongs to another, by what a path matcher and a backend may read
// differently.
func scopeShapes(*world) []shape {
	withWeather := func(path string) func(*world) string {
		return func(w *world) string { return get(w.data, path, bearer(w.dps.access)) }
	}
	withRain := func(path string) func(*world) string {
		return func(w *world) string { return get(w.data, path, bearer(w.rain.access)) }
	}
	withOrders := func(path string) func(*world) string {
		return func(w *world) string { return get(w.proxied, path, bearer(w.classic.access)) }
	}
	shapes := []shape{
		{name: "rain by dots that climb back", send: withRain("/rain/../rain/x"), status: 200, backend: true, target: "/rain/x"},
		{name: "orders below its endpoint", to: proxied, send: withOrders("/api/x"), status: 200, backend: true, target: "/base/x"},
		{name: "orders at its endpoint", to: proxied, send: withOrders("/api"), status: 200, backend: true, target: "/base"},
		{name: "orders, dots inside", to: proxied, send: withOrders("/api/a/../b"), status: 200, backend: true, target: "/base/b"},
		{name: "orders, dots back to the endpoint", to: proxied, send: withOrders("/x/../api/b"), status: 200, backend: true, target: "/base/b"},
	}
	for _, path := range []string{"/rain/x", "/a/../rain/x", "/./rain/x", "/RAIN/x", "/%72ain/x", "/rain/"} {
		shapes = append(shapes, shape{name: "weather's token for " + path, send: withWeather(path), status: 403, code: outOfScope})
	}
	for _, path := range []string{"/x", "/rain/../x", "/", "/rain/../../x"} {
		status, code := http.StatusForbidden, outOfScope
		if path == "/rain/../../x" {
			status, code = http.StatusBadRequest, aboveRoot
		}
		shapes = append(shapes, shape{name: "rain's token for " + path, send: withRain(path), status: status, code: code})
	}
	for _, path := range []string{
		"/", "/x", "/apix", "/API/x", "/api/../x", "/api/..", "/api;x/y", "/%61pi/x", "/api%20/x", "/ap", "/x/api/y", "/api/../api2/x", "/.api/x",
	} {
		shapes = append(shapes, shape{name: "orders' token for " + path, to: proxied, send: withOrders(path), status: 403, code: outOfScope})
	}
	for path, reason := range map[string]string{
		"/api/%2e%2e/x": encodedDot, "/api/..%2fx": encodedSlash, "/api/../../x": aboveRoot, "/api//x": emptySegment, `/api/..\x`: backslash,
		"/api/..;/x": dotSegment, "/api/%252e%252e/x": encodedPercent, "/api/%00": controlByte, "/api/%c0%ae%c0%ae/x": notUTF8,
		"//api/x": emptySegment, "/%2fapi/x": encodedSlash, "/api%2fx": encodedSlash,
	} {
		shapes = append(shapes, shape{name: "orders' token for " + path, to: proxied, send: withOrders(path), status: 400, code: reason})
	}
	return shapes
}

package caddymodule

import (
	"strings"
	"testing"
)

// TestCanonicalPathReachesTheBackend sends paths over raw sockets, with a token for the endpoint /ds1, and looks at what
// the backend gets: what is authorised is what is forwarded.
func TestCanonicalPathReachesTheBackend(t *testing.T) {
	const (
		no       = "403"
		bad      = "400"
		notFound = "200 without the backend" // no route matches
	)
	type row struct {
		sent                    string
		plain, stripped, joined string // edr_auth, edr_auth under handle_path, edr_proxy with a base
	}
	lenient := []row{
		{"/ds1", "/ds1", "/", "/base"},
		{"/ds1/", "/ds1/", "/", "/base"},
		{"/ds1/a/b", "/ds1/a/b", "/a/b", "/base/a/b"},
		{"/ds1/a/", "/ds1/a/", "/a/", "/base/a/"},
		{"/ds1/a/../b", "/ds1/b", "/b", "/base/b"},
		{"/ds1/./a", "/ds1/a", "/a", "/base/a"},
		{"/ds1/../ds2/secret", no, notFound, no},
		{"/ds1/%2e%2e/ds2", bad, notFound, bad},
		{"/ds1/..%2fds2", bad, notFound, bad},
		{"/ds1/../../x", bad, notFound, bad},
		{"/ds1//a//b", "/ds1//a//b", "/a/b", "/base//a//b"},
		{"//ds1/a", no, no, no},
		{"/DS1/x", no, no, no},
		{"/ds1x", no, no, no},
		{"/%64s1/x", no, no, no},
		{"/ds1/a%2Fb%2fc", "/ds1/a%2Fb%2Fc", "/a%2Fb%2Fc", "/base/a%2Fb%2Fc"},
		{"/ds1/a%25b%20c", "/ds1/a%25b%20c", "/a%25b%20c", "/base/a%25b%20c"},
		{"/ds1/a;v=1/b", "/ds1/a;v=1/b", "/a;v=1/b", "/base/a;v=1/b"},
		{"/ds1/a+b:c@d", "/ds1/a+b:c@d", "/a+b:c@d", "/base/a+b:c@d"},
		{"/ds1/a%3Fb%23c", "/ds1/a%3Fb%23c", "/a%3Fb%23c", "/base/a%3Fb%23c"},
		{"/ds1/%5C..%5Cx", bad, bad, bad},
		{"/ds1/a%00b", bad, bad, bad},
		{"/ds1/..;/x", bad, bad, bad},
		{"http://" + dataHost + "/ds1/abs", "/ds1/abs", "/abs", "/base/abs"},
		{"/ds1/\xc3\xa4", "/ds1/%C3%A4", "/%C3%A4", "/base/%C3%A4"},
		{"/ds1/[x]|y", "/ds1/%5Bx%5D%7Cy", "/%5Bx%5D%7Cy", "/base/%5Bx%5D%7Cy"},
		{"/ds1/!$&'()*,=~", "/ds1/!$&'()*,=~", "/!$&'()*,=~", "/base/!$&'()*,=~"},
		{"/ds1/a?b=%26&c=%2f&&d", "/ds1/a?b=%26&c=%2f&&d", "/a?b=%26&c=%2f&&d", "/base/a?b=%26&c=%2f&&d"},
		{"/ds1/ds1/x", "/ds1/ds1/x", "/ds1/x", "/base/ds1/x"},
	}
	strict := []row{
		{"/ds1/a/../b", "/ds1/b", "/b", "/base/b"},
		{"/ds1//a", bad, bad, bad},
		{"/ds1/a%2Fb", bad, bad, bad},
		{"/ds1/a%25b", bad, bad, bad},
		{"/ds1/a;v=1/b", "/ds1/a;v=1/b", "/a;v=1/b", "/base/a;v=1/b"},
		{"/ds1/a%20b", "/ds1/a%20b", "/a%20b", "/base/a%20b"},
	}
	options := GateOptions{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true}
	for _, set := range []struct {
		name    string
		options GateOptions
		rows    []row
	}{{"options on", options, lenient}, {"default", GateOptions{}, strict}} {
		t.Run(set.name, func(t *testing.T) {
			w := newDataWorld(t)
			backend := newRecordingBackend(t, nil)
			token := w.classicFlowAt("http://"+dataHost+"/ds1", typeHTTPData, proxied(backend.URL+"/base"))
			auth := &Auth{AnyDataset: true, GateOptions: set.options}
			stripped := &Auth{AnyDataset: true, GateOptions: set.options}
			proxy := &Proxy{Backends: []string{backend.hostport()}, GateOptions: set.options}
			w.run(object{"routes": []object{
				{"match": []object{{"header": object{"X-Site": []string{"plain"}}}}, "handle": []object{w.auth("plain", auth), reverseProxyTo(backend.hostport())}},
				// handle_path /ds1*
				{"match": []object{{"header": object{"X-Site": []string{"stripped"}}, "path": []string{"/ds1*", "/%64s1*"}}}, "handle": []object{
					{"handler": "rewrite", "strip_path_prefix": "/ds1"}, w.auth("stripped", stripped), reverseProxyTo(backend.hostport()),
				}},
				{"match": []object{{"header": object{"X-Site": []string{"joined"}}}}, "handle": []object{w.proxy("joined", proxy)}},
			}})
			for _, row := range set.rows {
				for site, want := range map[string]string{"plain": row.plain, "stripped": row.stripped, "joined": row.joined} {
					t.Run(row.sent+" "+site, func(t *testing.T) {
						got := w.get(row.sent, token, "X-Site: "+site)
						switch {
						case want == notFound:
							if got.StatusCode != 200 || got.body != "" {
								t.Errorf("got %d %s, want no route", got.StatusCode, got.body)
							}
							backend.none(t)
						case !strings.HasPrefix(want, "/"):
							if got.Status[:3] != want {
								t.Errorf("got %d %s, want %s", got.StatusCode, got.body, want)
							}
							backend.none(t)
						default:
							if got.StatusCode != 200 {
								t.Fatalf("got %d %s, want %s", got.StatusCode, got.body, want)
							}
							if target := backend.last(t).target; target != want {
								t.Errorf("the backend got %s, want %s", target, want)
							}
						}
					})
				}
			}
		})
	}
}

func TestPathBelowEndpoint(t *testing.T) {
	cases := []struct{ name, endpoint, sent, current, want string }{
		{"nothing stripped", "/ds1", "/ds1/x", "/ds1/x", "/x"},
		{"endpoint itself", "/ds1", "/ds1", "/ds1", ""},
		{"endpoint is the root", "", "/x", "/x", "/x"},
		{"whole endpoint stripped", "/ds1", "/ds1/x", "/x", "/x"},
		{"whole endpoint stripped, segment repeats", "/ds1", "/ds1/ds1/x", "/ds1/x", "/ds1/x"},
		{"part of the endpoint stripped", "/public/ds1", "/public/ds1/x", "/ds1/x", "/x"},
		{"more than the endpoint stripped", "/public", "/public/v1/x", "/x", "/x"},
		{"everything stripped", "/ds1", "/ds1", "/", "/"},
		{"rewritten below the endpoint", "/ds1", "/ds1/old", "/ds1/new", "/new"},
		{"rewritten elsewhere", "/ds1", "/ds1/old", "/new", "/new"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := belowEndpoint(c.endpoint, c.sent, c.current)
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestProxyBehindStrip is edr_proxy behind uri strip_prefix, which resolves dots and merges slashes by itself.
func TestProxyBehindStrip(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	token := w.classicFlowAt("http://"+dataHost+"/ds1", typeHTTPData, proxied(backend.URL+"/base"))
	options := GateOptions{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true}
	w.run(nil, object{"handler": "rewrite", "strip_path_prefix": "/ds1"},
		w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}, GateOptions: options}))
	for sent, want := range map[string]string{
		"/ds1":            "/base",
		"/ds1/a/../b":     "/base/b",
		"/ds1//a//b":      "/base/a/b",
		"/ds1/a%2Fb%2fc":  "/base/a%2Fb%2Fc",
		"/ds1/a%25b%20c":  "/base/a%25b%20c",
		"/ds1/ds1/x?a=%2": "/base/ds1/x?a=%2",
	} {
		got := w.get(sent, token)
		if got.StatusCode != 200 {
			t.Errorf("%s: got %d %s", sent, got.StatusCode, got.body)
			continue
		}
		if target := backend.last(t).target; target != want {
			t.Errorf("%s: the backend got %s, want %s", sent, target, want)
		}
	}
	for _, sent := range []string{"/ds1/../ds2/secret", "/ds1x/y", "/DS1/x"} {
		if got := w.get(sent, token); got.StatusCode != 403 {
			t.Errorf("%s: got %d, want 403", sent, got.StatusCode)
		}
	}
	backend.none(t)
}

// TestTargetsWithoutAPath: net/http would send what follows the scheme to the backend as it is.
func TestTargetsWithoutAPath(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := newDataWorld(t)
	w.run(nil, w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()))
	_, token := w.flow(nil)
	for _, target := range []string{"x:http://evil.example/x", "http:x", "x:y"} {
		got := w.get(target, token)
		if got.StatusCode != 400 {
			t.Errorf("%s: got %d %s", target, got.StatusCode, got.body)
		}
		backend.none(t)
	}
}

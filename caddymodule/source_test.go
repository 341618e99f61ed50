package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func testBackends(t testing.TB) *backendList {
	t.Helper()
	l, err := newBackendList([]string{"http://backend", "https://secure:8443", "both:8080"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func testSecrets(t testing.TB) backendSecrets {
	t.Helper()
	s, err := newBackendSecrets(map[string]*BackendSecret{
		"key": {Value: "CANARY-secret\n", For: []string{"http://backend/base", "https://secure:8443/api/"}},
	}, testBackends(t), func(text string) (string, error) { return text, nil })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSourceRequest is the table of what a Tractus-X data plane sends for an address and a request, with the
// differences that docs/decisions names.
func TestSourceRequest(t *testing.T) {
	const base = "http://backend/base"
	all := []string{"proxyPath", "true", "proxyQueryParams", "true", "proxyMethod", "true", "proxyBody", "true"}
	with := func(pairs ...string) []string { return append(append([]string{}, all...), pairs...) }
	cases := []struct {
		name       string
		baseURL    string
		properties []string
		request    string // method and what lies below the endpoint
		body       string
		want       string // method and URL, "!" and an error for the client, with " +body" if the body is passed
	}{
		{"no flags", base, nil, "GET /x/y?a=1", "", "GET http://backend:80/base"},
		{"no flags", base, nil, "POST /x", "b", "GET http://backend:80/base"},
		{"no flags", base, nil, "HEAD /x", "", "GET http://backend:80/base"},
		{"no flags, query in baseUrl", base + "?k=v", nil, "GET /x?a=1", "", "GET http://backend:80/base?k=v"},
		{"query of baseUrl gives way to the client's", base + "?k=v", all, "GET /x?a=1&b=2", "", "GET http://backend:80/base/x?a=1&b=2"},
		{"query of baseUrl without the client's", base + "?k=v", all, "GET /x", "", "GET http://backend:80/base/x?k=v"},
		{"path", base, []string{"path", "/fixed/p"}, "GET /x", "", "GET http://backend:80/base/fixed/p"},
		{"path", base, []string{"path", "fixed"}, "GET /x", "", "GET http://backend:80/base/fixed"},
		{"path with proxyPath is ignored", base, with("path", "/fixed"), "GET /x/y", "", "GET http://backend:80/base/x/y"},
		{"path with proxyPath is ignored", base, with("path", "/fixed"), "GET ", "", "GET http://backend:80/base"},
		{"path is not yet encoded", base, []string{"path", "/p?z=1"}, "GET /x", "", "GET http://backend:80/base/p%3Fz=1"},
		{"path is not yet encoded", base, []string{"path", "/a%2Fb c"}, "GET /x", "", "GET http://backend:80/base/a%252Fb%20c"},
		{"queryParams", base, []string{"queryParams", "s=1&a=0"}, "GET ?a=1", "", "GET http://backend:80/base?s=1&a=0"},
		{"queryParams before the client's", base, with("queryParams", "s=1&a=0"), "GET ?a=1&b=2", "", "GET http://backend:80/base?s=1&a=0&a=1&b=2"},
		{"queryParams replace the query of baseUrl", base + "?k=v", []string{"queryParams", "s=1"}, "GET /", "", "GET http://backend:80/base?s=1"},
		{"query byte for byte", base, all, "GET ?z=1&a=b%26c&&a=&x=%E4&$f=%27", "", "GET http://backend:80/base?z=1&a=b%26c&&a=&x=%E4&$f=%27"},
		{"trailing slash of baseUrl", base + "/", all, "GET /x", "", "GET http://backend:80/base/x"},
		{"trailing slash of baseUrl", base + "/", all, "GET ", "", "GET http://backend:80/base/"},
		{"no path in baseUrl", "http://backend", all, "GET /x", "", "GET http://backend:80/x"},
		{"no path in baseUrl", "http://backend", all, "GET ", "", "GET http://backend:80/"},
		{"escapes in baseUrl", "http://backend/b%20c/d%2Fe", all, "GET /x", "", "GET http://backend:80/b%20c/d%2Fe/x"},
		{"root below the endpoint", base, all, "GET /", "", "GET http://backend:80/base"},
		{"trailing slash of the client", base, all, "GET /a/", "", "GET http://backend:80/base/a/"},
		{"flags in capitals", base, []string{"proxyPath", "TRUE"}, "GET /x", "", "GET http://backend:80/base/x"},
		{"https", "https://secure:8443/api", all, "PUT /x", "b", "PUT https://secure:8443/api/x +body"},

		{"POST", base, all, "POST /x", "b", "POST http://backend:80/base/x +body"},
		{"POST with an empty body", base, all, "POST /x", "", "POST http://backend:80/base/x +body"},
		{"DELETE", base, all, "DELETE /x", "", "DELETE http://backend:80/base/x"},
		{"DELETE with a body", base, all, "DELETE /x", "b", "DELETE http://backend:80/base/x +body"},
		{"HEAD", base, all, "HEAD /x", "", "HEAD http://backend:80/base/x"},
		{"GET with a body", base, all, "GET /x", "b", "!takes no request body"},
		{"method with a body", base, []string{"method", "put", "proxyBody", "true"}, "POST /x", "b", "PUT http://backend:80/base +body"},
		{"method that lacks its body", base, []string{"method", "PUT", "proxyBody", "true"}, "GET /x", "", "!needs a request body"},
		{"proxyMethod overrules method", base, with("method", "PUT"), "DELETE /x", "", "DELETE http://backend:80/base/x"},
		{"proxyMethod without proxyBody", base, []string{"proxyMethod", "true"}, "POST /x", "b", "!takes no request body"},
		{"proxyMethod without proxyBody, DELETE", base, []string{"proxyMethod", "true"}, "DELETE /x", "b", "DELETE http://backend:80/base"},
		{"proxyBody without proxyMethod", base, []string{"proxyBody", "true"}, "POST /x", "b", "!takes no request body"},
		{"proxyBody without proxyMethod", base, []string{"proxyBody", "true"}, "GET /x", "", "GET http://backend:80/base"},
	}
	for _, c := range cases {
		t.Run(c.name+" "+c.request, func(t *testing.T) {
			properties := map[string]string{"baseUrl": c.baseURL}
			for i := 0; i+1 < len(c.properties); i += 2 {
				properties[c.properties[i]] = c.properties[i+1]
			}
			target, err := newSourceTarget(&tokens.Source{Type: typeHTTPData, Properties: properties}, testBackends(t), testSecrets(t))
			if err != nil {
				t.Fatal(err)
			}
			method, below, _ := strings.Cut(c.request, " ")
			below, query, _ := strings.Cut(below, "?")
			r := httptest.NewRequest(method, "/", strings.NewReader(c.body))
			got := describe(target, r, below, query)
			if strings.HasPrefix(c.want, "!") {
				if !strings.HasPrefix(got, "!") || !strings.Contains(got, c.want[1:]) {
					t.Errorf("got %s, want %s", got, c.want)
				}
				return
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func describe(t *target, r *http.Request, below, query string) string {
	passed, err := t.shape(r)
	if err != nil {
		return "!" + err.Error()
	}
	u, err := t.url(below, query)
	if err != nil {
		return "!" + err.Error()
	}
	text := passed.method + " " + u.String()
	if passed.body {
		text += " +body"
	}
	return text
}

func TestSourceIsRefused(t *testing.T) {
	ok := map[string]string{"baseUrl": "http://backend/base"}
	cases := []struct {
		name   string
		kind   string
		change []string
		want   string
	}{
		{"type", "AmazonS3", nil, `type "AmazonS3"`},
		{"no baseUrl", typeHTTPData, []string{"baseUrl", ""}, "baseUrl is missing"},
		{"not a URL", typeHTTPData, []string{"baseUrl", "http://back end/CANARY"}, "baseUrl: not a URL"},
		{"scheme", typeHTTPData, []string{"baseUrl", "ftp://backend/"}, "baseUrl: the scheme"},
		{"relative", typeHTTPData, []string{"baseUrl", "/etc/passwd"}, "baseUrl: the scheme"},
		{"userinfo", typeHTTPData, []string{"baseUrl", "http://user:CANARY@backend/"}, "baseUrl: a URL must not hold a user"},
		{"fragment", typeHTTPData, []string{"baseUrl", "http://backend/#x"}, "baseUrl: a URL must not have a fragment"},
		{"empty fragment", typeHTTPData, []string{"baseUrl", "http://backend/#"}, "baseUrl: a URL must not have a fragment"},
		{"other host", typeHTTPData, []string{"baseUrl", "http://other/"}, "baseUrl: other:80: not in backends"},
		{"other port", typeHTTPData, []string{"baseUrl", "http://backend:81/"}, "not in backends"},
		{"other scheme", typeHTTPData, []string{"baseUrl", "http://secure:8443/"}, "not in backends"},
		{"placeholder", typeHTTPData, []string{"baseUrl", "http://{env.HOME}:8080/"}, "baseUrl: "},
		{"metadata", typeHTTPData, []string{"baseUrl", "http://169.254.169.254/"}, "not in backends"},
		{"number as host", typeHTTPData, []string{"baseUrl", "http://2130706433/"}, "baseUrl: the host ends in a number"},
		{"encoded dots", typeHTTPData, []string{"baseUrl", "http://backend/a/%2e%2e/b"}, "baseUrl: path refused"},
		{"encoded dots in path", typeHTTPData, []string{"path", "../../x"}, "path: "},
		{"space in queryParams", typeHTTPData, []string{"queryParams", "a=b c"}, "queryParams: "},
		{"line break in queryParams", typeHTTPData, []string{"queryParams", "a=b\r\nX: y"}, "queryParams: "},
		{"method", typeHTTPData, []string{"method", "TRACE"}, "method is not one"},
		{"method without its body", typeHTTPData, []string{"method", "POST"}, "proxyBody must be true"},
		{"contentType", typeHTTPData, []string{"contentType", "text/csv\r\nX: y"}, "contentType"},
		{"Content-Length", typeHTTPData, []string{"header:Content-Length", "5"}, "header:Content-Length: belongs to the connection"},
		{"Transfer-Encoding", typeHTTPData, []string{"header:transfer-encoding", "chunked"}, "header:Transfer-Encoding: belongs to the connection"},
		{"Connection", typeHTTPData, []string{"header:Connection", "X-Key"}, "belongs to the connection"},
		{"Upgrade", typeHTTPData, []string{"header:Upgrade", "h2c"}, "belongs to the connection"},
		{"Proxy-Authorization", typeHTTPData, []string{"header:Proxy-Authorization", "CANARY"}, "belongs to the connection"},
		{"Host", typeHTTPData, []string{"header:Host", "other"}, "header:Host: not in backends"},
		{"Host with another port", typeHTTPData, []string{"header:Host", "backend:81"}, "header:Host: not in backends"},
		{"header name", typeHTTPData, []string{"header:X Key", "CANARY"}, "not a header name"},
		{"header value", typeHTTPData, []string{"header:X-Key", "CANARY\r\nX: y"}, "header:X-Key: the value"},
		{"alias of an asserted header", typeHTTPData, []string{"header:Edc_Bpn", "evil"}, "another spelling"},
		{"twice", typeHTTPData, []string{"header:X-Key", "1", "header:x-key", "2"}, "twice"},
		{"authKey", typeHTTPData, []string{"authKey", "Connection", "authCode", "CANARY"}, "authKey: Connection"},
		{"authKey Host", typeHTTPData, []string{"authKey", "host", "authCode", "backend"}, "authKey is no header"},
		{"authKey Edc-Bpn", typeHTTPData, []string{"authKey", "edc-bpn", "authCode", "evil"}, "authKey is no header"},
		{"unknown secret", typeHTTPData, []string{"authKey", "X-Key", "secretName", "../CANARY"}, "secretName: no secret of this name is declared"},
		{"unknown secret without authKey", typeHTTPData, []string{"secretName", "other"}, "secretName: no secret of this name is declared"},
		{"secret for another path", typeHTTPData, []string{"baseUrl", "http://backend/basement", "authKey", "X-Key", "secretName", "key"}, "secretName: the secret is not declared for this destination"},
		{"secret for another path", typeHTTPData, []string{"baseUrl", "http://backend/base/../x", "authKey", "X-Key", "secretName", "key"}, "secretName: the secret is not declared for this destination"},
		{"secret for another server", typeHTTPData, []string{"baseUrl", "http://both:8080/base", "authKey", "X-Key", "secretName", "key"}, "secretName: the secret is not declared for this destination"},
		{"secret for another virtual host", typeHTTPData, []string{"header:Host", "both", "authKey", "X-Key", "secretName", "key"}, "secretName: the secret is not declared for this destination"},
		{"secret for another virtual host and port", typeHTTPData, []string{"header:host", "both:8080", "authKey", "X-Key", "secretName", "key"}, "secretName: the secret is not declared for this destination"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			properties := map[string]string{}
			for k, v := range ok {
				properties[k] = v
			}
			for i := 0; i+1 < len(c.change); i += 2 {
				properties[c.change[i]] = c.change[i+1]
			}
			h := &Proxy{backends: testBackends(t), secrets: testSecrets(t)}
			err := h.checkSource(&tokens.Source{Type: c.kind, Properties: properties})
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "CANARY") {
				t.Errorf("the error quotes a value: %q", err)
			}
		})
	}
}

func TestSourceHeaders(t *testing.T) {
	cases := []struct {
		name       string
		properties []string
		want       map[string]string
		host       string
	}{
		{"static", []string{"header:X-Api-Key", "k1", "header:accept", "text/csv", "header:User-Agent", "edc"}, map[string]string{"X-Api-Key": "k1", "Accept": "text/csv", "User-Agent": "edc"}, ""},
		{"Host", []string{"header:Host", "both"}, nil, "both"},
		{"Host with port", []string{"header:Host", "both:8080"}, nil, "both:8080"},
		{"authCode", []string{"authKey", "Authorization", "authCode", "Basic abc"}, map[string]string{"Authorization": "Basic abc"}, ""},
		{"secretName", []string{"authKey", "x-key", "secretName", "key"}, map[string]string{"X-Key": "CANARY-secret"}, ""},
		{"secretName and Host", []string{"header:Host", "BACKEND", "authKey", "x-key", "secretName", "key"}, map[string]string{"X-Key": "CANARY-secret"}, "BACKEND"},
		{"secretName and Host with port", []string{"header:Host", "backend:80", "authKey", "x-key", "secretName", "key"}, map[string]string{"X-Key": "CANARY-secret"}, "backend:80"},
		{"authCode before secretName", []string{"authKey", "X-Key", "authCode", "code", "secretName", "key"}, map[string]string{"X-Key": "code"}, ""},
		{"authCode without authKey", []string{"authCode", "code"}, nil, ""},
		{"credential before header", []string{"header:X-Key", "h", "authKey", "X-Key", "authCode", "code"}, map[string]string{"X-Key": "code"}, ""},
		{"identity is the flow's", []string{"header:Edc-Bpn", "BPNL1", "header:Edc-Contract-Agreement-Id", "a"}, nil, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			properties := proxied("http://backend/base", c.properties...)
			target, err := newSourceTarget(&tokens.Source{Type: typeProxyHTTPData, Properties: properties}, testBackends(t), testSecrets(t))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, h := range target.headers {
				got[h.name] = strings.Join(h.values, "|")
			}
			if len(got) != len(c.want) || target.host != c.host {
				t.Errorf("got %v and Host %q, want %v and %q", got, target.host, c.want, c.host)
			}
			for name, value := range c.want {
				if got[name] != value {
					t.Errorf("%s: got %q, want %q", name, got[name], value)
				}
			}
		})
	}
}

// FuzzSource checks that no data address leads out of the list of backends or out of its base path.
func FuzzSource(f *testing.F) {
	f.Add("http://backend/base", "/fixed", "a=b", "X-Key", "v", "/x/../y", "q=1")
	f.Add("https://secure:8443", "..", "", "Host", "both", "/%2e%2e/x", "")
	f.Add("http://backend@evil/", "/a?b", "#", "Connection", "close", "/..;/x", "&")
	f.Add("http://backend:80\\@evil/", "", "", "", "", "//evil/x", "")
	backends, secrets := testBackends(f), testSecrets(f)
	f.Fuzz(func(t *testing.T, baseURL, path, params, header, value, below, query string) {
		properties := proxied(baseURL, "path", path, "queryParams", params, "header:"+header, value)
		source := &tokens.Source{Type: typeHTTPData, Properties: properties}
		for _, flag := range []string{"true", "false"} {
			properties["proxyPath"] = flag
			target, err := newSourceTarget(source, backends, secrets)
			if err != nil {
				continue
			}
			u, err := target.url(below, query)
			if err != nil {
				continue
			}
			if !backends.allows(origin{scheme: u.Scheme, host: u.Hostname(), port: u.Port()}) {
				t.Errorf("%q leads to %s", baseURL, u.Host)
			}
			sent := u.EscapedPath()
			if sent != target.base && !strings.HasPrefix(sent, strings.TrimSuffix(target.base, "/")+"/") {
				t.Errorf("%q below %q leads to %q", below, target.base, sent)
			}
			for segment := range strings.SplitSeq(sent, "/") {
				if segment == ".." || segment == "." {
					t.Errorf("%q has a dot segment", sent)
				}
			}
			for _, h := range target.headers {
				if strings.ContainsAny(h.values[0], "\r\n\x00") || isConnectionHeader(h.name) {
					t.Errorf("header %q: %q", h.name, h.values)
				}
			}
		}
	})
}

package caddymodule

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestAuthCaddyfile(t *testing.T) {
	h := new(Auth)
	err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`edr_auth {
		dataset a b
		dataset c
		route r
		ignore_source_address
		refusal_status tractusx
		realm data
		allow_encoded_slash
		allow_encoded_percent
		allow_double_slash
		allow_upgrade
		allow_set_cookie
		methods GET POST
		methods PATCH
		query a b.c
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Auth{
		Datasets: []string{"a", "b", "c"}, Routes: []string{"r"}, IgnoreSourceAddress: true, AllowUpgrade: true,
		GateOptions: GateOptions{
			RefusalStatus: "tractusx", Realm: "data", AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true,
			AllowSetCookie: true, RequestRules: RequestRules{Methods: []string{"GET", "POST", "PATCH"}, Query: []string{"a", "b.c"}},
		},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got %+v, want %+v", h, want)
	}
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	const wantJSON = `{"datasets":["a","b","c"],"routes":["r"],"ignore_source_address":true,"allow_upgrade":true,"refusal_status":"tractusx","realm":"data","allow_encoded_slash":true,"allow_encoded_percent":true,"allow_double_slash":true,"allow_set_cookie":true,"methods":["GET","POST","PATCH"],"query":["a","b.c"]}`
	if string(data) != wantJSON {
		t.Errorf("got %s", data)
	}
}

func TestProxyCaddyfile(t *testing.T) {
	h := new(Proxy)
	err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`edr_proxy {
		backends https://a.example b.example:8080
		backends 10.0.0.1:80
		secret key {file./run/secrets/key} for https://a.example/api b.example
		secret two {env.TWO} for https://a.example
		request_headers X-A X-B
		flatten_status
		dial_timeout 1s
		response_header_timeout 2m
		tls_client_auth cert.pem key.pem
		refusal_status rfc6750
		allow_double_slash
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(h.Backends, []string{"https://a.example", "b.example:8080", "10.0.0.1:80"}) ||
		!reflect.DeepEqual(h.RequestHeaders, []string{"X-A", "X-B"}) || !h.FlattenStatus || !h.AllowDoubleSlash || h.RefusalStatus != "rfc6750" ||
		h.DialTimeout != caddy.Duration(time.Second) || h.ResponseHeaderTimeout != caddy.Duration(2*time.Minute) ||
		h.ClientCertificate != "cert.pem" || h.ClientKey != "key.pem" {
		t.Errorf("got %+v", h)
	}
	data, err := json.Marshal(h.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	// The placeholder stays in the configuration: the admin API and the autosaved file show it.
	const want = `{"key":{"value":"{file./run/secrets/key}","for":["https://a.example/api","b.example"]},"two":{"value":"{env.TWO}","for":["https://a.example"]}}`
	if string(data) != want {
		t.Errorf("got %s", data)
	}
}

func TestDataOptionsAreRefused(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"auth", "edr_auth", "say what is served here: dataset <id>..., route <name>..., or any_dataset"},
		{"auth", "edr_auth {\n any_dataset\n dataset a\n}", "any_dataset together with dataset or route"},
		{"auth", "edr_auth a {\n any_dataset\n}", "wrong argument count or unexpected line ending after 'a'"},
		{"auth", "edr_auth {\n dataset\n}", "after 'dataset'"},
		{"auth", "edr_auth {\n dataset \"\"\n}", "dataset takes no empty names, at Testfile:2"},
		{"auth", "edr_auth {\n any_dataset yes\n}", "after 'yes'"},
		{"auth", "edr_auth {\n any_dataset\n datasett a\n}", `unrecognized subdirective "datasett"`},
		{"auth", "edr_auth {\n any_dataset\n backends a:1\n}", `unrecognized subdirective "backends"`},
		{"auth", "edr_auth {\n any_dataset\n refusal_status 403\n}", `refusal_status: "403" is none of rfc6750, tractusx, at Testfile:3`},
		{"auth", "edr_auth {\n any_dataset\n refusal_status rfc6750\n refusal_status tractusx\n}", "refusal_status is already set to another value"},
		{"auth", "edr_auth {\n any_dataset\n realm \"a\\\"b\"\n}", "realm holds a character other than printable ASCII without quotes and backslashes, at Testfile:3"},
		{"auth", "edr_auth {\n any_dataset\n realm \"\"\n}", "realm must not be empty, at Testfile:3"},
		{"auth", "edr_auth {\n any_dataset\n realm a\n realm b\n}", "realm is already set to another value, at Testfile:4"},
		{"auth", "edr_auth {\n dataset a {\n b\n }\n}", "no block is expected here"},
		{"auth", "edr_auth {\n any_dataset\n methods get\n}", `methods: "get": methods are written in upper case, at Testfile:3`},
		{"auth", "edr_auth {\n any_dataset\n methods TRACE\n}", "methods: TRACE is never served"},
		{"auth", "edr_auth {\n any_dataset\n methods G/ET\n}", `methods: "G/ET" is not a method`},
		{"auth", "edr_auth {\n any_dataset\n query a\n no_query\n}", "no_query together with query says two different things"},
		{"auth", "edr_auth {\n any_dataset\n no_query a\n}", "after 'a'"},
		{"auth", "edr_auth {\n any_dataset\n allow_set_cookie a\n}", "after 'a'"},
		{"proxy", "edr_proxy {\n backends a:80\n methods GET PROPFIND\n}", "methods: PROPFIND is never served by edr_proxy, only GET, HEAD,"},
		{"proxy", "edr_proxy", "backends is required"},
		{"proxy", "edr_proxy backend:80", "after 'backend:80'"},
		{"proxy", "edr_proxy {\n backends\n}", "after 'backends'"},
		{"proxy", "edr_proxy {\n backends backend\n}", `backends: "backend": the port is missing, at Testfile:2`},
		{"proxy", "edr_proxy {\n backends a:80\n backends http://b/x\n flatten_status\n}", `backends: "http://b/x": a path is not allowed: the list is of whole servers, at Testfile:3`},
		{"proxy", "edr_proxy {\n backends a:80/x\n}", `backends: "a:80/x": a path is not allowed`},
		{"proxy", "edr_proxy {\n backends a:80\n secret key value\n}", "secret takes a name, a value, the word \"for\""},
		{"proxy", "edr_proxy {\n backends a:80\n secret key value to http://a\n}", "secret takes a name, a value, the word \"for\""},
		{"proxy", "edr_proxy {\n backends a:80\n secret k v for http://a\n secret k v for http://a\n}", "secret k is there twice"},
		{"proxy", "edr_proxy {\n backends a:80\n request_headers Authorization\n}", "request_headers: Authorization is never forwarded, at Testfile:3"},
		{"proxy", "edr_proxy {\n backends a:80\n request_headers edc-bpn\n}", "request_headers: Edc-Bpn is never forwarded"},
		{"proxy", "edr_proxy {\n backends a:80\n request_headers Transfer-Encoding\n}", "request_headers: Transfer-Encoding is never forwarded"},
		{"proxy", "edr_proxy {\n backends a:80\n request_headers \"X A\"\n}", `request_headers: "X A" is not a header name`},
		{"proxy", "edr_proxy {\n backends a:80\n dial_timeout 0\n}", `dial_timeout: "0" is not a duration above 0, such as 5m or 30d, at Testfile:3`},
		{"proxy", "edr_proxy {\n backends a:80\n dial_timeout 1s\n dial_timeout 2s\n}", "dial_timeout is already set to another value"},
		{"proxy", "edr_proxy {\n backends a:80\n tls_client_auth cert.pem\n}", "wrong argument count"},
		{"proxy", "edr_proxy {\n backends a:80\n tls_trust_pool nonsense\n}", "tls.ca_pool.source.nonsense"},
		{"proxy", "edr_proxy {\n backends a:80\n dataset a\n}", `unrecognized subdirective "dataset"`},
	}
	for i, c := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			d := caddyfile.NewTestDispenser(c.text)
			var err error
			if c.name == "auth" {
				err = new(Auth).UnmarshalCaddyfile(d)
			} else {
				err = new(Proxy).UnmarshalCaddyfile(d)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s\ngot %v, want %s", c.text, err, c.want)
			}
		})
	}
}

func TestDataConfigurationIsRefusedInJSON(t *testing.T) {
	w := newDataWorld(t)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for want, provision := range map[string]func() error{
		"dataset <id>":         func() error { return new(Auth).provision(ctx, w.app) },
		"backends is required": func() error { return new(Proxy).provision(ctx, w.app) },
		"must not be negative": func() error { return (&Proxy{Backends: []string{"a:80"}, DialTimeout: -1}).provision(ctx, w.app) },
		"certificate file and": func() error { return (&Proxy{Backends: []string{"a:80"}, ClientKey: "k"}).provision(ctx, w.app) },
		"secret s: ": func() error {
			return (&Proxy{Backends: []string{"a:80"}, Secrets: map[string]*BackendSecret{"s": {Value: "{file./missing/file}", For: []string{"http://a"}}}}).provision(ctx, w.app)
		},
		"refusal_status": func() error {
			return (&Proxy{Backends: []string{"a:80"}, GateOptions: GateOptions{RefusalStatus: "x"}}).provision(ctx, w.app)
		},
	} {
		err := provision()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if len(w.app.auths)+len(w.app.proxies) != 0 {
		t.Error("a refused handler is registered")
	}
}

// TestOrderOfDataDirectives writes the directives in the wrong order.
func TestOrderOfDataDirectives(t *testing.T) {
	adapter := caddyconfig.GetAdapter("caddyfile")
	data, _, err := adapter.Adapt([]byte(`http://data.example {
		reverse_proxy backend:80
		edr_proxy {
			backends backend:80
		}
		request_header X-User {http.auth.user.id}
		edr_auth {
			any_dataset
		}
		uri strip_prefix /x
	}`), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, handler := range []string{`"strip_path_prefix"`, `"edr_auth"`, `"handler":"headers"`, `"edr_proxy"`, `"reverse_proxy"`} {
		next := strings.Index(string(data), handler)
		if next <= at {
			t.Errorf("%s is out of order in %s", handler, data)
		}
		at = next
	}
	_, _, err = adapter.Adapt([]byte("http://data.example {\n\tedr_auth {\n\t\tdatasett a\n\t}\n}"), map[string]any{"filename": "Caddyfile"})
	if err == nil || !strings.Contains(err.Error(), `parsing caddyfile tokens for 'edr_auth': unrecognized subdirective "datasett", at Caddyfile:3`) {
		t.Errorf("got %v", err)
	}
}

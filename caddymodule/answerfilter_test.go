package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/tokens"
)

// handlerFunc is a handler that a test writes.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

func (f handlerFunc) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	return f(w, r)
}

func (w *dataWorld) handler(name string, f handlerFunc) object {
	underTest[name] = func(caddy.Context) (caddyhttp.MiddlewareHandler, error) { return f, nil }
	return object{"handler": "edrgate_test", "name": name}
}

// TestAnswersTellNothingOfTheBackend by edr_auth and edr_proxy. What Caddy and the handlers before say stays.
func TestAnswersTellNothingOfTheBackend(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("Server", "CANARY-server")
		h.Set("Via", "1.1 CANARY-via")
		h.Set("X-Powered-By", "CANARY-software")
		h.Set("Alt-Svc", `h3="CANARY:443"`)
		h.Set("Set-Cookie", "CANARY=cookie")
		h.Set("X-Kept", "kept")
		if r.URL.Path == "/early" {
			rw.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = io.WriteString(rw, "data")
	})
	before := object{"handler": "headers", "response": object{"set": object{"Alt-Svc": []string{"clear"}, "Set-Cookie": []string{"ours=1"}}}}
	plain := func(rw http.ResponseWriter, set bool) {
		if set {
			rw.Header().Set("Set-Cookie", "CANARY=cookie")
			rw.Header().Set("Server", "CANARY-server")
		}
	}
	sites := map[string][]object{
		"auth":    {before, w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport())},
		"cookies": {before, w.auth("cookies", &Auth{AnyDataset: true, GateOptions: GateOptions{AllowSetCookie: true}}), reverseProxyTo(backend.hostport())},
		"proxy":   {w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}})},
		"proxied": {w.proxy("proxied", &Proxy{Backends: []string{backend.hostport()}, GateOptions: GateOptions{AllowSetCookie: true}})},
		"writes": {w.auth("writes", &Auth{AnyDataset: true}), w.handler("write", func(rw http.ResponseWriter, _ *http.Request) error {
			plain(rw, true)
			_, err := io.WriteString(rw, "data")
			return err
		})},
		"flushes": {w.auth("flushes", &Auth{AnyDataset: true}), w.handler("flush", func(rw http.ResponseWriter, _ *http.Request) error {
			plain(rw, true)
			err := http.NewResponseController(rw).Flush()
			if err != nil {
				return err
			}
			_, err = io.WriteString(rw, "data")
			return err
		})},
		"copies": {w.auth("copies", &Auth{AnyDataset: true}), w.handler("copy", func(rw http.ResponseWriter, _ *http.Request) error {
			plain(rw, true)
			from, ok := rw.(io.ReaderFrom)
			if !ok {
				t.Error("no io.ReaderFrom, so that nothing can be sent without a copy")
				return nil
			}
			_, err := from.ReadFrom(strings.NewReader("data"))
			return err
		})},
	}
	var routes []object
	for name, handlers := range sites {
		routes = append(routes, object{"match": []object{{"header": object{"X-Site": []string{name}}}}, "handle": handlers})
	}
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	w.run(object{"routes": routes})
	for name := range sites {
		for _, path := range []string{"/x", "/early"} {
			t.Run(name+path, func(t *testing.T) {
				got := w.get(path, token, "X-Site: "+name)
				if got.StatusCode != 200 || got.body != "data" {
					t.Fatalf("got %d %s", got.StatusCode, got.body)
				}
				wanted := name == "cookies" || name == "proxied"
				headers := []http.Header{got.Header}
				for _, early := range got.interim {
					headers = append(headers, early.header)
				}
				for _, header := range headers {
					for field, values := range header {
						told := strings.Contains(strings.Join(values, " "), "CANARY")
						if told && !(wanted && field == "Set-Cookie") {
							t.Errorf("%s: %v", field, values)
						}
					}
				}
				if wanted != strings.Contains(strings.Join(got.Header["Set-Cookie"], " "), "CANARY=cookie") {
					t.Errorf("Set-Cookie: %v", got.Header["Set-Cookie"])
				}
				if sites[name][0]["handler"] == "headers" {
					if got.Header.Get("Alt-Svc") != "clear" || !strings.Contains(strings.Join(got.Header["Set-Cookie"], " "), "ours=1") {
						t.Errorf("what a handler before said is gone: %v", got.Header)
					}
					if got.Header.Get("X-Kept") != "kept" || got.Header.Get("Server") != "Caddy" {
						t.Errorf("%v", got.Header)
					}
				}
			})
		}
	}
}

// TestTrailersTellNothingOfTheBackend: what may not stand in the header of an answer may not come behind its body either, nor
// with the answer that somebody else gives to an error.
func TestTrailersTellNothingOfTheBackend(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/announced" {
			rw.Header().Set("Trailer", "Server, Set-Cookie, X-Sum")
		}
		_, _ = io.WriteString(rw, "data")
		_ = http.NewResponseController(rw).Flush()
		prefix := http.TrailerPrefix
		if r.URL.Path == "/announced" {
			prefix = ""
		}
		for _, name := range []string{"Server", "Set-Cookie", "X-Sum"} {
			rw.Header().Set(prefix+name, "CANARY")
		}
	})
	fails := w.handler("fails", func(rw http.ResponseWriter, _ *http.Request) error {
		rw.Header().Set("Set-Cookie", "CANARY")
		return caddyhttp.Error(http.StatusBadGateway, errors.New("no answer"))
	})
	w.run(object{"routes": []object{
		{"match": []object{{"path": []string{"/error"}}}, "handle": []object{w.auth("error", &Auth{AnyDataset: true}), fails}},
		{"handle": []object{w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport())}},
	}})
	_, token := w.flow(func(*tokens.StartRequest) {})
	for _, path := range []string{"/announced", "/unannounced"} {
		got := w.get(path, token)
		if got.Trailer.Get("X-Sum") != "CANARY" {
			t.Errorf("%s: a trailer that may pass does not: %v", path, got.Trailer)
		}
		for _, name := range []string{"Server", "Set-Cookie"} {
			if got.Trailer.Get(name) == "CANARY" {
				t.Errorf("%s: %s passes as a trailer", path, name)
			}
		}
	}
	if got := w.get("/error", token); got.StatusCode != http.StatusBadGateway || got.Header.Get("Set-Cookie") != "" {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
}

package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestAuthAllocatesTwiceARequest keeps what a request with a known token pays above one that nobody checks: the grant, and the
// function for its placeholders. Counters, headers, the path and the token itself cost none.
func TestAuthAllocatesTwiceARequest(t *testing.T) {
	h, token := knownToken(t)
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for target, want := range map[string]float64{
		"/":                  2,
		"/a/b?page=1&size=9": 2,
		"/%C3%A4/a%20b;v=1":  3, // and the check that the path is spelled as it was sent
	} {
		request := httptest.NewRequest(http.MethodGet, "http://"+dataHost+target, nil)
		request.Header = http.Header{
			"Authorization": {"Bearer " + token}, "Accept": {"*/*"}, "User-Agent": {"x"}, "X-Forwarded-For": {"192.0.2.1"},
		}
		allocations := func(serve func(http.ResponseWriter, *http.Request) error) float64 {
			return testing.AllocsPerRun(500, func() {
				recorder := httptest.NewRecorder()
				r := caddyhttp.PrepareRequest(request.Clone(t.Context()), caddy.NewReplacer(), recorder, &caddyhttp.Server{})
				err := serve(recorder, r)
				if err != nil || recorder.Body.Len() > 0 {
					t.Fatal(err, recorder.Body.String())
				}
			})
		}
		bare := allocations(next.ServeHTTP)
		checked := allocations(func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, next) })
		if got := checked - bare; got > want {
			t.Errorf("%s: a request with a known token costs %v allocations more than without edr_auth, want at most %v", target, got, want)
		}
	}
}

// knownToken returns an edr_auth that counts as the real one does, and a token that it has seen before.
func knownToken(tb testing.TB) (*Auth, string) {
	tb.Helper()
	w := newDataWorld(tb)
	h := &Auth{AnyDataset: true}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: tb.Context()})
	tb.Cleanup(cancel)
	err := h.provision(ctx, w.app)
	if err != nil {
		tb.Fatal(err)
	}
	h.gate.observer = newObserver(newCollectors()).acquire("default")
	_, token := w.flow(nil)
	admitter(tb, h.gate, token)()
	return h, token
}

// admitter returns a function that has the gate admit one request of the token. The request is used again, with its
// replacer as Caddy hands it to the first handler.
func admitter(tb testing.TB, g *gate, token string) func() {
	tb.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://"+dataHost+"/a/b?c=d", nil)
	recorder := httptest.NewRecorder()
	replacer := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, replacer, recorder, &caddyhttp.Server{})
	fresh := *replacer
	authorization := []string{"Bearer " + token}
	return func() {
		*replacer = fresh
		r.Header["Authorization"] = authorization
		admitted := g.admit(recorder, r)
		if admitted == nil {
			tb.Fatal(recorder.Body.String())
		}
		admitted.end()
	}
}

// BenchmarkAdmit is what edr_auth adds to a request whose token is known.
func BenchmarkAdmit(b *testing.B) {
	h, token := knownToken(b)
	serve := admitter(b, h.gate, token)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}

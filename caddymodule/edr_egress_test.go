package caddymodule

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/testkit"
)

func (w *consumerWorld) egress(method, path string, body any, header ...string) answered {
	w.t.Helper()
	return w.at("egress", method, path, body, header...)
}

func (w *consumerWorld) lastSeen() seenRequest {
	w.t.Helper()
	seen := w.requests()
	if len(seen) == 0 {
		w.t.Fatal("the provider saw nothing")
	}
	return seen[len(seen)-1]
}

// TestEgressRenewsLazily: the first way of the Tractus-X token refresh. Data planes say 401 or 403 for an expired token.
func TestEgressRenewsLazily(t *testing.T) {
	for _, status := range []int{401, 403} {
		w := newConsumerWorld(t)
		w.begin()
		e := w.got("tp-1", "asset-1", 300)
		w.refuse(e.access, status)
		a := w.egress(http.MethodPost, "/tp-1/thing%20a?x=1&asset=2", "a body", "Authorization", "Bearer of-the-client", "Cookie", "a=b",
			"X-Api-Key", "key", "X-Forwarded-For", "10.0.0.1", "Connection", "X-Hop", "X-Hop", "1", "X-App", "kept", "Content-Type", "text/plain")
		if a.status != http.StatusOK || a.body != "data" {
			t.Fatalf("%d: %d %s", status, a.status, a.body)
		}
		last := w.lastSeen()
		if last.method != http.MethodPost || last.uri != "/thing%20a?x=1&asset=2" || last.body != "a body" || last.header.Get("Content-Type") != "text/plain" {
			t.Errorf("%+v", last)
		}
		token := last.header.Get("Authorization")
		if !strings.HasPrefix(token, "Bearer ") || strings.HasSuffix(token, e.access) || last.header.Get("X-App") != "kept" {
			t.Errorf("%v", last.header)
		}
		for _, name := range []string{"Cookie", "X-Api-Key", "X-Forwarded-For", "X-Hop", "Connection"} {
			if last.header.Get(name) != "" {
				t.Errorf("%s was forwarded", name)
			}
		}
		for _, name := range []string{"Set-Cookie", "Access-Control-Allow-Origin"} {
			if a.header.Get(name) != "" {
				t.Errorf("%s was passed on", name)
			}
		}
		for _, secret := range []string{e.access, e.refresh, strings.TrimPrefix(token, "Bearer ")} {
			if strings.Contains(w.logged(), secret) {
				t.Error("a token is in the log")
			}
		}
	}
}

// TestEgressPassesOnWhatRenewalDoesNotHelp: a refusal stays one; trouble with the renewal is no "no".
func TestEgressPassesOnWhatRenewalDoesNotHelp(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	w.refuse(e.access, 403)
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	a := w.egress(http.MethodGet, "/tp-1/thing", nil)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("provider in trouble: %d %v %s", a.status, a.header, a.body)
	}
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
	bad := w.putBody(edr{access: "another-token", refresh: "no-refresh-token"}, "asset-1", 300)
	if a = w.api(http.MethodPut, "/v3/edrs/tp-1", bad); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	w.refuse("another-token", 403)
	if a = w.egress(http.MethodGet, "/tp-1/thing", nil); a.status != http.StatusForbidden {
		t.Errorf("provider says no: %d %s", a.status, a.body)
	}
}

// TestEgressDoesNotReplayLargeBodies: and says so.
func TestEgressDoesNotReplayLargeBodies(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	w.refuse(e.access, 401)
	a := w.egress(http.MethodPost, "/tp-1/thing", strings.Repeat("a", consumer.DefaultMaxReplayBytes+1))
	if a.status != http.StatusUnauthorized || a.header.Get(consumer.NotReplayedHeader) == "" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a = w.egress(http.MethodPost, "/tp-1/thing", "again"); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestEgressRefusesTunnels: nobody is asked for what would outlive the flow, or show the client a token.
func TestEgressRefusesTunnels(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	w.got("tp-1", "asset-1", 300)
	before := len(w.requests())
	for _, method := range []string{http.MethodTrace, http.MethodConnect} {
		a := w.egress(method, "/tp-1/thing", nil)
		if a.status != http.StatusMethodNotAllowed || !strings.Contains(a.header.Get("Allow"), "GET") {
			t.Errorf("%s: %d %v %s", method, a.status, a.header, a.body)
		}
	}
	if a := w.egress(http.MethodGet, "/tp-1/thing", nil, "Connection", "Upgrade", "Upgrade", "websocket"); a.status != http.StatusBadRequest {
		t.Errorf("upgrade: %d %s", a.status, a.body)
	}
	if a := w.egress(http.MethodGet, "/tp-1/thing", nil, "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c"); a.status != http.StatusOK {
		t.Errorf("h2c, which a server may ignore: %d %s", a.status, a.body)
	}
	if n := len(w.requests()) - before; n != 1 {
		t.Errorf("the provider saw %d requests, want 1", n)
	}
}

// TestEgressSelects: by asset and provider, and never one of several.
func TestEgressSelects(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	w.got("tp-1", "asset-1", 300)
	w.got("tp-2", "asset-2", 300)
	w.got("tp-3", "asset-2", 300)
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		sees         string // where the provider is asked, or what the answer says
	}{
		{"GET", "/-/a/b?x=1&asset=asset-1&y=%20&provider=BPNL1", nil, 200, "/a/b?x=1&y=%20"},
		{"GET", "/-?asset=asset-1", nil, 200, "/"},
		{"GET", "/-/a?asset=asset-1&provider=other", nil, 404, "no EDR"},
		{"GET", "/-/a?asset=asset-2", nil, 428, "2 EDRs found"},
		{"GET", "/-/a?provider=BPNL1", nil, 400, "asset is missing"},
		{"GET", "/-/a?asset=asset-1&asset=asset-2", nil, 400, "asset must be there once"},
		{"GET", "/", nil, 404, "transfer process"},
		{"GET", "/none/a", nil, 404, "ID=none"},
		{"POST", "/aas/request", object{"assetId": "asset-1", "providerId": "BPNL1", "pathSegments": "a/b%20c", "queryParams": "x=1"}, 200, "/a/b%20c?x=1"},
		{"POST", "/aas/request", object{"transferProcessId": "tp-3"}, 200, "/"},
		{"POST", "/aas/request", object{"assetId": "asset-2", "providerId": "BPNL1"}, 428, "2 EDRs found"},
		{"POST", "/aas/request", object{"assetId": "none"}, 400, "no EDR"},
		{"POST", "/aas/request", object{"providerId": "BPNL1"}, 400, "assetId"},
		{"POST", "/aas/request", object{"assetId": "asset-1", "method": "PUT"}, 400, "method"},
		{"POST", "/aas/request", object{"assetId": "asset-1", "queryParams": "a b"}, 400, "queryParams"},
		{"POST", "/aas/request", `[]`, 400, "not a JSON object"},
		{"GET", "/tp-1/../../other", nil, 400, "does not lie under"},
	} {
		before := len(w.requests())
		a := w.egress(c.method, c.path, c.body)
		if a.status != c.status {
			t.Errorf("%s %s %v: %d %s, want %d", c.method, c.path, c.body, a.status, a.body, c.status)
			continue
		}
		if c.status != http.StatusOK {
			if !strings.Contains(a.body, c.sees) || len(w.requests()) != before {
				t.Errorf("%s %s %v: %s", c.method, c.path, c.body, a.body)
			}
			continue
		}
		last := w.lastSeen()
		if last.method != http.MethodGet || last.uri != c.sees || last.body != "" {
			t.Errorf("%s %s %v: %+v, want %s", c.method, c.path, c.body, last, c.sees)
		}
	}
}

// TestEgressStreams: an answer begins before it ends, also one whose length is known.
func TestEgressStreams(t *testing.T) {
	w := newConsumerWorld(t)
	var release chan struct{}
	w.front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sized" {
			rw.Header().Set("Content-Length", "11")
		} else {
			rw.Header().Set("Trailer", "X-Sum")
		}
		fmt.Fprint(rw, "first")
		_ = http.NewResponseController(rw).Flush()
		<-release
		fmt.Fprint(rw, "second")
		rw.Header().Set("X-Sum", "1")
	})
	w.begin()
	w.got("tp-1", "asset-1", 300)
	for path, sum := range map[string]string{"/chunked": "1", "/sized": ""} {
		release = make(chan struct{})
		goOn := sync.OnceFunc(func() { close(release) })
		t.Cleanup(goOn)
		response, err := w.client("egress").Get("http://localhost/tp-1" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		first := make([]byte, 5)
		_, err = io.ReadFull(response.Body, first)
		goOn()
		if err != nil || string(first) != "first" {
			t.Errorf("%s: %q %v", path, first, err)
		}
		rest, err := io.ReadAll(response.Body)
		if err != nil || string(rest) != "second" || response.Trailer.Get("X-Sum") != sum {
			t.Errorf("%s: %q %v %v", path, rest, response.Trailer, err)
		}
	}
}

// TestEgressCutsOffWithTheProvider: half an answer must not pass for a whole one.
func TestEgressCutsOffWithTheProvider(t *testing.T) {
	w := newConsumerWorld(t)
	w.front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write(bytes.Repeat([]byte("a"), 1<<10))
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	})
	w.begin()
	w.got("tp-1", "asset-1", 300)
	response, err := w.client("egress").Get("http://localhost/tp-1/a")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	_, err = io.ReadAll(response.Body)
	if err == nil {
		t.Error("the client takes the answer for complete")
	}
}

// TestEgressWithoutItsProvider: 502, and nothing of the address.
func TestEgressWithoutItsProvider(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	w.got("tp-1", "asset-1", 300)
	w.front.Close()
	a := w.egress(http.MethodGet, "/tp-1/a?key=CANARY", nil)
	if a.status != http.StatusBadGateway || strings.Contains(a.body, "127.0.0.1") {
		t.Errorf("%d %s", a.status, a.body)
	}
	testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(w.logged(), "data plane not reached") })
}

func FuzzParseProxyRequest(f *testing.F) {
	f.Add([]byte(`{"assetId":"a","providerId":"b","pathSegments":"c/d","queryParams":"e=f"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseProxyRequest(data)
		if err == nil && (p.url.Host != "" || p.url.Path != "" && p.url.Path[0] != '/') {
			t.Errorf("%+v", p)
		}
	})
}

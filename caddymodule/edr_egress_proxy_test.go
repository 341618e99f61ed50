package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestEgressStaysInside: what Caddy's proxy adds to a request does not reach the provider, and neither the client's
// credentials nor the EDR's are where Caddy shows requests: the log at DEBUG and placeholders.
func TestEgressStaysInside(t *testing.T) {
	w := newConsumerWorld(t)
	servers := w.consumerServers(nil, nil)
	servers["egress"] = w.site("egress",
		object{"handler": "headers", "response": object{"deferred": true, "set": object{
			"X-Shown": []string{"{http.reverse_proxy.status_code} {http.reverse_proxy.upstream.hostport} {http.vars.edr.outgoing} {http.reverse_proxy.header.Set-Cookie}"},
		}}},
		object{"handler": "edr_egress", "participant": userName})
	w.load(w.consumerApp(), servers)
	e := w.got("tp-1", "asset-1", 300)
	a := w.egress(http.MethodGet, "/tp-1/a", nil, "Authorization", "Bearer CANARY-a", "Cookie", "a=CANARY-b", "X-Api-Key", "CANARY-c",
		"X-Forwarded-For", "10.0.0.1")
	if a.status != http.StatusOK || a.header.Get("X-Shown") != "200 "+egressUpstream+" tp-1 {http.reverse_proxy.header.Set-Cookie}" {
		t.Errorf("%d %v", a.status, a.header)
	}
	for name := range w.lastSeen().header {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Via" || name == "X-Api-Key" || name == "Cookie" {
			t.Errorf("the provider sees %s", name)
		}
	}
	testkit.Eventually(t, "the log of the round trip", func() bool { return strings.Contains(w.logged(), `"upstream roundtrip"`) })
	if log := w.logged(); strings.Contains(log, "CANARY") || strings.Contains(log, e.access) {
		t.Error("a credential is in the log")
	}
}

// TestEgressDropsWhatIsForeign: in early answers and trailers as well, and no tunnel is opened.
func TestEgressDropsWhatIsForeign(t *testing.T) {
	w := newConsumerWorld(t)
	w.front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upgrade" {
			rw.Header().Set("Connection", "Upgrade")
			rw.Header().Set("Upgrade", "websocket")
			rw.WriteHeader(http.StatusSwitchingProtocols)
			return
		}
		rw.Header().Set("Trailer", "Set-Cookie, X-Sum")
		rw.Header().Set("Set-Cookie", "of=provider")
		rw.Header().Set("X-Kept", "1")
		rw.Header().Set("X-Hop", "1")
		rw.Header().Set("Connection", "X-Hop")
		rw.WriteHeader(http.StatusEarlyHints)
		_, _ = rw.Write([]byte("data"))
		rw.Header().Set("Set-Cookie", "of=provider")
		rw.Header().Set("X-Sum", "1")
		rw.Header().Set(http.TrailerPrefix+"Access-Control-Allow-Origin", "*")
	})
	w.begin()
	w.got("tp-1", "asset-1", 300)
	if a := w.egress(http.MethodGet, "/tp-1/upgrade", nil); a.status != http.StatusBadGateway ||
		!strings.Contains(a.body, "changes the protocol") {
		t.Errorf("%d %s", a.status, a.body)
	}
	early := 0
	r := w.request(http.MethodGet, "http://localhost/tp-1/a", nil)
	response, err := w.client("egress").Do(r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { early++; return nil },
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err != nil || early != 0 || response.Header.Get("X-Kept") != "1" || response.Trailer.Get("X-Sum") != "1" {
		t.Errorf("%v, %d early answers, %v, %v", err, early, response.Header, response.Trailer)
	}
	for _, h := range []http.Header{response.Header, response.Trailer} {
		for _, name := range []string{"Set-Cookie", "Access-Control-Allow-Origin", "X-Hop"} {
			if len(h[name]) > 0 {
				t.Errorf("%s was passed on", name)
			}
		}
	}
}

// TestEgressEndsWithItsClient: a provider does not go on for somebody who has gone.
func TestEgressEndsWithItsClient(t *testing.T) {
	w := newConsumerWorld(t)
	came, gone := make(chan struct{}), make(chan struct{})
	w.front.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(came)
		<-r.Context().Done()
		close(gone)
	})
	w.begin()
	w.got("tp-1", "asset-1", 300)
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		response, err := w.client("egress").Do(w.request(http.MethodGet, "http://localhost/tp-1/a", nil).WithContext(ctx))
		if err == nil {
			_ = response.Body.Close()
		}
		ended <- err
	}()
	<-came
	leave()
	if <-ended == nil {
		t.Error("an answer")
	}
	<-gone
	if strings.Contains(w.logged(), "data plane not reached") {
		t.Error("the provider is blamed")
	}
}

// TestEgressWhileARenewalIsCancelled: by a reload. It is for the client to ask again; Caddy's proxy would take the
// cancellation for one of the client's, and answer nothing.
func TestEgressWhileARenewalIsCancelled(t *testing.T) {
	w := newConsumerWorld(t)
	held := make(chan struct{})
	var once sync.Once
	front := w.front.Config.Handler
	w.front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			front.ServeHTTP(rw, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // only then a server sees that its client has gone
		once.Do(func() { close(held) })
		<-r.Context().Done()
	})
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	w.refuse(e.access, http.StatusUnauthorized)
	answers := make(chan answered)
	go func() { answers <- w.egress(http.MethodGet, "/tp-1/a", nil) }()
	<-held
	go func() { _ = w.running().Cleanup() }()
	if a := <-answers; a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
}

// TestEgressTakesNoRequestOutOfABody: what is left unread of a body must not be taken for the next request of the
// connection, which may be one of another client behind the same proxy (request smuggling).
func TestEgressTakesNoRequestOutOfABody(t *testing.T) {
	w := newConsumerWorld(t)
	w.front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen = append(w.seen, seenRequest{r.Method, r.URL.RequestURI(), "", r.Header.Clone()})
		rw.WriteHeader(http.StatusNoContent) // before the body has been read
	})
	w.begin()
	w.got("tp-1", "asset-1", 300)
	inner := "GET /tp-1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
	body := inner + strings.Repeat(" ", 1<<20-len(inner))
	for _, path := range []string{"/unknown/a", "/tp-1/a"} {
		connection, err := net.Dial("unix", w.sockets["egress"])
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		err = connection.SetDeadline(time.Now().Add(20 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", path, len(body))
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprint(connection, body) // as much as is taken
		reader := bufio.NewReader(connection)
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body) // the connection may end before it
		answer.Body.Close()
		if !answer.Close {
			t.Errorf("%s: the connection is kept", path)
		}
		_, _ = io.Copy(io.Discard, reader) // until it has ended
	}
	for _, seen := range w.requests() {
		if strings.Contains(seen.uri, "smuggled") {
			t.Errorf("the provider got a request out of a body: %s %s", seen.method, seen.uri)
		}
	}
}

package caddymodule

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/tokens"
)

// proxyWorld is a world with one edr_proxy over the given backends.
func proxyWorld(t *testing.T, h *Proxy, handlers ...object) *dataWorld {
	t.Helper()
	w := newDataWorld(t)
	w.run(nil, append(handlers, w.proxy("proxy", h))...)
	return w
}

func TestRequestHeadersThatPass(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}, RequestHeaders: []string{"x-wanted"}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL, "header:X-Static", "s", "header:Accept-Language", "de"))
	pass := map[string]string{
		"Accept": "text/csv", "Accept-Encoding": "br", "Accept-Charset": "utf-8", "Content-Type": "text/plain", "Content-Encoding": "identity",
		"Content-Language": "en", "Range": "bytes=0-1", "If-Match": `"x"`, "If-None-Match": `"y"`, "Prefer": "return=minimal",
		"Traceparent": "00-1-2-03", "Tracestate": "a=b", "User-Agent": "consumer/1", "X-Wanted": "w",
	}
	drop := []string{"Forwarded", "X-Real-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "Origin", "Referer", "X-Other", "Te", "X-Static", "Date"}
	var lines []string
	for name, value := range pass {
		lines = append(lines, name+": "+value)
	}
	for _, name := range drop {
		lines = append(lines, name+": evil")
	}
	got := w.send("POST", "/x", token, "abc", append(lines, "Accept-Language: en", "Content-Length: 3")...)
	if got.StatusCode != 200 {
		t.Fatalf("got %d %s", got.StatusCode, got.body)
	}
	request := backend.last(t)
	for name, value := range pass {
		if request.header.Get(name) != value {
			t.Errorf("%s: got %q, want %q", name, request.header.Get(name), value)
		}
	}
	for name, values := range request.header {
		if strings.Contains(strings.Join(values, " "), "evil") {
			t.Errorf("%s passed", name)
		}
	}
	if request.header.Get("X-Static") != "s" || request.header.Get("Accept-Language") != "de" {
		t.Errorf("headers of the address: %v", request.header)
	}
	if request.length != 3 || request.chunked || request.host != backend.hostport() {
		t.Errorf("framing: %+v", request)
	}
	w.get("/x", token, "Content-Type: application/json")
	request = backend.last(t)
	if request.header["Content-Type"] != nil || request.header["User-Agent"] != nil || request.header["Accept-Encoding"] != nil {
		t.Errorf("a GET without a body brought %v", request.header)
	}
}

func TestContentTypeOfABody(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	contentType := w.classicFlow(typeHTTPData, proxied(backend.URL, "contentType", "text/csv"))
	header := w.classicFlow(typeHTTPData, proxied(backend.URL, "header:Content-Type", "text/x"))
	for _, c := range []struct{ name, token, method, body, sent, want string }{
		{"the request's type wins", contentType, "POST", "b", "application/json", "application/json"},
		{"contentType without one", contentType, "POST", "b", "", "text/csv"},
		{"contentType without a body", contentType, "GET", "", "", ""},
		{"the request's type wins over a header", header, "POST", "b", "application/json", "application/json"},
		{"header without a body", header, "GET", "", "application/json", "text/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines := []string{fmt.Sprintf("Content-Length: %d", len(c.body))}
			if c.sent != "" {
				lines = append(lines, "Content-Type: "+c.sent)
			}
			w.send(c.method, "/x", c.token, c.body, lines...)
			if got := backend.last(t).header.Get("Content-Type"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestFlagsDecideWhatIsSent(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	bare := w.classicFlow(typeHTTPData, map[string]string{"baseUrl": backend.URL + "/base?k=v"})
	got := w.send("POST", "/x/y?a=1", bare, "body", "Content-Type: text/plain", "Content-Length: 4")
	request := backend.last(t)
	if got.StatusCode != 200 || request.method != "GET" || request.target != "/base?k=v" || request.body != "" || request.header["Content-Type"] != nil {
		t.Errorf("without flags: %d, the backend got %+v", got.StatusCode, request)
	}
	got = w.send("HEAD", "/x", bare, "")
	request = backend.last(t)
	if got.StatusCode != 200 || request.method != "GET" || got.body != "" || got.Header.Get("Content-Length") != "4" {
		t.Errorf("HEAD without flags: %d %v, the backend got %s", got.StatusCode, got.Header, request.method)
	}
	noBody := w.classicFlow(typeHTTPData, map[string]string{"baseUrl": backend.URL, "proxyMethod": "true"})
	got = w.send("POST", "/x", noBody, "body", "Content-Type: text/plain", "Content-Length: 4")
	if got.StatusCode != 400 || !strings.Contains(got.body, "takes no request body") {
		t.Errorf("a body that would be lost: %d %s", got.StatusCode, got.body)
	}
	backend.none(t)
}

func TestHostOfTheAddress(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport(), "virtual.example:80"}})
	w.get("/x", w.classicFlow(typeHTTPData, proxied(backend.URL, "header:Host", "virtual.example")))
	if request := backend.last(t); request.host != "virtual.example" {
		t.Errorf("the backend got Host %q", request.host)
	}
}

func TestRouteBackend(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	proxy := &Proxy{Backends: []string{backend.hostport()}}
	w := proxyWorld(t, proxy)
	w.app.routes["r"] = &routeTarget{Backend: backend.URL + "/api", Headers: map[string]string{"Authorization": "Bearer CANARY-route"}}
	w.app.routes["elsewhere"] = &routeTarget{Backend: "http://other.example/"}
	_, token := w.flow(func(r *tokens.StartRequest) { r.Route = "r" })
	got := w.send("GET", "/x?a=1", token, "abc", "Content-Type: text/plain", "Content-Length: 3")
	request := backend.last(t)
	if got.StatusCode != 200 || request.target != "/api/x?a=1" || request.header.Get("Authorization") != "Bearer CANARY-route" || request.body != "abc" {
		t.Errorf("got %d, the backend got %+v", got.StatusCode, request)
	}
	_, token = w.flow(func(r *tokens.StartRequest) { r.Route = "elsewhere" })
	if got := w.get("/x", token); got.StatusCode != 502 {
		t.Errorf("a route that is not in backends: got %d, want 502", got.StatusCode)
	}
	_, token = w.flow(func(r *tokens.StartRequest) { r.Route = "none" })
	if got := w.get("/x", token); got.StatusCode != 403 {
		t.Errorf("a route without a backend: got %d, want 403", got.StatusCode)
	}
	_, token = w.flow(nil)
	if got := w.get("/x", token); got.StatusCode != 403 || got.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("a flow without a backend: got %d, want 403", got.StatusCode)
	}
	err := proxy.checkTarget(w.app.routes["r"])
	if err != nil {
		t.Error(err)
	}
	err = proxy.checkTarget(w.app.routes["elsewhere"])
	if err == nil {
		t.Error("a start would be accepted for a backend that is not listed")
	}
	backend.none(t)
}

// TestSitesShareNoTarget has one token used at two sites whose backends differ.
func TestSitesShareNoTarget(t *testing.T) {
	w := newDataWorld(t)
	backend := newRecordingBackend(t, nil)
	w.run(object{"routes": []object{
		{"match": []object{{"path": []string{"/open*"}}}, "handle": []object{w.proxy("open", &Proxy{Backends: []string{backend.hostport()}})}},
		{"handle": []object{w.proxy("closed", &Proxy{Backends: []string{"other.example:80"}})}},
	}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	if got := w.get("/open", token); got.StatusCode != 200 {
		t.Fatalf("got %d", got.StatusCode)
	}
	backend.last(t)
	if got := w.get("/x", token); got.StatusCode != 502 {
		t.Errorf("a site that does not list the backend: got %d, want 502", got.StatusCode)
	}
	backend.none(t)
	if w.app.counted()["backend misconfigured"] != 1 {
		t.Errorf("counted %v", w.app.counted())
	}
}

func TestSuspendStopsTheNextRequest(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	w.get("/x", token)
	backend.last(t)
	_, err := w.service.Suspend(t.Context(), dataCaller, tokens.Message{ProcessID: "flow-x", Dialect: tokens.Classic})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.get("/x", token); got.StatusCode != 403 || !strings.Contains(got.body, "flow_suspended") {
		t.Errorf("got %d %s", got.StatusCode, got.body)
	}
	backend.none(t)
}

func TestBackendThatCannotBeReached(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	_ = listener.Close()
	w := proxyWorld(t, &Proxy{Backends: []string{closed, "169.254.169.254:80"}})
	got := w.get("/x", w.classicFlow(typeHTTPData, proxied("http://"+closed+"/?key=CANARY-query", "authKey", "X-Key", "authCode", "CANARY-code")))
	if got.StatusCode != 502 {
		t.Errorf("a closed port: got %d, want 502", got.StatusCode)
	}
	got = w.get("/x", w.classicFlow(typeHTTPData, proxied("http://169.254.169.254/latest")))
	if got.StatusCode != 502 {
		t.Errorf("a metadata address: got %d, want 502", got.StatusCode)
	}
	log := w.log("metadata service")
	if strings.Contains(log, "CANARY") {
		t.Error("the log holds a credential")
	}
	counted := w.app.counted()
	if counted["backend unreachable"] != 1 || counted["backend denied"] != 1 {
		t.Errorf("counted %v", counted)
	}
}

func TestTimeoutOfABackend(t *testing.T) {
	release := make(chan struct{})
	backend := newScriptedBackend(t, func(int, *http.Request) string {
		<-release
		return ""
	})
	w := proxyWorld(t, &Proxy{Backends: []string{strings.TrimPrefix(backend.url(), "http://")}, ResponseHeaderTimeout: caddy.Duration(50 * time.Millisecond)})
	got := w.get("/x", w.classicFlow(typeHTTPData, proxied(backend.url())))
	close(release)
	if got.StatusCode != 504 {
		t.Errorf("got %d, want 504", got.StatusCode)
	}
}

// TestBodiesStream sends the answer's first line before the request has ended, and the second after.
func TestBodiesStream(t *testing.T) {
	release := make(chan struct{})
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "first\n")
		_ = http.NewResponseController(rw).Flush()
		<-release
		_, _ = io.WriteString(rw, "second\n")
	})
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.address+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = dataHost
	request.Header.Set("Authorization", token)
	res, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	reader := bufio.NewReader(res.Body)
	line, err := reader.ReadString('\n')
	if err != nil || line != "first\n" {
		t.Errorf("got %q, %v before the answer ended", line, err)
	}
	close(release)
	line, err = reader.ReadString('\n')
	if err != nil || line != "second\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

// TestBodiesOfBytes: the plane that this one replaces reads request bodies as text, and what is not UTF-8 arrives changed.
func TestBodiesOfBytes(t *testing.T) {
	var every [256]byte
	for i := range every {
		every[i] = byte(i)
	}
	body := string(every[:])
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(rw, body)
	})
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	for _, sourceType := range []string{typeHTTPData, typeProxyHTTPData} {
		token := w.classicFlow(sourceType, proxied(backend.URL))
		for _, lines := range [][]string{
			{"Content-Type: application/octet-stream"},
			{"Content-Type: text/plain; charset=iso-8859-1"},
			{"Content-Type: application/json", "Content-Encoding: gzip"},
			{},
		} {
			got := w.send("PUT", "/x", token, body, append(lines, "Content-Length: 256")...)
			if request := backend.last(t); got.StatusCode != 200 || got.body != body || request.body != body {
				t.Errorf("%s, %v: status %d, the backend got % x, the client % x", sourceType, lines, got.StatusCode, request.body, got.body)
			}
		}
	}
}

// TestBrokenAnswerStaysBroken: an answer that the backend cuts off must not look complete.
func TestBrokenAnswerStaysBroken(t *testing.T) {
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "half")
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	})
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	got := w.get("/x", w.classicFlow(typeHTTPData, proxied(backend.URL)))
	if got.StatusCode != 200 || got.body != "half [unexpected EOF]" {
		t.Errorf("got %d %q", got.StatusCode, got.body)
	}
}

func TestClientGoneIsSeenByTheBackend(t *testing.T) {
	gone := make(chan struct{})
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "x")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		close(gone)
	})
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: "+dataHost+"\r\nAuthorization: "+token+"\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the backend goes on working")
	}
}

// TestExpectContinue lets the backend refuse a body before it is sent, and take one.
func TestExpectContinue(t *testing.T) {
	var take atomic.Bool
	// Raw, since a Go server would read the body by itself.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				reader := bufio.NewReader(conn)
				r, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				if !take.Load() || r.Header.Get("Expect") == "" {
					_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
				body, _ := io.ReadAll(r.Body)
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}()
		}
	}()
	address := listener.Addr().String()
	w := proxyWorld(t, &Proxy{Backends: []string{address}})
	token := w.classicFlow(typeHTTPData, proxied("http://"+address))
	head := "POST /x HTTP/1.1\r\nHost: " + dataHost + "\r\nAuthorization: " + token + "\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	got := w.raw("POST", head)
	if got.StatusCode != 413 || len(got.interim) != 0 {
		t.Errorf("refused body: got %d after %d interim answers", got.StatusCode, len(got.interim))
	}
	take.Store(true)
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(conn, head)
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil || !strings.Contains(line, "100") {
		t.Fatalf("got %q, %v, want 100 Continue", line, err)
	}
	_, err = io.WriteString(conn, "hello")
	if err != nil {
		t.Fatal(err)
	}
	_, err = reader.ReadString('\n') // the empty line behind it
	if err != nil {
		t.Fatal(err)
	}
	got = w.readReply(reader, "POST")
	if got.StatusCode != 200 || got.body != "hello" {
		t.Errorf("taken body: got %d %q", got.StatusCode, got.body)
	}
}

func TestHandlerAfterProxyIsNeverReached(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := newDataWorld(t)
	w.run(nil, w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}}), object{"handler": "static_response", "status_code": "418"})
	got := w.get("/x", w.classicFlow(typeHTTPData, proxied(backend.URL)))
	if got.StatusCode != 200 {
		t.Errorf("got %d", got.StatusCode)
	}
}

func TestTLSToBackends(t *testing.T) {
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	backend.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the client that does not trust it
	backend.StartTLS()
	t.Cleanup(backend.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: backend.Certificate().Raw}), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := json.Marshal(object{"provider": "file", "pem_files": []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	w := newDataWorld(t)
	w.run(object{"routes": []object{
		{"match": []object{{"path": []string{"/trusting*"}}}, "handle": []object{w.proxy("trusting", &Proxy{Backends: []string{backend.URL}, TrustPoolRaw: pool})}},
		{"handle": []object{w.proxy("plain", &Proxy{Backends: []string{backend.URL}})}},
	}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL+"/base"))
	if got := w.get("/trusting", token); got.StatusCode != 200 || got.body != "/base/trusting" {
		t.Errorf("got %d %s", got.StatusCode, got.body)
	}
	if got := w.get("/x", token); got.StatusCode != 502 {
		t.Errorf("a certificate of nobody we trust: got %d, want 502", got.StatusCode)
	}
}

// TestCleanupAfterHalfAProvision: Caddy cleans up handlers whose Provision failed.
func TestCleanupAfterHalfAProvision(t *testing.T) {
	err := new(Proxy).Cleanup()
	if err != nil {
		t.Error(err)
	}
}

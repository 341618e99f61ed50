package caddymodule

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

// dataWorld is a token service and a Caddy in this process that runs handlers of the data path over real sockets. The
// app is a fake, so that these tests are about the data path alone.
type dataWorld struct {
	t       testing.TB
	clock   *testkit.Clock
	store   *failingStore
	service *tokens.Service
	app     *fakeApp
	logFile string
	address string
	flows   int
}

const (
	dataHost     = "data.example"
	dataConsumer = "did:web:consumer.example"
	dataCaller   = tokens.Caller("cp")
)

func newDataWorld(t testing.TB) *dataWorld {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: key, State: tokens.KeyActive, Name: "active"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	clock := testkit.NewClock()
	w := &dataWorld{t: t, clock: clock, store: &failingStore{Store: memory.New(clock.Now)}}
	w.service, err = tokens.New(tokens.Config{
		Participant: "default", DID: "did:web:provider.example", Keys: ring, Store: w.store, Live: tokens.NewLive(),
		Resolver: noResolver{}, ControlPlanes: []string{string(dataCaller)}, PublicURL: "http://" + dataHost, Now: clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.app = &fakeApp{service: w.service, routes: map[string]*RouteTarget{}, counts: map[string]int{}}
	return w
}

// failingStore fails to read on demand.
type failingStore struct {
	store.Store
	mu   sync.Mutex
	fail error
}

func (s *failingStore) setFailure(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *failingStore) Get(ctx context.Context, kind, id string) (store.Record, error) {
	s.mu.Lock()
	err := s.fail
	s.mu.Unlock()
	if err != nil {
		return store.Record{}, err
	}
	return s.Store.Get(ctx, kind, id)
}

type noResolver struct{}

func (noResolver) ResolveKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("the data path resolves no DID")
}

func (noResolver) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("the data path resolves no DID")
}

// fakeApp stands in for the app.
type fakeApp struct {
	service  *tokens.Service
	routes   map[string]*RouteTarget
	auths    []*Auth
	proxies  []*Proxy
	renewals string // path of renewals

	mu          sync.Mutex
	unavailable error
	classic     bool
	counts      map[string]int
}

func (a *fakeApp) Service() (*tokens.Service, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unavailable != nil {
		return nil, a.unavailable
	}
	return a.service, nil
}

func (a *fakeApp) metrics() dataObserver { return a }

func (a *fakeApp) refreshRequest(r *http.Request) bool {
	return a.renewals != "" && r.URL.Path == a.renewals
}

func (a *fakeApp) classicOnly() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.classic
}

func (a *fakeApp) routeTarget(name string) (*RouteTarget, bool) {
	target, ok := a.routes[name]
	return target, ok
}

func (a *fakeApp) registerAuth(h *Auth) error {
	a.auths = append(a.auths, h)
	return nil
}

func (a *fakeApp) registerProxy(h *Proxy) error {
	a.proxies = append(a.proxies, h)
	return nil
}

func (a *fakeApp) Verdict(handler, verdict, reason string) {
	a.count(strings.TrimSuffix(handler+" "+verdict+" "+reason, " "))
}

func (a *fakeApp) Backend(result string) { a.count("backend " + result) }

func (a *fakeApp) count(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[key]++
}

func (a *fakeApp) counted() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.counts)
}

// flow starts a flow and returns its id and access token.
func (w *dataWorld) flow(change func(*tokens.StartRequest)) (id, token string) {
	w.t.Helper()
	w.flows++
	id = "flow-" + strings.Repeat("x", w.flows)
	r := tokens.StartRequest{
		Dialect: tokens.DPS, MessageID: "start-" + id, ProcessID: id, BPN: "BPNL00000000TEST",
		Endpoint: "http://" + dataHost,
		Terms: tokens.Terms{
			Counterparty: dataConsumer, Dataset: "asset-1", Agreement: "agreement-1",
		},
	}
	if change != nil {
		change(&r)
	}
	if r.Dialect == tokens.Classic {
		r.MessageID = ""
	}
	edr, err := w.service.Start(w.t.Context(), dataCaller, r)
	if err != nil {
		w.t.Fatal(err)
	}
	return id, edr.AccessToken.Reveal()
}

// classicFlow starts a flow with a data address.
func (w *dataWorld) classicFlow(kind string, properties map[string]string) string {
	w.t.Helper()
	return w.classicFlowAt("http://"+dataHost, kind, properties)
}

// classicFlowAt is classicFlow with an endpoint.
func (w *dataWorld) classicFlowAt(endpoint, kind string, properties map[string]string) string {
	w.t.Helper()
	_, token := w.flow(func(r *tokens.StartRequest) {
		r.Dialect = tokens.Classic
		r.Endpoint = endpoint
		r.Terms.Source = &tokens.Source{Type: kind, Properties: properties}
	})
	return token
}

// proxied are the flags with which everything of a request is passed on.
func proxied(baseURL string, more ...string) map[string]string {
	properties := map[string]string{
		"baseUrl": baseURL, "proxyPath": "true", "proxyQueryParams": "true", "proxyMethod": "true", "proxyBody": "true",
	}
	for i := 0; i+1 < len(more); i += 2 {
		properties[more[i]] = more[i+1]
	}
	return properties
}

// underTest are the handlers of the running Caddy, by the name that its configuration uses.
var underTest = map[string]func(caddy.Context) (caddyhttp.MiddlewareHandler, error){}

// testHandler lets a configuration name a handler that a test has made.
type testHandler struct {
	Name  string `json:"name"`
	inner caddyhttp.MiddlewareHandler
}

func (testHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edrgate_test", New: func() caddy.Module { return new(testHandler) }}
}

func (h *testHandler) Provision(ctx caddy.Context) error {
	var err error
	h.inner, err = underTest[h.Name](ctx)
	return err
}

func (h *testHandler) Cleanup() error {
	cleaner, ok := h.inner.(caddy.CleanerUpper)
	if !ok {
		return nil
	}
	return cleaner.Cleanup()
}

func (h *testHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return h.inner.ServeHTTP(w, r, next)
}

// testAddress is where the running Caddy listens.
var testAddress = make(chan string, 1)

func init() {
	caddy.RegisterModule(testHandler{})
	caddy.RegisterNetwork("edrgatetest", func(ctx context.Context, _, _, _ string, _ uint, config net.ListenConfig) (any, error) {
		listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		testAddress <- listener.Addr().String()
		return listener, nil
	})
}

type object = map[string]any

func (w *dataWorld) auth(name string, h *Auth) object {
	underTest[name] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) { return h, h.provision(ctx, w.app) }
	return object{"handler": "edrgate_test", "name": name}
}

func (w *dataWorld) proxy(name string, h *Proxy) object {
	underTest[name] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) { return h, h.provision(ctx, w.app) }
	return object{"handler": "edrgate_test", "name": name}
}

func reverseProxyTo(backend string) object {
	return object{"handler": "reverse_proxy", "upstreams": []object{{"dial": backend}}}
}

// run starts Caddy with the handlers, in this order, at one site. server changes the server's settings.
func (w *dataWorld) run(server object, handlers ...object) {
	w.t.Helper()
	w.logFile = filepath.Join(w.t.TempDir(), "caddy.log")
	settings := object{
		"listen":          []string{"edrgatetest/x:1"},
		"automatic_https": object{"disable": true},
		"logs":            object{},
		"routes":          []object{{"handle": handlers}},
	}
	maps.Copy(settings, server)
	config := object{
		"admin": object{"disabled": true, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{
			"level": "DEBUG", "writer": object{"output": "file", "filename": w.logFile}, "encoder": object{"format": "json"},
		}}},
		"apps": object{"http": object{"servers": object{"data": settings}}},
	}
	data, err := json.Marshal(config)
	if err != nil {
		w.t.Fatal(err)
	}
	var parsed caddy.Config
	err = json.Unmarshal(data, &parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	err = caddy.Run(&parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		err := caddy.Stop()
		if err != nil {
			w.t.Error(err)
		}
	})
	w.address = <-testAddress
}

// log stops nothing and returns what has been logged, once it holds text.
func (w *dataWorld) log(text string) string {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		data, err := os.ReadFile(w.logFile)
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(string(data), text) {
			return string(data)
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the log does not hold %q:\n%s", text, data)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// reply is an answer with its body.
type reply struct {
	*http.Response
	body    string
	interim []interim
}

type interim struct {
	status int
	header http.Header
}

// raw sends bytes to Caddy and reads one answer. method is that of the request.
func (w *dataWorld) raw(method, request string) reply {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = io.WriteString(conn, request)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.readReply(bufio.NewReader(conn), method)
}

func (w *dataWorld) readReply(r *bufio.Reader, method string) reply {
	w.t.Helper()
	var answer reply
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			w.t.Fatal(err)
		}
		if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			answer.interim = append(answer.interim, interim{res.StatusCode, res.Header})
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			body = append(body, []byte(" ["+err.Error()+"]")...)
		}
		answer.Response, answer.body = res, string(body)
		return answer
	}
}

// get sends a GET of the path with the token, and further header lines.
func (w *dataWorld) get(path, token string, headers ...string) reply {
	w.t.Helper()
	return w.send("GET", path, token, "", headers...)
}

// send sends a request over a connection of its own. Header lines are sent as they are.
func (w *dataWorld) send(method, path, token, body string, headers ...string) reply {
	w.t.Helper()
	var b strings.Builder
	b.WriteString(method + " " + path + " HTTP/1.1\r\nHost: " + dataHost + "\r\n")
	if token != "" {
		b.WriteString("Authorization: " + token + "\r\n")
	}
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return w.raw(method, b.String())
}

// seen is a request as the backend got it.
type seen struct {
	method, target, host, body string
	header, trailer            http.Header
	length                     int64
	chunked                    bool
}

// recordingBackend keeps what it gets and answers as told.
type recordingBackend struct {
	*httptest.Server
	mu       sync.Mutex
	requests []seen
}

func newRecordingBackend(t *testing.T, answer http.HandlerFunc) *recordingBackend {
	b := new(recordingBackend)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		b.requests = append(b.requests, seen{
			method: r.Method, target: r.RequestURI, host: r.Host, body: string(body), header: r.Header, trailer: r.Trailer,
			length: r.ContentLength, chunked: len(r.TransferEncoding) > 0,
		})
		b.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "data")
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *recordingBackend) hostport() string { return strings.TrimPrefix(b.URL, "http://") }

// last returns the only request since the last call.
func (b *recordingBackend) last(t *testing.T) seen {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) != 1 {
		t.Fatalf("the backend got %d requests, want 1", len(b.requests))
	}
	got := b.requests[0]
	b.requests = nil
	return got
}

func (b *recordingBackend) none(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) != 0 {
		t.Fatalf("the backend got %s %s, want nothing", b.requests[0].method, b.requests[0].target)
	}
}

// scriptedBackend reads requests and answers each with raw bytes; an empty answer closes the connection.
type scriptedBackend struct {
	listener net.Listener
	mu       sync.Mutex
	requests int
	conns    int
}

func newScriptedBackend(t *testing.T, answer func(n int, r *http.Request) string) *scriptedBackend {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	b := &scriptedBackend{listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			b.mu.Unlock()
			go b.serve(conn, answer)
		}
	}()
	return b
}

func (b *scriptedBackend) serve(conn net.Conn, answer func(int, *http.Request) string) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		b.mu.Lock()
		b.requests++
		n := b.requests
		b.mu.Unlock()
		text := answer(n, r)
		if text == "" {
			return
		}
		_, err = io.WriteString(conn, text)
		if err != nil {
			return
		}
	}
}

func (b *scriptedBackend) url() string { return "http://" + b.listener.Addr().String() }

func (b *scriptedBackend) counts() (requests, conns int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests, b.conns
}

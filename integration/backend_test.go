package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// seen is one request as a backend saw it.
type seen struct {
	method, target, body string
	header               http.Header
}

// backend is a provider's server. It notes what it gets, and answers "data of <name>" unless told otherwise.
type backend struct {
	server *httptest.Server
	answer http.HandlerFunc // set before the first request

	mu       sync.Mutex
	requests []seen
}

func newBackend(t testing.TB, name string) *backend {
	b := &backend{answer: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data of "+name)
	}}
	b.server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.server.Close)
	return b
}

func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the gateway has given the request up
	}
	b.mu.Lock()
	b.requests = append(b.requests, seen{method: r.Method, target: r.RequestURI, body: string(body), header: r.Header.Clone()})
	b.mu.Unlock()
	b.answer(w, r)
}

func (b *backend) address() string { return b.server.Listener.Addr().String() }

// saw returns the requests so far.
func (b *backend) saw() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]seen(nil), b.requests...)
}

// last returns the latest request.
func (b *backend) last(t testing.TB) seen {
	t.Helper()
	requests := b.saw()
	if len(requests) == 0 {
		t.Fatal("the backend got no request")
	}
	return requests[len(requests)-1]
}

// didHost serves the DID documents of consumers, by plain http on the loopback interface.
type didHost struct {
	server *httptest.Server

	mu       sync.Mutex
	wallets  map[string]*testkit.Wallet // by path
	requests []string                   // paths
	held     chan struct{}              // requests wait until it is closed; nil: none does
}

func newDIDHost(t testing.TB) *didHost {
	h := &didHost{wallets: map[string]*testkit.Wallet{}}
	h.server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.server.Close)
	return h
}

func (h *didHost) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, r.URL.Path)
	wallet, ok := h.wallets[r.URL.Path]
	held := h.held
	h.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/did+json")
	_, _ = w.Write(wallet.Document())
}

// wallet returns a new wallet, did:web:localhost%3APORT:name, whose document is served from now on.
func (h *didHost) wallet(name string) *testkit.Wallet {
	_, port, _ := strings.Cut(h.server.Listener.Addr().String(), ":")
	w := testkit.NewWallet("did:web:localhost%3A" + port + ":" + name)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wallets["/"+name+"/did.json"] = w
	return w
}

// hold makes requests wait from now on, until release is called.
func (h *didHost) hold() (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := make(chan struct{})
	h.held = held
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held = nil
		close(held)
	})
}

// fetches returns how many requests there were.
func (h *didHost) fetches() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.requests)
}

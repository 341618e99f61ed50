package hostile

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
	target, body string
	header       http.Header
}

// backend is a provider's server. It notes what it gets and answers "data of <name>".
type backend struct {
	server *httptest.Server

	mu       sync.Mutex
	requests int
	last     seen
}

func newBackend(t testing.TB, name string) *backend {
	b := new(backend)
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		b.mu.Lock()
		b.requests++
		b.last = seen{target: r.RequestURI, body: string(body), header: r.Header.Clone()}
		b.mu.Unlock()
		if err == nil {
			_, _ = io.WriteString(w, "data of "+name)
		}
	}))
	t.Cleanup(b.server.Close)
	return b
}

func (b *backend) address() string { return b.server.Listener.Addr().String() }

// count returns how many requests came, and the last one.
func (b *backend) count() (int, seen) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests, b.last
}

// didHost serves DID documents by plain http on the loopback interface.
type didHost struct {
	server *httptest.Server

	mu        sync.Mutex
	documents map[string]http.HandlerFunc // by path
	requests  int
}

func newDIDHost(t testing.TB) *didHost {
	h := &didHost{documents: map[string]http.HandlerFunc{}}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.requests++
		answer, ok := h.documents[r.URL.Path]
		h.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(h.server.Close)
	return h
}

// did returns the DID whose document is at /name/did.json.
func (h *didHost) did(name string) string {
	_, port, _ := strings.Cut(h.server.Listener.Addr().String(), ":")
	return "did:web:localhost%3A" + port + ":" + name
}

// serve has the host answer so for the DID of the name.
func (h *didHost) serve(name string, answer http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.documents["/"+name+"/did.json"] = answer
}

// document answers with a document.
func document(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/did+json")
		_, _ = w.Write(text)
	}
}

// wallet returns a new wallet whose document is served from now on.
func (h *didHost) wallet(name string) *testkit.Wallet {
	w := testkit.NewWallet(h.did(name))
	h.serve(name, document(w.Document()))
	return w
}

// fetches returns how many requests there were.
func (h *didHost) fetches() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests
}

// provider is the data plane of another company, which gave EDRs to the consumer's side. It answers as a test has it, in
// bytes if it likes.
type provider struct {
	server *httptest.Server

	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by the first segment of the path
	last    map[string]seen
	counts  map[string]int
}

func newProvider(t testing.TB) *provider {
	p := &provider{answers: map[string]http.HandlerFunc{}, last: map[string]seen{}, counts: map[string]int{}}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		p.counts[name]++
		p.last[name] = seen{target: r.RequestURI, body: string(body), header: r.Header.Clone()}
		answer, known := p.answers[name]
		p.mu.Unlock()
		if !known {
			_, _ = io.WriteString(w, "data of a provider")
			return
		}
		answer(w, r)
	}))
	t.Cleanup(p.server.Close)
	return p
}

// url is an address of the provider for a name.
func (p *provider) url(name string) string { return p.server.URL + "/" + name }

// answer has the provider answer so below /name.
func (p *provider) answer(name string, answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[name] = answer
}

// seen returns how many requests for a name came, and the last one.
func (p *provider) seen(name string) (int, seen) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[name], p.last[name]
}

// rawAnswer answers with bytes that need be no HTTP, and closes the connection.
func rawAnswer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

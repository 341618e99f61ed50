package cluster

import (
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// DIDHost serves the DID documents of consumers, by plain http on the loopback interface.
type DIDHost struct {
	server *httptest.Server

	mu        sync.Mutex
	documents map[string][]byte // by path
}

func newDIDHost(t testing.TB) *DIDHost {
	h := &DIDHost{documents: map[string][]byte{}}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		document, ok := h.documents[r.URL.Path]
		h.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/did+json")
		_, _ = w.Write(document) // a gateway that was killed does not read it
	}))
	t.Cleanup(h.server.Close)
	return h
}

// Wallet returns a new consumer's identity, whose document is served from now on. Its DID is did:web:localhost%3APORT:name and
// something that no other has: a key that takes another one's place is not seen at once.
func (h *DIDHost) Wallet(name string) *testkit.Wallet {
	name += "-" + rand.Text()
	w := testkit.NewWallet("did:web:localhost%3A" + port(h.server.Listener.Addr().String()) + ":" + name)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.documents["/"+name+"/did.json"] = w.Document()
	return w
}

// Backend is the provider's server. It answers Payload.
type Backend struct{ server *httptest.Server }

func newBackend(t testing.TB) *Backend {
	b := &Backend{server: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, Payload) // a gateway that was killed does not read it
	}))}
	t.Cleanup(b.server.Close)
	return b
}

func (b *Backend) address() string { return strings.TrimPrefix(b.server.URL, "http://") }

//go:build interop

package edc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// closedPath is what the backend refuses, to see how the gateway passes that on.
const closedPath = "/closed"

// backend is the provider's server. It answers with the target of the request, and notes the headers.
type backend struct {
	server *httptest.Server

	mu     sync.Mutex
	header http.Header // of the last request
	count  int
}

func newBackend(t testing.TB) *backend {
	b := &backend{}
	b.server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.server.Close)
	return b
}

func (b *backend) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.header = r.Header.Clone()
	b.count++
	b.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, closedPath) {
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, dataAt(r.RequestURI))
}

// dataAt is what the backend has at a target.
func dataAt(target string) string { return "data at " + target }

func (b *backend) address() string { return b.server.Listener.Addr().String() }

// last returns the headers of the last request, and how many requests there were.
func (b *backend) last() (http.Header, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.header.Clone(), b.count
}

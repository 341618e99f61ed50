package did

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
)

// walletName is the host of most DIDs here. The name server of the tests knows it as 127.0.0.1.
const walletName = "wallet.example"

// host is a real TLS server that serves DID documents.
type host struct {
	server   *httptest.Server
	port     uint16
	requests atomic.Int64

	mu      sync.Mutex
	handler http.HandlerFunc
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := startHost(t)
	h.server.TLS = &tls.Config{Certificates: []tls.Certificate{hostIdentity().certificate}}
	h.server.StartTLS()
	h.port = portOf(t, h.server)
	return h
}

func newPlainHost(t *testing.T) *host {
	t.Helper()
	h := startHost(t)
	h.server.Start()
	h.port = portOf(t, h.server)
	return h
}

func startHost(t *testing.T) *host {
	t.Helper()
	h := &host{handler: http.NotFound}
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		h.mu.Lock()
		handler := h.handler
		h.mu.Unlock()
		handler(w, r)
	}))
	h.server.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are what some tests want
	t.Cleanup(h.server.Close)
	return h
}

func portOf(t *testing.T, s *httptest.Server) uint16 {
	t.Helper()
	_, port, ok := cutLast(s.Listener.Addr().String(), ':')
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil {
		t.Fatalf("listener without a port: %v", err)
	}
	return uint16(n)
}

func cutLast(s string, c byte) (string, string, bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == c {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// did is a DID whose document h serves.
func (h *host) did() string { return h.didOf(walletName) }

func (h *host) didOf(name string) string { return fmt.Sprintf("did:web:%s%%3A%d", name, h.port) }

func (h *host) handle(handler http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handler = handler
}

// serve answers every request with v as JSON and the given header fields.
func (h *host) serve(t *testing.T, v any, header ...string) {
	t.Helper()
	body := testkit.JSON(t, v)
	h.handle(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		_, _ = w.Write(body)
	})
}

func (h *host) status(code int) {
	h.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

func (h *host) wantRequests(t *testing.T, want int64) {
	t.Helper()
	got := h.requests.Load()
	if got != want {
		t.Errorf("host saw %d requests, want %d", got, want)
	}
}

// identity is a certificate that only its own roots trust.
type identity struct {
	certificate tls.Certificate
	roots       *x509.CertPool
}

var hostIdentity = sync.OnceValue(func() identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "wallet"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{walletName, "*.hosts.example"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots}
})

// results is an Observer that remembers.
type results struct {
	mu   sync.Mutex
	list []string
}

func (r *results) Fetched(result string, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, result)
}

func (r *results) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// bench is a resolver with everything it depends on.
type bench struct {
	*Resolver
	clock   *testkit.Clock
	names   *dialtest.Names
	results *results
}

// newBench returns a resolver that may reach the hosts given and knows their names. change may be nil.
func newBench(t *testing.T, change func(*Config), hosts ...*host) *bench {
	t.Helper()
	b := &bench{
		clock:   testkit.NewClock(),
		names:   new(dialtest.Names),
		results: new(results),
	}
	b.names.SetAddress(walletName, "127.0.0.1")
	c := Config{
		AllowAddresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		RootCAs:        hostIdentity().roots,
		NameServer:     b.names.Resolver(),
		Observer:       b.results,
		Now:            b.clock.Now,
		Rand:           func() float64 { return 0.5 }, // no jitter
	}
	for _, h := range hosts {
		c.AllowPorts = append(c.AllowPorts, h.port)
	}
	if change != nil {
		change(&c)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	b.Resolver = r
	t.Cleanup(func() { _ = r.Close() })
	return b
}

func methodOf(t *testing.T, did, fragment string, key crypto.PublicKey) map[string]any {
	t.Helper()
	return map[string]any{
		"id": did + "#" + fragment, "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": testkit.JWK(t, key),
	}
}

// documentOf is a document with one key, listed for authentication.
func documentOf(t *testing.T, did, fragment string, key crypto.PublicKey) map[string]any {
	t.Helper()
	return map[string]any{
		"@context":           []string{"https://www.w3.org/ns/did/v1"},
		"id":                 did,
		"verificationMethod": []any{methodOf(t, did, fragment, key)},
		"authentication":     []string{did + "#" + fragment},
	}
}

func wantKey(t *testing.T, got crypto.PublicKey, err error, want crypto.PublicKey) {
	t.Helper()
	if err != nil {
		t.Fatalf("no key: %v", err)
	}
	if !equal(got, want) {
		t.Fatal("another key")
	}
}

func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// wantCode checks the error's code, and that refusal and "cannot tell" are told apart as the code demands.
func wantCode(t *testing.T, err error, want Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v, want code %q", err, want)
	}
	if e.Code != want {
		t.Fatalf("code %q, want %q: %v", e.Code, want, err)
	}
	if e.Refused() != (e.RetryAfter() == 0) {
		t.Errorf("refused %t, but retry after %s", e.Refused(), e.RetryAfter())
	}
	return e
}

func parsed(t *testing.T, did string) identifier {
	t.Helper()
	id, err := parse(did)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// waiters counts who waits for the flight to did.
func (b *bench) waiters(did string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.flights[did]
	if f == nil {
		return 0
	}
	return f.waiters
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// The certificate of the tests must be one, or the rows above prove nothing.
func TestHostIdentity(t *testing.T) {
	_, err := hostIdentity().certificate.Leaf.Verify(x509.VerifyOptions{Roots: hostIdentity().roots, CurrentTime: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
}

package dial_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/internal/dial/dialtest"
)

// newTransport returns a transport that may reach 127.0.0.1 and knows names as example.com, which is in the
// certificate of httptest.
func newTransport(t *testing.T, names *dialtest.Names, roots *x509.CertPool) *http.Transport {
	t.Helper()
	c := dial.TransportConfig{Guard: newGuard(t, dial.Config{AllowAddresses: prefixes("127.0.0.1/32")})}
	if names != nil {
		c.Resolver = names.Resolver()
	}
	if roots != nil {
		c.TLS = &tls.Config{RootCAs: roots}
	}
	tr, err := dial.NewTransport(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func get(t *testing.T, tr *http.Transport, url string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true // each request dials
	res, err := tr.RoundTrip(req)
	if err == nil {
		t.Cleanup(func() { res.Body.Close() })
	}
	return res, err
}

func portOf(t *testing.T, s *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func roots(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

// DNS rebinding: the name is harmless when it is looked at first and points inside afterwards.
func TestTransportSeesRebinding(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	t.Cleanup(server.Close)
	names := new(dialtest.Names)
	names.Set("rebind.example",
		[]netip.Addr{netip.MustParseAddr("127.0.0.1")},
		[]netip.Addr{netip.MustParseAddr("169.254.169.254")},
		[]netip.Addr{netip.MustParseAddr("127.0.0.2")},
	)
	tr := newTransport(t, names, nil)
	target := "http://rebind.example:" + portOf(t, server)

	_, err := get(t, tr, target)
	if err != nil {
		t.Fatalf("first lookup: %v", err)
	}
	for _, want := range []dial.Reason{dial.ReasonMetadata, dial.ReasonRange} {
		_, err = get(t, tr, target)
		if got := reason(t, err); got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
	}
	if requests.Load() != 1 {
		t.Errorf("server saw %d requests, want 1", requests.Load())
	}
}

func TestTransportChecksEachAddressOfAName(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	names := new(dialtest.Names)
	names.Set("mixed.example", []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")})
	_, err := get(t, newTransport(t, names, nil), "http://mixed.example:"+portOf(t, server))
	if err != nil {
		t.Errorf("the allowed address was not tried: %v", err)
	}
}

func TestTransportRequest(t *testing.T) {
	seen := make(chan *http.Request, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	names := new(dialtest.Names)
	names.SetAddress("example.com", "127.0.0.1")
	tr := newTransport(t, names, roots(server))
	res, err := get(t, tr, "https://example.com:"+portOf(t, server))
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusFound {
		t.Errorf("status %d: a redirect was followed", res.StatusCode)
	}
	r := <-seen
	if r.ProtoMajor != 1 {
		t.Errorf("protocol %s, want HTTP/1.1", r.Proto)
	}
	if r.Header.Get("Accept-Encoding") != "" {
		t.Errorf("compression was asked for: %q", r.Header.Get("Accept-Encoding"))
	}
	if tr.Proxy != nil {
		t.Error("a proxy may be taken from the environment")
	}
}

func TestTransportVerifiesCertificates(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	names := new(dialtest.Names)
	names.SetAddress("example.com", "127.0.0.1")
	names.SetAddress("other.test", "127.0.0.1")
	port := portOf(t, server)

	_, err := get(t, newTransport(t, names, nil), "https://example.com:"+port)
	var unverified *tls.CertificateVerificationError
	if !errors.As(err, &unverified) {
		t.Errorf("unknown issuer: %v", err)
	}
	_, err = get(t, newTransport(t, names, roots(server)), "https://other.test:"+port)
	if !errors.As(err, &unverified) {
		t.Errorf("other name: %v", err)
	}
}

func TestTransportRefusesOldTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	server.StartTLS()
	t.Cleanup(server.Close)
	tr, err := dial.NewTransport(dial.TransportConfig{
		Guard: newGuard(t, dial.Config{AllowAddresses: prefixes("127.0.0.1/32")}),
		TLS:   &tls.Config{RootCAs: roots(server), MinVersion: tls.VersionTLS10},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = get(t, tr, server.URL)
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: %v", err)
	}
}

func TestTransportBoundsHeaders(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Filler", strings.Repeat("a", 32<<10))
	}))
	t.Cleanup(server.Close)
	_, err := get(t, newTransport(t, nil, nil), server.URL)
	if err == nil {
		t.Error("32 KiB of headers were read")
	}
}

func TestNewTransportRefusesNonsense(t *testing.T) {
	_, err := dial.NewTransport(dial.TransportConfig{})
	if err == nil {
		t.Error("no error without a guard")
	}
	_, err = dial.NewTransport(dial.TransportConfig{
		Guard: newGuard(t, dial.Config{}),
		TLS:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // that it is refused is what is tested
	})
	if err == nil {
		t.Error("no error for InsecureSkipVerify")
	}
}

func TestTransportCopiesTLS(t *testing.T) {
	own := &tls.Config{}
	_, err := dial.NewTransport(dial.TransportConfig{Guard: newGuard(t, dial.Config{}), TLS: own})
	if err != nil {
		t.Fatal(err)
	}
	if own.MinVersion != 0 {
		t.Error("the caller's TLS settings were changed")
	}
}

func TestNamesUnknown(t *testing.T) {
	_, err := new(dialtest.Names).Resolver().LookupHost(context.Background(), "nobody.example")
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("unknown name: %v", err)
	}
}

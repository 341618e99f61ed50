package dialtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/dial"
)

// HostName is the name of each Host in trouble.
const HostName = "host.example"

// Bounds of what a Host in trouble may cost, whatever it sends.
const (
	maxSentBytes  = 64 << 20 // what fits into the buffers of the sockets comes on top of what is read
	maxAllocBytes = 64 << 20
)

// Host is a server in trouble, as a client of ours meets it.
type Host struct {
	// URL is the server's, https and under HostName.
	URL string

	// Resolver knows HostName. Roots is the issuer of the server's certificate, if that is a good one.
	Resolver *net.Resolver
	Roots    *x509.CertPool

	// Allow are the special-purpose networks that a client is to allow: the server's own.
	Allow []netip.Prefix

	// Denied is why the client must not connect; empty: it may, and what it gets is no answer.
	Denied dial.Reason

	// Redirects says that the answer sends the client elsewhere.
	Redirects bool

	// Packed says that the answer is whole but compressed, which nobody asked for.
	Packed bool

	// Streams says that what comes is an answer that never gets far: whoever only passes it on passes it on.
	Streams bool

	// Timeout is short where the client has to give up, otherwise so long that it never ends.
	Timeout time.Duration

	server   *httptest.Server
	requests atomic.Int64
	sent     atomic.Int64

	mu      sync.Mutex
	reasons []dial.Reason
}

// Transport connects to the host the way that all of the gateway does, past a guard with Allow.
func (h *Host) Transport(t testing.TB) *http.Transport {
	t.Helper()
	guard, err := dial.NewGuard(dial.Config{AllowAddresses: h.Allow, Denied: h.observe})
	if err != nil {
		t.Fatal(err)
	}
	transport, err := dial.NewTransport(dial.TransportConfig{Guard: guard, Resolver: h.Resolver, TLS: &tls.Config{RootCAs: h.Roots}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// Requests counts those that have arrived.
func (h *Host) Requests() int { return int(h.requests.Load()) }

func (h *Host) observe(e *dial.DeniedError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reasons = append(h.reasons, e.Reason)
}

// ObserveReason is for clients that build their transport themselves: it takes the reasons why they did not connect.
func (h *Host) ObserveReason(reason string) {
	h.observe(&dial.DeniedError{Reason: dial.Reason(reason)})
}

// trouble is a kind of Host.
type trouble struct {
	name        string
	handler     func(*Host) http.HandlerFunc
	certificate func(*authority) tls.Certificate // default: a good one
	second      string                           // what the name's second lookup gives; default: the same
	denied      dial.Reason
	streams     bool
	packed      bool
	redirects   bool
	slow        bool
}

// EachTrouble has ask make one request of its kind to each kind of host in trouble, and check what comes of it. It checks
// itself that nothing grew, that no redirect was followed and that nothing was connected that must not be. Tests that run at
// the same time would be measured too, so it is for tests that are not parallel.
func EachTrouble(t *testing.T, ask func(t *testing.T, h *Host)) {
	t.Helper()
	issuer := newAuthority(t)
	for _, kind := range troubles() {
		t.Run(kind.name, func(t *testing.T) {
			h := newTroubled(t, kind, issuer)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ask(t, h)
			runtime.ReadMemStats(&after)
			if sent := h.sent.Load(); sent > maxSentBytes {
				t.Errorf("%d bytes were read from the host", sent)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > maxAllocBytes {
				t.Errorf("%d bytes were allocated", grown)
			}
			if got := h.Requests(); got > 1 || h.Denied != "" && got > 0 {
				t.Errorf("the host was asked %d times", got)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.Denied != "" && len(h.reasons) == 0 {
				t.Error("nobody was told that an address was denied")
			}
			for _, reason := range h.reasons {
				if reason != h.Denied {
					t.Errorf("denied for %q, want %q", reason, h.Denied)
				}
			}
		})
	}
}

func troubles() []trouble {
	bomb := sync.OnceValue(compressedZeros)
	fixed := func(handler http.HandlerFunc) func(*Host) http.HandlerFunc {
		return func(*Host) http.HandlerFunc { return handler }
	}
	empty := fixed(func(http.ResponseWriter, *http.Request) {})
	return []trouble{
		{name: "name that rebinds to a metadata service", second: "169.254.169.254", denied: dial.ReasonMetadata, handler: empty},
		{name: "name that rebinds to this machine", second: "127.0.0.2", denied: dial.ReasonRange, handler: empty},
		{name: "name that rebinds to the inner network", second: "10.0.0.1", denied: dial.ReasonRange, handler: empty},
		{name: "redirect to a metadata service", redirects: true, handler: fixed(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		})},
		{name: "redirects without an end", redirects: true, handler: fixed(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		})},
		{name: "gzip bomb", packed: true, handler: func(h *Host) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Type", "application/json")
				h.write(w, bomb())
			}
		}},
		{name: "a gigabyte", streams: true, handler: func(h *Host) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { h.writeGigabyte(w) }
		}},
		{name: "a gigabyte that is announced", streams: true, handler: func(h *Host) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1073741824")
				h.writeGigabyte(w)
			}
		}},
		{name: "a byte at a time", slow: true, streams: true, handler: func(h *Host) http.HandlerFunc { return h.drip }},
		{name: "no answer", slow: true, handler: fixed(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not see the client go
			gone(r)
		})},
		{name: "a megabyte of headers", handler: fixed(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Filler", string(bytes.Repeat([]byte("a"), 1<<20)))
		})},
		{name: "answer that breaks off", streams: true, handler: fixed(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})},
		{name: "expired certificate", handler: empty, certificate: func(a *authority) tls.Certificate {
			return a.issue(HostName, time.Now().Add(-time.Hour))
		}},
		{name: "certificate of another host", handler: empty, certificate: func(a *authority) tls.Certificate {
			return a.issue("other.example", time.Now().Add(time.Hour))
		}},
		{name: "self-signed certificate", handler: empty, certificate: func(a *authority) tls.Certificate { return a.selfSigned(HostName) }},
	}
}

// PlainHosts starts those hosts whose trouble is in what they answer, by plain http on the loopback interface, for tests of the
// whole gateway. They are by the names of their troubles.
func PlainHosts(t testing.TB) map[string]*Host {
	t.Helper()
	hosts := map[string]*Host{}
	for _, kind := range troubles() {
		if kind.certificate != nil || kind.second != "" {
			continue
		}
		h := unstarted(kind)
		h.server.Start()
		t.Cleanup(h.close)
		h.URL = h.server.URL
		hosts[kind.name] = h
	}
	return hosts
}

// Sent is how many bytes of bodies were taken from the host.
func (h *Host) Sent() int64 { return h.sent.Load() }

func unstarted(kind trouble) *Host {
	h := &Host{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Denied: kind.denied,
		Streams: kind.streams, Packed: kind.packed, Redirects: kind.redirects, Timeout: time.Minute,
	}
	if kind.slow {
		h.Timeout = 200 * time.Millisecond
	}
	handler := kind.handler(h)
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		handler(w, r)
	}))
	h.server.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are wanted
	return h
}

func (h *Host) close() {
	h.server.CloseClientConnections()
	h.server.Close()
}

func newTroubled(t *testing.T, kind trouble, issuer *authority) *Host {
	t.Helper()
	h := unstarted(kind)
	h.Roots = issuer.roots()
	certificate := issuer.issue(HostName, time.Now().Add(time.Hour))
	if kind.certificate != nil {
		certificate = kind.certificate(issuer)
	}
	h.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	h.server.StartTLS()
	t.Cleanup(h.close)
	address := netip.MustParseAddrPort(h.server.Listener.Addr().String())
	h.URL = "https://" + net.JoinHostPort(HostName, portText(address))

	names := new(Names)
	names.SetAddress(HostName, address.Addr().String())
	if kind.second != "" {
		names.Set(HostName, []netip.Addr{address.Addr()}, []netip.Addr{netip.MustParseAddr(kind.second)})
	}
	h.Resolver = names.Resolver()
	if kind.second != "" {
		// Whoever looks first finds nothing wrong.
		found, err := h.Resolver.LookupHost(context.Background(), HostName)
		if err != nil || len(found) != 1 || found[0] != address.Addr().String() {
			t.Fatalf("first lookup: %v, %v", found, err)
		}
	}
	return h
}

func (h *Host) write(w io.Writer, data []byte) bool {
	n, err := w.Write(data)
	h.sent.Add(int64(n))
	return err == nil
}

func (h *Host) writeGigabyte(w io.Writer) {
	chunk := bytes.Repeat([]byte(" "), 64<<10)
	for range (1 << 30) / len(chunk) {
		if !h.write(w, chunk) {
			return
		}
	}
}

// drip writes bytes slowly enough for the answer never to end, and quickly enough that something always comes.
func (h *Host) drip(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for h.write(w, []byte(" ")) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			gone(r)
		case <-ticker.C:
		}
	}
}

// gone waits until the client has given up, and ends without an answer: a client that says goodbye by TLS before it closes
// could otherwise still read that the answer has ended well.
func gone(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// compressedZeros are 256 MiB: a megabyte time and again, which is one stream (RFC 1952 §2.2).
func compressedZeros() []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(make([]byte, 1<<20))
	_ = w.Close()
	return bytes.Repeat(packed.Bytes(), 256)
}

package did

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestFetch(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	seen := make(chan *http.Request, 1)
	body := testkit.JSON(t, documentOf(t, h.did(), "k", key))
	h.handle(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header()["Content-Type"] = nil // as the test kit of Data Plane Signaling
		_, _ = w.Write(body)
	})
	b := newBench(t, nil, h)
	got, err := b.ResolveKey(context.Background(), h.did(), h.did()+"#k")
	wantKey(t, got, err, key)
	r := <-seen
	if r.Method != http.MethodGet || r.RequestURI != "/.well-known/did.json" || r.Host != fmt.Sprintf("%s:%d", walletName, h.port) {
		t.Errorf("request %s %s to %s", r.Method, r.RequestURI, r.Host)
	}
	if got := r.Header.Get("Accept-Encoding"); got != "identity" {
		t.Errorf("Accept-Encoding %q", got)
	}
	if got := b.results.all(); !slices.Equal(got, []string{ResultOK}) {
		t.Errorf("results %v", got)
	}
}

func TestFetchPath(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	did := h.did() + ":BPNL00000000000A:wallet"
	body := testkit.JSON(t, documentOf(t, did, "k", key))
	h.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI != "/BPNL00000000000A/wallet/did.json" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(body)
	})
	got, err := newBench(t, nil, h).ResolveKey(context.Background(), did, "#k")
	wantKey(t, got, err, key)
}

// The set-up of the test kit of Data Plane Signaling: did:web:localhost%3A8083 by plain http.
func TestFetchPlainHTTP(t *testing.T) {
	h := newPlainHost(t)
	did, key := h.didOf("localhost"), testkit.ECKey(t)
	h.serve(t, documentOf(t, did, "k", key))
	b := newBench(t, func(c *Config) {
		c.AllowHTTP = []string{fmt.Sprintf("localhost:%d", h.port)}
		c.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
		c.NameServer = nil // the name is in every hosts file
	})
	got, err := b.ResolveKey(context.Background(), did, did+"#k")
	wantKey(t, got, err, key)
}

// Every way in which a host can fail is "cannot tell", and no key comes of it.
func TestFetchFailures(t *testing.T) {
	key := testkit.ECKey(t)
	for _, c := range []struct {
		name    string
		handler func(did string) http.HandlerFunc
		want    Code
	}{
		{"not found", answer(http.StatusNotFound), CodeStatus},
		{"gone", answer(http.StatusGone), CodeStatus},
		{"unauthorized", answer(http.StatusUnauthorized), CodeStatus},
		{"too many requests", answer(http.StatusTooManyRequests), CodeStatus},
		{"server error", answer(http.StatusInternalServerError), CodeStatus},
		{"no content", answer(http.StatusNoContent), CodeStatus},
		{"partial content", func(did string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(testkit.JSON(t, documentOf(t, did, "k", key)))
			}
		}, CodeStatus},
		{"redirect to itself", redirect("/other/did.json"), CodeRedirect},
		{"redirect inside", redirect("http://169.254.169.254/latest/meta-data/"), CodeRedirect},
		{"redirect with the document", func(did string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/x")
				w.WriteHeader(http.StatusTemporaryRedirect)
				_, _ = w.Write(testkit.JSON(t, documentOf(t, did, "k", key)))
			}
		}, CodeRedirect},
		{"not modified", answer(http.StatusNotModified), CodeRedirect},
		{"HTML", text("<html>login</html>"), CodeUnparsable},
		{"empty", text(""), CodeUnparsable},
		{"compressed", func(did string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = z.Write(testkit.JSON(t, documentOf(t, did, "k", key)))
				_ = z.Close()
			}
		}, CodeUnparsable},
		{"one byte too large", func(did string) http.HandlerFunc {
			doc := testkit.JSON(t, documentOf(t, did, "k", key))
			return text(string(doc) + strings.Repeat(" ", maxDocumentBytes-len(doc)+1))(did)
		}, CodeTooLarge},
		{"declared large", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1073741824") }
		}, CodeTooLarge},
		{"huge headers", func(did string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Filler", strings.Repeat("a", 64<<10))
				_, _ = w.Write(testkit.JSON(t, documentOf(t, did, "k", key)))
			}
		}, CodeConnect},
		{"cut off", func(did string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10000")
				_, _ = w.Write(testkit.JSON(t, documentOf(t, did, "k", key)))
			}
		}, CodeConnect},
		{"connection dropped", func(string) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, CodeConnect},
		{"no answer", func(string) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, CodeTimeout},
		{"body without end", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte("{"))
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}
		}, CodeTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.handle(c.handler(h.did()))
			b := newBench(t, nil, h)
			got, err := b.ResolveKey(context.Background(), h.did(), "#k")
			e := wantCode(t, err, c.want)
			if e.Refused() || got != nil {
				t.Errorf("a failing host counts as a no: %v", err)
			}
			h.wantRequests(t, 1)
			if got := b.results.all(); !slices.Equal(got, []string{string(c.want)}) {
				t.Errorf("results %v", got)
			}
		})
	}
}

func answer(status int) func(string) http.HandlerFunc {
	return func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
}

func redirect(to string) func(string) http.HandlerFunc {
	return func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
}

func text(s string) func(string) http.HandlerFunc {
	return func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) }
	}
}

func TestFetchLargestDocument(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	doc := testkit.JSON(t, documentOf(t, h.did(), "k", key))
	h.handle(text(string(doc) + strings.Repeat(" ", maxDocumentBytes-len(doc)))(""))
	got, err := newBench(t, nil, h).ResolveKey(context.Background(), h.did(), "#k")
	wantKey(t, got, err, key)
}

// A host that would send a gigabyte gets rid of no more than what fits into buffers.
func TestFetchOfAGigabyte(t *testing.T) {
	h := newHost(t)
	var sent atomic.Int64
	ended := make(chan struct{})
	h.handle(func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		chunk := make([]byte, 64<<10)
		for sent.Load() < 1<<30 {
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	_, err := newBench(t, nil, h).ResolveKey(context.Background(), h.did(), "#k")
	wantCode(t, err, CodeTooLarge)
	<-ended
	if sent.Load() > 64<<20 {
		t.Errorf("the host could send %d bytes", sent.Load())
	}
}

func TestFetchTLS(t *testing.T) {
	for name, c := range map[string]func(*host, *Config){
		"unknown issuer": func(_ *host, c *Config) { c.RootCAs = nil },
		"old version": func(h *host, _ *Config) {
			h.server.TLS.MaxVersion = tls.VersionTLS11
			h.server.TLS.MinVersion = tls.VersionTLS10
		},
		"certificate for others": func(*host, *Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t)
			h.server.TLS = &tls.Config{Certificates: []tls.Certificate{hostIdentity().certificate}}
			b := newBench(t, func(cfg *Config) { c(h, cfg) })
			h.server.StartTLS()
			h.port = portOf(t, h.server)
			b.reach.ports[fmt.Sprint(h.port)] = true
			did := h.did()
			if name == "certificate for others" {
				b.names.SetAddress("other.example", "127.0.0.1")
				did = h.didOf("other.example")
			}
			h.serve(t, documentOf(t, did, "k", testkit.ECKey(t)))
			_, err := b.ResolveKey(context.Background(), did, "#k")
			wantCode(t, err, CodeTLS)
			h.wantRequests(t, 0)
		})
	}
}

// A host that speaks plain http is not asked by plain http instead.
func TestFetchNeverFallsBack(t *testing.T) {
	h := newPlainHost(t)
	h.serve(t, documentOf(t, h.did(), "k", testkit.ECKey(t)))
	_, err := newBench(t, nil, h).ResolveKey(context.Background(), h.did(), "#k")
	e := wantCode(t, err, CodeTLS)
	if e.Refused() {
		t.Error("refused")
	}
	h.wantRequests(t, 0)
}

func TestFetchUnreachable(t *testing.T) {
	h := newHost(t)
	b := newBench(t, nil, h)
	_, err := b.ResolveKey(context.Background(), h.didOf("unknown.example"), "#k")
	wantCode(t, err, CodeDNS)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	b.reach.ports[fmt.Sprint(port)] = true
	_, err = b.ResolveKey(context.Background(), fmt.Sprintf("did:web:%s%%3A%d", walletName, port), "#k")
	wantCode(t, err, CodeConnect)
}

func TestFetchDenied(t *testing.T) {
	h := newHost(t)
	h.serve(t, documentOf(t, h.did(), "k", testkit.ECKey(t)))
	for _, c := range []struct {
		name, address string
		change        func(*Config)
		reason        string // of the dial, empty where none was tried
	}{
		{"loopback", "127.0.0.1", func(c *Config) { c.AllowAddresses = nil }, "range"},
		{"private", "10.0.0.1", nil, "range"},
		{"metadata", "169.254.169.254", func(c *Config) {
			c.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}, "metadata"},
		{"metadata by IPv6", "fd00:ec2::254", func(c *Config) {
			c.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("::/0")}
		}, "metadata"},
		{"own administration", "127.0.0.1", func(c *Config) {
			c.DenyEndpoints = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), h.port)}
		}, "endpoint"},
		{"port", "127.0.0.1", func(c *Config) { c.AllowPorts = nil }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var reasons []string
			b := newBench(t, func(cfg *Config) {
				cfg.Denied = func(reason string) { reasons = append(reasons, reason) }
				if c.change != nil {
					c.change(cfg)
				}
			}, h)
			b.names.SetAddress(walletName, c.address)
			_, err := b.ResolveKey(context.Background(), h.did(), "#k")
			e := wantCode(t, err, CodeDenied)
			if e.Refused() {
				t.Error("our own setting counts as the wallet's no")
			}
			if c.reason != "" && !slices.Equal(reasons, []string{c.reason}) {
				t.Errorf("reasons %v, want %s", reasons, c.reason)
			}
		})
	}
	h.wantRequests(t, 0)
}

// DNS rebinding: the name was checked when the first document was fetched, and points inside for the second.
func TestFetchSeesRebinding(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key), "Connection", "close")
	b := newBench(t, func(c *Config) { c.StaleIfError = -1 }, h)
	b.names.Set(walletName,
		[]netip.Addr{netip.MustParseAddr("127.0.0.1")},
		[]netip.Addr{netip.MustParseAddr("127.0.0.2")},
	)
	got, err := b.ResolveKey(context.Background(), h.did(), "#k")
	wantKey(t, got, err, key)
	b.clock.Advance(time.Hour)
	_, err = b.ResolveKey(context.Background(), h.did(), "#k")
	wantCode(t, err, CodeDenied)
	if n := b.names.Lookups(walletName); n != 2 {
		t.Errorf("%d lookups, want 2", n)
	}
	h.wantRequests(t, 1)
}

func TestFetchSurvivesAPanic(t *testing.T) {
	h := newHost(t)
	h.serve(t, documentOf(t, h.did(), "k", testkit.ECKey(t)))
	b := newBench(t, nil, h)
	b.slots = nil // the first thing that a fetch uses
	_, err := b.ResolveKey(context.Background(), h.did(), "#k")
	e := wantCode(t, err, CodeInternal)
	if e.Refused() {
		t.Error("our own fault counts as the wallet's no")
	}
}

func TestFetchResultsAreListed(t *testing.T) {
	for _, c := range []Code{
		CodeOtherID, CodeDenied, CodeDNS, CodeConnect, CodeTLS, CodeTimeout, CodeRedirect, CodeStatus, CodeTooLarge,
		CodeUnparsable, CodeBusy, CodeCanceled, CodeClosed, CodeInternal, ResultOK,
	} {
		if !slices.Contains(FetchResults(), string(c)) {
			t.Errorf("%q is not listed", c)
		}
	}
}

func TestErrorChain(t *testing.T) {
	cause := errors.New("cause")
	err := error(parsed(t, "did:web:a.example").fail(CodeConnect, cause))
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
	if got, want := err.Error(), "resolve did:web:a.example: connect: cause"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

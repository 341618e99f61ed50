package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/internal/canonical"
)

// rawBackend reads request lines off its connections byte by byte, with no URL parser of Go's in between.
type rawBackend struct {
	listener net.Listener
	targets  chan string
}

func newRawBackend(tb testing.TB) *rawBackend {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	b := &rawBackend{listener: listener, targets: make(chan string, 64)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.serve(conn)
		}
	}()
	return b
}

func (b *rawBackend) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return
		}
		for header := line; header != "\r\n"; {
			header, err = reader.ReadString('\n')
			if err != nil {
				return
			}
		}
		b.targets <- strings.TrimSuffix(line, "\r\n")
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if err != nil {
			return
		}
	}
}

func (b *rawBackend) hostport() string { return b.listener.Addr().String() }

// reachedHeader is on each answer whose request was not refused by net/http.
const reachedHeader = "X-Reached"

// authorisedPaths tells, after each request, which path was decided on; empty: none was let in.
type authorisedPaths struct {
	inner caddyhttp.MiddlewareHandler
	paths chan string
}

func (a *authorisedPaths) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	w.Header().Set(reachedHeader, "1")
	err := a.inner.ServeHTTP(w, r, next)
	admitted, ok := caddyhttp.GetVar(r.Context(), grantVar).(*grant)
	if !ok {
		a.paths <- ""
		return err
	}
	a.paths <- admitted.path
	return err
}

// FuzzBackendSeesTheAuthorisedPath sends request targets, as they are, through Caddy's own chain of handlers to a backend
// that reads its socket. For every target that is let in: the backend's path is the one that was decided on, below its own
// base with edr_proxy, and no way of reading it that servers are known for leads out of what the token opens.
func FuzzBackendSeesTheAuthorisedPath(f *testing.F) {
	for _, target := range []string{
		"/ds1", "/ds1/", "/ds1/a/../b", "/ds1/../ds2", "/ds1/%2e%2e/ds2", "/ds1/..%2fds2", "/ds1/..%252fds2", "/ds1//a", "//ds1/a",
		"/ds1/a%2Fb%2fc", "/ds1/a%25b", "/ds1/a;v=1/b", "/ds1/..;/x", "/ds1/..%3B/x", "/ds1/%5C..%5Cx", "/ds1\\..\\x", "/ds1/a%00b",
		"/ds1/a\x00b", "/ds1/\xff", "/ds1/%ff", "/ds1/%c0%ae%c0%ae/x", "/ds1/\xc3\xa4", "/ds1/[x]|y", "/ds1/a?b=/../c", "/ds1/a#b", "/ds1/a%23b%3Fc",
		"http://" + dataHost + "/ds1/x", "http://evil.example/ds1/x", "x:http://evil.example/x", "*", "", "/ds1/" + strings.Repeat("a", 9000), "/ds1/./././x/",
		"/ds1/a%2F..%2F..%2Fds2", "/ds1/x%2F../../ds2", "/ds1/x//../../ds2", "/ds1/%252e%252e/ds2", "/ds1/%25252e", "/DS1/x", "/%64s1/x", "/ds1/%",
	} {
		f.Add(target, byte(0)) // every option off
		f.Add(target, byte(7)) // every option on
	}
	w := newDataWorld(f)
	backend := newRawBackend(f)
	token := w.classicFlowAt("http://"+dataHost+"/ds1", typeHTTPData, proxied("http://"+backend.hostport()+"/base/v1"))
	authorised := make(chan string, 1)
	observed := func(name string, h caddyhttp.MiddlewareHandler, provision func(caddy.Context) error) object {
		underTest[name] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) {
			return &authorisedPaths{h, authorised}, provision(ctx)
		}
		return object{"handler": "edrgate_test", "name": name}
	}
	var routes []object
	for bits := range byte(8) {
		options := GateOptions{AllowEncodedSlash: bits&1 != 0, AllowEncodedPercent: bits&2 != 0, AllowDoubleSlash: bits&4 != 0}
		auth := &Auth{AnyDataset: true, GateOptions: options}
		proxy := &Proxy{Backends: []string{backend.hostport()}, GateOptions: options}
		site := func(directive string) []object {
			return []object{{"header": object{"X-Site": []string{fmt.Sprint(directive, bits)}}}}
		}
		routes = append(routes,
			object{"match": site("auth"), "handle": []object{
				observed(fmt.Sprint("auth", bits), auth, func(ctx caddy.Context) error { return auth.provision(ctx, w.app) }),
				reverseProxyTo(backend.hostport()),
			}},
			object{"match": site("proxy"), "handle": []object{
				observed(fmt.Sprint("proxy", bits), proxy, func(ctx caddy.Context) error { return proxy.provision(ctx, w.app) }),
			}})
	}
	w.run(object{"routes": routes, "max_header_bytes": 1 << 20})

	f.Fuzz(func(t *testing.T, target string, bits byte) {
		if strings.ContainsAny(target, "\r\n") {
			return // ends the request line: what follows is a header or another request, and not of the target
		}
		bits %= 8
		for directive, base := range map[string]string{"auth": "/ds1", "proxy": "/base/v1"} {
			status, reached := w.exchange(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nX-Site: %s%d\r\nAuthorization: %s\r\nConnection: close\r\n\r\n",
				target, dataHost, directive, bits, token))
			decided := ""
			if reached {
				decided = <-authorised
			}
			if status != http.StatusOK {
				if len(backend.targets) > 0 {
					t.Fatalf("%s: refused with %d, and the backend got %q", directive, status, <-backend.targets)
				}
				continue
			}
			line := <-backend.targets
			got, ok := strings.CutPrefix(line, "GET ")
			got, okay := strings.CutSuffix(got, " HTTP/1.1")
			if !ok || !okay || strings.ContainsAny(got, " \t") || len(backend.targets) > 0 {
				t.Fatalf("%s: the backend got %q and %d more", directive, line, len(backend.targets))
			}
			seen, _, _ := strings.Cut(got, "?")
			below, inside := canonical.Under(decided, "/ds1")
			if !inside {
				t.Fatalf("%s: %q was let in as %q, outside of the endpoint", directive, target, decided)
			}
			want := decided
			if directive == "proxy" {
				want = base + below
				if below == "/" {
					want = base
				}
			}
			if seen != want {
				t.Fatalf("%s: %q was let in as %q, and the backend got %q, want %q", directive, target, decided, seen, want)
			}
			for reader, read := range readers {
				as, ok := read(seen)
				if ok && as != base && !strings.HasPrefix(as, base+"/") {
					t.Fatalf("%s: %q: the backend got %q, which is %q for %s", directive, target, seen, as, reader)
				}
			}
		}
	})
}

// exchange sends a request over a connection of its own and returns the status of the answer, and whether a handler was
// reached.
func (w *dataWorld) exchange(tb testing.TB, request string) (status int, reached bool) {
	tb.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.WriteString(conn, request)
	if err != nil {
		tb.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res.StatusCode, res.Header.Get(reachedHeader) != ""
}

// readers are how servers make a resource of a path, each with a habit of its own. false: it refuses the path.
var readers = map[string]func(string) (string, bool){
	"one that takes it as it is": func(p string) (string, bool) { return p, true },
	"one that resolves it":       func(p string) (string, bool) { return resolve(p), true },
	"one that decodes it first":  func(p string) (string, bool) { return decodeAndResolve(p, 1) },
	"one that decodes it twice":  func(p string) (string, bool) { return decodeAndResolve(p, 2) },
	"one that cuts parameters": func(p string) (string, bool) { // servlet containers
		segments := strings.Split(p, "/")
		for i, segment := range segments {
			segments[i], _, _ = strings.Cut(segment, ";")
		}
		return decodeAndResolve(strings.Join(segments, "/"), 1)
	},
	"one that cuts parameters after it has decoded": func(p string) (string, bool) {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			return "", false
		}
		segments := strings.Split(decoded, "/")
		for i, segment := range segments {
			segments[i], _, _ = strings.Cut(segment, ";")
		}
		return resolve(strings.Join(segments, "/")), true
	},
	"one for which a backslash is a slash": func(p string) (string, bool) {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			return "", false
		}
		return resolve(strings.ReplaceAll(decoded, `\`, "/")), true
	},
	"one that ends it at NUL": func(p string) (string, bool) {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			return "", false
		}
		decoded, _, _ = strings.Cut(decoded, "\x00")
		return resolve(decoded), true
	},
}

func decodeAndResolve(p string, times int) (string, bool) {
	for range times {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			return "", false
		}
		p = decoded
	}
	return resolve(p), true
}

// resolve merges slashes and resolves dots, and leaves no slash at the end.
func resolve(p string) string { return path.Clean("/" + p) }

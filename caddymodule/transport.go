package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/tokens"
)

// Results of asking a backend.
const (
	backendAnswered      = "answered"
	backendRejected      = "rejected"      // it did not accept us, or answered what cannot be passed on
	backendUnreachable   = "unreachable"   // no answer
	backendDenied        = "denied"        // not in backends, or an address that is never dialled
	backendMisconfigured = "misconfigured" // the flow's address does not fit the configuration any more
	backendTokenRefused  = "token_refused" // it was not asked: its authorization server gives us no token
	backendTokenMissing  = "token_missing" // it was not asked: whether there is a token cannot be told now
)

// delivery is one request on its way to a backend.
type delivery struct {
	grant   *grant
	target  *target
	below   string // canonical path below the flow's endpoint
	shape   shape
	writer  http.ResponseWriter // for what concerns the connection to the client
	token   tokens.Secret       // that the backend wants of us; empty: none
	cookies bool                // of the backend pass
}

// String returns the flow's id: the request variable that holds a delivery can be printed.
func (d *delivery) String() string { return d.grant.String() }

// deliveryVar is the name of Caddy's request variable that holds the delivery.
const deliveryVar = "edr.delivery"

// flowTransport sends each request to its flow's backend. It stands behind Caddy's reverse proxy, so what it adds,
// credentials above all, is in no log, placeholder or header operation of Caddy.
type flowTransport struct {
	backends *backendList
	headers  map[string]bool // request headers that pass beside those that always do
	flatten  bool
	observer dataObserver
	next     http.RoundTripper
	tokens   *authserver.Source // of the backends' authorization servers, which are listed in backends too
	idle     []*http.Transport
}

// transportSettings are what the operator can choose.
type transportSettings struct {
	dialTimeout           time.Duration
	responseHeaderTimeout time.Duration
	tls                   *tls.Config
	resolver              *net.Resolver // nil: the system's
}

const (
	defaultDialTimeout           = 3 * time.Second
	defaultResponseHeaderTimeout = 30 * time.Second
	backendHeaderBytes           = 64 << 10
	backendIdleTimeout           = 90 * time.Second
	backendIdleConns             = 1024
	backendIdleConnsPerHost      = 256
)

func newFlowTransport(backends *backendList, s transportSettings, headers map[string]bool, flatten bool, observer dataObserver) (*flowTransport, error) {
	if s.dialTimeout == 0 {
		s.dialTimeout = defaultDialTimeout
	}
	if s.responseHeaderTimeout == 0 {
		s.responseHeaderTimeout = defaultResponseHeaderTimeout
	}
	config := dial.TransportConfig{
		Resolver:               s.resolver,
		DialTimeout:            s.dialTimeout,
		TLSHandshakeTimeout:    s.dialTimeout,
		ResponseHeaderTimeout:  s.responseHeaderTimeout,
		IdleConnTimeout:        backendIdleTimeout,
		MaxResponseHeaderBytes: backendHeaderBytes,
		MaxIdleConns:           backendIdleConns,
		MaxIdleConnsPerHost:    backendIdleConnsPerHost,
		TLS:                    s.tls,
	}
	next, err := backends.transport(connectionBackend, observer, config)
	if err != nil {
		return nil, err
	}
	forTokens, err := backends.transport(connectionToken, observer, config)
	if err != nil {
		return nil, err
	}
	return &flowTransport{
		backends: backends, headers: headers, flatten: flatten, observer: observer, next: next,
		tokens: authserver.New(authserver.Config{Transport: forTokens}), idle: []*http.Transport{next, forTokens},
	}, nil
}

// bare hides the values of a context and keeps its end. Caddy's proxy hangs a hook for 1xx answers on it, which would
// hand a backend's 103 with Set-Cookie and Server to the client past this transport.
type bare struct{ context.Context }

func (bare) Value(any) any { return nil }

var (
	errNoDelivery = errors.New("request without a flow: only edr_proxy may use this transport")
	errRejected   = errors.New("the backend did not accept the gateway's request")
)

// RoundTrip implements http.RoundTripper.
func (t *flowTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	d, ok := caddyhttp.GetVar(req.Context(), deliveryVar).(*delivery)
	if !ok {
		return nil, caddyhttp.Error(http.StatusInternalServerError, errNoDelivery)
	}
	if !t.backends.allows(d.target.origin) {
		t.observer.Backend(backendDenied)
		return nil, caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("%s: %w", d.target, errNotInBackends))
	}
	out, err := t.outgoing(req, d)
	if err != nil {
		t.observer.Backend(backendMisconfigured)
		return nil, caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("%s: %w", d.target, err))
	}
	body := &watchedBody{ReadCloser: out.Body}
	expects := out.Body != nil && req.Header.Get("Expect") != ""
	if expects {
		out.Body = body
	}
	res, err := t.next.RoundTrip(out)
	if expects && !body.read.Load() || out.Body == nil {
		// Whatever is answered now, the client's body stays where it is.
		leaveBody(d.writer, req)
	}
	if err != nil {
		return nil, t.failure(err)
	}
	return t.answer(req, out, res, d)
}

// watchedBody notes that reading has begun, which is what tells the client to send its body.
type watchedBody struct {
	io.ReadCloser
	read atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

// outgoing makes the request to the backend. It is a copy with headers of its own: Caddy logs the request it gave us
// after the round trip.
func (t *flowTransport) outgoing(req *http.Request, d *delivery) (*http.Request, error) {
	u, err := d.target.url(d.below, req.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	out := req.WithContext(bare{req.Context()})
	out.URL = u
	out.Host = d.target.host
	out.RequestURI = ""
	out.Method = d.shape.method
	out.Trailer = nil
	if !d.shape.body {
		out.Body, out.ContentLength, out.TransferEncoding = nil, 0, nil
	}
	out.Header = t.header(req.Header, d)
	return out, nil
}

// header is what the backend gets to see. in has a User-Agent in any case, an empty one if the client sent none, so that
// net/http does not add its own. The plane that this one takes the place of forwards no header of the
// consumer, so backends may trust whatever they see: only names that mean no more than the request itself pass.
func (t *flowTransport) header(in http.Header, d *delivery) http.Header {
	out := make(http.Header, len(in)+len(d.target.headers)+2)
	for name, values := range in {
		if t.passes(name, d) {
			out[name] = values
		}
	}
	clientType, hasType := out["Content-Type"]
	d.grant.assert(out)
	for _, h := range d.target.headers {
		out[h.name] = h.values
	}
	if d.token != "" {
		// In place of any other Authorization that the address names, as EDC has it.
		out["Authorization"] = []string{"Bearer " + d.token.Reveal()} // RFC 6750 §2.1
	}
	switch {
	case hasType:
		out["Content-Type"] = clientType
	case d.shape.body && d.target.contentType != "":
		out["Content-Type"] = []string{d.target.contentType}
	}
	return out
}

func (t *flowTransport) passes(name string, d *delivery) bool {
	if contentHeaders[name] {
		return d.shape.body
	}
	if t.flattens(d) && (name == "Range" || strings.HasPrefix(name, "If-")) {
		// Flattened, 206 and 304 would pass for a whole answer.
		return false
	}
	return forwardedByDefault(name) || t.headers[name]
}

func (t *flowTransport) flattens(d *delivery) bool { return t.flatten && d.target.flat }

// contentHeaders describe a body and go with it. Content-Length is set from the request itself.
var contentHeaders = map[string]bool{
	"Content-Type":     true,
	"Content-Encoding": true,
	"Content-Language": true,
	"Expect":           true, // RFC 9110 §10.1.1: so that a backend can refuse a body before it is sent
}

// forwardedByDefault reports whether a request header always passes.
func forwardedByDefault(canonicalName string) bool {
	switch canonicalName {
	case "Accept", "Content-Type", "Content-Encoding", "Content-Language", "Range", "Prefer", "Traceparent", "Tracestate", "User-Agent":
		return true
	}
	return strings.HasPrefix(canonicalName, "Accept-") || strings.HasPrefix(canonicalName, "If-")
}

// allowedHeaders reads the option request_headers.
func allowedHeaders(names []string) (map[string]bool, error) {
	allowed := map[string]bool{}
	for _, name := range names {
		if !isToken(name) {
			return nil, fmt.Errorf("request_headers: %q is not a header name", name)
		}
		canonicalName := textproto.CanonicalMIMEHeaderKey(name)
		if isConnectionHeader(canonicalName) || canonicalName == "Host" || (identityRules{}).drops(canonicalName, false) {
			return nil, fmt.Errorf("request_headers: %s is never forwarded", canonicalName)
		}
		allowed[canonicalName] = true
		allowed[strings.ToLower(canonicalName)] = true // see keepFromRepeats
	}
	return allowed, nil
}

// failure prepares an error of the round trip for Caddy, which answers 502, 504 for a timeout, and 499 for a client
// that gave up. Its text names an address, never a URL.
func (t *flowTransport) failure(err error) error {
	if isDenied(err) {
		t.observer.Backend(backendDenied)
		return caddyhttp.Error(http.StatusBadGateway, err)
	}
	if !errors.Is(err, context.Canceled) {
		t.observer.Backend(backendUnreachable)
	}
	return err
}

// isDenied reports whether it was our rules that kept a connection from being made.
func isDenied(err error) bool {
	var denied *dial.DeniedError
	return errors.As(err, &denied) || errors.Is(err, errNotInBackends)
}

// CloseIdleConnections closes what no request uses.
func (t *flowTransport) CloseIdleConnections() { closeIdle(t.idle) }

// Interface guard
var _ http.RoundTripper = (*flowTransport)(nil)

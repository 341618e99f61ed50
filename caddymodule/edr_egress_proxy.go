package caddymodule

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/oauth"
)

// outgoing is a request for a data plane, as the data plane is to see it. Its URL has no host.
type outgoing struct {
	*http.Request
	id     string // of the EDR
	edrs   *edrs
	writer http.ResponseWriter // for what concerns the connection to the client
	body   *uploadedBody       // nil: there is none

	// refusal is the answer of our own, where there is none of the data plane. nil also where nobody is left to be answered.
	refusal *oauth.Refusal
}

// String returns the EDR's id: the request variable that holds an outgoing can be printed.
func (o *outgoing) String() string { return o.id }

// outgoingVar is the name of Caddy's request variable that holds the outgoing.
const outgoingVar = "edr.outgoing"

// newOutgoing makes the request that a client's becomes.
func newOutgoing(r *http.Request, id string, u *url.URL) *outgoing {
	out := r.WithContext(r.Context())
	out.URL = u
	out.Header = egressHeader(r.Header)
	out.Trailer, out.TransferEncoding, out.Close = nil, nil, false // of the client's connection
	to := &outgoing{Request: out, id: id}
	if r.ContentLength == 0 {
		out.Body = http.NoBody
		return to
	}
	to.body = &uploadedBody{ReadCloser: out.Body}
	out.Body = to.body
	return to
}

// uploadedBody is the body of a client. It notes when all of it has been read.
type uploadedBody struct {
	io.ReadCloser
	ended atomic.Bool
}

func (b *uploadedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// answersEarly lets an answer begin before the request has ended. Then net/http leaves the rest of the body where it is, and
// cannot see behind Caddy's body reader that it has to give up the connection for that: it would take what a client has
// written into its body for the next request, perhaps of somebody else's behind the same proxy (RFC 9112 §11.2).
func (o *outgoing) answersEarly() {
	if o.body == nil || o.body.ended.Load() || o.ProtoMajor != 1 {
		return
	}
	o.writer.Header().Set("Connection", "close") // RFC 9112 §9.6
	// Where that cannot be had there is nothing to enable.
	_ = http.NewResponseController(o.writer).EnableFullDuplex()
}

// newEgressProxy returns Caddy's proxy with the transport of EDRs. It is built in code rather than from configuration, so
// that nothing can add retries, buffers or header operations.
func newEgressProxy(ctx caddy.Context, door *EDRDoor) (*reverseproxy.Handler, error) {
	inner := &reverseproxy.Handler{
		Transport:        egressTransport{door},
		DynamicUpstreams: egressUpstreams{},
		FlushInterval:    -1, // each piece as it comes, where there is a Content-Length too
	}
	err := inner.Provision(ctx)
	if err != nil {
		return nil, err
	}
	return inner, nil
}

// egressUpstreams tells Caddy's proxy where a request goes, for its placeholders and logs: to a name that never resolves (RFC
// 6761 §6.4). The address is the EDR's, known only when it has been looked up, and a provider's text has no place in what
// Caddy replaces placeholders in.
type egressUpstreams struct{}

const egressUpstream = "edr.invalid:443"

// GetUpstreams implements reverseproxy.UpstreamSource.
func (egressUpstreams) GetUpstreams(*http.Request) ([]*reverseproxy.Upstream, error) {
	return []*reverseproxy.Upstream{{Dial: egressUpstream}}, nil
}

// egressTransport sends each request with the token of its EDR. It stands behind Caddy's reverse proxy, so the token is in no
// log, placeholder or header operation of Caddy, and what Caddy adds, such as X-Forwarded-For, does not reach the provider.
type egressTransport struct{ door *EDRDoor }

var (
	errNoOutgoing = errors.New("request without an EDR: only edr_egress may use this transport")

	// errAnswered stands for whatever went wrong where outgoing.refusal says what is answered. Caddy must not see the cause: it
	// takes every cancellation for one of the client.
	errAnswered = errors.New("no answer of the data plane")
)

// RoundTrip implements http.RoundTripper.
func (t egressTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	to, ok := caddyhttp.GetVar(req.Context(), outgoingVar).(*outgoing)
	if !ok {
		return nil, caddyhttp.Error(http.StatusInternalServerError, errNoOutgoing)
	}
	// With the client's context: Caddy hangs a hook for 1xx answers on its own, which would hand a provider's 103 with
	// Set-Cookie to the client past this transport.
	out := to.WithContext(to.Context())
	out.Body = req.Body // which Caddy keeps from being closed unread
	answer, err := to.edrs.transport.Send(out, to.id)
	if err != nil {
		return nil, t.failed(to, err)
	}
	return t.answer(to, answer)
}

func (t egressTransport) failed(to *outgoing, err error) error {
	var known *consumer.Error
	if errors.As(err, &known) {
		return to.answeredBy(t.door.failure(to.id, err))
	}
	if to.Context().Err() != nil {
		return context.Canceled // nobody is there to be answered; Caddy notes it as 499
	}
	status := http.StatusBadGateway
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	t.door.logger.Error("data plane not reached", "edr", to.id, "status", status, "error", withoutURL(err))
	return to.answeredBy(oauth.Refusal{Status: status, Message: "the data plane of the EDR could not be reached"})
}

func (o *outgoing) answeredBy(refusal oauth.Refusal) error {
	o.refusal = &refusal
	return errAnswered
}

// withoutURL drops the URL of an error, whose query may hold a key of the provider.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// answer makes of a data plane's answer what the client may see.
func (t egressTransport) answer(to *outgoing, answer *consumer.Answer) (*http.Response, error) {
	res := answer.Response
	if res.StatusCode < http.StatusOK {
		// 101 would open a tunnel that no renewal, suspension or end reaches.
		discard(res)
		return nil, to.answeredBy(oauth.Refusal{Status: http.StatusBadGateway, Message: "the data plane changes the protocol"})
	}
	if answer.RenewalError != nil {
		t.door.logger.Warn("EDR not renewed after its data plane refused the token", "edr", to.id, "error", answer.RenewalError)
		if consumer.CodeOf(answer.RenewalError) == consumer.CodeUnavailable {
			// The refusal may only mean that the token has expired: that is no "no".
			discard(res)
			return nil, to.answeredBy(refusalOfEDR(to.id, answer.RenewalError))
		}
	}
	to.answersEarly()
	dropForeign(res.Header)
	filterTrailers(res, dropForeignTrailers)
	if answer.NotReplayed != "" {
		res.Header.Set(consumer.NotReplayedHeader, answer.NotReplayed)
	}
	typeContent(res)
	return res, nil
}

// isForeign reports whether a header would set state, or give rights, at the name under which this site is known to its
// clients, or speaks to a proxy. Caddy's proxy removes those of the connection (RFC 9110 §7.6.1).
func isForeign(canonicalName string) bool {
	switch canonicalName {
	case "Alt-Svc", "Clear-Site-Data", "Set-Cookie", "Set-Cookie2", "Strict-Transport-Security", consumer.NotReplayedHeader:
		return true
	}
	return strings.HasPrefix(canonicalName, "Access-Control-") || strings.HasPrefix(canonicalName, "X-Accel-") ||
		strings.HasPrefix(canonicalName, "Proxy-")
}

func dropForeign(h http.Header) {
	for name := range h {
		if isForeign(name) {
			delete(h, name)
		}
	}
}

// dropForeignTrailers drops those of the connection too, which may not stand in trailers (RFC 9110 §6.5.1).
func dropForeignTrailers(h http.Header) {
	for name := range h {
		if isForeign(name) || isConnectionHeader(name) {
			delete(h, name)
		}
	}
}

// Interface guards
var (
	_ http.RoundTripper           = egressTransport{}
	_ reverseproxy.UpstreamSource = egressUpstreams{}
)

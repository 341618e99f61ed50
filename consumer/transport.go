package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
)

// NotReplayedHeader is set on an answer of 401 or 403 that RoundTrip passes on after the token was renewed, if the request
// could not be sent again. Its value says why; the same request sent anew uses the new token.
const NotReplayedHeader = "Edrgate-Not-Replayed"

// codeFlowSuspended stands in the body of EDRgate's refusals, as provider, of a token whose flow is suspended.
const codeFlowSuspended = "flow_suspended"

// peekBytes is how much of a refusal is looked at.
const peekBytes = 4 << 10

// TransportConfig is what a Transport needs. Fields without a stated default are required.
type TransportConfig struct {
	Renewer *Renewer

	// Base sends the requests, to addresses that providers named: it must check what it dials (internal/dial.NewTransport).
	// It must follow no redirect, as no RoundTripper does.
	Base http.RoundTripper

	// MaxReplayBytes is how much of a request's body is kept, so that the request can be sent again. Bodies are not read
	// ahead. Default DefaultMaxReplayBytes; negative: nothing.
	MaxReplayBytes int
}

// Transport sends data requests with the tokens of EDRs. It renews a token that has expired before it is used, and one
// that the data plane refuses, once; then it sends the request again, once. Requests and answers stream. It may be used
// by many goroutines at once.
type Transport struct {
	c TransportConfig
}

// NewTransport returns a transport.
func NewTransport(c TransportConfig) (*Transport, error) {
	if c.Renewer == nil || c.Base == nil {
		return nil, refuse(CodeInvalid, "transport: renewer and base are needed")
	}
	if c.MaxReplayBytes == 0 {
		c.MaxReplayBytes = DefaultMaxReplayBytes
	}
	c.MaxReplayBytes = max(c.MaxReplayBytes, 0)
	return &Transport{c: c}, nil
}

// Answer is the answer to a data request.
type Answer struct {
	Response *http.Response // its body is the caller's to close

	Entry     *Entry // the EDR whose token was used last
	Renewed   bool   // the token was renewed, or found renewed, after the data plane refused it
	Replayed  bool   // the request was sent twice, and Response is the answer to the second
	Suspended bool   // the data plane says that the flow is suspended

	// NotReplayed says why the request was not sent again although there is a newer token; "" otherwise.
	NotReplayed string

	// RenewalError is why the token was not renewed after the data plane refused it; nil otherwise, and where the last
	// renewal is too fresh for another one to help.
	RenewalError error
}

// For returns a RoundTripper for one EDR, for an http.Client. The URLs of its requests lie under the EDR's endpoint; any
// other is refused with CodeOutside before it is sent.
func (t *Transport) For(id string) http.RoundTripper { return roundTripper{t, id} }

type roundTripper struct {
	t  *Transport
	id string
}

// RoundTrip implements http.RoundTripper. Errors are those of Send.
func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	a, err := r.t.Send(req, r.id)
	if err != nil {
		return nil, err
	}
	a.Response.Header.Del(NotReplayedHeader) // it is ours to say
	if a.NotReplayed != "" {
		a.Response.Header.Set(NotReplayedHeader, a.NotReplayed)
	}
	return a.Response, nil
}

// Send sends a data request with the token of an EDR. Its URL either lies under the EDR's endpoint, or has no host and is
// appended to the endpoint. Its Authorization header is replaced; all else is sent as it is, so that an egress handler
// must have removed hop-by-hop headers. The body is closed in any case; the request is not changed.
//
// Answers of 401 and 403 are the caller's to pass on: they may come from a backend behind the data plane. An *Error is
// about the EDR; other errors wrap those of Base, and their text quotes nothing of what the data plane wrote.
func (t *Transport) Send(req *http.Request, id string) (*Answer, error) {
	e, err := t.c.Renewer.Current(req.Context(), id)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	err = e.EDR.Check(t.c.Renewer.cache.c.AllowHTTP...) // again: what is allowed may have changed since it was put
	if err != nil {
		closeBody(req)
		return nil, err
	}
	first, err := prepare(req, e)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	attempt := newAttempt(first, t.c.MaxReplayBytes)
	res, err := t.c.Base.RoundTrip(attempt.request)
	if err != nil {
		attempt.release()
		return nil, &unquoted{err}
	}
	a := &Answer{Response: res, Entry: e}
	if res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden || e.EDR.AccessToken == "" {
		attempt.release()
		return a, nil
	}
	return t.rejected(req, attempt, a)
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// prepare returns a copy of a request with the target and the token of an EDR.
func prepare(req *http.Request, e *Entry) (*http.Request, error) {
	u, err := target(e.EDR, req.URL)
	if err != nil {
		return nil, err
	}
	r := new(http.Request)
	*r = *req
	r.URL, r.Host, r.RequestURI = u, "", ""
	r.Header = req.Header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	return r, authorize(r, e)
}

func authorize(r *http.Request, e *Entry) error {
	value, err := e.EDR.Authorization()
	if err != nil {
		return err
	}
	r.Header.Del("Authorization")
	if value != "" {
		r.Header.Set("Authorization", value)
	}
	return nil
}

// rejected handles an answer of 401 or 403. Tractus-X's data plane says 403 for an expired token, others 401. It cannot be
// told whether the data plane or a backend behind it says so; renewing needlessly does no harm if it is not done often.
func (t *Transport) rejected(req *http.Request, attempt *attempt, a *Answer) (*Answer, error) {
	observer := t.c.Renewer.cache.c.Observer
	observer.Event(EventRejected)
	a.Suspended = suspended(a.Response)
	if a.Suspended {
		attempt.release()
		return a, nil
	}
	fresh, err := t.c.Renewer.replace(req.Context(), a.Entry)
	if err != nil || fresh == nil {
		attempt.release()
		a.RenewalError = err
		return a, nil
	}
	a.Renewed = true
	why := NotReplayedMoved
	var second *http.Request
	if fresh.EDR.Endpoint == a.Entry.EDR.Endpoint {
		second, why = attempt.again()
	}
	if why != "" {
		attempt.release()
		a.NotReplayed = why
		observer.Event(EventNotReplayed)
		return a, nil
	}
	err = authorize(second, fresh)
	if err != nil {
		closeBody(second)
		return a, nil
	}
	_ = a.Response.Body.Close()
	observer.Event(EventReplayed)
	res, err := t.c.Base.RoundTrip(second)
	if err != nil {
		return nil, &unquoted{err}
	}
	a.Response, a.Entry, a.Replayed = res, fresh, true
	return a, nil
}

// replace returns an EDR with a newer access token than e has: renewed meanwhile, or renewed now. nil: the last renewal is
// so fresh that another one would not help. One that could not tell is no such renewal: what it left open may be all that is
// wrong, and how soon it is tried again is said elsewhere (record.RetryAt).
func (r *Renewer) replace(ctx context.Context, e *Entry) (*Entry, error) {
	now, err := r.cache.Get(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	err = now.State.serves()
	if err != nil {
		return nil, err
	}
	if now.Generation != e.Generation {
		return now, nil
	}
	since := r.cache.c.Now().Sub(now.decided)
	if since >= 0 && since < r.c.RejectedPause { // less than 0: a clock was ahead
		return nil, nil
	}
	return r.renew(ctx, e.ID, want{seen: e.Generation})
}

// suspended reports whether a refusal says that the flow is suspended: renewing does not help then. The body stays whole.
func suspended(res *http.Response) bool {
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return false
	}
	head, err := io.ReadAll(io.LimitReader(res.Body, peekBytes))
	rest := io.Reader(res.Body)
	if err != nil {
		rest = &broken{err}
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), res.Body}
	var body struct {
		Code string `json:"code"`
	}
	return json.Unmarshal(head, &body) == nil && body.Code == codeFlowSuspended
}

// broken is the rest of a body that could not be read.
type broken struct{ err error }

func (b *broken) Read([]byte) (int, error) { return 0, b.err }

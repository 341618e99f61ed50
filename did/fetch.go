package did

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"

	"github.com/edrgate/edrgate/internal/dial"
)

// Limits of one fetch. They are small because nothing honest needs more, and because a fetch can be caused by anybody who
// knows the DID of a flow.
const (
	maxDocumentBytes = 128 << 10
	maxHeaderBytes   = 16 << 10
	maxConnsPerHost  = 2
)

// acceptHeader names the media types of DID Core 1.0 §6 first. The answer's own type is not looked at: static servers do
// not know these types, and the test kit of Data Plane Signaling sends none.
const acceptHeader = "application/did+json, application/did+ld+json, application/json, */*;q=0.1"

// fetched is an answer of a DID host.
type fetched struct {
	doc *document
	lifetime
}

// fetch gets the document of id. It tries once: the consumer tries again, and a chain of tries would hold its connection
// for longer than it waits.
func (r *Resolver) fetch(ctx context.Context, id identifier, place *url.URL) (fetched, *Error) {
	release, err := r.slots.acquire(ctx, id.place.host)
	if err != nil {
		return fetched{}, id.fail(waitCode(ctx), fmt.Errorf("wait for a free slot: %w", causeOf(ctx, err)))
	}
	defer release()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place.String(), nil)
	if err != nil {
		return fetched{}, id.fail(CodeInternal, err)
	}
	req.Header.Set("Accept", acceptHeader)
	// Some servers compress unless told not to. Nothing here unpacks, so no small answer becomes a big one.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "edrgate")
	var handshakeFailed atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) { handshakeFailed.Store(err != nil) },
	}))
	// RoundTrip, not an http.Client: no redirect is followed, no cookie kept.
	res, err := r.transport.RoundTrip(req)
	if err != nil {
		code := errorCode(ctx, err)
		if code == CodeConnect && handshakeFailed.Load() {
			code = CodeTLS
		}
		return fetched{}, id.fail(code, causeOf(ctx, err))
	}
	defer res.Body.Close()
	body, code, err := readAnswer(ctx, res)
	// A server that sees us leave ends its answer as if it were whole, and net/http can still deliver that. It says nothing
	// about the document.
	if ctx.Err() != nil {
		return fetched{}, id.fail(errorCode(ctx, ctx.Err()), causeOf(ctx, ctx.Err()))
	}
	if err != nil {
		return fetched{}, id.fail(code, err)
	}
	doc, err := parseDocument(body, id, r.relationship)
	if err != nil {
		return fetched{}, id.fail(CodeUnparsable, err)
	}
	return fetched{doc: doc, lifetime: lifetimeOf(res.Header, r.maxAge)}, nil
}

var errTooLarge = fmt.Errorf("document is over %d bytes", maxDocumentBytes)

// readAnswer returns the body of an answer that may hold a document, or why it does not.
func readAnswer(ctx context.Context, res *http.Response) ([]byte, Code, error) {
	if res.StatusCode >= 300 && res.StatusCode < 400 {
		// The host of the DID is its identity. A redirect hands it to another one, or leads inside.
		return nil, CodeRedirect, fmt.Errorf("host redirects with status %d", res.StatusCode)
	}
	if res.StatusCode != http.StatusOK {
		return nil, CodeStatus, fmt.Errorf("host answers with status %d", res.StatusCode)
	}
	coding := res.Header.Get("Content-Encoding")
	if coding != "" && coding != "identity" {
		return nil, CodeUnparsable, errors.New("document is compressed")
	}
	if res.ContentLength > maxDocumentBytes {
		return nil, CodeTooLarge, errTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDocumentBytes+1))
	if err != nil {
		return nil, errorCode(ctx, err), err
	}
	if len(body) > maxDocumentBytes {
		return nil, CodeTooLarge, errTooLarge
	}
	return body, "", nil
}

// errorCode sorts the error of a request by what an operator would look at.
func errorCode(ctx context.Context, err error) Code {
	var (
		denied *dial.DeniedError
		dns    *net.DNSError
	)
	switch {
	case errors.Is(context.Cause(ctx), ErrClosed):
		return CodeClosed
	case errors.Is(ctx.Err(), context.Canceled):
		return CodeCanceled
	case errors.As(err, &denied):
		return CodeDenied
	case errors.As(err, &dns):
		return CodeDNS
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return CodeTimeout
	}
	return CodeConnect
}

// causeOf prefers the reason for which ctx was ended over the words of the layer that noticed.
func causeOf(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), ErrClosed) {
		return ErrClosed
	}
	return err
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// waitCode is the code for a fetch that never began.
func waitCode(ctx context.Context) Code {
	switch {
	case errors.Is(context.Cause(ctx), ErrClosed):
		return CodeClosed
	case errors.Is(ctx.Err(), context.Canceled):
		return CodeCanceled
	}
	return CodeBusy
}

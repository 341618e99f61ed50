package caddymodule

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/internal/canonical"
)

// answer makes of a backend's answer what the consumer may see.
func (t *flowTransport) answer(req, out *http.Request, res *http.Response, d *delivery) (*http.Response, error) {
	if res.StatusCode == http.StatusUnauthorized && d.target.oauth2 != nil {
		// RFC 6750 §3.1: it may have been withdrawn. The next request gets a new one; this one's body is gone.
		t.tokens.Drop(*d.target.oauth2, d.token)
	}
	if t.isRejected(res.StatusCode, d) {
		// A 401 or 403 would be taken for one about the consumer's token, which it would then renew over and over.
		discard(res)
		t.observer.Backend(backendRejected)
		return nil, caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("%w: status %d", errRejected, res.StatusCode))
	}
	t.observer.Backend(backendAnswered)
	if t.flattens(d) {
		flatten(res)
	}
	d.rewriteReferences(out.URL, res.Header) // first: it takes the base out, which a header may have too
	d.filterHeader(res.Header)
	if res.ContentLength < 0 {
		// Only such an answer can have trailers.
		filterTrailers(res, d.filterHeader)
	}
	if req.Method == http.MethodHead && out.Method != http.MethodHead {
		// The address fixes the method; nobody reads the body.
		discard(res)
		res.Body = http.NoBody
	}
	typeContent(res)
	return res, nil
}

// typeContent gives content without a type the one that says nothing of it. Left out, our own server would guess one from
// the bytes.
func typeContent(res *http.Response) {
	if len(res.Header["Content-Type"]) == 0 && hasContent(res) {
		res.Header["Content-Type"] = []string{"application/octet-stream"}
	}
}

func (t *flowTransport) isRejected(status int, d *delivery) bool {
	if status < http.StatusOK {
		// 101 would open a tunnel that outlives the flow; others cannot be written at all.
		return true
	}
	if d.target.passStatus || t.flattens(d) {
		return false
	}
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusProxyAuthRequired
}

// hasContent reports whether an answer may have a body (RFC 9110 §6.4.1).
func hasContent(res *http.Response) bool {
	return res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusNotModified && res.ContentLength != 0
}

// drainBytes is the length up to which reading a body to its end is cheaper than a new connection.
const drainBytes = 4 << 10

// discard closes a body that nobody reads. A short one is read first, so that the connection can be used again; that of
// a 101 is the connection itself, and would be waited for without end.
func discard(res *http.Response) {
	if res.StatusCode != http.StatusSwitchingProtocols && 0 <= res.ContentLength && res.ContentLength <= drainBytes {
		_, _ = io.CopyN(io.Discard, res.Body, res.ContentLength) // if it fails the connection is not used again
	}
	_ = res.Body.Close() // there is nothing left to lose
}

// answerHeaders never reach the consumer: what sets state for our host, names the backend's software, sends the client
// elsewhere, or speaks to a proxy before us.
var answerHeaders = map[string]bool{
	"Alt-Svc":                   true,
	"Authentication-Info":       true,
	"Clear-Site-Data":           true,
	"Proxy-Authenticate":        true,
	"Proxy-Authentication-Info": true,
	"Refresh":                   true,
	"Server":                    true,
	"Set-Cookie":                true,
	"Set-Cookie2":               true,
	"Strict-Transport-Security": true,
	"Via":                       true,
	"Www-Authenticate":          true,
	"X-Powered-By":              true,
}

func (d *delivery) filterHeader(h http.Header) {
	for name, values := range h {
		passes := name == "Set-Cookie" && d.cookies
		if answerHeaders[name] && !passes || strings.HasPrefix(name, "X-Accel-") {
			delete(h, name)
			continue
		}
		for _, value := range values {
			if d.target.repeats(value) || d.token != "" && givesAway(value, d.token.Reveal()) {
				delete(h, name)
				break
			}
		}
	}
}

// filterTrailers filters the trailers of an answer. The names of some are known now, the values when it has been read:
// net/http fills them in at the end of the body.
func filterTrailers(res *http.Response, filter func(http.Header)) {
	filter(res.Trailer)
	res.Body = &trailerFilter{ReadCloser: res.Body, res: res, filter: filter}
}

type trailerFilter struct {
	io.ReadCloser
	res    *http.Response
	filter func(http.Header)
}

func (f *trailerFilter) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err == io.EOF {
		f.filter(f.res.Trailer)
	}
	return n, err
}

// rewriteReferences makes references to the backend ones to the flow's endpoint, and removes the others: they would
// show the consumer hosts of the provider's network, or send it and its token there. sent is where the request went.
func (d *delivery) rewriteReferences(sent *url.URL, h http.Header) {
	for _, name := range []string{"Location", "Content-Location"} {
		values, ok := h[name]
		if !ok {
			continue
		}
		rewritten, inside := "", false
		if len(values) == 1 {
			rewritten, inside = d.rewriteReference(sent, values[0])
		}
		if !inside {
			delete(h, name)
			continue
		}
		h[name] = []string{rewritten}
	}
}

// rewriteReference returns the reference as a path on our own host, so that it holds whatever name we were called by.
func (d *delivery) rewriteReference(sent *url.URL, value string) (string, bool) {
	t := d.target
	if strings.Contains(value, `\`) {
		return "", false // no character of a URI (RFC 3986 §2), and a slash to some clients
	}
	ref, err := sent.Parse(value)
	if err != nil || ref.User != nil || ref.Opaque != "" || !t.passPath {
		return "", false
	}
	host, port, err := parseAuthority(ref.Host, defaultPort(ref.Scheme))
	if err != nil || (origin{scheme: ref.Scheme, host: host, port: port}) != t.origin {
		return "", false
	}
	path, err := canonical.Path(ref.EscapedPath(), backendPaths)
	if err != nil {
		return "", false
	}
	below, ok := canonical.Under(path, t.base)
	if !ok {
		return "", false
	}
	if ref.RawQuery != "" && (t.query != "" || t.params != "" || !t.passQuery) {
		// The query may be the address's own, with a key in it.
		return "", false
	}
	rewritten := d.grant.access.EndpointPath() + below
	if rewritten == "" {
		rewritten = "/"
	}
	if strings.HasPrefix(rewritten, "//") {
		return "", false // names a host (RFC 3986 §4.2)
	}
	if ref.RawQuery != "" {
		rewritten += "?" + ref.RawQuery
	}
	fragment := ref.EscapedFragment()
	if fragment != "" {
		rewritten += "#" + fragment
	}
	return rewritten, true
}

// flatten gives an answer the status that the Tractus-X data plane gives that of an HttpData backend: 200 or 500.
func flatten(res *http.Response) {
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		res.StatusCode, res.Status = http.StatusOK, ""
		return
	}
	body := refusalBody{Errors: []string{}}
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
	default:
		body.Errors = []string{fmt.Sprintf("Received code transferring HTTP data: %d - %s.", res.StatusCode, http.StatusText(res.StatusCode))}
	}
	discard(res)
	data := body.encode()
	res.StatusCode, res.Status = http.StatusInternalServerError, ""
	res.Body = io.NopCloser(bytes.NewReader(data))
	res.ContentLength = int64(len(data))
	res.TransferEncoding, res.Trailer = nil, nil
	res.Header = http.Header{
		"Content-Type":   {"application/json"},
		"Content-Length": {strconv.Itoa(len(data))},
	}
}

// Package controlplane is what the gateway says to control planes of its own accord: that it is there, that a flow which it
// answered as starting has started, and that it ended a flow by itself.
//
// Which control planes there are, and where, the operator says. An address in a message is used only where it is on a
// server that the operator named: whoever may start flows must not choose whom the gateway talks to.
package controlplane

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/tokens"
)

const (
	callTimeout    = 10 * time.Second
	maxAnswerBytes = 1 << 20 // lists of data planes are the longest answers
)

// Client calls control planes. It follows no redirect: a body meant for one server must not go to another.
type Client struct {
	http    *http.Client
	tokens  *authserver.Source // of the control planes' authorization servers
	timeout time.Duration
}

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Transport connects to control planes, TokenTransport to their authorization servers. Both must check what they dial and
	// unpack nothing (internal/dial.NewTransport). Required.
	Transport, TokenTransport http.RoundTripper

	// Timeout bounds one call, from the name's resolution to the answer's last byte. Default: 10 s.
	Timeout time.Duration
}

// NewClient returns a client. It connects to nobody yet.
func NewClient(c ClientConfig) *Client {
	return &Client{
		http: &http.Client{
			Transport:     c.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		tokens:  authserver.New(authserver.Config{Transport: c.TokenTransport, OncePerJTI: true}),
		timeout: cmp.Or(c.Timeout, callTimeout),
	}
}

// message is a request to a control plane.
type message struct {
	method string
	url    string
	header http.Header
	body   []byte            // JSON; nil: none
	grant  *authserver.Grant // what a token for it is asked for with; nil: it needs none
}

// answer is what came back, whatever its status.
type answer struct {
	status int
	body   []byte
}

// ok reports whether the control plane took the message.
func (a answer) ok() bool { return a.status >= 200 && a.status <= 299 }

// errUnsent is wrapped by the error of a call that never had a connection, or no token: what was to be sent has not arrived,
// or was refused with a 401.
var errUnsent = errors.New("not sent")

// call sends a message, with a token if it needs one. The error is that of the network or of the authorization server:
// unless it is errUnsent nobody can tell whether the message arrived.
//
// A token is good for one call if it has a jti, since EDC refuses one that it has seen; another one is kept. A kept one that
// is refused may have been withdrawn, so the message is sent once more with a new one: 401 is also what EDC says of a
// transfer that it does not know, and then final.
func (c *Client) call(ctx context.Context, m message) (answer, error) {
	if m.grant == nil {
		return c.send(ctx, m, "")
	}
	token, kept, err := c.tokens.Token(ctx, *m.grant)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errUnsent, err)
	}
	a, err := c.send(ctx, m, token)
	if err != nil || a.status != http.StatusUnauthorized || !kept || !c.tokens.Drop(*m.grant, token) {
		return a, err
	}
	token, _, err = c.tokens.Token(ctx, *m.grant)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errUnsent, err)
	}
	return c.send(ctx, m, token)
}

// send sends a message with a token, if it is not empty.
func (c *Client) send(ctx context.Context, m message, token tokens.Secret) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	r, err := http.NewRequestWithContext(ctx, m.method, m.url, bytes.NewReader(m.body))
	if err != nil {
		return answer{}, err
	}
	for name, values := range m.header {
		r.Header[name] = values
	}
	if m.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token.Reveal()) // RFC 6750 §2.1
	}
	response, err := c.http.Do(r)
	if err != nil && !connected.Load() {
		return answer{}, fmt.Errorf("%w: %w", errUnsent, err)
	}
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes+1))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswerBytes {
		return answer{}, fmt.Errorf("answer has more than %d bytes", maxAnswerBytes)
	}
	return answer{response.StatusCode, body}, nil
}

// ParseBase reads the URL below which a control plane is called. It has no query and no fragment, since paths are
// appended to it, and no user, since it is shown.
func ParseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's error repeats what may hold a password
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Opaque != "" {
		return nil, errors.New("must be an absolute http or https URL")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, errors.New("must have no user, query or fragment")
	}
	return u, nil
}

// Package policy asks a policy server whether a flow may be started, and whether its tokens may still be renewed. Two forms
// of the question are spoken: the Access Evaluation API of OpenID AuthZEN, and a webhook of our own.
//
// A policy server says "no" in one way only: with status 200 and a decision that is false. Everything else, from a refused
// connection to an answer without a decision, means "cannot tell": a policy server that is broken must not end anybody's
// transfer.
package policy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/tokens"
)

// Form is the form of the question.
type Form string

// The forms.
const (
	AuthZEN Form = "authzen" // OpenID AuthZEN Authorization API 1.0, Access Evaluation
	Webhook Form = "webhook" // our own, flat
)

// Result is what became of a question. The set is closed, so that it can be a metric label.
type Result string

// The results.
const (
	Permit      Result = "permit"
	Deny        Result = "deny"
	Unavailable Result = "unavailable" // cannot tell
	Cached      Result = "cached"      // permitted, as a moment ago
)

// Results lists every Result.
func Results() []Result { return []Result{Permit, Deny, Unavailable, Cached} }

// BreakerStates lists the states of the circuit breaker as an Observer gets them.
func BreakerStates() []string {
	var states []string
	for _, s := range []gobreaker.State{gobreaker.StateClosed, gobreaker.StateHalfOpen, gobreaker.StateOpen} {
		states = append(states, s.String())
	}
	return states
}

// Observer is told of questions, for metrics. It is called on the request path and must not block.
type Observer interface {
	// PolicyDecided reports a question and how long it took.
	PolicyDecided(occasion tokens.PolicyOccasion, result Result, took time.Duration)
	// PolicyBreaker reports the state of the circuit breaker, one of BreakerStates, after a question.
	PolicyBreaker(state string)
	// PolicyDialDenied reports why an address of the server's name was not connected. The reasons are few and fixed.
	PolicyDialDenied(reason string)
}

// Defaults and limits of a Config.
const (
	DefaultTimeout = 2 * time.Second
	MaxTimeout     = 10 * time.Second // a start waits for it, and EDC for a start 30 s
	MaxCache       = 10 * time.Minute
)

// How a policy server is asked.
const (
	maxAtOnce      = 32
	maxAnswerBytes = 64 << 10
	maxAnswerDepth = 16
	maxHeaderBytes = 16 << 10

	breakAfter = 5               // failures in a row
	breakFor   = 5 * time.Second // until one question is let through again
)

// Config is what a Client needs. Fields without a stated default are required.
type Config struct {
	Form Form

	// URL is where questions are posted, whole: nothing is appended. https, or http of a loopback host.
	URL string

	// Insecure allows http to other hosts. Whoever is on the path then decides in place of the policy.
	Insecure bool

	// Header are further header fields, such as Authorization. Default: none.
	Header map[string]tokens.Secret

	// Timeout bounds a question, from the wait for its turn to the answer's last byte. Default: 2 s. At most 10 s.
	Timeout time.Duration

	// Cache is how long a permit answers the same question again. Denials are never kept. Default: not at all. At most
	// 10 min.
	Cache time.Duration

	// AllowAddresses are private networks in which the policy server may be. An address that URL names itself, and the
	// loopback ones for localhost, need not be listed. Metadata addresses of clouds are never connected. Default: none.
	AllowAddresses []netip.Prefix

	// DenyEndpoints are never connected, such as the gateway's own administration. Default: none.
	DenyEndpoints []netip.AddrPort

	TLS *tls.Config // default: the system's roots

	Observer Observer          // default: none
	Now      func() time.Time  // default: time.Now
	NewID    func() string     // of requests; default: 26 random characters
	Resolver *net.Resolver     // looks names up; default: the system's
	next     http.RoundTripper // in place of the network, for tests
}

// Client asks one policy server. It is safe for concurrent use.
type Client struct {
	c       Config
	turns   chan struct{}
	breaker *gobreaker.CircuitBreaker[bool]
	permits *permits
	idle    interface{ CloseIdleConnections() }
}

// New returns a client. It connects to nobody yet. Errors name the field.
func New(c Config) (*Client, error) {
	target, err := c.complete()
	if err != nil {
		return nil, err
	}
	client := &Client{turns: make(chan struct{}, maxAtOnce), permits: newPermits(c.Cache)}
	client.breaker = gobreaker.NewCircuitBreaker[bool](gobreaker.Settings{
		Name:         "policy",
		Timeout:      breakFor,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= breakAfter },
		IsSuccessful: func(err error) bool { return !isOf(err, failures) },
		IsExcluded:   func(err error) bool { return isOf(err, ours) },
	})
	if c.next == nil {
		guard, err := dial.NewGuard(dial.Config{
			AllowAddresses: c.allowed(target), DenyEndpoints: c.DenyEndpoints,
			Denied: func(e *dial.DeniedError) { c.Observer.PolicyDialDenied(string(e.Reason)) },
		})
		if err != nil {
			return nil, fmt.Errorf("allow_addresses: %w", err)
		}
		transport, err := dial.NewTransport(dial.TransportConfig{
			Guard: guard, Resolver: c.Resolver, TLS: c.TLS, DialTimeout: c.Timeout, TLSHandshakeTimeout: c.Timeout,
			MaxResponseHeaderBytes: maxHeaderBytes, MaxConnsPerHost: maxAtOnce, MaxIdleConnsPerHost: maxAtOnce / 4,
		})
		if err != nil {
			return nil, err
		}
		c.next, client.idle = transport, transport
	}
	client.c = c
	return client, nil
}

// complete checks the configuration and fills in the defaults.
func (c *Config) complete() (*url.URL, error) {
	if c.Form != AuthZEN && c.Form != Webhook {
		return nil, fmt.Errorf("form %q is none of authzen, webhook", c.Form)
	}
	target, err := c.target()
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Timeout < 0 || c.Timeout > MaxTimeout {
		return nil, fmt.Errorf("timeout must be above 0 and at most %s, not %s", MaxTimeout, c.Timeout)
	}
	if c.Cache < 0 || c.Cache > MaxCache {
		return nil, fmt.Errorf("cache must be at most %s, not %s", MaxCache, c.Cache)
	}
	if c.Observer == nil {
		c.Observer = unobserved{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = rand.Text
	}
	return target, nil
}

func (c *Config) target() (*url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's error repeats what may hold a password
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "" {
		return nil, errors.New("must be an absolute https URL, the whole one that questions are posted to")
	}
	if u.User != nil || u.Fragment != "" {
		return nil, errors.New("must have no user and no fragment: write the credential as a header")
	}
	if u.Scheme == "http" && !c.Insecure && len(loopback(u)) == 0 {
		return nil, errors.New("must be https: whoever is on the path decides in place of the policy; add the word insecure if TLS is somebody else's business")
	}
	return u, nil
}

// allowed are the special-purpose networks that may be connected: those listed, and what the URL names itself.
func (c *Config) allowed(target *url.URL) []netip.Prefix {
	networks := append(loopback(target), c.AllowAddresses...)
	literal, err := netip.ParseAddr(target.Hostname())
	if err == nil {
		literal = literal.Unmap().WithZone("")
		networks = append(networks, netip.PrefixFrom(literal, literal.BitLen()))
	}
	return networks
}

// loopback are the loopback networks, if the URL is one of this machine.
func loopback(u *url.URL) []netip.Prefix {
	address, err := netip.ParseAddr(u.Hostname())
	if !strings.EqualFold(u.Hostname(), "localhost") && (err != nil || !address.Unmap().IsLoopback()) {
		return nil
	}
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

type unobserved struct{}

func (unobserved) PolicyDecided(tokens.PolicyOccasion, Result, time.Duration) {}
func (unobserved) PolicyBreaker(string)                                       {}
func (unobserved) PolicyDialDenied(string)                                    {}

// Close closes connections that are not in use.
func (c *Client) Close() {
	if c.idle != nil {
		c.idle.CloseIdleConnections()
	}
}

// Decide implements tokens.Policy. Errors are of type *Error.
func (c *Client) Decide(ctx context.Context, q tokens.PolicyQuestion) (bool, error) {
	began := c.c.Now()
	result, err := c.decide(ctx, q)
	c.c.Observer.PolicyDecided(q.Occasion, result, c.c.Now().Sub(began))
	return result == Permit || result == Cached, err
}

func (c *Client) decide(ctx context.Context, q tokens.PolicyQuestion) (Result, error) {
	body, err := c.c.Form.encode(q)
	if err != nil {
		return Unavailable, &Error{Reason: ReasonQuestion, cause: err}
	}
	digest := sha256.Sum256(body)
	if c.permits.has(digest, c.c.Now()) {
		return Cached, nil
	}
	permit, err := c.breaker.Execute(func() (bool, error) { return c.ask(ctx, body) })
	c.c.Observer.PolicyBreaker(c.breaker.State().String())
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return Unavailable, &Error{Reason: ReasonBreaker, cause: err, retryAfter: breakFor}
	}
	if err != nil {
		return Unavailable, err
	}
	if !permit {
		return Deny, nil
	}
	c.permits.put(digest, c.c.Now())
	return Permit, nil
}

// ask posts a question and reads the answer, within the timeout.
func (c *Client) ask(parent context.Context, body []byte) (bool, error) {
	ctx, cancel := context.WithTimeout(parent, c.c.Timeout)
	defer cancel()
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		return false, &Error{Reason: waitReason(parent), cause: ctx.Err()}
	}
	id := c.c.NewID()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.c.URL, bytes.NewReader(body))
	if err != nil {
		return false, &Error{Reason: ReasonQuestion, Request: id, cause: errors.New("the request cannot be made")}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Accept-Encoding", "identity") // nothing here unpacks, so no small answer becomes a big one
	r.Header.Set("User-Agent", "edrgate")
	r.Header["Idempotency-Key"] = nil // not sent: net/http may ask again where a kept connection turns out to be closed
	r.Header.Set("X-Request-ID", id)  // AuthZEN Authorization API 1.0, request identification
	for name, value := range c.c.Header {
		r.Header.Set(name, value.Reveal())
	}
	// RoundTrip, not an http.Client: no redirect is followed, no cookie kept, and no error holds the URL.
	response, err := c.c.next.RoundTrip(r)
	if err != nil {
		return false, &Error{Reason: reasonOf(parent, ctx, err), Request: id, cause: err}
	}
	defer response.Body.Close()
	permit, reason, err := readAnswer(response)
	if err != nil && reason == "" {
		reason = reasonOf(parent, ctx, err)
	}
	if err != nil {
		return false, &Error{Reason: reason, Request: id, cause: err}
	}
	return permit, nil
}

var _ tokens.Policy = (*Client)(nil)

package authserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/tokens"
)

// Limits of one request.
const (
	fetchTimeout     = 5 * time.Second // default of Config.Timeout
	maxResponseBytes = 64 << 10
	maxTokenBytes    = 16 << 10 // more fits in no server's header
)

// How long a token counts.
const (
	// defaultLife is for an answer without expires_in (RFC 6749 §5.1 leaves that to the documentation of the server).
	defaultLife = time.Minute

	// maxLife bounds how long a withdrawn token goes on being shown.
	maxLife = time.Hour

	// margin is taken off the life, so that no token expires on its way; at most a fifth of it.
	margin = 30 * time.Second
)

// fetch asks the server for a token.
func (s *Source) fetch(ctx context.Context, g Grant) (fetched, *Error) {
	params, err := g.params()
	if err != nil {
		return fetched{}, &Error{Server: g.Server(), reason: err.Error(), cause: err}
	}
	config := clientcredentials.Config{
		ClientID:       g.ClientID,
		ClientSecret:   g.ClientSecret.Reveal(),
		TokenURL:       g.Endpoint,
		EndpointParams: params,
		AuthStyle:      oauth2.AuthStyleInParams,
	}
	if g.Scope != "" {
		config.Scopes = []string{g.Scope}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	began := s.now()
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, s.client))
	if err != nil {
		return fetched{}, failure(g, err)
	}
	return accept(g, token, began)
}

// fetched is a token, with the moment when it was asked for and the one until which it is used.
type fetched struct {
	token        tokens.Secret
	began, until time.Time
}

// accept checks an answer of status 2xx.
func accept(g Grant, token *oauth2.Token, began time.Time) (fetched, *Error) {
	refuse := func(reason string) (fetched, *Error) {
		return fetched{}, &Error{Server: g.Server(), Refused: true, reason: reason}
	}
	// RFC 6749 §7.1: a client must not use a token whose type it does not understand; §5.1 requires the type.
	if !strings.EqualFold(token.TokenType, "bearer") {
		return refuse("the answer's token_type is not Bearer")
	}
	if !isToken(token.AccessToken) || len(token.AccessToken) > maxTokenBytes {
		return refuse("the answer's access_token cannot stand in a header")
	}
	life, ok := lifeOf(token.Extra("expires_in"))
	if !ok {
		return refuse("the answer's expires_in is not a number of seconds above 0")
	}
	got := fetched{token: tokens.Secret(token.AccessToken), began: began}
	// expires_in is what the server says of a token that says it itself (oauth2_token_exchange of Data Plane Signaling:
	// it is advisory, exp counts).
	expires := claimsOf(got.token).expires()
	if !expires.IsZero() {
		life = min(life, expires.Sub(began))
	}
	if life <= 0 {
		// It would be asked for again for each request.
		return refuse("the answer's access_token has expired") // RFC 7519 §4.1.4
	}
	got.until = began.Add(life - min(margin, life/5))
	return got, nil
}

// lifeOf reads expires_in, a number (RFC 6749 §5.1) that some servers write as a string.
func lifeOf(extra any) (time.Duration, bool) {
	var seconds float64
	switch v := extra.(type) {
	case nil:
		return defaultLife, true
	case float64:
		seconds = v
	case string:
		if v == "" { // of a form without it
			return defaultLife, true
		}
		number, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, false
		}
		seconds = float64(number)
	case int64: // of a form
		seconds = float64(v)
	default:
		return 0, false
	}
	if !(seconds >= 1) {
		return 0, false
	}
	return time.Duration(min(seconds, maxLife.Seconds()) * float64(time.Second)), true
}

// isToken takes what can stand in an Authorization header after the scheme: visible ASCII. RFC 6750 §2.1 allows less,
// but the token is between the server and whom it is shown to.
func isToken(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return text != ""
}

// failure turns an error of the library, which quotes answers, into one that can be logged.
func failure(g Grant, err error) *Error {
	e := &Error{Server: g.Server(), cause: err}
	var answered *oauth2.RetrieveError
	if errors.As(err, &answered) {
		e.cause = nil // it holds the body
		e.Status = answered.Response.StatusCode
		if codes[answered.ErrorCode] {
			e.Code = answered.ErrorCode
		}
		// RFC 9110 §15.6: trouble of the server's own, and the client statuses that say "later". Any other answer is the
		// same the next time.
		e.Refused = e.Status < http.StatusInternalServerError && e.Status != http.StatusTooManyRequests &&
			e.Status != http.StatusRequestTimeout
		e.reason = "gives no token"
		return e
	}
	var (
		asked *url.Error
		op    *net.OpError
		name  *net.DNSError
		cert  *tls.CertificateVerificationError
		no    *dial.DeniedError
	)
	if !errors.As(err, &asked) {
		// The answer came but is none of RFC 6749 §5.1.
		e.Refused, e.cause, e.reason = true, nil, "the answer is not that of a token endpoint"
		return e
	}
	inner := asked.Err
	switch {
	case asked.Timeout():
		e.reason = "does not answer in time"
	case errors.As(inner, &no), errors.As(inner, &op), errors.As(inner, &name), errors.As(inner, &cert):
		e.reason = inner.Error() // names an address or a certificate
	default:
		e.reason = "cannot be reached over HTTP"
	}
	return e
}

// plainTransport says what we want of an answer, and reads no more of it than one can have. It reads it to its end, so that
// one that breaks off is an error of the network: the library would not tell it from one that is no token.
type plainTransport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t plainTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Accept", "application/json") // RFC 6749 §5.1
	r.Header.Set("User-Agent", "edrgate")
	res, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	// What is cut off here cannot be read as an answer.
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponseBytes))
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

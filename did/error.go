package did

import (
	"errors"
	"fmt"
	"time"
)

// Code says why a key could not be given. The set is closed, so it can label a metric.
type Code string

// Codes of a definite refusal: asking again changes nothing until the owner of the DID changes something.
const (
	CodeMalformed       Code = "malformed"          // the DID or the key id is not well formed, or they name two DIDs
	CodeMethod          Code = "unsupported_method" // neither did:web nor did:jwk nor did:key
	CodeOtherID         Code = "other_id"           // the document is about another DID
	CodeOtherController Code = "other_controller"   // the key belongs to another DID
	CodeNoKey           Code = "no_key"             // the document does not have the key
	CodeBadKey          Code = "bad_key"            // the document has it in a form that must not be used
	CodeNotListed       Code = "not_listed"         // the document does not list it for the purpose
)

// Codes of "cannot tell": a later try may succeed.
const (
	CodeDenied     Code = "denied"     // our configuration does not allow the host's address, port or scheme
	CodeDNS        Code = "dns"        // the name does not resolve
	CodeConnect    Code = "connect"    // no connection, or it broke
	CodeTLS        Code = "tls"        // no trustworthy TLS connection
	CodeTimeout    Code = "timeout"    // no complete answer in time
	CodeRedirect   Code = "redirect"   // the host sends us elsewhere
	CodeStatus     Code = "status"     // any other status than 200
	CodeTooLarge   Code = "too_large"  // the answer is over the limit
	CodeUnparsable Code = "unparsable" // the answer is not a DID document
	CodeLimited    Code = "limited"    // looking past the cache is used up for now
	CodeBusy       Code = "busy"       // too many resolutions at once
	CodeCanceled   Code = "canceled"   // the caller gave up
	CodeClosed     Code = "closed"     // the resolver has been closed
	CodeInternal   Code = "internal"   // a fault of the resolver
)

// ResultOK is what an Observer is told of a fetch that gave a document.
const ResultOK = "ok"

// FetchResults lists every result that an Observer can be told.
func FetchResults() []string {
	results := []string{ResultOK}
	for _, c := range []Code{
		CodeOtherID, CodeDenied, CodeDNS, CodeConnect, CodeTLS, CodeTimeout, CodeRedirect, CodeStatus, CodeTooLarge,
		CodeUnparsable, CodeBusy, CodeCanceled, CodeClosed, CodeInternal,
	} {
		results = append(results, string(c))
	}
	return results
}

var (
	// ErrRefetchLimited is in the chain of the error for a DID whose document may not be fetched again so soon.
	ErrRefetchLimited = errors.New("fetching the document again is limited")
	// ErrClosed is in the chain of every error after Close.
	ErrClosed = errors.New("resolver is closed")
)

// Error is the type of every error of a Resolver. It separates "no" from "cannot tell" (Refused), because a consumer
// takes the first for final and gives up its transfer.
type Error struct {
	Code Code

	// DID is the identifier without its path, safe to log. It is empty if the DID is malformed, and only the method for
	// methods whose identifier is the key.
	DID string

	cause      error
	retryAfter time.Duration
}

// Error is for the log. A peer must not see it: the difference between "dns" and "connect" maps a network.
func (e *Error) Error() string {
	name := e.DID
	if name == "" {
		name = "identifier"
	}
	if e.cause == nil {
		return fmt.Sprintf("resolve %s: %s", name, e.Code)
	}
	return fmt.Sprintf("resolve %s: %s: %v", name, e.Code, e.cause)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Refused reports whether this is a definite no. It is only ever given after a fresh and valid document, or where no
// document could make a difference. False: cannot tell, try again after RetryAfter.
func (e *Error) Refused() bool {
	switch e.Code {
	case CodeMalformed, CodeMethod, CodeOtherID, CodeOtherController, CodeNoKey, CodeBadKey, CodeNotListed:
		return true
	}
	return false
}

// RetryAfter is how long to wait before another try can succeed, at least a second. It is zero for a refusal.
func (e *Error) RetryAfter() time.Duration {
	if e.Refused() {
		return 0
	}
	return max(e.retryAfter, time.Second)
}

// after returns a copy of e with another wait: failures are shared by all who ask within one period.
func (e *Error) after(d time.Duration) *Error {
	c := *e
	c.retryAfter = d
	return &c
}

// ofHost reports whether the failure tells something about the DID's host, so that it is worth remembering.
func (e *Error) ofHost() bool {
	switch e.Code {
	case CodeBusy, CodeCanceled, CodeClosed, CodeInternal:
		return false
	}
	return true
}

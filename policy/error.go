package policy

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/edrgate/edrgate/internal/dial"
)

// Reason says why a policy server could not tell. It is for the log.
type Reason string

// The reasons.
const (
	ReasonConnect  Reason = "connect"  // no connection, or it broke
	ReasonAddress  Reason = "address"  // an address that is not allowed: see AllowAddresses
	ReasonTimeout  Reason = "timeout"  // no whole answer in time
	ReasonServer   Reason = "server"   // a status of 5xx, or 429
	ReasonStatus   Reason = "status"   // another status than 200; 401 and 403 too
	ReasonRedirect Reason = "redirect" // a redirect, which is never followed
	ReasonTooLarge Reason = "too_large"
	ReasonAnswer   Reason = "answer"   // not an object with a decision that is true or false
	ReasonBreaker  Reason = "breaker"  // it failed a moment ago, and was not asked
	ReasonBusy     Reason = "busy"     // too many questions at once: this one did not get its turn in time
	ReasonCanceled Reason = "canceled" // who asked is gone
	ReasonQuestion Reason = "question" // the question cannot be written
)

// failures are what the breaker counts: a server that is down or slow. One that answers quickly, if nonsense, is not
// helped by not being asked, and what it says of one flow is no reason not to ask about the others.
var failures = []Reason{ReasonConnect, ReasonAddress, ReasonTimeout, ReasonServer}

// ours says nothing about the server.
var ours = []Reason{ReasonBusy, ReasonCanceled, ReasonQuestion}

func isOf(err error, among []Reason) bool {
	var e *Error
	return errors.As(err, &e) && slices.Contains(among, e.Reason)
}

// Error is the error of Decide: nobody can tell.
type Error struct {
	Reason  Reason
	Request string // the X-Request-ID that the server was sent; empty: it was not asked

	cause      error
	retryAfter time.Duration
}

// Error names the reason. It holds no URL, credential or claim.
func (e *Error) Error() string {
	s := "policy cannot tell: " + string(e.Reason)
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	if e.Reason == ReasonAddress {
		s += ": list its network with allow_addresses"
	}
	if e.Request != "" {
		s += " (request " + e.Request + ")"
	}
	return s
}

// Unwrap returns what led to the error.
func (e *Error) Unwrap() error { return e.cause }

// RetryAfter is when the server will be asked again; 0: at once.
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// reasonOf sorts an error of the network. parent is the context of who asked, ctx the one with the timeout.
func reasonOf(parent, ctx context.Context, err error) Reason {
	var denied *dial.DeniedError
	switch {
	case parent.Err() != nil:
		return ReasonCanceled
	case errors.As(err, &denied):
		return ReasonAddress
	case ctx.Err() != nil, isTimeout(err):
		return ReasonTimeout
	}
	return ReasonConnect
}

func isTimeout(err error) bool {
	var e interface{ Timeout() bool }
	return errors.As(err, &e) && e.Timeout()
}

// waitReason is the reason for a question that never got its turn.
func waitReason(parent context.Context) Reason {
	if parent.Err() != nil {
		return ReasonCanceled
	}
	return ReasonBusy
}

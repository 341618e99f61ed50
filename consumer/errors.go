package consumer

import (
	"errors"
	"fmt"
	"time"
)

// Code says why an operation was refused or could not be carried out. The set is closed, so that it can be a metric
// label.
type Code string

// The codes of an Error.
const (
	CodeInvalid      Code = "invalid"       // a field is missing or malformed; Detail names it
	CodeUnknown      Code = "unknown"       // no such EDR
	CodeConflict     Code = "conflict"      // the transfer is known with another counterparty or asset
	CodeSuspended    Code = "suspended"     // the transfer is suspended; renewing does not help
	CodeEnded        Code = "ended"         // the transfer is completed or terminated
	CodeInsecure     Code = "insecure"      // an endpoint is not https
	CodeAudience     Code = "audience"      // refreshAudience is neither the counterparty's DID nor our own: nothing is signed for it
	CodeForeignToken Code = "foreign_token" // another EDR holds the access token: nothing is signed about it
	CodeCounterparty Code = "counterparty"  // whom the proof would be for is not known: nothing is signed
	CodeNotRenewable Code = "not_renewable" // the EDR has no refresh token, or nothing signs here
	CodeRefused      Code = "refused"       // the provider refused to renew; final until started, resumed or asked for explicitly
	CodeAuthType     Code = "auth_type"     // the EDR wants an authorization other than a bearer token
	CodeOutside      Code = "outside"       // the request does not lie under the EDR's endpoint
	CodeState        Code = "state"         // signaling: the transfer's state does not allow this
	CodeForeign      Code = "foreign"       // signaling: the transfer is another control plane's
)

// CodeUnavailable means "cannot tell": store, provider, signer or network trouble. Whoever asked may ask again.
const CodeUnavailable Code = "unavailable"

// Error is the error of every operation of this package.
type Error struct {
	Code   Code
	Detail string // for the log, and for the caller where Code is CodeInvalid; never holds a token

	// Status is what the provider answered to a renewal, 0 if it did not.
	Status int

	// RetryAfter is how long the caller should wait, for CodeUnavailable. 0: nothing better than the edge's default.
	RetryAfter time.Duration

	cause error
}

// Error returns the code and the detail.
func (e *Error) Error() string {
	s := "edr: " + string(e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the error that led to this one.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf returns the code of err. An error that is not an *Error is trouble of ours: CodeUnavailable.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeUnavailable
}

// RetryAfterOf returns how long the caller should wait before it tries again, or 0.
func RetryAfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func unavailable(cause error, format string, args ...any) *Error {
	return &Error{Code: CodeUnavailable, Detail: fmt.Sprintf(format, args...), cause: cause}
}

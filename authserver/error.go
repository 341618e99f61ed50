package authserver

import (
	"fmt"
	"time"
)

// Error says that there is no token now. It holds nothing that the server wrote but a code of a known set.
type Error struct {
	// Server names the token endpoint.
	Server string

	// Refused says that the server answered, and the answer is no token: it does not know the client, or does not speak
	// OAuth. Otherwise it could not be asked, or had trouble of its own, and may answer later.
	Refused bool

	// Status is the HTTP status of its answer; 0: there was none.
	Status int

	// Code is the error code of its answer, one of RFC 6749 §5.2, RFC 8693 §2.2.2 or RFC 8707 §2; empty: none of these.
	Code string

	// After is how long the server is left alone.
	After time.Duration

	reason string // fixed text
	cause  error  // not printed
}

// Error is for the log.
func (e *Error) Error() string {
	text := e.Server + ": " + e.reason
	if e.Status != 0 {
		text += fmt.Sprintf(", status %d", e.Status)
	}
	if e.Code != "" {
		text += ", error code " + e.Code
	}
	return text
}

// Unwrap returns what lies behind, for errors.Is and errors.As; its text may quote what a server sent.
func (e *Error) Unwrap() error { return e.cause }

// RetryAfter returns when to ask again.
func (e *Error) RetryAfter() time.Duration { return e.After }

// codes are the error codes that may be repeated.
var codes = map[string]bool{
	"invalid_request":        true,
	"invalid_client":         true,
	"invalid_grant":          true,
	"unauthorized_client":    true,
	"unsupported_grant_type": true,
	"invalid_scope":          true,
	"invalid_target":         true, // RFC 8693 §2.2.2, RFC 8707 §2
}

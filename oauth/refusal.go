package oauth

import (
	"net/http"
	"time"
)

// Codes of refusals. Those of the token endpoint are from RFC 6749 §5.2, those of a protected resource from RFC 6750 §3.1.
const (
	CodeInvalidRequest       = "invalid_request"
	CodeInvalidClient        = "invalid_client"
	CodeInvalidGrant         = "invalid_grant"
	CodeUnauthorizedClient   = "unauthorized_client"
	CodeUnsupportedGrantType = "unsupported_grant_type"
	CodeInvalidScope         = "invalid_scope"
	CodeInvalidToken         = "invalid_token"
	CodeInsufficientScope    = "insufficient_scope"

	// From RFC 6749 §4.1.2.1. RFC 6749 §5.2 has no code for trouble on our side; clients know these two.
	CodeServerError            = "server_error"
	CodeTemporarilyUnavailable = "temporarily_unavailable"

	// CodeFlowSuspended says that the token is good and the flow stands still: renewing the token does not help.
	CodeFlowSuspended = "flow_suspended"
)

// Refusal is an answer other than success. Everything in it is shown to the client.
type Refusal struct {
	// Status is the HTTP status. Anything that is not an error status is sent as 500: fail closed.
	Status int
	// Code is one of the codes above. Empty: the usual one for the status.
	Code string
	// Message is a fixed text. It never quotes a token.
	Message string
	// RetryAfter is when the client may ask again, for 429 and 503. It is rounded up to seconds; zero means one second.
	RetryAfter time.Duration
}

// Error makes a Refusal usable as an error, to be found again with errors.As.
func (r Refusal) Error() string {
	if r.Message == "" {
		return http.StatusText(r.Status)
	}
	return r.Message
}

// Missing is what Bearer returns, to be matched with errors.Is, when a request names no token. Its status is 401 in all
// dialects. It has no code, so that the answer of a protected resource says nothing but the scheme (RFC 6750 §3.1).
var Missing = Refusal{Status: http.StatusUnauthorized, Message: "Authorization header missing"}

func badRequest(message string) Refusal {
	return Refusal{Status: http.StatusBadRequest, Code: CodeInvalidRequest, Message: message}
}

package tokens

import (
	"errors"
	"fmt"
	"time"
)

// Code says why an operation was refused or could not be carried out. The set is closed, so that it can be a metric
// label.
type Code string

// Refusals of a data request's access token.
const (
	CodeTokenMalformed Code = "token_malformed"  // not one strict compact JWS with our claims
	CodeTokenSignature Code = "token_signature"  // signed by no key of this participant
	CodeTokenIssuer    Code = "token_issuer"     // signed by one of our keys, but for another participant
	CodeTokenExpired   Code = "token_expired"    // past its exp
	CodeWrongDataset   Code = "wrong_dataset"    // the site does not serve the flow's dataset
	CodeWrongEndpoint  Code = "wrong_endpoint"   // the request lies outside the endpoint that the EDR named
	CodeFlowUnknown    Code = "flow_unknown"     // no such flow
	CodeFlowSuspended  Code = "flow_suspended"   // the flow is suspended; renewing does not help
	CodeFlowEnded      Code = "flow_ended"       // the flow is completed, terminated or revoked
	CodeFlowNotStarted Code = "flow_not_started" // the flow is not started yet
	CodeFlowBusy       Code = "flow_busy"        // as many requests of the flow are under way as are allowed at once
	CodeConsumerBusy   Code = "consumer_busy"    // the same of the consumer, with all its flows, or of its renewals
)

// Refusals of a renewal.
const (
	CodeRefreshInvalid   Code = "refresh_invalid"   // not a refresh token of this flow, or of no flow at all
	CodeRefreshReused    Code = "refresh_reused"    // a refresh token older than the superseded one
	CodeProofMalformed   Code = "proof_malformed"   // not one strict compact JWS, or a forbidden header
	CodeProofAlgorithm   Code = "proof_algorithm"   // an algorithm that is not accepted
	CodeProofClaims      Code = "proof_claims"      // a required claim is missing or has the wrong type
	CodeProofIssuer      Code = "proof_issuer"      // iss and sub differ
	CodeProofNotBound    Code = "proof_not_bound"   // iss, or the DID of kid, is not the DID the flow is bound to
	CodeProofAudience    Code = "proof_audience"    // aud does not name this participant
	CodeProofExpired     Code = "proof_expired"     // past its exp
	CodeProofTime        Code = "proof_time"        // iat or nbf in the future, or a life longer than allowed
	CodeProofToken       Code = "proof_token"       // the token claim is no access token of this flow
	CodeProofTokenFlow   Code = "proof_token_flow"  // the token claim names a flow that is unknown, suspended or ended
	CodeProofKey         Code = "proof_key"         // the DID document has no such key
	CodeProofSignature   Code = "proof_signature"   // the signature does not verify
	CodeProofReplayed    Code = "proof_replayed"    // the same proof was used with another refresh token
	CodeRenewalForbidden Code = "renewal_forbidden" // the flow is bound to no DID, so nobody can prove to be its consumer
)

// CodePolicyDenied refuses a start or a renewal because the policy says no.
const CodePolicyDenied Code = "policy_denied"

// Refusals of a signaling operation.
const (
	CodeInvalid   Code = "invalid"         // a field is missing, malformed or contradictory; Detail names it
	CodeConflict  Code = "conflict"        // the flow exists with other binding fields, or the message id was used for something else
	CodeState     Code = "state"           // the flow's state does not allow the operation
	CodeForeign   Code = "foreign"         // the flow belongs to another control plane; answered like an unknown one
	CodeUnserved  Code = "unserved"        // nothing configured can serve the flow
	CodeNoRenewal Code = "renewal_unbound" // the profile demands renewal, but no DID can be bound
)

// CodeUnavailable means "cannot tell": store, DID host, policy or capacity trouble. It is answered with 503 and
// Retry-After, never with a 4xx, since a consumer takes any 4xx on renewal as final (Tractus-X token refresh).
const CodeUnavailable Code = "unavailable"

// Error is the error of every operation of a Service.
type Error struct {
	Code   Code
	Detail string // for the log, and for the caller where Code is CodeInvalid; never holds a token or key

	// Claim is the JWT claim that is missing, for CodeProofClaims and CodeProofToken.
	Claim string

	Dialect Dialect // of the flow, if it is known by then
	TokenID string  // jti of the access token, if it is known by then

	// RetryAfter is how long the caller should wait, for CodeUnavailable. 0: the edge's default.
	RetryAfter time.Duration

	cause error
}

// Error returns the code and the detail.
func (e *Error) Error() string {
	s := string(e.Code)
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

// RetryAfterOf returns how long the caller should wait before it tries again, or 0 if nothing better than the edge's
// default is known.
func RetryAfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// DialectOf returns the signaling dialect of the flow that err is about, or "" if it is not known.
func DialectOf(err error) Dialect {
	var e *Error
	if errors.As(err, &e) {
		return e.Dialect
	}
	return ""
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// unavailable passes on when the cause may be gone, if that is known.
func unavailable(cause error, format string, args ...any) *Error {
	e := &Error{Code: CodeUnavailable, Detail: fmt.Sprintf(format, args...), cause: cause}
	var later interface{ RetryAfter() time.Duration }
	if errors.As(cause, &later) {
		e.RetryAfter = later.RetryAfter()
	}
	return e
}

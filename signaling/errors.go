package signaling

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// refusal is every answer but success. Only text reaches the caller, and through it the other company: control planes
// copy our body into the reason they give their counterparty (observed on EDC 0.17 and 0.18). So text is fixed, and detail
// goes to the log alone.
type refusal struct {
	status     int
	outcome    string // metric label and log field; one of a closed set
	text       string
	detail     string // for the log; no token, property value or body
	cause      error  // for the log
	retryAfter time.Duration
	challenge  string // WWW-Authenticate
	allow      string // Allow
}

func (r *refusal) Error() string {
	s := r.outcome + ": " + r.text
	if r.detail != "" {
		s += ": " + r.detail
	}
	if r.cause != nil {
		s += ": " + r.cause.Error()
	}
	return s
}

func (r *refusal) Unwrap() error { return r.cause }

// reason is what the log says about why, without what the caller was told.
func (r *refusal) reason() string {
	switch {
	case r.cause == nil && r.detail == "":
		return r.text
	case r.cause == nil:
		return r.detail
	case r.detail == "":
		return r.cause.Error()
	}
	return r.detail + ": " + r.cause.Error()
}

// Outcomes of a request that was refused before a flow was looked at. Those of the token core are its codes.
const (
	outcomeInvalid      = string(tokens.CodeInvalid)
	outcomeUnserved     = string(tokens.CodeUnserved)
	outcomeUnavailable  = string(tokens.CodeUnavailable)
	outcomeUnknown      = string(tokens.Unknown)
	outcomeEnded        = string(tokens.OutOfState)
	outcomeUnauthorized = "unauthorized"
	outcomeForbidden    = "forbidden"
	outcomeMethod       = "method"
	outcomeMediaType    = "media_type"
	outcomeTooLarge     = "too_large"
	outcomeNoPath       = "no_path"
	outcomeDialect      = "dialect"
	outcomeConsumer     = "consumer_role"
	outcomePush         = "push"
	outcomeBusy         = "busy"
)

// invalid refuses a message that is not what the protocol says. text names members, never their values.
func invalid(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, outcome: outcomeInvalid, text: fmt.Sprintf(format, args...)}
}

// The texts of the token core's refusals. An unknown and a foreign flow read the same.
const (
	textUnknown      = "no such data flow"
	textConflict     = "the data flow exists with other terms"
	textState        = "the state of the data flow does not allow this"
	textConsumesOnly = "this participant only uses data of others: it serves no flow"
	textUnserved     = "this data plane does not serve the dataset"
	textNoRenewal    = "the profile demands token renewal, which needs a counterparty known by its DID"
	textDenied       = "the policy of this data plane does not permit the data flow"
	textUnavailable  = "temporarily unavailable"
	textInvalid      = "the message is not valid"
)

// defaultRetryAfter is used where nothing better is known.
const defaultRetryAfter = 2 * time.Second

// refusalOf turns an error of the token core into an answer. starting says that the caller asked for a flow, so that
// "unknown" cannot be said of one that exists for somebody else.
func refusalOf(err error, starting bool) *refusal {
	code := tokens.CodeOf(err)
	r := &refusal{outcome: string(code), cause: err}
	switch code {
	case tokens.CodeInvalid:
		r.status, r.text = http.StatusBadRequest, detailOf(err)
	case tokens.CodeUnserved:
		r.status, r.text = http.StatusBadRequest, textUnserved
	case tokens.CodeNoRenewal:
		r.status, r.text = http.StatusBadRequest, textNoRenewal
		r.detail = "map the counterparty's id to a DID with did_map"
	case tokens.CodePolicyDenied:
		r.status, r.text = http.StatusForbidden, textDenied // RFC 9110 §15.5.4: understood, and not to be repeated
	case tokens.CodeConflict:
		r.status, r.text = http.StatusConflict, textConflict
	case tokens.CodeForeign:
		r.status, r.text = http.StatusNotFound, textUnknown
		if starting {
			r.status, r.text = http.StatusConflict, textConflict
		}
	case tokens.CodeFlowUnknown:
		r.status, r.text = http.StatusNotFound, textUnknown
	case tokens.CodeState:
		r.status, r.text = http.StatusConflict, textState
	default:
		// What the core does not name is trouble of ours, and "cannot tell" must not read as "no".
		r.status, r.text = http.StatusServiceUnavailable, textUnavailable
		r.outcome = outcomeUnavailable
		r.retryAfter = tokens.RetryAfterOf(err)
	}
	return r
}

// detailOf returns what the core says about an invalid message, which it writes for the caller.
func detailOf(err error) string {
	var e *tokens.Error
	if errors.As(err, &e) && e.Detail != "" {
		return e.Detail
	}
	return textInvalid
}

// header sets the header fields that a refusal comes with.
func (r *refusal) header(h http.Header) {
	if r.challenge != "" {
		h.Set("WWW-Authenticate", r.challenge)
	}
	if r.allow != "" {
		h.Set("Allow", r.allow) // RFC 9110 §15.5.6
	}
	if r.status == http.StatusServiceUnavailable {
		after := r.retryAfter
		if after <= 0 {
			after = defaultRetryAfter
		}
		// Never 0: EDC takes that as "at once" and spends its six tries within a moment (observed on 0.15.1).
		seconds := max(1, int64(math.Ceil(after.Seconds())))
		h.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
}

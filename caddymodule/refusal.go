package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/edrgate/edrgate/tokens"
)

// Reasons of refusals beside the codes of package tokens.
const (
	reasonMissing   = "missing"           // no token
	reasonMalformed = "malformed_request" // not exactly one token
	reasonPath      = "path"              // a path without a canonical form
	reasonUpgrade   = "upgrade"           // another protocol is asked for
	reasonMethod    = "method"            // a method that is never proxied
	reasonQuery     = "query"             // a query parameter that is not allowed
	reasonBody      = "body"              // the flow's backend takes no such body
	reasonRenewal   = "refresh_request"   // a renewal that no edr_refresh took
)

// refusal is a definite no to a data request.
type refusal struct {
	reason  string // a reason constant or a tokens.Code
	detail  string // told to the client where the request itself is malformed
	dialect tokens.Dialect
	tokenID string
}

// ruling is how a reason is answered.
type ruling struct {
	rfc6750  int
	tractusX int
	code     string // RFC 6750 §3.1
	text     string // as the Tractus-X data plane words it, where it has such an answer
}

const (
	textUndecodable = "Failed to decode token"
	textUnverified  = "Token verification failed"
	textNoSuchFlow  = "AccessTokenData with ID '%s' does not exist."
)

// rulings follow RFC 6750 §3.1 in one column and what was observed of the Tractus-X data plane in the other
// (docs/decisions: statuses on the data path). A suspended flow is never 401: a consumer would renew its token over and
// over.
var rulings = map[string]ruling{
	reasonMissing:   {http.StatusUnauthorized, http.StatusUnauthorized, "", "Missing Authorization Header"},
	reasonMalformed: {http.StatusBadRequest, http.StatusBadRequest, "invalid_request", "Malformed request"},
	reasonPath:      {http.StatusBadRequest, http.StatusBadRequest, "invalid_request", "Malformed path"},
	reasonUpgrade:   {http.StatusBadRequest, http.StatusBadRequest, "invalid_request", "Protocol upgrades are not supported"},
	reasonQuery:     {http.StatusBadRequest, http.StatusBadRequest, "invalid_request", "Query not allowed"},
	reasonBody:      {http.StatusBadRequest, http.StatusBadRequest, "invalid_request", "Malformed request"},

	string(tokens.CodeTokenMalformed): {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", textUndecodable},
	string(tokens.CodeTokenSignature): {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", textUnverified},
	string(tokens.CodeTokenIssuer):    {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", textUnverified},
	string(tokens.CodeTokenExpired):   {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", "Token has expired (exp)"},

	string(tokens.CodeFlowUnknown):    {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", textNoSuchFlow},
	string(tokens.CodeFlowEnded):      {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", textNoSuchFlow},
	string(tokens.CodeFlowNotStarted): {http.StatusUnauthorized, http.StatusForbidden, "invalid_token", textNoSuchFlow},
	string(tokens.CodeFlowSuspended):  {http.StatusForbidden, http.StatusForbidden, "insufficient_scope", textNoSuchFlow},

	string(tokens.CodeFlowBusy):     {http.StatusTooManyRequests, http.StatusTooManyRequests, "", "Too many requests of this data flow at once"},
	string(tokens.CodeConsumerBusy): {http.StatusTooManyRequests, http.StatusTooManyRequests, "", "Too many requests of this consumer at once"},

	string(tokens.CodeWrongDataset):  {http.StatusForbidden, http.StatusForbidden, "insufficient_scope", "The token does not open this resource"},
	string(tokens.CodeWrongEndpoint): {http.StatusForbidden, http.StatusForbidden, "insufficient_scope", "The token does not open this resource"},
}

// refuse writes a refusal. The answer is ours and final, and the handler returns no error: Caddy answers errors with an
// empty body unless the operator has error routes, and these cannot be told to keep a body.
func (g *gate) refuse(w http.ResponseWriter, r *http.Request, no refusal) {
	rule, ok := rulings[no.reason]
	if !ok {
		// A code that no data request can have: fail closed, and as trouble of ours.
		g.refuseUnavailable(w, r, fmt.Errorf("refusal %q is not one of a data request", no.reason))
		return
	}
	status := rule.rfc6750
	if g.form(no.dialect) == formTractusX {
		status = rule.tractusX
	}
	text := rule.text
	switch {
	case text == textNoSuchFlow:
		text = fmt.Sprintf(textNoSuchFlow, no.tokenID)
	case no.detail != "" && rule.code == "invalid_request":
		text += ": " + no.detail
	}
	challenge := `Bearer realm="` + g.options.Realm + `"`
	if rule.code != "" {
		challenge += `, error="` + rule.code + `"`
	}
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", secondsOf(defaultRetryAfter)) // RFC 6585 §4
	} else {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	body := refusalBody{Errors: []string{text}}
	if no.reason == string(tokens.CodeFlowSuspended) {
		body.Code = no.reason
	}
	g.note(r, verdictRefused, no.reason)
	leaveBody(w, r)
	body.write(w, status)
	c := g.logger.Check(zap.DebugLevel, "data request refused")
	if c != nil {
		c.Write(zap.String("reason", no.reason), zap.Int("status", status), zap.String("token_id", no.tokenID),
			zap.String("remote", r.RemoteAddr))
	}
}

// form is how a refusal is numbered when it concerns a flow of the dialect, or no known flow.
func (g *gate) form(dialect tokens.Dialect) string {
	if g.options.RefusalStatus != "" {
		return g.options.RefusalStatus
	}
	if dialect == tokens.Classic || dialect == "" && g.app.classicOnly() {
		return formTractusX
	}
	return formRFC6750
}

// refuseToken answers an error of Verify.
func (g *gate) refuseToken(w http.ResponseWriter, r *http.Request, err error) {
	code := tokens.CodeOf(err)
	if code == tokens.CodeUnavailable {
		g.refuseUnavailable(w, r, err)
		return
	}
	no := refusal{reason: string(code), dialect: tokens.DialectOf(err)}
	var refused *tokens.Error
	if errors.As(err, &refused) {
		no.tokenID = refused.TokenID
	}
	g.refuse(w, r, no)
}

// defaultRetryAfter is the wait that is asked for where nothing better is known.
const defaultRetryAfter = time.Second

// refuseUnavailable answers "cannot tell". It is never 401 or 403: every consumer would renew its token at once, or
// give its transfer up.
func (g *gate) refuseUnavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		// The client is gone, which is why nothing could be told.
		g.note(r, verdictUnavailable, string(tokens.CodeUnavailable))
		w.WriteHeader(statusClientGone)
		return
	}
	g.note(r, verdictUnavailable, string(tokens.CodeUnavailable))
	leaveBody(w, r)
	writeUnavailable(w, tokens.RetryAfterOf(err), "The token cannot be checked at the moment")
	c := g.logger.Check(zap.ErrorLevel, "cannot check data request")
	if c != nil {
		c.Write(zap.Error(err))
	}
}

// statusClientGone is what Caddy logs when the client gave up. Nobody reads it on the wire.
const statusClientGone = 499

// refuseRenewal answers a renewal that no edr_refresh took. 4xx would tell the consumer that its refresh token is no
// good, and the query may hold that token: neither the backend nor a log may see it.
func (g *gate) refuseRenewal(w http.ResponseWriter, r *http.Request) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	g.note(r, verdictMisrouted, reasonRenewal)
	leaveBody(w, r)
	writeUnavailable(w, 0, "Token renewal is not available here")
	c := g.logger.Check(zap.ErrorLevel, "a renewal reached "+g.handler+": put edr_refresh before it")
	if c != nil {
		c.Write(zap.String("host", r.Host), zap.String("path", r.URL.Path), zap.String("remote", r.RemoteAddr))
	}
}

// methodsOfAll are those that pass where nothing else is said.
const methodsOfAll = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// refuseMethod answers a method that is not among the allowed ones.
func (g *gate) refuseMethod(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow) // RFC 9110 §15.5.6
	g.note(r, verdictRefused, reasonMethod)
	leaveBody(w, r)
	refusalBody{Errors: []string{"Method not allowed"}}.write(w, http.StatusMethodNotAllowed)
}

// leaveBody gives up a connection whose client waits for leave to send its body (RFC 9110 §10.1.1). net/http does so by
// itself, but cannot see that it has to behind Caddy's body reader, and would wait for the body before it answers.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.Header.Get("Expect") != "" {
		w.Header().Set("Connection", "close")
	}
}

// note counts the verdict and leaves its reason for the access log: {http.edr.error}.
func (g *gate) note(r *http.Request, verdict, reason string) {
	g.observer.Verdict(g.handler, verdict, reason)
	if hasJWS(r.Header) {
		g.hide(r, "data request with a token in another header than Authorization, it is not logged")
	}
	replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if ok {
		replacer.Set("http.edr.error", reason)
	}
}

// refusalBody is the body of an error that the data path makes, as the Tractus-X data plane writes it. Code is the
// only addition: consumers must be able to tell a suspended flow, which no renewal repairs, from a dead token.
type refusalBody struct {
	Errors []string `json:"errors"`
	Code   string   `json:"code,omitempty"`
}

func (b refusalBody) encode() []byte {
	data, err := json.Marshal(b)
	if err != nil {
		// Strings always marshal.
		return []byte(`{"errors":[]}`)
	}
	return data
}

func (b refusalBody) write(w http.ResponseWriter, status int) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.encode()) // a client that is gone cannot be told so
}

// secondsOf writes a wait in whole seconds, rounded up (RFC 9110 §10.2.3).
func secondsOf(wait time.Duration) string {
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

func writeUnavailable(w http.ResponseWriter, retryAfter time.Duration, text string) {
	if retryAfter <= 0 {
		retryAfter = defaultRetryAfter
	}
	w.Header().Set("Retry-After", secondsOf(retryAfter))
	refusalBody{Errors: []string{text}}.write(w, http.StatusServiceUnavailable)
}

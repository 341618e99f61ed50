package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/oauth"
	"github.com/edrgate/edrgate/tokens"
)

func init() {
	caddy.RegisterModule(new(Refresh))
	httpcaddyfile.RegisterHandlerDirective("edr_refresh", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Refresh)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	// Before basic_auth, as edr_auth stands behind it: renewals have their own proof and no access token.
	httpcaddyfile.RegisterDirectiveOrder("edr_refresh", httpcaddyfile.Before, "basic_auth")
}

// Refresh is the endpoint at which consumers renew their tokens: POST on the app's refresh_path, or on a public_url and
// refresh_path, with or without a trailing slash (OAuth 2.0 refresh, RFC 6749 §6, with the authentication token of
// Tractus-X and of the DPS token renewal profile as proof). The parameters may be in the form body, in the query, or in
// both. It also serves the public keys of access tokens as a JSON Web Key Set: GET on jwks.json beside it.
//
// Of several participants each has its renewals and its key set at its own addresses, as they were sent: the endpoint of one
// never takes a renewal of another.
//
// Everything else goes on to the next handler. Other methods on the refresh path do too, since a dataset may have such
// a path; where no handler follows they get 405.
//
// A refresh token in a query must not end up in a log. Such requests are left out of the access log; the handler writes
// one line of its own instead, without the query.
type Refresh struct {
	// Participant is the name of the one participant that is served here. Default: all, each at its own addresses.
	Participant string `json:"participant,omitempty"`

	app    *App
	logger *slog.Logger
	only   *participant // who is served here if it is one
}

// CaddyModule returns the Caddy module information.
func (*Refresh) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_refresh", New: func() caddy.Module { return new(Refresh) }}
}

// Provision takes the app and tells it that there is a refresh endpoint.
func (h *Refresh) Provision(ctx caddy.Context) error {
	app, err := configuredApp(ctx)
	if err != nil {
		return err
	}
	h.app, h.logger = app, ctx.Slogger()
	warnOfPatience(ctx, ctx.Logger())
	served := app.participants
	if h.Participant != "" || len(served) == 1 {
		h.only, err = app.findParticipant(h.Participant)
		if err != nil {
			return fmt.Errorf("edr_refresh: %w", err)
		}
		served = []*participant{h.only}
		err = h.only.checkGivesData("edr_refresh")
		if err != nil {
			return err
		}
	}
	for _, p := range served {
		p.sites.refreshes++
	}
	return nil
}

// ServeHTTP answers renewals. It returns no error of its own: Caddy would log the URI with it, and error routes would
// rewrite the body that consumers read.
func (h *Refresh) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	p, ok := h.mine(h.app.book.keySet(r))
	if ok && p != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		p.serveKeys(w)
		return nil
	}
	p, ok = h.mine(h.app.book.renewal(r))
	if !ok {
		return next.ServeHTTP(w, r)
	}
	if r.Method != http.MethodPost {
		return h.passOn(w, r, next)
	}
	answeringPanics(w, h.logger, func(w http.ResponseWriter) { h.serveRenewal(w, r, p) })
	return nil
}

// mine reports whether a request to a participant's address is answered here, and for whom. nil: nobody can tell for whom.
func (h *Refresh) mine(p *participant, ok bool) (*participant, bool) {
	switch {
	case !ok || h.only == nil:
		return p, ok
	case p == nil:
		return h.only, true
	}
	return p, p == h.only
}

func (p *participant) serveKeys(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "application/jwk-set+json") // RFC 7517 §8.5.2
	header.Set("Cache-Control", "max-age=300")             // a new key is listed as next for longer than this
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(p.keySet) // a client that is gone cannot be told so
}

// passOn hands a request with another method to the next handler. If there is none, Caddy's last one says so in a
// variable and leaves the answer open.
func (h *Refresh) passOn(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	hidden := oauth.QueryMayHoldToken(r.URL.RawQuery)
	if hidden {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
		h.logger.Info("request with another method than POST at the refresh endpoint, its query is not logged",
			"method", r.Method, "host", r.Host, "path", r.URL.Path, "remote", r.RemoteAddr)
	}
	err := next.ServeHTTP(w, r)
	if err != nil && hidden {
		h.answerHidden(w, r, err)
		return nil
	}
	if err != nil {
		return err
	}
	unhandled, ok := caddyhttp.GetVar(r.Context(), unhandledVar).(bool)
	if ok && unhandled {
		w.Header().Set("Allow", http.MethodPost) // RFC 9110 §15.5.6
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
	return nil
}

// answerHidden answers an error of the next handlers for a request whose query may hold a token. Returned, it would have
// Caddy log the whole URI.
func (h *Refresh) answerHidden(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var known caddyhttp.HandlerError
	if errors.As(err, &known) && known.StatusCode != 0 {
		status = known.StatusCode
		err = known.Err
	}
	h.logger.Error("request not answered, its query is not logged",
		"method", r.Method, "host", r.Host, "path", r.URL.Path, "status", status, "error", err)
	w.WriteHeader(status)
}

// unhandledVar is set by Caddy's own last handler of every chain.
const unhandledVar = "unhandled"

// renewal is what is known of a request to the refresh endpoint by the time it is answered.
type renewal struct {
	result string // for metric and log: an outcome, a code, or one of renewalFaults
	status int
	flow   string
	detail error
}

// Faults of a request that no code of package tokens stands for. They are results in the metric.
const (
	faultMalformed = "malformed_request"
	faultNoProof   = "missing_proof"
	faultTooLarge  = "too_large"
	faultBusy      = "busy" // as many renewals are under way as are worked on at once
)

var renewalFaults = []string{faultMalformed, faultNoProof, faultTooLarge, faultBusy}

// serveRenewal answers a renewal for a participant, or says that it cannot tell for whom it is.
func (h *Refresh) serveRenewal(w http.ResponseWriter, r *http.Request, p *participant) {
	start := time.Now()
	hidden := oauth.QueryMayHoldToken(r.URL.RawQuery) || hasJWS(r.Header)
	if hidden {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	var done renewal
	body := timeBody(w, r, time.Duration(h.app.Limits.MessageTimeout))
	if p == nil {
		done = h.refuseUndecided(w)
	} else {
		done = endpoint{p}.renew(w, r)
		p.observer.Renewal(done.result)
	}

	level := slog.LevelDebug
	switch {
	case done.status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	case hidden || done.status >= http.StatusBadRequest:
		level = slog.LevelInfo
	}
	attributes := []slog.Attr{
		slog.String("result", done.result), slog.Int("status", done.status), slog.String("flow", done.flow),
		slog.String("host", r.Host), slog.String("path", r.URL.Path), slog.String("remote", r.RemoteAddr),
		slog.Duration("duration", time.Since(start)),
	}
	if done.detail != nil {
		attributes = append(attributes, slog.Any("error", done.detail))
	}
	if p != nil && len(h.app.participants) > 1 {
		attributes = append(attributes, slog.String("participant", p.name))
	}
	h.logger.LogAttrs(r.Context(), level, "renewal", attributes...)
	body.readLeft()
}

// errUndecided is logged of a renewal that came to no participant's address.
var errUndecided = errors.New("the request was sent to no public_url and refresh_path of a participant, so nobody can tell whose tokens it renews: " +
	"let it come with the host and path that the consumer sent, or write `edr_refresh { participant <name> }`")

// refuseUndecided answers a renewal of which nobody can tell for whom it is. Any 4xx would be final for the consumer, whose
// tokens may be in order.
func (h *Refresh) refuseUndecided(w http.ResponseWriter) renewal {
	h.app.observer.undecidedRenewals().Inc()
	return endpoint{h.app.participants[0]}.refuse(w, "", "", errUndecided)
}

// endpoint is the refresh endpoint of one participant.
type endpoint struct{ *participant }

// renew answers a renewal. The order of checks is that of the Tractus-X refresh endpoint: grant type, refresh token,
// authorization, then the tokens themselves.
func (e endpoint) renew(w http.ResponseWriter, r *http.Request) renewal {
	request, err := oauth.ParseTokenRequest(r, e.app.Limits.MessageBytes)
	if err == nil {
		err = request.CheckRefresh()
	}
	if err != nil {
		return e.refuse(w, faultMalformed, "", err)
	}
	proof, err := oauth.Bearer(r.Header, e.app.Limits.TokenBytes)
	if errors.Is(err, oauth.Missing) {
		return e.refuse(w, faultNoProof, "", err)
	}
	if err != nil {
		return e.refuse(w, faultMalformed, "", err)
	}
	service, err := e.Service()
	if err != nil {
		return e.refuseToken(w, proof, err)
	}
	// Only now, when the whole request is there: slow clients must not keep others from renewing.
	if !e.app.renewing.enter() {
		return e.refuseBusy(w)
	}
	defer e.app.renewing.leave()
	renewed, err := service.Renew(r.Context(), tokens.RenewRequest{RefreshToken: request.RefreshToken.Reveal(), Proof: proof.Reveal()})
	if err != nil {
		return e.refuseToken(w, proof, err)
	}
	err = oauth.WriteToken(w, oauth.Token{
		AccessToken:  tokens.Secret(renewed.AccessToken.Reveal()),
		RefreshToken: tokens.Secret(renewed.RefreshToken.Reveal()),
		ExpiresIn:    renewed.ExpiresIn,
	})
	// A consumer that did not get the answer comes again with the same refresh token and gets it.
	return renewal{result: string(renewed.Outcome), status: http.StatusOK, flow: renewed.FlowID, detail: err}
}

// refuse answers a request that is not a complete one.
func (e endpoint) refuse(w http.ResponseWriter, result string, dialect tokens.Dialect, err error) renewal {
	refusal := oauth.Refusal{Status: http.StatusServiceUnavailable, Message: textRenewalUnavailable}
	var definite oauth.Refusal
	if errors.As(err, &definite) {
		refusal = definite
	}
	switch {
	case refusal.Status >= http.StatusInternalServerError:
		result = string(tokens.CodeUnavailable)
	case refusal.Status == http.StatusRequestEntityTooLarge || refusal.Status == http.StatusRequestURITooLong:
		result = faultTooLarge
	}
	writeErr := oauth.WriteError(w, e.format(dialect), refusal)
	return renewal{result: result, status: refusal.Status, detail: errors.Join(err, writeErr)}
}

// errTooManyRenewals is logged of a renewal that found no room.
var errTooManyRenewals = errors.New("too many renewals at once")

// refuseBusy answers a renewal that finds no room. Never 429: a consumer takes any 4xx for final.
func (e endpoint) refuseBusy(w http.ResponseWriter) renewal {
	err := oauth.WriteError(w, e.format(""), oauth.Refusal{
		Status: http.StatusServiceUnavailable, Code: oauth.CodeTemporarilyUnavailable, Message: textRenewalUnavailable, RetryAfter: defaultRetryAfter,
	})
	return renewal{result: faultBusy, status: http.StatusServiceUnavailable, detail: errors.Join(errTooManyRenewals, err)}
}

// refuseToken answers an error of the token service.
func (e endpoint) refuseToken(w http.ResponseWriter, proof tokens.Secret, err error) renewal {
	format := e.format(tokens.DialectOf(err))
	refusal := refusalOfRenewal(format, proof, err)
	writeErr := oauth.WriteError(w, format, refusal)
	return renewal{result: string(tokens.CodeOf(err)), status: refusal.Status, detail: errors.Join(err, writeErr)}
}

// format is how errors about a flow of the dialect, or about no known flow, are written.
func (e endpoint) format(dialect tokens.Dialect) oauth.Format {
	switch e.app.ErrorFormat {
	case formatEDC:
		return oauth.EDC
	case formatRFC6749:
		return oauth.OAuth
	}
	if dialect == tokens.Classic || dialect == "" && e.sites.speaks(tokens.Classic) {
		return oauth.EDC
	}
	return oauth.OAuth
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	edr_refresh {
//		participant <name>
//	}
//
// The path is the app's refresh_path. An argument that looks like a path would be a request matcher.
func (h *Refresh) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		if d.Val() != "participant" {
			return d.Errf("unrecognized subdirective %q", d.Val())
		}
		err := text(&h.Participant)(d)
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Refresh)(nil)
	_ caddyhttp.MiddlewareHandler = (*Refresh)(nil)
	_ caddyfile.Unmarshaler       = (*Refresh)(nil)
)

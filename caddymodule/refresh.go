package caddymodule

import (
	"errors"
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
// Everything else goes on to the next handler. Other methods on the refresh path do too, since a dataset may have such
// a path; where no handler follows they get 405.
//
// A refresh token in a query must not end up in a log. Such requests are left out of the access log; the handler writes
// one line of its own instead, without the query.
type Refresh struct {
	participant *participant
	logger      *slog.Logger
	keys        []byte
}

// CaddyModule returns the Caddy module information.
func (*Refresh) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_refresh", New: func() caddy.Module { return new(Refresh) }}
}

// Provision takes the app and tells it that there is a refresh endpoint.
func (h *Refresh) Provision(ctx caddy.Context) error {
	p, err := configuredParticipant(ctx, "")
	if err != nil {
		return err
	}
	h.participant, h.logger = p, ctx.Slogger()
	h.keys, err = p.config.Keys.JWKS()
	if err != nil {
		return err
	}
	p.sites.refreshes++
	return nil
}

// ServeHTTP answers renewals. It returns no error of its own: Caddy would log the URI with it, and error routes would
// rewrite the body that consumers read.
func (h *Refresh) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.participant.address.isKeySet(r) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		h.serveKeys(w)
		return nil
	}
	if !h.participant.address.isRenewal(r) {
		return next.ServeHTTP(w, r)
	}
	if r.Method == http.MethodPost {
		h.serveRenewal(w, r)
		return nil
	}
	return h.passOn(w, r, next)
}

func (h *Refresh) serveKeys(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "application/jwk-set+json") // RFC 7517 §8.5.2
	header.Set("Cache-Control", "max-age=300")             // a new key is listed as next for longer than this
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(h.keys) // a client that is gone cannot be told so
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
)

var renewalFaults = []string{faultMalformed, faultNoProof}

func (h *Refresh) serveRenewal(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	inQuery := oauth.QueryMayHoldToken(r.URL.RawQuery)
	if inQuery {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	}
	done := h.renew(w, r)
	h.participant.observer.Renewal(done.result)

	level := slog.LevelDebug
	switch {
	case done.status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	case inQuery || done.status >= http.StatusBadRequest:
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
	h.logger.LogAttrs(r.Context(), level, "renewal", attributes...)
}

// renew answers a renewal. The order of checks is that of the Tractus-X refresh endpoint: grant type, refresh token,
// authorization, then the tokens themselves.
func (h *Refresh) renew(w http.ResponseWriter, r *http.Request) renewal {
	request, err := oauth.ParseTokenRequest(r, 0)
	if err == nil {
		err = request.CheckRefresh()
	}
	if err != nil {
		return h.refuse(w, faultMalformed, "", err)
	}
	proof, err := oauth.Bearer(r.Header, 0)
	if errors.Is(err, oauth.Missing) {
		return h.refuse(w, faultNoProof, "", err)
	}
	if err != nil {
		return h.refuse(w, faultMalformed, "", err)
	}
	service, err := h.participant.Service()
	if err != nil {
		return h.refuseToken(w, proof, err)
	}
	renewed, err := service.Renew(r.Context(), tokens.RenewRequest{RefreshToken: request.RefreshToken.Reveal(), Proof: proof.Reveal()})
	if err != nil {
		return h.refuseToken(w, proof, err)
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
func (h *Refresh) refuse(w http.ResponseWriter, result string, dialect tokens.Dialect, err error) renewal {
	refusal := oauth.Refusal{Status: http.StatusServiceUnavailable, Message: textRenewalUnavailable}
	var definite oauth.Refusal
	if errors.As(err, &definite) {
		refusal = definite
	}
	if refusal.Status >= http.StatusInternalServerError {
		result = string(tokens.CodeUnavailable)
	}
	writeErr := oauth.WriteError(w, h.format(dialect), refusal)
	return renewal{result: result, status: refusal.Status, detail: errors.Join(err, writeErr)}
}

// refuseToken answers an error of the token service.
func (h *Refresh) refuseToken(w http.ResponseWriter, proof tokens.Secret, err error) renewal {
	format := h.format(tokens.DialectOf(err))
	refusal := refusalOfRenewal(format, proof, err)
	writeErr := oauth.WriteError(w, format, refusal)
	return renewal{result: string(tokens.CodeOf(err)), status: refusal.Status, detail: errors.Join(err, writeErr)}
}

// format is how errors about a flow of the dialect, or about no known flow, are written.
func (h *Refresh) format(dialect tokens.Dialect) oauth.Format {
	switch h.participant.app.ErrorFormat {
	case formatEDC:
		return oauth.EDC
	case formatRFC6749:
		return oauth.OAuth
	}
	if dialect == tokens.Classic || dialect == "" && h.participant.sites.speaks(tokens.Classic) {
		return oauth.EDC
	}
	return oauth.OAuth
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	edr_refresh
//
// The path is the app's refresh_path. An argument that looks like a path would be a request matcher.
func (h *Refresh) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return endOfLine(d)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Refresh)(nil)
	_ caddyhttp.MiddlewareHandler = (*Refresh)(nil)
	_ caddyfile.Unmarshaler       = (*Refresh)(nil)
)

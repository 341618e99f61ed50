package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/oauth"
	"github.com/edrgate/edrgate/tokens"
)

// dataApp is what the data path needs of the app.
type dataApp interface {
	// Service returns the token service; an error means "cannot tell".
	Service() (*tokens.Service, error)

	// metrics returns where requests are counted. Never nil.
	metrics() dataObserver

	// refreshRequest reports whether a POST is a renewal, which edr_refresh should have answered.
	refreshRequest(r *http.Request) bool

	// classicOnly reports whether the classic dialect is the only one enabled.
	classicOnly() bool

	// limits returns the limits of data requests.
	limits() *Limits

	// rulesOf returns which requests a route lets pass; nil: all, or there is no such route.
	rulesOf(route string) *requestRules

	// registerAuth and registerProxy tell the app what the sites serve. An error is one of the configuration.
	registerAuth(h *Auth) error
	registerProxy(h *Proxy) error
}

// dataObserver counts what happens on the data path. All arguments come from closed sets.
type dataObserver interface {
	// Verdict counts a request: handler is edr_auth or edr_proxy, verdict one of the verdict constants, reason empty,
	// a tokens.Code or one of the reason constants.
	Verdict(handler, verdict, reason string)

	// Backend counts an answer, or its absence, of a backend of edr_proxy: one of the backend constants.
	Backend(result string)

	dialObserver
}

// Verdicts of a data request.
const (
	verdictAdmitted    = "admitted"
	verdictRefused     = "refused"     // a definite no
	verdictUnavailable = "unavailable" // cannot tell
	verdictMisrouted   = "misrouted"   // a renewal that no edr_refresh took
)

// GateOptions are the options that edr_auth and edr_proxy have in common.
type GateOptions struct {
	// Participant is the name of the participant whose tokens are good here; those of others are refused as strangers'.
	// Default: the only one, or of several the app's own.
	Participant string `json:"participant,omitempty"`

	// RefusalStatus is how refusals are numbered: "rfc6750", 401 for a token that is no good and 403 for one that is
	// but not here; or "tractusx", 403 for all but a missing token, as the Tractus-X data plane answers and its
	// consumers expect. Default: tractusx for flows of the classic dialect and where no other dialect is enabled,
	// otherwise rfc6750.
	RefusalStatus string `json:"refusal_status,omitempty"`

	// Realm is the realm of the WWW-Authenticate header. Default: "edr".
	Realm string `json:"realm,omitempty"`

	// AllowEncodedSlash lets %2F in a path pass, for object stores. Default: 400.
	AllowEncodedSlash bool `json:"allow_encoded_slash,omitempty"`

	// AllowEncodedPercent lets %25 in a path pass. Default: 400.
	AllowEncodedPercent bool `json:"allow_encoded_percent,omitempty"`

	// AllowDoubleSlash lets an empty segment in a path pass. Default: 400.
	AllowDoubleSlash bool `json:"allow_double_slash,omitempty"`

	// AllowSetCookie lets the cookies of backends pass. They are those of a host that several parties may share, and the
	// consumer's never get back to the backend. Default: removed.
	AllowSetCookie bool `json:"allow_set_cookie,omitempty"`

	RequestRules
}

const (
	formRFC6750  = "rfc6750"
	formTractusX = "tractusx"
	defaultRealm = "edr"
)

func (o *GateOptions) validate() error {
	switch o.RefusalStatus {
	case "", formRFC6750, formTractusX:
	default:
		return fmt.Errorf("refusal_status %q is not known: use %s or %s", o.RefusalStatus, formRFC6750, formTractusX)
	}
	err := checkRealm(o.Realm)
	if err != nil {
		return err
	}
	return o.RequestRules.check()
}

func checkRealm(realm string) error {
	for i := range len(realm) {
		// RFC 9110 §5.6.4: what would need quoting in a quoted-string.
		if c := realm[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return errors.New("realm holds a character other than printable ASCII without quotes and backslashes")
		}
	}
	return nil
}

// gate decides whether a data request may go on. It is the one place where a data request's identity, path and token
// are looked at; edr_auth and edr_proxy each have one.
type gate struct {
	handler  string
	options  GateOptions
	paths    canonical.Options
	site     *tokens.Site
	rules    *requestRules // of the site
	limits   tokens.RequestLimits
	maxToken int // bytes
	identity identityRules
	upgrades bool // protocol switches may pass

	app      dataApp
	observer dataObserver
	logger   *zap.Logger
}

// newGate returns a gate. options must have passed validate.
func newGate(app dataApp, handler string, options GateOptions, site *tokens.Site, logger *zap.Logger) *gate {
	if options.Realm == "" {
		options.Realm = defaultRealm
	}
	if options.Participant != "" {
		logger = logger.With(zap.String("participant", options.Participant))
	}
	return &gate{
		handler: handler,
		options: options,
		paths: canonical.Options{
			AllowEncodedSlash:   options.AllowEncodedSlash,
			AllowEncodedPercent: options.AllowEncodedPercent,
			AllowDoubleSlash:    options.AllowDoubleSlash,
		},
		site:     site,
		rules:    newRequestRules(options.RequestRules),
		limits:   app.limits().requests(),
		maxToken: app.limits().TokenBytes,
		app:      app,
		observer: app.metrics(),
		logger:   logger,
	}
}

// grant is an admitted request. One is made for each, so nothing in it is shared.
type grant struct {
	access *tokens.Access
	path   string // canonical form of the path that the client sent

	// Backing arrays of the asserted header values. A slice kept in the flow would be changed for all requests by a
	// header directive that replaces in place.
	bpn, agreement [1]string

	answer answerFilter
}

// grantVar is the name of Caddy's request variable that holds the grant.
const grantVar = "edr.flow"

// String returns the flow's id and nothing else: {http.vars.edr.flow} and log_append print it.
func (g *grant) String() string { return g.access.FlowID() }

// placeholder resolves the placeholders of an admitted request when they are asked for: most never are, and setting
// them would grow a map for every request.
func (g *grant) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.auth.user.")
	if !ok {
		return nil, false
	}
	switch name {
	case "id":
		return g.access.Counterparty(), true
	case "agreement_id":
		return g.access.Agreement(), true
	case "asset_id":
		return g.access.Dataset(), true
	case "flow_id":
		return g.access.FlowID(), true
	}
	return nil, false
}

// admit answers a request that may not go on and returns nil, or prepares it for the backend and returns its grant, whose
// end must be called when the request has been served. The order is: method, renewals gone astray, the site's methods, path,
// token, endpoint and dataset, what the route and the site let pass, load, identity.
func (g *gate) admit(w http.ResponseWriter, r *http.Request) *grant {
	if r.URL.RawQuery != "" && oauth.QueryNamesToken(r.URL.RawQuery) {
		g.hide(r, "data request whose query names a token, it is not logged")
	}
	if !g.takesMethod(r) {
		g.refuseMethod(w, r, methodsOfAll)
		return nil
	}
	original, err := g.canonicalise(r)
	if r.Method == http.MethodPost && g.app.refreshRequest(r) {
		// Before everything that is 4xx: a path that is refused here may still name the refresh endpoint.
		g.refuseRenewal(w, r)
		return nil
	}
	if !g.rules.takesMethod(r.Method) {
		g.refuseMethod(w, r, g.rules.allow)
		return nil
	}
	if err != nil {
		g.refuse(w, r, refusal{reason: reasonPath, detail: pathFault(err)})
		return nil
	}
	service, err := g.app.Service()
	if err != nil {
		g.refuseUnavailable(w, r, err)
		return nil
	}
	token, fault := bearerToken(r.Header, g.maxToken)
	if fault != nil {
		g.refuse(w, r, *fault)
		return nil
	}
	if takeOutRepeats(r.Header, token) {
		g.hide(r, "data request with its token in another header too, it is not logged")
	}
	access, err := service.Verify(r.Context(), token, tokens.Request{Host: r.Host, Path: original}, g.site)
	if err != nil {
		g.refuseToken(w, r, err)
		return nil
	}
	// Only now, so that a request without a good token learns nothing but that. A tunnel outlives the suspension and
	// the end of its flow, so it is never opened unasked.
	if !g.upgrades && wantsUpgrade(r.Header) {
		g.refuse(w, r, refusal{reason: reasonUpgrade, dialect: access.Dialect()})
		return nil
	}
	if !g.passesRules(w, r, access) {
		return nil
	}
	// Last, so that nothing is counted that is refused.
	err = access.Begin(g.limits)
	if err != nil {
		g.refuseToken(w, r, err)
		return nil
	}
	admitted := &grant{access: access, path: original}
	g.identity.strip(r)
	admitted.assert(r.Header)

	// The map of variables is there already: no copy of the request, as WithContext would make.
	caddyhttp.SetVar(r.Context(), grantVar, admitted)
	replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if ok {
		replacer.Map(admitted.placeholder)
	}
	g.observer.Verdict(g.handler, verdictAdmitted, "")
	return admitted
}

// end says that the request has been served.
func (g *grant) end() { g.access.End() }

// passesRules answers a request that the flow's route or the site does not let pass. Whether there is a route, and what its
// parameters are, is told to its consumers only.
func (g *gate) passesRules(w http.ResponseWriter, r *http.Request, access *tokens.Access) bool {
	route := g.app.rulesOf(access.Route())
	if !route.takesMethod(r.Method) {
		g.refuseMethod(w, r, route.allow)
		return false
	}
	for _, rules := range [...]*requestRules{g.rules, route} {
		fault := rules.checkQuery(r.URL.RawQuery)
		if fault != "" {
			g.refuse(w, r, refusal{reason: reasonQuery, detail: fault, dialect: access.Dialect()})
			return false
		}
	}
	return true
}

// hide keeps a request out of the access log, which would have its query and headers, and writes a line without them. A
// token in a query or in another header than Authorization opens nothing here, but somebody put it there.
func (g *gate) hide(r *http.Request, why string) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	g.logger.Info(why,
		zap.String("method", r.Method), zap.String("host", r.Host), zap.String("path", r.URL.Path), zap.String("remote", r.RemoteAddr))
}

// canonicalise gives the request the canonical form of the path that handlers before us left it, which is what the
// backend gets, and returns that of the path that the client sent, which is what the EDR named.
func (g *gate) canonicalise(r *http.Request) (string, error) {
	if r.URL.Opaque != "" {
		// A request target "x:http://host/path" has no path to decide on, and net/http would send what follows the scheme
		// to the backend as it is, which has to take it for its target (RFC 9112 §3.2.2).
		return "", canonical.ErrNotAbsolute
	}
	sent, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	rewritten := ok && sent.URL != nil && (sent.URL.Path != r.URL.Path || sent.URL.RawPath != r.URL.RawPath)
	escaped := r.URL.EscapedPath()
	current, err := canonical.Path(escaped, g.paths)
	if err != nil {
		return "", err
	}
	if current != escaped {
		err = setPath(r, current)
		if err != nil {
			return "", err
		}
	}
	if !rewritten {
		return current, nil
	}
	return canonical.Path(sent.URL.EscapedPath(), g.paths)
}

// pathFault is what may be told of a refused path: it quotes nothing of the request.
func pathFault(err error) string {
	var fault *canonical.Error
	if errors.As(err, &fault) {
		return fault.Reason()
	}
	return "not a path"
}

// setPath makes the canonical path the one that is forwarded.
func setPath(r *http.Request, path string) error {
	err := canonical.Set(r.URL, path)
	if err != nil {
		return err
	}
	r.RequestURI = r.URL.RequestURI()
	return nil
}

// takesMethod reports whether the method may pass at all. TRACE would show the consumer the headers that we add, and
// CONNECT asks for a tunnel, unless it is the way in which HTTP/2 and HTTP/3 open a WebSocket (RFC 8441, RFC 9220).
func (g *gate) takesMethod(r *http.Request) bool {
	if g.site.OwnBackend {
		return dataMethods[r.Method]
	}
	switch r.Method {
	case http.MethodTrace:
		return false
	case http.MethodConnect:
		return g.upgrades && r.ProtoMajor >= 2 && (r.Header.Get(":protocol") == "websocket" || r.Proto == "websocket")
	}
	// HTTP/2 carries any text (RFC 9113 §8.3.1), of which HTTP/1.1 to a backend would make another request.
	return isToken(r.Method)
}

// dataMethods are the methods that the Tractus-X data plane proxies; it answers 405 to others.
var dataMethods = map[string]bool{
	http.MethodGet:     true,
	http.MethodHead:    true,
	http.MethodPost:    true,
	http.MethodPut:     true,
	http.MethodPatch:   true,
	http.MethodDelete:  true,
	http.MethodOptions: true,
}

// wantsUpgrade reports whether the client asks for another protocol. h2c does not count: RFC 9110 §7.8 lets a server
// ignore it, and some HTTP libraries ask for it with every request.
func wantsUpgrade(h http.Header) bool {
	for _, value := range h["Upgrade"] {
		if !strings.EqualFold(value, "h2c") {
			return true
		}
	}
	return false
}

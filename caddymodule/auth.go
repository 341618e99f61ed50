package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/tokens"
)

func init() {
	caddy.RegisterModule(new(Auth))
	httpcaddyfile.RegisterHandlerDirective("edr_auth", parseAuth)
	// After forward_auth and so before request_header and the proxies. The endpoints of protocols are anchored to
	// another directive, so that their order does not depend on the order of imports.
	httpcaddyfile.RegisterDirectiveOrder("edr_auth", httpcaddyfile.After, "forward_auth")
}

// Auth lets a data request pass if its access token opens what is asked for: the token is one of ours and not expired,
// its flow is started, the request lies under the endpoint that the flow's EDR named, and this site serves the flow's
// dataset. All of it is checked for every request; suspending or ending a flow acts on its next one.
//
// The path is brought into one canonical form, which is both what is decided on and what the next handler gets. Paths
// that servers read differently are answered 400: encoded dots, slashes, backslashes and percent signs, empty segments,
// control characters. Directives that separate datasets by path must come before this one.
//
// What the next handler gets has no Authorization, Cookie, Proxy-*, X-Api-Key, Forwarded, X-Forwarded-* and X-Real-Ip (but
// those of a trusted proxy), X-Original-Url, X-Rewrite-Url, X-Http-Method-Override and its like, no trailers and no header that the client's Connection header names. Edc-Bpn and Edc-Contract-Agreement-Id
// say for whom the request is; no spelling of them that the client sends passes. All else passes.
//
// Of the answer, Set-Cookie, Server, Via, X-Powered-By and Alt-Svc of the next handlers are removed.
//
// Refusals are answered here: a body {"errors":["…"]} and WWW-Authenticate (RFC 6750 §3). What cannot be told at the
// moment is 503 with Retry-After, never 401. Error routes (handle_errors) do not see them. A refused flow that is only
// suspended has "code":"flow_suspended" in the body: renewing the token does not help.
//
// Placeholders of an admitted request:
//
// Placeholder | Description
// ------------|-------------
// `{http.auth.user.id}` | The consumer's participant id
// `{http.auth.user.agreement_id}` | The id of the contract agreement
// `{http.auth.user.asset_id}` | The id of the dataset
// `{http.auth.user.flow_id}` | The id of the flow
//
// and of a refused one:
//
// Placeholder | Description
// ------------|-------------
// `{http.edr.error}` | Why, in one word of a fixed set
type Auth struct {
	// Datasets are the ids of the datasets that are served here, as control planes name them.
	Datasets []string `json:"datasets,omitempty"`

	// Routes are the names of routes of the app whose datasets are served here.
	Routes []string `json:"routes,omitempty"`

	// AnyDataset serves every dataset: any token of any flow with the same endpoint opens everything here. Give the
	// flows different endpoints, or have only one dataset.
	AnyDataset bool `json:"any_dataset,omitempty"`

	// IgnoreSourceAddress accepts classic flows although the backend address in their start message is not used, since
	// requests go where the next handler sends them. Default: such a start is refused.
	IgnoreSourceAddress bool `json:"ignore_source_address,omitempty"`

	// AllowUpgrade lets requests for another protocol, such as WebSocket, pass. What is opened then outlives the
	// suspension and the end of its flow. Default: 400.
	AllowUpgrade bool `json:"allow_upgrade,omitempty"`

	GateOptions

	gate *gate
}

// CaddyModule returns the Caddy module information.
func (*Auth) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_auth", New: func() caddy.Module { return new(Auth) }}
}

// Provision takes the app and tells it what is served here.
func (h *Auth) Provision(ctx caddy.Context) error {
	p, err := configuredParticipant(ctx, h.Participant)
	if err != nil {
		return fmt.Errorf("edr_auth: %w", err)
	}
	return h.provision(ctx, p)
}

func (h *Auth) provision(ctx caddy.Context, app dataApp) error {
	err := h.check()
	if err != nil {
		return err
	}
	h.gate = newGate(app, "edr_auth", h.GateOptions, h.site(), ctx.Logger())
	h.gate.upgrades = h.AllowUpgrade
	h.gate.identity = identityRules{denyList: true, keepUpgrade: h.AllowUpgrade}
	if h.AnyDataset {
		h.gate.logger.Warn("edr_auth serves any dataset: a token opens everything below its endpoint")
	}
	return app.registerAuth(h)
}

// check finds contradictions in the configuration. Validate would be too late: Caddy calls it after Provision.
func (h *Auth) check() error {
	if !h.AnyDataset && len(h.Datasets) == 0 && len(h.Routes) == 0 {
		return errors.New("say what is served here: dataset <id>..., route <name>..., or any_dataset")
	}
	if h.AnyDataset && len(h.Datasets)+len(h.Routes) > 0 {
		return errors.New("any_dataset together with dataset or route says two different things")
	}
	if slices.Contains(h.Datasets, "") || slices.Contains(h.Routes, "") {
		return errors.New("dataset and route take no empty names")
	}
	return h.GateOptions.validate()
}

func (h *Auth) site() *tokens.Site {
	return &tokens.Site{AnyDataset: h.AnyDataset, Datasets: setOf(h.Datasets), Routes: setOf(h.Routes)}
}

func setOf(names []string) map[string]struct{} {
	set := make(map[string]struct{}, len(names))
	for _, name := range names {
		set[name] = struct{}{}
	}
	return set
}

// served is what an edr_auth serves.
type served struct {
	Any              bool
	Datasets, Routes []string
	IgnoreSource     bool // classic flows are served too, and their backend address is not used
}

// servedDatasets returns what is served here.
func (h *Auth) servedDatasets() served {
	return served{Any: h.AnyDataset, Datasets: h.Datasets, Routes: h.Routes, IgnoreSource: h.IgnoreSourceAddress}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Auth) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	admitted := h.gate.admit(w, r)
	if admitted == nil {
		return nil
	}
	defer admitted.end()
	err := next.ServeHTTP(admitted.answer.of(w, h.AllowSetCookie), r)
	admitted.answer.end()
	return err
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	edr_auth [<matcher>] {
//		dataset <id>...
//		route <name>...
//		any_dataset
//		ignore_source_address
//		participant <name>
//		refusal_status rfc6750|tractusx
//		realm <text>
//		allow_encoded_slash
//		allow_encoded_percent
//		allow_double_slash
//		allow_upgrade
//		allow_set_cookie
//		methods <method>...
//		query <name>...
//		no_query
//	}
//
// dataset, route, methods and query may be repeated. One of dataset, route and any_dataset is required.
func (h *Auth) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalBlock(d, h.unmarshalOption, h.check)
}

func (h *Auth) unmarshalOption(d *caddyfile.Dispenser) error {
	switch option := d.Val(); option {
	case "dataset":
		return appendNames(d, &h.Datasets)
	case "route":
		return appendNames(d, &h.Routes)
	case "any_dataset":
		return setFlag(d, &h.AnyDataset)
	case "ignore_source_address":
		return setFlag(d, &h.IgnoreSourceAddress)
	case "allow_upgrade":
		return setFlag(d, &h.AllowUpgrade)
	default:
		known, err := h.GateOptions.unmarshalOption(d)
		if err != nil {
			return err
		}
		if !known {
			return d.Errf("unrecognized subdirective %q", option)
		}
		return nil
	}
}

// unmarshalOption reads one of the options that edr_auth and edr_proxy have in common; false if it is none of them.
func (o *GateOptions) unmarshalOption(d *caddyfile.Dispenser) (bool, error) {
	switch d.Val() {
	case "participant":
		return true, text(&o.Participant)(d)
	case "refusal_status":
		return true, word(&o.RefusalStatus, formRFC6750, formTractusX)(d)
	case "realm":
		return true, o.unmarshalRealm(d)
	case "allow_encoded_slash":
		return true, setFlag(d, &o.AllowEncodedSlash)
	case "allow_encoded_percent":
		return true, setFlag(d, &o.AllowEncodedPercent)
	case "allow_double_slash":
		return true, setFlag(d, &o.AllowDoubleSlash)
	case "allow_set_cookie":
		return true, setFlag(d, &o.AllowSetCookie)
	}
	parse, known := o.RequestRules.options()[d.Val()]
	if !known {
		return false, nil
	}
	return true, parse(d)
}

func (o *GateOptions) unmarshalRealm(d *caddyfile.Dispenser) error {
	var realm string
	if !d.AllArgs(&realm) {
		return d.ArgErr()
	}
	if realm == "" {
		return d.Err("realm must not be empty")
	}
	err := checkRealm(realm)
	if err != nil {
		return d.WrapErr(err)
	}
	return setOnce(d, "realm", &o.Realm, realm)
}

// appendNames reads an option with one or more names, which may be repeated.
func appendNames(d *caddyfile.Dispenser, to *[]string) error {
	option := d.Val()
	names := d.RemainingArgs()
	if len(names) == 0 {
		return d.ArgErr()
	}
	if slices.Contains(names, "") {
		return d.Errf("%s takes no empty names", option)
	}
	*to = append(*to, names...)
	return endOfLine(d)
}

// setFlag reads an option without arguments.
func setFlag(d *caddyfile.Dispenser, to *bool) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	*to = true
	return endOfLine(d)
}

func parseAuth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	auth := new(Auth)
	err := auth.UnmarshalCaddyfile(h.Dispenser)
	return auth, err
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Auth)(nil)
	_ caddyhttp.MiddlewareHandler = (*Auth)(nil)
	_ caddyfile.Unmarshaler       = (*Auth)(nil)
)

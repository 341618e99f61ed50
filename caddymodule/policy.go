package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/edrgate/edrgate/policy"
	"github.com/edrgate/edrgate/tokens"
)

func init() {
	caddy.RegisterModule(AuthZENPolicy{})
	caddy.RegisterModule(WebhookPolicy{})
}

// policyNamespace is the namespace of the modules that decide about starts and renewals. They implement PolicyModule.
const policyNamespace = "edrgate.policies"

// What a denied renewal does to its flow.
const (
	denyRefuse = "refuse"
	denyRevoke = "revoke"
)

// PolicyModule is what a module of the namespace edrgate.policies implements. Its Provision and OpenPolicy ask nobody:
// `caddy validate` runs both beside the live process.
type PolicyModule interface {
	caddy.Module

	// OpenPolicy returns what is asked, once for each config. What it holds, the module's Cleanup gives back; requests of
	// the config may still run then.
	OpenPolicy(metrics PolicyObserver, logger *slog.Logger) (tokens.Policy, error)

	// EndsOnDeny reports whether a flow whose renewal is denied is ended. Otherwise that renewal is refused and the flow stays.
	EndsOnDeny() bool
}

// PolicyObserver is told what becomes of the questions to a policy, for metrics.
type PolicyObserver = policy.Observer

// provisionPolicy provisions the policy's module, if there is one. All participants ask the same.
func (a *App) provisionPolicy(ctx caddy.Context) error {
	if a.PolicyRaw == nil {
		return nil
	}
	loaded, err := ctx.LoadModule(a, "PolicyRaw")
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	module, ok := loaded.(PolicyModule)
	if !ok {
		return fmt.Errorf("policy: module %T decides nothing", loaded)
	}
	a.policy, err = module.OpenPolicy(a.observer, a.logger)
	if err != nil {
		return fmt.Errorf("policy %s: %w", module.CaddyModule().ID.Name(), err)
	}
	a.endOnDeny = module.EndsOnDeny()
	return nil
}

// parsePolicy reads policy <module> ....
func (a *App) parsePolicy(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	if a.PolicyRaw != nil {
		return d.Err("policy is already set")
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, policyNamespace+"."+name)
	if err != nil {
		return err
	}
	a.PolicyRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	return nil
}

// AuthZENPolicy asks a policy server with the Access Evaluation API of the OpenID AuthZEN Authorization API 1.0.
type AuthZENPolicy struct {
	RemotePolicy
}

// CaddyModule returns the Caddy module information.
func (AuthZENPolicy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policyNamespace + ".authzen", New: func() caddy.Module { return new(AuthZENPolicy) }}
}

// OpenPolicy implements PolicyModule.
func (p *AuthZENPolicy) OpenPolicy(metrics PolicyObserver, logger *slog.Logger) (tokens.Policy, error) {
	return p.open(policy.AuthZEN, metrics, logger)
}

// WebhookPolicy asks a policy server with one flat JSON object.
type WebhookPolicy struct {
	RemotePolicy
}

// CaddyModule returns the Caddy module information.
func (WebhookPolicy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policyNamespace + ".webhook", New: func() caddy.Module { return new(WebhookPolicy) }}
}

// OpenPolicy implements PolicyModule.
func (p *WebhookPolicy) OpenPolicy(metrics PolicyObserver, logger *slog.Logger) (tokens.Policy, error) {
	return p.open(policy.Webhook, metrics, logger)
}

// RemotePolicy is a policy server that is asked over HTTP. It says no with status 200 and {"decision": false} only;
// everything else means that it cannot tell. Placeholders are replaced when the config is loaded.
type RemotePolicy struct {
	// URL is where questions are posted, whole. https, or http of a loopback host. Required.
	URL string `json:"url,omitempty"`

	// Insecure allows http to other hosts. Whoever is on the path then decides in place of the policy.
	Insecure bool `json:"insecure,omitempty"`

	// Bearer is sent as Authorization: Bearer: a placeholder such as {file./run/secrets/policy}. Written here in clear it
	// would be shown by the admin API. Default: none.
	Bearer string `json:"bearer,omitempty"`

	// Headers are further header fields, by name; values as Bearer. Default: none.
	Headers map[string]string `json:"headers,omitempty"`

	// Timeout bounds a question, up to the answer's last byte. A start waits for it. Default: 2s. At most 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// OnDeny is what a denied renewal does: "refuse" refuses this renewal, and the flow stays; "revoke" ends the flow too,
	// and its control plane is told. Default: refuse.
	OnDeny string `json:"on_deny,omitempty"`

	// Cache is how long a permit answers the same question about the same flow again. Denials are never kept. Default: not
	// at all. At most 10m.
	Cache caddy.Duration `json:"cache,omitempty"`

	// AllowAddresses are private networks in which the policy server may be. An address that URL names itself, and this
	// machine for localhost, need not be listed. Default: none.
	AllowAddresses []string `json:"allow_addresses,omitempty"`

	// TrustPoolRaw says which authorities its certificate may come from. Default: the system's.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	config policy.Config
	client *policy.Client
}

// Provision reads the credentials and checks the settings.
func (p *RemotePolicy) Provision(ctx caddy.Context) error {
	if !slices.Contains([]string{"", denyRefuse, denyRevoke}, p.OnDeny) {
		return fmt.Errorf("on_deny %q is none of %s, %s", p.OnDeny, denyRefuse, denyRevoke)
	}
	if p.URL == "" {
		return errors.New("url is required: the whole one that questions are posted to")
	}
	replacer := caddy.NewReplacer()
	url, err := replacePlaceholders(replacer, p.URL)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	header, err := p.header(replacer, ctx.Slogger())
	if err != nil {
		return err
	}
	networks := make([]netip.Prefix, 0, len(p.AllowAddresses))
	for _, address := range p.AllowAddresses {
		network, err := parseNetwork(address)
		if err != nil {
			return fmt.Errorf("allow_addresses: %w", err)
		}
		networks = append(networks, network)
	}
	trust := &reverseproxy.TLSConfig{CARaw: p.TrustPoolRaw}
	clientTLS, err := trust.MakeTLSClientConfig(ctx)
	if err != nil {
		return fmt.Errorf("tls_trust_pool: %w", err)
	}
	if p.Insecure {
		ctx.Slogger().Warn("the policy may be asked by plain http: whoever is on the path can decide in its place")
	}
	p.config = policy.Config{
		URL: strings.TrimRight(url, "\r\n"), Insecure: p.Insecure, Header: header,
		Timeout: time.Duration(p.Timeout), Cache: time.Duration(p.Cache),
		AllowAddresses: networks, DenyEndpoints: adminEndpoints(), TLS: clientTLS,
	}
	return nil
}

// ownHeaders are set by the gateway itself.
var ownHeaders = []string{"Accept", "Accept-Encoding", "Content-Encoding", "Content-Type", "Host", "Idempotency-Key", "X-Request-Id"}

func (p *RemotePolicy) header(replacer *caddy.Replacer, logger *slog.Logger) (map[string]tokens.Secret, error) {
	header := map[string]tokens.Secret{}
	for name, configured := range p.Headers {
		canonicalName := http.CanonicalHeaderKey(name)
		if !isToken(name) || isConnectionHeader(canonicalName) || slices.Contains(ownHeaders, canonicalName) {
			return nil, fmt.Errorf("header %q cannot be set", name)
		}
		value, err := headerSecret(replacer, logger, "header "+canonicalName, configured)
		if err != nil {
			return nil, err
		}
		header[canonicalName] = value
	}
	if p.Bearer == "" {
		return header, nil
	}
	if header["Authorization"] != "" {
		return nil, errors.New("bearer and header Authorization are the same header: write one of them")
	}
	token, err := headerSecret(replacer, logger, "bearer", p.Bearer)
	if err != nil {
		return nil, err
	}
	header["Authorization"] = "Bearer " + token
	return header, nil
}

func (p *RemotePolicy) open(form policy.Form, metrics PolicyObserver, _ *slog.Logger) (tokens.Policy, error) {
	config := p.config
	config.Form, config.Observer = form, metrics
	client, err := policy.New(config)
	if err != nil {
		return nil, err
	}
	p.client = client
	return client, nil
}

// EndsOnDeny implements PolicyModule.
func (p *RemotePolicy) EndsOnDeny() bool { return p.OnDeny == denyRevoke }

// Cleanup closes connections that no question uses.
func (p *RemotePolicy) Cleanup() error {
	if p.client != nil {
		p.client.Close()
	}
	return nil
}

// UnmarshalCaddyfile sets up the policy. Syntax:
//
//	policy authzen|webhook <url> [insecure] {
//		bearer          <token>
//		header          <name> <value>
//		timeout         <duration>
//		on_deny         refuse|revoke
//		cache           <duration>
//		allow_addresses <cidr...>
//		tls_trust_pool  <module>
//	}
//
// header and allow_addresses may be repeated.
func (p *RemotePolicy) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.ArgErr()
	}
	p.URL = args[0]
	if len(args) == 2 {
		if args[1] != "insecure" {
			return d.Errf("policy: %q after the URL: only insecure may follow", args[1])
		}
		p.Insecure = true
	}
	options := map[string]func(*caddyfile.Dispenser) error{
		"bearer":          text(&p.Bearer),
		"header":          namedText(&p.Headers),
		"timeout":         positive(&p.Timeout),
		"on_deny":         word(&p.OnDeny, denyRefuse, denyRevoke),
		"cache":           positive(&p.Cache),
		"allow_addresses": networks(&p.AllowAddresses),
		"tls_trust_pool":  trustPool(&p.TrustPoolRaw),
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		parse, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized option %q of policy", d.Val())
		}
		err := parse(d)
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ PolicyModule          = (*AuthZENPolicy)(nil)
	_ PolicyModule          = (*WebhookPolicy)(nil)
	_ caddy.Provisioner     = (*RemotePolicy)(nil)
	_ caddy.CleanerUpper    = (*RemotePolicy)(nil)
	_ caddyfile.Unmarshaler = (*RemotePolicy)(nil)
)

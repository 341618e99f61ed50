package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/signaling/controlplane"
)

// SignalingAuth is one way in, for one control plane. Exactly one of Bearer, OAuth2, TokenExchange, SANs, Networks and
// Insecure is set.
type SignalingAuth struct {
	// Participant is the name of the participant whose control plane comes this way. What lets in there lets in nowhere
	// else. Default: the only one, or of several the app's own.
	Participant string `json:"participant,omitempty"`

	// ControlPlane is the name of the control plane that comes this way, as in the participant's control_planes. Default:
	// the only one there, or of several the one named "default".
	ControlPlane string `json:"control_plane,omitempty"`

	// Bearer is the token in the Authorization header: a placeholder such as {file./run/secrets/token}, replaced when
	// the config is loaded; or sha256: and the 64 hexadecimal digits of the token's SHA-256. A token written here in
	// clear would be shown by the admin API.
	Bearer string `json:"bearer,omitempty"`

	// OAuth2 lets tokens of an authorization server in.
	OAuth2 *SignalingOAuth2 `json:"oauth2,omitempty"`

	// TokenExchange lets tokens of a token exchange broker in.
	TokenExchange *SignalingTokenExchange `json:"oauth2_token_exchange,omitempty"`

	// SANs are the names that its TLS client certificate may have: DNS names, and URIs such as the SPIFFE ID
	// spiffe://trust.example/edc. The certificate needs one of them as subject alternative name, and the server's
	// tls_connection_policies must require and verify it.
	SANs []string `json:"sans,omitempty"`

	// Networks are where requests may come from, by the address of the peer of the connection, whatever X-Forwarded-For
	// says: for classic EDC, which cannot authenticate.
	Networks []string `json:"networks,omitempty"`

	// Insecure lets everybody in who reaches the listener.
	Insecure bool `json:"insecure,omitempty"`
}

// access returns who may signal, by participant. A participant that is not in it is signaled to by nobody here.
func (h *Signaling) access(replacer *caddy.Replacer) (map[*participant]signaling.Access, error) {
	ways := h.Auth
	if len(ways) == 0 {
		h.loopbackOnly = true
		for _, p := range h.app.participants {
			ways = append(ways, SignalingAuth{Participant: p.name, Insecure: true})
		}
	}
	rules := map[*participant][]signaling.Rule{}
	for _, way := range ways {
		p, err := h.app.findParticipant(way.Participant)
		if err != nil {
			return nil, err
		}
		rule, err := h.rule(way, p, replacer)
		if err != nil {
			return nil, p.fault(err)
		}
		rules[p] = append(rules[p], rule)
	}
	if !h.loopbackOnly && slices.ContainsFunc(ways, func(way SignalingAuth) bool { return way.Insecure }) {
		h.logger.Warn("edr_signaling lets everybody in: whoever reaches the listener can make and end tokens")
	}
	if slices.ContainsFunc(ways, func(way SignalingAuth) bool { return way.inClear() }) {
		h.logger.Warn("a bearer token of edr_signaling is part of the configuration, which the admin API shows: use a placeholder or its sha256")
	}
	access := map[*participant]signaling.Access{}
	for _, p := range h.app.participants { // in their order, so that a config with two faults always names the same one
		if len(rules[p]) == 0 {
			continue
		}
		list, err := signaling.NewAccessList(rules[p])
		if err != nil {
			return nil, p.fault(err)
		}
		access[p] = list
	}
	return access, nil
}

// controlPlane returns the name of the control plane that a way in stands for.
func (w SignalingAuth) controlPlane(p *participant) (string, error) {
	known := p.controlPlaneNames()
	standard := signaling.DefaultControlPlane
	if len(known) == 1 {
		standard = known[0]
	}
	name := orDefault(w.ControlPlane, standard)
	if !slices.Contains(known, name) {
		return "", fmt.Errorf("there is no control_plane %s in the global option %s, only %s", name, appName, strings.Join(known, ", "))
	}
	return name, nil
}

// checkClientAuth refuses names of certificates where the server asks nobody for one: every message would be refused, and
// control planes give a transfer up for that. Whether the server verifies what it gets is checked with each request.
func (h *Signaling) checkClientAuth(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !slices.ContainsFunc(h.Auth, func(way SignalingAuth) bool { return len(way.SANs) > 0 }) {
		return nil
	}
	for _, policy := range server.TLSConnPolicies {
		if policy.ClientAuthentication != nil {
			return nil
		}
	}
	return errors.New("auth mtls: the site asks for no client certificate: write `tls { client_auth { … } }`")
}

func (w SignalingAuth) inClear() bool {
	return w.Bearer != "" && !strings.Contains(w.Bearer, "{") && !strings.HasPrefix(w.Bearer, "sha256:")
}

// minBearerBytes keeps out tokens that can be guessed by trying.
const minBearerBytes = 16

func (h *Signaling) rule(w SignalingAuth, p *participant, replacer *caddy.Replacer) (signaling.Rule, error) {
	name, err := w.controlPlane(p)
	rule := signaling.Rule{ControlPlane: name, Insecure: w.Insecure}
	if err != nil {
		return rule, err
	}
	for _, configured := range w.Networks {
		network, err := parseNetwork(configured)
		if err != nil {
			return rule, err
		}
		rule.Networks = append(rule.Networks, network)
	}
	if w.OAuth2 != nil && w.TokenExchange != nil {
		return rule, errors.New("oauth2 and oauth2_token_exchange are two ways: write two auth")
	}
	if w.OAuth2 != nil {
		rule.Issuer, err = h.issuer(w.OAuth2, nil, p, replacer)
		if err != nil {
			return rule, fmt.Errorf("oauth2: %w", err)
		}
	}
	if w.TokenExchange != nil {
		rule.Issuer, err = h.exchangeIssuer(w.TokenExchange, p, replacer)
		if err != nil {
			return rule, fmt.Errorf("oauth2_token_exchange: %w", err)
		}
	}
	if len(w.SANs) > 0 {
		names, err := signaling.NewCertificateNames(w.SANs, time.Now)
		if err != nil {
			return rule, fmt.Errorf("mtls: %w", err)
		}
		rule.Certificates = names
	}
	if w.Bearer == "" {
		return rule, nil
	}
	token, err := replacePlaceholders(replacer, w.Bearer)
	if err != nil {
		return rule, fmt.Errorf("bearer: %w", err)
	}
	if strings.HasPrefix(token, "sha256:") {
		digest, err := signaling.ParseDigest(token)
		if err != nil {
			return rule, err
		}
		rule.Bearer = append(rule.Bearer, digest)
		return rule, nil
	}
	token = strings.TrimRight(token, "\r\n") // as editors leave it in a file
	if len(token) < minBearerBytes {
		return rule, fmt.Errorf("bearer: the token has fewer than %d characters", minBearerBytes)
	}
	rule.Bearer = append(rule.Bearer, signaling.DigestOf(token))
	return rule, nil
}

func (h *Signaling) parseAuth(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	var way SignalingAuth
	switch args[0] {
	case "bearer":
		if len(args) != 2 {
			return d.ArgErr()
		}
		way.Bearer = args[1]
	case "mtls", "oauth2", controlplane.ProfileClientCredentials, controlplane.ProfileTokenExchange:
		if len(args) != 1 {
			return d.ArgErr()
		}
	case "network":
		if len(args) < 2 {
			return d.ArgErr()
		}
		for _, configured := range args[1:] {
			_, err := parseNetwork(configured)
			if err != nil {
				return d.WrapErr(err)
			}
		}
		way.Networks = args[1:]
	case "none":
		if !slices.Equal(args, []string{"none", "insecure"}) {
			return d.Err("auth none lets everybody in: write `auth none insecure` to say so")
		}
		way.Insecure = true
	default:
		return d.Errf("auth: %q is none of bearer, oauth2, oauth2_client_credentials, oauth2_token_exchange, mtls, network, none", args[0])
	}
	err := way.parseBlock(d, args[0])
	if err != nil {
		return err
	}
	h.Auth = append(h.Auth, way)
	return nil
}

// parseBlock reads the block behind auth, which belongs to the kind named there.
func (w *SignalingAuth) parseBlock(d *caddyfile.Dispenser, kind string) error {
	options := map[string]func(*caddyfile.Dispenser) error{
		"participant": text(&w.Participant), "control_plane": text(&w.ControlPlane),
	}
	check := func() error { return nil }
	switch kind {
	case "mtls":
		options["san"] = texts(&w.SANs)
		check = func() error {
			_, err := signaling.NewCertificateNames(w.SANs, nil)
			return err
		}
	case "oauth2", controlplane.ProfileClientCredentials:
		w.OAuth2 = new(SignalingOAuth2)
		w.OAuth2.addOptions(options)
		check = w.OAuth2.check
	case controlplane.ProfileTokenExchange:
		w.TokenExchange = new(SignalingTokenExchange)
		w.TokenExchange.addOptions(options)
		check = w.TokenExchange.check
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized option %q of auth", d.Val())
		}
		err := option(d)
		if err != nil {
			return err
		}
	}
	err := check()
	if err != nil {
		return d.Errf("auth %s: %v", kind, err)
	}
	return nil
}

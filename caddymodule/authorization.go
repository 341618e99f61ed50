package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

// AuthorizationProfile is what both sides of an authorization profile of Data Plane Signaling have in common. Placeholders
// are replaced when the config is loaded.
type AuthorizationProfile struct {
	// Profile is oauth2_client_credentials or oauth2_token_exchange. Required.
	Profile string `json:"profile,omitempty"`

	// TokenEndpoint is where tokens are fetched: an https URL, or an http one of a loopback host. Required for client
	// credentials.
	TokenEndpoint string `json:"token_endpoint,omitempty"`

	// ClientID and ClientSecret are those of the client, the secret best as a placeholder such as
	// {file./run/secrets/client}: written here in clear it would be shown by the admin API. Required for client credentials.
	ClientID     string `json:"client_id,omitempty"`
	ClientSecret string `json:"client_secret,omitempty"`

	// TokenExchangeEndpoint is where a workload's credential is exchanged for tokens (RFC 8693): a URL as TokenEndpoint.
	// Required for token exchange.
	TokenExchangeEndpoint string `json:"token_exchange_endpoint,omitempty"`

	// Resource is the principal that the exchanged token speaks for, an absolute URI. Required for token exchange.
	Resource string `json:"resource,omitempty"`

	// Audience is who is to take the token. Default: up to the server. Required to call by token exchange.
	Audience string `json:"audience,omitempty"`

	// Scope is a list with spaces between. Default: up to the server.
	Scope string `json:"scope,omitempty"`
}

// CallAuthorization says what calls to a control plane are authorized with. A token that has a jti is used for one call,
// another one until it expires.
type CallAuthorization struct {
	AuthorizationProfile

	// SubjectTokenFile is the file with the workload's credential, for example a projected token of a Kubernetes service
	// account. It is read for each exchange. Required for token exchange.
	SubjectTokenFile string `json:"subject_token_file,omitempty"`
}

// RegisterAuthorization is the authorization object of a registration at a control plane: with what it gets the tokens that it
// sends to edr_signaling, and by which keys it verifies those that it is sent.
type RegisterAuthorization struct {
	AuthorizationProfile

	// Issuer is the iss of tokens by exchange. Required for token exchange.
	Issuer string `json:"issuer,omitempty"`

	// JWKSURI is where the keys are that the gateway's own tokens are verified with, a URL as TokenEndpoint. Required: EDC
	// takes tokens of any signature where it has none.
	JWKSURI string `json:"jwks_uri,omitempty"`
}

// profileOptions are the options of a profile: those that must be there, and those that can.
type profileOptions struct{ required, optional []string }

var (
	callOptions = map[string]profileOptions{
		controlplane.ProfileClientCredentials: {[]string{"token_endpoint", "client_id", "client_secret"}, []string{"scope", "audience"}},
		controlplane.ProfileTokenExchange: {
			[]string{"token_exchange_endpoint", "subject_token_file", "resource", "audience"}, []string{"scope"},
		},
	}
	registerOptions = map[string]profileOptions{
		controlplane.ProfileClientCredentials: {[]string{"token_endpoint", "client_id", "client_secret", "jwks_uri"}, nil},
		controlplane.ProfileTokenExchange: {
			[]string{"token_exchange_endpoint", "issuer", "jwks_uri", "resource"}, []string{"audience", "scope"},
		},
	}
)

// setting is an option by name.
type setting struct {
	name  string
	value *string
}

func (p *AuthorizationProfile) settings() []setting {
	return []setting{
		{"token_endpoint", &p.TokenEndpoint},
		{"client_id", &p.ClientID},
		{"client_secret", &p.ClientSecret},
		{"token_exchange_endpoint", &p.TokenExchangeEndpoint},
		{"resource", &p.Resource},
		{"audience", &p.Audience},
		{"scope", &p.Scope},
	}
}

func (c *CallAuthorization) settings() []setting {
	return append(c.AuthorizationProfile.settings(), setting{"subject_token_file", &c.SubjectTokenFile})
}

func (c *RegisterAuthorization) settings() []setting {
	return append(c.AuthorizationProfile.settings(), setting{"issuer", &c.Issuer}, setting{"jwks_uri", &c.JWKSURI})
}

// parseProfile reads
//
//	authorization <profile> {
//		<option> <value>
//	}
func parseProfile(d *caddyfile.Dispenser, profile *string, of map[string]profileOptions, settings []setting) error {
	if *profile != "" {
		return d.Err("authorization is there twice")
	}
	if !d.AllArgs(profile) {
		return d.ArgErr()
	}
	known, ok := of[*profile]
	if !ok {
		return d.Errf("authorization: %q is none of %s, %s", *profile, controlplane.ProfileClientCredentials, controlplane.ProfileTokenExchange)
	}
	options := map[string]func(*caddyfile.Dispenser) error{}
	for _, s := range settings {
		if slices.Contains(known.required, s.name) || slices.Contains(known.optional, s.name) {
			options[s.name] = text(s.value)
		}
	}
	err := parseBlock(d, "authorization "+*profile, options)
	if err != nil {
		return err
	}
	err = checkProfile(*profile, of, settings)
	if err != nil {
		return d.Errf("authorization %s: %v", *profile, err)
	}
	return nil
}

// checkProfile says what is missing, or does not belong there.
func checkProfile(profile string, of map[string]profileOptions, settings []setting) error {
	known, ok := of[profile]
	if !ok {
		return fmt.Errorf("profile %q is none of %s, %s", profile, controlplane.ProfileClientCredentials, controlplane.ProfileTokenExchange)
	}
	for _, s := range settings {
		required := slices.Contains(known.required, s.name)
		switch {
		case required && *s.value == "" && s.name == "jwks_uri":
			return errors.New("jwks_uri is required: without it EDC takes tokens of any signature for the gateway's")
		case required && *s.value == "":
			return fmt.Errorf("%s is required", s.name)
		case *s.value != "" && !required && !slices.Contains(known.optional, s.name):
			return fmt.Errorf("%s is no option of %s", s.name, profile)
		}
	}
	return nil
}

// replaceSettings puts in the values of placeholders and checks what is a URL.
func replaceSettings(replacer *caddy.Replacer, settings []setting) error {
	for _, s := range settings {
		if *s.value == "" {
			continue
		}
		value, err := replacePlaceholders(replacer, *s.value)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		*s.value = strings.TrimRight(value, "\r\n") // as editors leave it in a file
		switch {
		case *s.value == "":
			return fmt.Errorf("%s is empty", s.name)
		case s.name == "token_endpoint", s.name == "token_exchange_endpoint", s.name == "jwks_uri", s.name == "token_url", s.name == "url":
			err = authserver.CheckEndpoint(*s.value)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

// isPlain reports whether a secret is part of the configuration.
func (p *AuthorizationProfile) isPlain() bool {
	return p.ClientSecret != "" && !strings.Contains(p.ClientSecret, "{")
}

const warnPlainSecret = "a client_secret of a control plane is part of the configuration, which the admin API shows: use a placeholder"

// callAuthorizations returns what calls are authorized with, by the names of control planes.
func (p *participant) callAuthorizations(replacer *caddy.Replacer) (map[string]*controlplane.Authorization, error) {
	all := map[string]*controlplane.Authorization{}
	for _, plane := range p.ControlPlanes {
		if plane.Authorization == nil {
			continue
		}
		if plane.Authorization.isPlain() {
			p.logger.Warn(warnPlainSecret)
		}
		c := *plane.Authorization
		err := checkProfile(c.Profile, callOptions, c.settings())
		if err == nil {
			err = replaceSettings(replacer, c.settings())
		}
		if err != nil {
			return nil, fmt.Errorf("control_plane %s: authorization: %w", plane.Name, err)
		}
		all[plane.Name] = &controlplane.Authorization{Profile: c.Profile, Grant: authserver.Grant{
			Endpoint: orDefault(c.TokenEndpoint, c.TokenExchangeEndpoint), ClientID: c.ClientID, ClientSecret: tokens.Secret(c.ClientSecret),
			Scope: c.Scope, Audience: c.Audience, Resource: c.Resource, SubjectTokenFile: c.SubjectTokenFile,
		}}
	}
	return all, nil
}

// offer is the authorization object of a registration; nil: none.
func (c *Register) offer(p *participant, replacer *caddy.Replacer) (*controlplane.Offer, error) {
	if c.Authorization == nil {
		return nil, nil
	}
	if c.Protocol != "dps" {
		return nil, errors.New("authorization is of dps only")
	}
	if c.Authorization.isPlain() {
		p.logger.Warn(warnPlainSecret)
	}
	o := *c.Authorization
	err := checkProfile(o.Profile, registerOptions, o.settings())
	if err == nil {
		err = replaceSettings(replacer, o.settings())
	}
	if err != nil {
		return nil, fmt.Errorf("authorization: %w", err)
	}
	return &controlplane.Offer{
		Type: o.Profile, TokenEndpoint: o.TokenEndpoint, ClientID: o.ClientID, ClientSecret: tokens.Secret(o.ClientSecret),
		TokenExchangeEndpoint: o.TokenExchangeEndpoint, Issuer: o.Issuer, Resource: o.Resource, Audience: o.Audience, Scope: o.Scope,
		JWKSURI: o.JWKSURI,
	}, nil
}

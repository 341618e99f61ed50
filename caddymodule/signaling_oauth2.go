package caddymodule

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/internal/jwks"
	"github.com/edrgate/edrgate/signaling"
)

// SignalingOAuth2 says which JWTs of an authorization server let a control plane in: the authorization profile
// oauth2_client_credentials of Data Plane Signaling. Placeholders are replaced when the config is loaded.
type SignalingOAuth2 struct {
	// Issuer is the iss of the tokens, byte by byte. Required.
	Issuer string `json:"issuer,omitempty"`

	// JWKS is where the issuer's key set is: an https URL, an http one of a loopback host, or the path of a file. It is
	// read when the first token comes, and again every 5 minutes or for a key that it does not have. Required.
	JWKS string `json:"jwks,omitempty"`

	// Audience are the names of this data plane of which one must be in a token's aud. Default: the participant's did.
	Audience []string `json:"audience,omitempty"`

	// Subjects are the ids of the control plane of which one must be the sub. Required.
	Subjects []string `json:"subjects,omitempty"`
}

func (o *SignalingOAuth2) addOptions(options map[string]func(*caddyfile.Dispenser) error) {
	options["issuer"] = text(&o.Issuer)
	options["jwks"] = text(&o.JWKS)
	options["audience"] = texts(&o.Audience)
	options["subject"] = texts(&o.Subjects)
}

// check says what is missing. It asks nobody.
func (o *SignalingOAuth2) check() error {
	if o.Issuer == "" {
		return errors.New("issuer is required")
	}
	if len(o.Subjects) == 0 {
		return errors.New("subject is required: the issuer makes tokens for others than the control plane")
	}
	if o.JWKS == "" {
		return errors.New("jwks is required: without the issuer's keys no signature can be verified")
	}
	return jwks.CheckLocation(o.JWKS)
}

// SignalingTokenExchange says which JWTs of a token exchange broker let a control plane in: the authorization profile
// oauth2_token_exchange of Data Plane Signaling. Subjects are the URIs of its principals here.
type SignalingTokenExchange struct {
	SignalingOAuth2

	// Clients are the ids of the control plane of which one must be the client_id. Default: sub alone tells.
	Clients []string `json:"clients,omitempty"`

	// Scopes must all be in a token's scope. Default: the token must have one, whichever.
	Scopes []string `json:"scopes,omitempty"`

	// ParticipantContexts are the values of which one must be the participant_context. Default: it may be missing, or is
	// our own participant, by name or by did.
	ParticipantContexts []string `json:"participant_contexts,omitempty"`
}

func (e *SignalingTokenExchange) addOptions(options map[string]func(*caddyfile.Dispenser) error) {
	e.SignalingOAuth2.addOptions(options)
	options["client"] = texts(&e.Clients)
	options["scope"] = texts(&e.Scopes)
	options["participant_context"] = texts(&e.ParticipantContexts)
}

// exchangeIssuer builds what checks the tokens of a broker.
func (h *Signaling) exchangeIssuer(e *SignalingTokenExchange, p *participant, replacer *caddy.Replacer) (*signaling.Issuer, error) {
	exchange := &signaling.ExchangeConfig{Participant: []string{p.name, p.DID}}
	err := replaceLists(replacer, []replacedList{
		{e.Clients, &exchange.Clients}, {e.Scopes, &exchange.Scopes}, {e.ParticipantContexts, &exchange.ParticipantContexts},
	})
	if err != nil {
		return nil, err
	}
	return h.issuer(&e.SignalingOAuth2, exchange, p, replacer)
}

// issuer builds what checks the tokens. Nothing is fetched yet: the issuer need not be up when Caddy starts.
func (h *Signaling) issuer(
	o *SignalingOAuth2, exchange *signaling.ExchangeConfig, p *participant, replacer *caddy.Replacer,
) (*signaling.Issuer, error) {
	replaced, err := o.replaced(replacer)
	if err != nil {
		return nil, err
	}
	err = replaced.check()
	if err != nil {
		return nil, err
	}
	transport, err := checkedTransport(connectionKeySet, h.app.observer, dial.Config{AllowAddresses: everywhere()},
		dial.TransportConfig{MaxConnsPerHost: 1})
	if err != nil {
		return nil, err
	}
	set, err := jwks.New(jwks.Config{Location: replaced.JWKS, Transport: transport, Now: time.Now})
	if err != nil {
		return nil, err
	}
	h.keySets = append(h.keySets, transport)
	audience := replaced.Audience
	if len(audience) == 0 {
		audience = []string{p.DID}
	}
	issuer, err := signaling.NewIssuer(signaling.IssuerConfig{
		Issuer: replaced.Issuer, Keys: set, Audience: audience, Subjects: replaced.Subjects, Exchange: exchange,
		ClockSkew: time.Duration(h.app.ClockSkew), MaxBodyBytes: h.app.Limits.MessageBytes, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	return issuer, h.app.addIssuer(p, issuer)
}

// issuerOf is an issuer whose tokens let in a control plane of a participant.
type issuerOf struct {
	*signaling.Issuer
	participant *participant
}

// addIssuer refuses an issuer of which one token would be good for two participants, whatever the site. Which tokens of it
// were used is remembered by all sites together.
func (a *App) addIssuer(p *participant, issuer *signaling.Issuer) error {
	for _, other := range a.issuers {
		if other.participant != p && other.TakesTokensOf(issuer) {
			return fmt.Errorf("a token of %s would be good for participant %s too: let their audiences or participant contexts differ", issuer.Name(), other.participant.name)
		}
		if other.Name() == issuer.Name() {
			issuer.RememberWith(other.Issuer) // a participant may be signaled to at several sites
		}
	}
	a.issuers = append(a.issuers, issuerOf{issuer, p})
	return nil
}

// replaced returns the settings with the values of their placeholders.
func (o *SignalingOAuth2) replaced(replacer *caddy.Replacer) (*SignalingOAuth2, error) {
	r := &SignalingOAuth2{}
	var err error
	for _, field := range []struct {
		from string
		to   *string
	}{{o.Issuer, &r.Issuer}, {o.JWKS, &r.JWKS}} {
		*field.to, err = replacePlaceholders(replacer, field.from)
		if err != nil {
			return nil, err
		}
	}
	return r, replaceLists(replacer, []replacedList{{o.Audience, &r.Audience}, {o.Subjects, &r.Subjects}})
}

type replacedList struct {
	from []string
	to   *[]string
}

func replaceLists(replacer *caddy.Replacer, lists []replacedList) error {
	for _, list := range lists {
		for _, value := range list.from {
			value, err := replacePlaceholders(replacer, value)
			if err != nil {
				return err
			}
			*list.to = append(*list.to, value)
		}
	}
	return nil
}

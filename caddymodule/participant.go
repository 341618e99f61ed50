package caddymodule

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

// ParticipantSettings are what a participant context has of its own: who it is, its keys, where it is reached, its control
// planes and its routes.
type ParticipantSettings struct {
	// DID is the participant's own DID, for example did:web:provider.example: the issuer of access tokens and the
	// audience of renewal proofs. No other participant may have it. Required.
	DID string `json:"did,omitempty"`

	// SigningKeys are the keys of access tokens. One must be active. Required.
	SigningKeys []SigningKey `json:"signing_keys,omitempty"`

	// RefreshKeys are files of at least 32 random bytes that refresh tokens are made with, the first for new ones. Not
	// needed, unless the signing key's private bytes cannot be read. Default: derived from each signing key.
	RefreshKeys []string `json:"refresh_keys,omitempty"`

	// SealingKeys are files of at least 32 random bytes that stored secrets of other parties are encrypted with, the
	// first for new ones. Default: derived from each signing key.
	SealingKeys []string `json:"sealing_keys,omitempty"`

	// PublicURL is where consumers reach the data, as written into EDRs. https, unless the host is a loopback one or
	// InsecurePublicURL is set. No other participant may have it: it tells whose a renewal is. Required, unless the
	// participant has Consumer and gives no data itself: no route, and no edr_auth, edr_proxy or edr_refresh.
	PublicURL string `json:"public_url,omitempty"`

	// InsecurePublicURL allows a public_url that is not https, here and in routes. Tokens then travel in clear.
	InsecurePublicURL bool `json:"insecure_public_url,omitempty"`

	// DIDMap gives the DID of a counterparty that the control plane names otherwise, for example by its business
	// partner number. It counts when a flow is created; a change affects new flows only.
	DIDMap map[string]string `json:"did_map,omitempty"`

	// ControlPlanes are the control planes, one of which each authentication of edr_signaling stands for. Flows belong
	// to the control plane that started them. Default: one, called "default".
	ControlPlanes []ControlPlane `json:"control_planes,omitempty"`

	// Routes give flows an address or a backend of their own, by name.
	Routes map[string]*Route `json:"routes,omitempty"`

	// Consumer has the gateway keep, renew and use the EDRs that other companies give to the participant. Default: it does
	// not.
	Consumer *Consumer `json:"consumer,omitempty"`
}

// isZero reports whether nothing is set.
func (s *ParticipantSettings) isZero() bool { return reflect.ValueOf(s).Elem().IsZero() }

func (s *ParticipantSettings) setDefaults() {
	if len(s.ControlPlanes) == 0 {
		s.ControlPlanes = []ControlPlane{{Name: signaling.DefaultControlPlane}}
	}
}

// check checks what needs no file.
func (s *ParticipantSettings) check() error {
	if s.DID == "" {
		return errors.New("did is required: the participant's own DID, for example did:web:provider.example")
	}
	if !didSyntax.MatchString(s.DID) {
		return fmt.Errorf("did %q is not a DID", s.DID)
	}
	err := s.checkControlPlanes()
	if err != nil {
		return err
	}
	for id, did := range s.DIDMap {
		if !didSyntax.MatchString(did) {
			return fmt.Errorf("did_map %s: %q is not a DID", id, did)
		}
		if didSyntax.MatchString(id) && id != did {
			// A counterparty that is a DID is bound to it; an entry here would say otherwise and never be looked at.
			return fmt.Errorf("did_map %s: a counterparty that is a DID cannot be mapped to another one", id)
		}
	}
	switch {
	case s.PublicURL != "":
	case s.Consumer == nil:
		return errors.New("public_url is required: where consumers reach the data, for example https://data.provider.example; " +
			"only a participant that uses data of others, with a block `consumer { … }`, can do without")
	case len(s.Routes) > 0:
		return errors.New("public_url is required: there are routes, so data is given; add `public_url <url>`, or remove the routes if data of others is used only")
	}
	return nil
}

// consumesOnly reports whether the participant gives no data, but uses that of others.
func (s *ParticipantSettings) consumesOnly() bool { return s.Consumer != nil && s.PublicURL == "" }

// checkGivesData refuses a handler of the provider's side for a participant that gives no data.
func (p *participant) checkGivesData(directive string) error {
	if !p.consumesOnly() {
		return nil
	}
	return p.fault(fmt.Errorf("%s serves data, and the participant has no public_url: add `public_url <url>` to the global option %s, where consumers reach the data; "+
		"or remove %s if the participant only uses data of others", directive, appName, directive))
}

// options are those of a participant block, which are also those of the app's own participant.
func (s *ParticipantSettings) options() map[string]func(*caddyfile.Dispenser) error {
	return map[string]func(*caddyfile.Dispenser) error{
		"did":           text(&s.DID),
		"signing_key":   s.parseSigningKey,
		"refresh_key":   appendText(&s.RefreshKeys),
		"sealing_key":   appendText(&s.SealingKeys),
		"public_url":    s.parsePublicURL,
		"did_map":       s.parseDIDMap,
		"control_plane": s.parseControlPlane,
		"route":         s.parseRoute,
		"consumer":      s.parseConsumer,
	}
}

// participant is one participant context of a config: its settings and what Provision makes of them.
type participant struct {
	*ParticipantSettings
	app  *App
	name string

	// prefix is what comes before the paths of signaling: empty for the app's own participant.
	prefix string

	logger   *slog.Logger
	observer *participantObserver
	config   tokens.Config // all but Store and Live
	keySet   []byte
	address  *addresses
	routes   *routeTable
	calls    map[string]*url.URL                    // where control planes are called back, by name
	grants   map[string]*controlplane.Authorization // what these calls are authorized with
	register *controlplane.Registrar
	registry []controlplane.Registration
	sites    sites
	service  atomic.Pointer[tokens.Service]

	proofKey  crypto.Signer // of the signing key that is active
	consuming *consuming    // nil: it uses no data of others
	edrs      atomic.Pointer[edrs]
}

// provision reads the keys and builds what needs no store. What belongs to the whole app has been provisioned before.
func (p *participant) provision(ctx caddy.Context, replacer *caddy.Replacer) error {
	a := p.app
	ring, err := p.loadRing(replacer)
	if err != nil {
		return err
	}
	p.keySet, err = ring.JWKS()
	if err != nil {
		return err
	}
	p.address, err = newAddresses(p.PublicURL, a.RefreshPath, p.InsecurePublicURL)
	if err != nil {
		return err
	}
	p.routes, err = newRouteTable(p.Routes, p.address, replacer)
	if err != nil {
		return err
	}
	p.calls, err = p.callbacks(replacer)
	if err != nil {
		return err
	}
	err = p.checkAsync()
	if err != nil {
		return err
	}
	p.grants, err = p.callAuthorizations(replacer)
	if err != nil {
		return err
	}
	err = p.provisionRegistrar(replacer)
	if err != nil {
		return err
	}
	p.consuming, err = p.newConsuming(ctx, replacer)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	p.config = a.tokenConfig()
	p.config.Participant, p.config.DID, p.config.DIDMap = p.name, p.DID, p.DIDMap
	p.config.Keys = ring
	p.config.ControlPlanes, p.config.Formerly = p.controlPlaneNames(), p.formerNames()
	p.config.PublicURL = p.address.public
	p.config.Route = p.routed
	p.config.Observer, p.config.Logger = p.observer, p.logger
	p.config.StoreIsTended = p != a.participants[0]
	return nil
}

// fault says whose fault an error of the configuration is, where there are several participants.
func (p *participant) fault(err error) error {
	switch {
	case err == nil || len(p.app.participants) == 1:
		return err
	case p.prefix == "":
		return fmt.Errorf("participant %s, outside of the participant blocks: %w", p.name, err)
	}
	return fmt.Errorf("participant %s: %w", p.name, err)
}

// Service returns the token service, opening the store if Start has not done so yet: Caddy starts apps in random
// order, so a request may come first. An error means "cannot tell": 503.
func (p *participant) Service() (*tokens.Service, error) {
	service := p.service.Load()
	if service != nil {
		return service, nil
	}
	err := p.app.open()
	if err != nil {
		return nil, err
	}
	return p.service.Load(), nil
}

// opened is what a participant runs with over an open store.
type opened struct {
	service *tokens.Service
	outbox  *controlplane.Outbox
	edrs    *edrs // nil: none are kept
}

func (p *participant) open(eng *engine) (opened, error) {
	config := p.config
	config.Store, config.Live = eng.store, eng.live
	service, err := tokens.New(config)
	if err != nil {
		return opened{}, err
	}
	kept, err := p.openEDRs(eng, service)
	if err != nil {
		return opened{}, err
	}
	outbox, err := p.newOutbox(service, kept)
	if err != nil {
		kept.close()
		return opened{}, err
	}
	return opened{service, outbox, kept}, nil
}

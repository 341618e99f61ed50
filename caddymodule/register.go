package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

// Register says where and as what the gateway registers at a control plane. It looks first and registers only what is
// absent or different, looks again every minute and when the control plane's checks stop, and never deletes a
// registration.
type Register struct {
	// Protocol is what the control plane speaks with the gateway: "classic" or "dps". Required.
	Protocol string `json:"protocol,omitempty"`

	// URL is the control plane's collection of data planes. Classic: below its control context, for example
	// http://cp:8083/api/control/v1/dataplanes. Data Plane Signaling: for EDC 0.18 of its management API, for example
	// http://cp:8081/management/v4/dataplanes. Required.
	URL string `json:"url,omitempty"`

	// SignalingURL is where the control plane reaches edr_signaling, for example http://10.0.0.5:8181; /v1/dataflows or
	// /dataflows is appended, and before it / and the name of a participant that is not the app's own. Several gateways
	// over one store register one URL. Required.
	SignalingURL string `json:"signaling_url,omitempty"`

	// ID is the gateway's id at the control plane. Several gateways over one store register one id, and no two participants.
	// Default: edrgate- and the participant.
	ID string `json:"id,omitempty"`

	// TransferTypes are the transfer types that are offered. Default: HttpData-PULL, ProxyHttpData-PULL.
	TransferTypes []string `json:"transfer_types,omitempty"`

	// SourceTypes are the types of source addresses that are served. Classic only. Default: HttpData, ProxyHttpData.
	SourceTypes []string `json:"source_types,omitempty"`

	// Profiles are the transfer profiles that are offered. Data Plane Signaling only. Default: the HTTP pull profile.
	Profiles []string `json:"profiles,omitempty"`

	// Labels are what assets can ask for with their dataplaneMetadata. Data Plane Signaling only. Default: none.
	Labels []string `json:"labels,omitempty"`

	// APIKey is sent as X-Api-Key, which EDC's management API wants: a placeholder such as {file./run/secrets/key}. Written
	// here in clear it would be shown by the admin API. Default: none.
	APIKey string `json:"api_key,omitempty"`

	// Authorization is what the control plane is to authorize its messages with, and to verify ours by. Data Plane
	// Signaling only. Default: none.
	Authorization *RegisterAuthorization `json:"authorization,omitempty"`
}

// registerProtocols are the values of Protocol, with what edr_signaling calls them and the path that is registered.
var registerProtocols = map[string]struct {
	dialect tokens.Dialect
	path    string
}{
	"classic": {tokens.Classic, "/v1/dataflows"},
	"dps":     {tokens.DPS, "/dataflows"},
}

// registrations returns what is registered where.
func (p *participant) registrations(replacer *caddy.Replacer) ([]controlplane.Registration, error) {
	var all []controlplane.Registration
	for _, plane := range p.ControlPlanes {
		for _, register := range plane.Register {
			r, err := register.registration(p, replacer)
			if err != nil {
				return nil, fmt.Errorf("control_plane %s: register %s: %w", plane.Name, register.Protocol, err)
			}
			if r.Authorization != nil && plane.Callback != "" && plane.Authorization == nil {
				// A control plane that has such a profile refuses calls without a token, with a 401, which is final.
				return nil, fmt.Errorf("control_plane %s: register %s: with authorization there, calls to its callback need `authorization` of the control_plane too", plane.Name, register.Protocol)
			}
			r.ControlPlane = plane.Name
			if slices.ContainsFunc(all, func(o controlplane.Registration) bool { return o.ControlPlane == plane.Name && o.ID == r.ID }) {
				// EDC keeps the data planes of both protocols in one list: each would replace the other.
				return nil, fmt.Errorf("control_plane %s: register %s: another registration there has the id %s too", plane.Name, register.Protocol, r.ID)
			}
			all = append(all, *r)
		}
	}
	return all, nil
}

func (c *Register) registration(p *participant, replacer *caddy.Replacer) (*controlplane.Registration, error) {
	protocol, known := registerProtocols[c.Protocol]
	if !known {
		return nil, errors.New("the protocol is none of classic, dps")
	}
	if c.Protocol == "classic" && len(c.Profiles)+len(c.Labels) > 0 || c.Protocol == "dps" && len(c.SourceTypes) > 0 {
		return nil, errors.New("source_types are of classic, profiles and labels of dps only")
	}
	collection, err := controlPlaneURL(replacer, c.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if c.SignalingURL == "" {
		return nil, errors.New("signaling_url is required: where the control plane reaches edr_signaling")
	}
	own, err := controlPlaneURL(replacer, c.SignalingURL)
	if err != nil {
		return nil, fmt.Errorf("signaling_url: %w", err)
	}
	base := strings.TrimSuffix(own.String(), "/")
	if strings.HasSuffix(base, "/dataflows") || p.prefix != "" && strings.HasSuffix(base, p.prefix) {
		return nil, fmt.Errorf("signaling_url: leave out what is appended, %s", p.prefix+protocol.path)
	}
	key, err := c.apiKey(p, replacer)
	if err != nil {
		return nil, err
	}
	offer, err := c.offer(p, replacer)
	if err != nil {
		return nil, err
	}
	return &controlplane.Registration{
		Protocol: protocol.dialect, URL: collection, APIKey: key,
		ID:            orDefault(c.ID, "edrgate-"+p.name),
		Endpoint:      base + p.prefix + protocol.path,
		TransferTypes: listOr(c.TransferTypes, controlplane.DefaultTransferTypes),
		SourceTypes:   listOr(c.SourceTypes, controlplane.DefaultSourceTypes),
		Profiles:      listOr(c.Profiles, controlplane.DefaultProfiles),
		Labels:        c.Labels,
		Authorization: offer,
	}, nil
}

func listOr(list, standard []string) []string {
	if len(list) == 0 {
		return standard
	}
	return list
}

func (c *Register) apiKey(p *participant, replacer *caddy.Replacer) (tokens.Secret, error) {
	if c.APIKey == "" {
		return "", nil
	}
	return headerSecret(replacer, p.logger, "api_key", c.APIKey)
}

func (p *participant) provisionRegistrar(replacer *caddy.Replacer) error {
	var err error
	p.registry, err = p.registrations(replacer)
	if err != nil {
		return err
	}
	p.register, err = controlplane.NewRegistrar(controlplane.RegistrarConfig{
		Registrations: p.registry, Client: p.app.client, Observer: p.observer, Logger: p.logger,
	})
	return err
}

// startRegistrar begins to keep the registrations. It belongs to Start, not to the first request: a control plane that
// learns of a gateway asks it whether it is there, and a config that is only tried must not be registered.
func (p *participant) startRegistrar() {
	a := p.app
	a.mu.Lock()
	defer a.mu.Unlock()
	stop := a.stopRun
	if stop == nil {
		return // cleaned up already
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stopRun = func() {
		cancel()
		stop()
	}
	a.ran.Go(func() { p.register.Run(ctx) })
}

// checkRegistrations refuses to offer what no site answers: every transfer would fail at its start.
func (s *sites) checkRegistrations(p *participant) error {
	for _, plane := range p.ControlPlanes {
		for _, register := range plane.Register {
			dialect := registerProtocols[register.Protocol].dialect
			if !slices.ContainsFunc(s.signalings, func(h *Signaling) bool { return h.speaks(dialect) }) {
				return fmt.Errorf("control_plane %s: register %s: no site has edr_signaling with `protocol %s`", plane.Name, register.Protocol, dialect)
			}
		}
	}
	return nil
}

// parseRegister reads
//
//	register classic|dps <url> {
//		signaling_url  <url>
//		id             <id>
//		transfer_types <type...>
//		source_types   <type...>
//		profiles       <profile...>
//		labels         <label...>
//		api_key        <key>
//		authorization  <profile> {
//			...
//		}
//	}
func (p *ControlPlane) parseRegister(d *caddyfile.Dispenser) error {
	var c Register
	if !d.AllArgs(&c.Protocol, &c.URL) {
		return d.ArgErr()
	}
	_, known := registerProtocols[c.Protocol]
	if !known {
		return d.Errf("register: %q is none of classic, dps", c.Protocol)
	}
	options := map[string]func(*caddyfile.Dispenser) error{
		"signaling_url":  text(&c.SignalingURL),
		"id":             text(&c.ID),
		"transfer_types": texts(&c.TransferTypes),
		"source_types":   texts(&c.SourceTypes),
		"profiles":       texts(&c.Profiles),
		"labels":         texts(&c.Labels),
		"api_key":        text(&c.APIKey),
		"authorization": func(d *caddyfile.Dispenser) error {
			if c.Authorization == nil {
				c.Authorization = new(RegisterAuthorization)
			}
			return parseProfile(d, &c.Authorization.Profile, registerOptions, c.Authorization.settings())
		},
	}
	err := parseBlock(d, "register", options)
	if err != nil {
		return err
	}
	p.Register = append(p.Register, c)
	return nil
}

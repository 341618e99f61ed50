package caddymodule

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func (s *ParticipantSettings) parseRoute(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.ArgErr()
	}
	_, exists := s.Routes[name]
	if exists {
		return d.Errf("route %s is already defined", name)
	}
	route := new(Route)
	options := route.options()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		parse, known := options[d.Val()]
		if !known {
			return d.Errf("unrecognized option %q of route", d.Val())
		}
		err := parse(d)
		if err != nil {
			return err
		}
	}
	if !route.matches() {
		return d.Errf("route %s: %w", name, errNoMatcher)
	}
	err := route.RequestRules.check()
	if err != nil {
		return d.Errf("route %s: %w", name, err)
	}
	if s.Routes == nil {
		s.Routes = map[string]*Route{}
	}
	s.Routes[name] = route
	return nil
}

func (r *Route) options() map[string]func(*caddyfile.Dispenser) error {
	options := r.RequestRules.options()
	maps.Copy(options, map[string]func(*caddyfile.Dispenser) error{
		"dataset":    texts(&r.Datasets),
		"profile":    texts(&r.Profiles),
		"label":      texts(&r.Labels),
		"metadata":   r.parseMetadata,
		"backend":    text(&r.Backend),
		"header":     namedText(&r.Headers),
		"secret":     r.parseSecret,
		"public_url": text(&r.PublicURL),
		"async":      func(d *caddyfile.Dispenser) error { return setFlag(d, &r.Async) },
	})
	return options
}

// parseMetadata reads metadata <member> <value>...
func (r *Route) parseMetadata(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 || slices.Contains(args, "") {
		return d.Err("metadata takes the name of a member and the values that it may have: metadata <member> <value>...")
	}
	r.Metadata = append(r.Metadata, RouteMetadata{Member: args[0], Values: args[1:]})
	return endOfLine(d)
}

// parseSecret reads secret <header> <name> [<scheme>].
func (r *Route) parseSecret(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return d.Err("secret of a route takes a header, the name of a secret of edr_proxy, and if need be a word such as Bearer: " +
			"secret <header> <name> [<scheme>]")
	}
	secret := RouteSecret{Name: args[1]}
	if len(args) == 3 {
		secret.Scheme = args[2]
	}
	_, exists := r.Secrets[args[0]]
	if exists {
		return d.Errf("secret %s is set twice", args[0])
	}
	if r.Secrets == nil {
		r.Secrets = map[string]RouteSecret{}
	}
	r.Secrets[args[0]] = secret
	return endOfLine(d)
}

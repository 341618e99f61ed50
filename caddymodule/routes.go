package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/signaling"
)

// Route gives some datasets an address, a backend, or both, of their own.
type Route struct {
	// Datasets are the ids of the datasets that the route serves, as control planes name them. One that ends in * stands
	// for all ids with that beginning; an exact id wins over a beginning. Required.
	Datasets []string `json:"datasets,omitempty"`

	// Backend is the base URL that edr_proxy sends the flows of these datasets to. It must be among the backends of an
	// edr_proxy. Placeholders are replaced when the config is loaded. Default: none, the site itself serves them.
	Backend string `json:"backend,omitempty"`

	// Headers are sent to the backend with every request, for its credentials. Placeholders in values are replaced
	// when the config is loaded.
	Headers map[string]string `json:"headers,omitempty"`

	// PublicURL is where consumers reach these datasets. Default: the app's.
	PublicURL string `json:"public_url,omitempty"`

	// Async answers the starts of these datasets that come by Data Plane Signaling with STARTING and tells the control plane
	// by a callback when they have started, with the data address. EDC cannot resume such flows properly, so it is for other
	// control planes. Each control plane needs a callback. Starts of EDC's classic signaling are not affected. Default: false.
	Async bool `json:"async,omitempty"`
}

// routeTable is what the configured routes come to. It never changes.
type routeTable struct {
	endpoints map[string]string       // route name to its own public URL
	targets   map[string]*routeTarget // of those that have a backend
	routes    []signaling.Route       // in the order of their names
}

func newRouteTable(routes map[string]*Route, a *addresses, replacer *caddy.Replacer) (*routeTable, error) {
	t := &routeTable{
		endpoints: map[string]string{},
		targets:   map[string]*routeTarget{},
	}
	names := make([]string, 0, len(routes))
	for name := range routes {
		names = append(names, name)
	}
	slices.Sort(names) // so that a config with two faults always names the same one
	for _, name := range names {
		err := t.add(name, routes[name], a, replacer)
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", name, err)
		}
	}
	_, err := signaling.NewServing(t.routes, nil, false) // two routes for one dataset, for example
	if err != nil {
		return nil, err
	}
	return t, nil
}

// has reports whether there is a route of this name.
func (t *routeTable) has(name string) bool {
	return slices.ContainsFunc(t.routes, func(r signaling.Route) bool { return r.Name == name })
}

func (t *routeTable) add(name string, r *Route, a *addresses, replacer *caddy.Replacer) error {
	if !nameSyntax.MatchString(name) {
		return errors.New("a name has 1 to 63 letters, digits, dots, dashes or underscores")
	}
	if r == nil || len(r.Datasets) == 0 {
		return errors.New("dataset is required")
	}
	if r.Backend == "" && r.PublicURL == "" && !r.Async {
		return errors.New("none of backend, public_url and async is set, so the route says nothing")
	}
	if r.Backend == "" && len(r.Headers) > 0 {
		return errors.New("header is set, but no backend to send it to")
	}
	if r.PublicURL != "" {
		public, err := a.add(r.PublicURL)
		if err != nil {
			return fmt.Errorf("public_url %s: %w", r.PublicURL, err)
		}
		t.endpoints[name] = public
	}
	t.routes = append(t.routes, signaling.Route{Name: name, Datasets: r.Datasets, PublicURL: t.endpoints[name], Async: r.Async})
	if r.Backend == "" {
		return nil
	}
	target, err := r.target(replacer)
	if err != nil {
		return err
	}
	t.targets[name] = target
	return nil
}

// target replaces the placeholders. Errors name the configured text, never what a placeholder gave.
func (r *Route) target(replacer *caddy.Replacer) (*routeTarget, error) {
	backend, err := replacePlaceholders(replacer, r.Backend)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", r.Backend, err)
	}
	u, err := url.Parse(backend)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("backend %s must be an absolute http or https URL", r.Backend)
	}
	if u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("backend %s must have no user and no fragment: send credentials with header", r.Backend)
	}
	headers := make(map[string]string, len(r.Headers))
	for name, value := range r.Headers {
		headers[name], err = replacePlaceholders(replacer, value)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
	}
	return &routeTarget{Backend: backend, Headers: headers}, nil
}

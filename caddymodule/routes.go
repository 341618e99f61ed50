package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/signaling"
)

// Route gives some flows an address, a backend, or both, of their own. Which ones is said by the datasets, profiles, labels
// and metadata, at least one of which is required; a flow takes the route if it meets all that are set. Of several such
// routes an exact dataset id counts before a longer beginning, that before a shorter one, that before none, and then more
// conditions before fewer. A start that two routes match equally well is refused.
//
// Backend, the values of Headers and the names of Secrets can hold placeholders for what the start message said: {edr.dataset},
// {edr.agreement}, {edr.counterparty}, {edr.bpn}, {edr.profile}, {edr.flow}, {edr.metadata.<member>} and {edr.claims.<member>},
// where members inside of members are separated by dots. A start for which one of them is missing, empty, or an object or list
// is refused. Caddy's own placeholders are replaced when the config is loaded.
type Route struct {
	// Datasets are the ids of the datasets that the route serves, as control planes name them. One that ends in * stands
	// for all ids with that beginning. Default: any dataset.
	Datasets []string `json:"datasets,omitempty"`

	// Profiles are one of them the flow's profile of Data Plane Signaling, or its transfer type, exactly as the start
	// message has it. Default: any.
	Profiles []string `json:"profiles,omitempty"`

	// Labels must all be on the flow. Control planes of Data Plane Signaling set them; classic ones have none.
	Labels []string `json:"labels,omitempty"`

	// Metadata asks for members of the flow's metadata, all of them. Control planes of Data Plane Signaling set it; classic
	// ones have none.
	Metadata []RouteMetadata `json:"metadata,omitempty"`

	// Backend is the base URL that edr_proxy sends these flows to. It must be among the backends of an edr_proxy.
	// Placeholders of a flow can stand in the host, the port, the segments of the path and the values of the query; what
	// they come to cannot leave its place. The query is sent with every request, before the client's. Default: none, the
	// site itself serves the flows.
	Backend string `json:"backend,omitempty"`

	// Headers are sent to the backend with every request.
	Headers map[string]string `json:"headers,omitempty"`

	// Secrets are headers whose value is a secret that the edr_proxy declares, by the name of the header.
	Secrets map[string]RouteSecret `json:"secrets,omitempty"`

	// PublicURL is where consumers reach these flows. Default: the participant's.
	PublicURL string `json:"public_url,omitempty"`

	// Async answers the starts of these flows that come by Data Plane Signaling with STARTING and tells the control plane
	// by a callback when they have started, with the data address. EDC cannot resume such flows properly, so it is for other
	// control planes. Each control plane needs a callback. Starts of EDC's classic signaling are not affected. Default: false.
	Async bool `json:"async,omitempty"`

	RequestRules
}

// RouteMetadata asks for one member of a flow's metadata.
type RouteMetadata struct {
	// Member is the name of the member. Names of members inside of members are separated by dots; a dot that is part of a
	// name is written \. and a backslash \\. Required.
	Member string `json:"member,omitempty"`

	// Values are what the member must be equal to one of: a string by its text, a number by its value (3 is 3.0), true or
	// false. A list must hold such an element. Required.
	Values []string `json:"values,omitempty"`
}

// RouteSecret is a credential for a route's backend.
type RouteSecret struct {
	// Name is the name of a secret of the edr_proxy that serves the flow, which says where it may be sent. It can hold
	// placeholders of a flow. It is never a path. Required.
	Name string `json:"name,omitempty"`

	// Scheme stands before the secret in the header, with a space after it, for example Bearer. Default: nothing.
	Scheme string `json:"scheme,omitempty"`
}

// routeTable is what the configured routes come to. It never changes.
type routeTable struct {
	endpoints map[string]string         // route name to its own public URL
	templates map[string]*routeTemplate // of those that have a backend
	rules     map[string]*requestRules  // of those that have any
	routes    []signaling.Route         // in the order of their names
}

func newRouteTable(routes map[string]*Route, a *addresses, replacer *caddy.Replacer) (*routeTable, error) {
	t := &routeTable{
		endpoints: map[string]string{},
		templates: map[string]*routeTemplate{},
		rules:     map[string]*requestRules{},
	}
	// Sorted, so that a config with two faults always names the same one.
	for _, name := range slices.Sorted(maps.Keys(routes)) {
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
	if r == nil || !r.matches() {
		return errNoMatcher
	}
	if r.Backend == "" && r.PublicURL == "" && !r.Async && r.RequestRules.isZero() {
		return errors.New("none of backend, public_url, async, methods and query is set, so the route says nothing")
	}
	err := r.RequestRules.check()
	if err != nil {
		return err
	}
	rules := newRequestRules(r.RequestRules)
	if rules != nil {
		t.rules[name] = rules
	}
	if r.Backend == "" && len(r.Headers)+len(r.Secrets) > 0 {
		return errors.New("header or secret is set, but no backend to send it to")
	}
	if r.PublicURL != "" {
		if strings.Contains(r.PublicURL, "{edr.") {
			return errors.New("public_url takes no placeholders of a flow: sites must know it before there is one")
		}
		public, err := a.add(r.PublicURL)
		if err != nil {
			return fmt.Errorf("public_url %s: %w", withoutUser(r.PublicURL), err)
		}
		t.endpoints[name] = public
	}
	t.routes = append(t.routes, signaling.Route{Name: name, Match: r.match(), PublicURL: t.endpoints[name], Async: r.Async})
	if r.Backend == "" {
		return nil
	}
	template, err := r.template(replacer)
	if err != nil {
		return err
	}
	t.templates[name] = template
	return nil
}

// errNoMatcher is what a route gets that does not say which flows it is for.
var errNoMatcher = errors.New("dataset, profile, label or metadata is required")

func (r *Route) matches() bool {
	return len(r.Datasets)+len(r.Profiles)+len(r.Labels)+len(r.Metadata) > 0
}

func (r *Route) match() routing.Match {
	m := routing.Match{Datasets: r.Datasets, Profiles: r.Profiles, Labels: r.Labels}
	for _, member := range r.Metadata {
		m.Metadata = append(m.Metadata, routing.Member{Path: member.Member, Values: member.Values})
	}
	return m
}

// template reads the placeholders, and replaces those of the server. Errors name the configured text, never what a
// placeholder gave.
func (r *Route) template(replacer *caddy.Replacer) (*routeTemplate, error) {
	replace := func(text string) (string, error) { return replacePlaceholders(replacer, text) }
	backend, err := routing.ParseURL(r.Backend, replace)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", withoutUser(r.Backend), err)
	}
	t := &routeTemplate{backend: backend}
	taken := map[string]bool{}
	take := func(name string) error {
		header, err := settableHeader(name)
		switch {
		case err != nil:
			return err
		case taken[header]:
			return fmt.Errorf("%s: is set twice, in different case or as a secret too", header)
		}
		taken[header] = true
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		err = take(name)
		if err != nil {
			return nil, fmt.Errorf("header %w", err)
		}
		value, err := routing.ParseTemplate(r.Headers[name], replace)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		t.headers = append(t.headers, headerTemplate{name: name, value: value})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Secrets)) {
		err = take(name)
		if err != nil {
			return nil, fmt.Errorf("secret %w", err)
		}
		if !takesCredential(http.CanonicalHeaderKey(name)) {
			return nil, fmt.Errorf("secret %s: is no header for a credential", name)
		}
		secret, err := r.Secrets[name].template(replace)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", name, err)
		}
		secret.header = name
		t.secrets = append(t.secrets, secret)
	}
	if !t.isStatic() {
		return t, nil
	}
	t.static, err = t.fill(nil)
	if err != nil {
		return nil, err
	}
	return t, checkBackend(r.Backend, t.static.Backend)
}

func (s RouteSecret) template(replace func(string) (string, error)) (secretTemplate, error) {
	if s.Name == "" {
		return secretTemplate{}, errors.New("the name of a secret of edr_proxy is required")
	}
	if s.Scheme != "" && !isToken(s.Scheme) {
		return secretTemplate{}, errors.New("the scheme is a word such as Bearer") // RFC 9110 §11.1
	}
	name, err := routing.ParseTemplate(s.Name, replace)
	if err != nil {
		return secretTemplate{}, err
	}
	return secretTemplate{name: name, scheme: s.Scheme}, nil
}

// checkBackend finds what no site could allow in a URL that is the same for all flows. configured is its text before
// placeholders were replaced.
func checkBackend(configured, backend string) error {
	u, err := url.Parse(backend)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return fmt.Errorf("backend %s must be an absolute http or https URL", withoutUser(configured))
	}
	if u.User != nil || u.Fragment != "" {
		return fmt.Errorf("backend %s must have no user and no fragment: send credentials with header or secret", withoutUser(configured))
	}
	return nil
}

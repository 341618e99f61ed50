package signaling

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/edrgate/edrgate/routing"
)

// Route is a configured place for flows. A flow that takes it carries the route's name, and sites that serve the route
// accept its token.
type Route struct {
	Name string // unique

	// Match says which flows take the route.
	Match routing.Match

	// PublicURL is the endpoint that the EDR names. Empty: that of the participant.
	PublicURL string

	// Async makes starts of Data Plane Signaling asynchronous: the EDR comes in a callback.
	Async bool
}

// Site is what one edr_auth serves.
type Site struct {
	AnyDataset bool
	Datasets   []string // exact ids

	// IgnoreSourceAddress says that the site's own proxy knows the backend, so that classic flows are served although the
	// address in their start message, with its flags and credentials, is not used.
	IgnoreSourceAddress bool
}

// Serving is what the configuration can do with a flow. It is immutable.
type Serving struct {
	consumesOnly bool // the participant is no provider
	table        *routing.Table
	routes       map[string]Route // by name
	ownBackends  bool
	any          siteRule
	datasets     map[string]siteRule
}

type siteRule struct {
	served, ignoresSource bool
}

func (s siteRule) or(site Site) siteRule {
	return siteRule{served: true, ignoresSource: s.ignoresSource || site.IgnoreSourceAddress}
}

// NewServing checks and indexes what is configured. ownBackends says that some site sends a flow to the backend that its
// own start message named (edr_proxy).
func NewServing(routes []Route, sites []Site, ownBackends bool) (*Serving, error) {
	s := &Serving{routes: make(map[string]Route, len(routes)), ownBackends: ownBackends, datasets: make(map[string]siteRule)}
	matched := make([]routing.Route, 0, len(routes))
	for _, r := range routes {
		err := checkPublicURL(r.PublicURL)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Name, err)
		}
		s.routes[r.Name] = r
		matched = append(matched, routing.Route{Name: r.Name, Match: r.Match})
	}
	var err error
	s.table, err = routing.NewTable(matched)
	if err != nil {
		return nil, err
	}
	for _, site := range sites {
		if site.AnyDataset {
			s.any = s.any.or(site)
		}
		for _, id := range site.Datasets {
			s.datasets[id] = s.datasets[id].or(site)
		}
	}
	return s, nil
}

// ConsumesOnly is the Serving of a participant that only uses data of others: it serves no flow.
func ConsumesOnly() *Serving { return &Serving{consumesOnly: true, table: new(routing.Table)} }

func checkPublicURL(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return errors.New("public_url is no absolute http or https URL")
	}
	return nil
}

// RouteOf returns the name of the route that a flow takes; empty: none, or more than one.
func (s *Serving) RouteOf(f *routing.Facts) string {
	route, err := s.table.Route(f)
	if err != nil {
		return ""
	}
	return route
}

// place is where a flow will be served.
type place struct {
	route    string
	endpoint string // empty: the participant's
	async    bool

	// usesSource says that the flow's own source address will be used, so that it must be one that can be.
	usesSource bool
}

// place finds what serves a flow. A flow that nothing can serve is refused at its start: the consumer would pay for a
// token that opens nothing.
func (s *Serving) place(f *routing.Facts, hasSource bool) (place, error) {
	if s.consumesOnly {
		return place{}, &refusal{
			status: http.StatusBadRequest, outcome: outcomeUnserved, text: textConsumesOnly,
			detail: "a provider needs public_url, edr_refresh, and edr_auth or edr_proxy",
		}
	}
	p := place{usesSource: hasSource && s.ownBackends}
	var err error
	p.route, err = s.table.Route(f)
	if err != nil {
		return place{}, unserved(err.Error())
	}
	if p.route != "" {
		route := s.routes[p.route]
		p.endpoint, p.async = route.PublicURL, route.Async
		return p, nil
	}
	if p.usesSource {
		return p, nil
	}
	rule := s.datasets[f.Dataset()]
	switch {
	case !rule.served && !s.any.served:
		return place{}, unserved(s.unmatched(f))
	case hasSource && !rule.ignoresSource && !s.any.ignoresSource:
		// The address says where the provider wants the consumer to end up, and with which flags. To serve something else
		// in silence could publish more than the asset.
		return place{}, unserved("an edr_auth names the dataset, but the start message has a source address: use edr_proxy, " +
			"or set ignore_source_address in that edr_auth")
	}
	return p, nil
}

// unmatched says why nothing serves a flow.
func (s *Serving) unmatched(f *routing.Facts) string {
	detail := "no route matches, no edr_auth names the dataset, and there is no edr_proxy for its source address"
	misses := s.table.Misses(f)
	if misses != "" {
		detail += ": " + misses
	}
	return detail
}

func unserved(detail string) *refusal {
	return &refusal{status: http.StatusBadRequest, outcome: outcomeUnserved, text: textUnserved, detail: detail}
}

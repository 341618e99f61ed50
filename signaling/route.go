package signaling

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Route is a configured place for datasets. A flow of one of them carries the route's name, and sites that serve the
// route accept its token.
type Route struct {
	Name string // unique

	// Datasets are dataset ids. One that ends in "*" stands for all ids with that beginning. An exact id wins over a
	// beginning, a longer beginning over a shorter one.
	Datasets []string

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
	exact       map[string]*Route
	prefixes    []prefixRoute // longest first
	ownBackends bool
	any         siteRule
	datasets    map[string]siteRule
}

type prefixRoute struct {
	prefix string
	route  *Route
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
	s := &Serving{exact: make(map[string]*Route), ownBackends: ownBackends, datasets: make(map[string]siteRule)}
	names := make(map[string]struct{}, len(routes))
	for _, r := range routes {
		_, twice := names[r.Name]
		if r.Name == "" || twice {
			return nil, fmt.Errorf("route %q: names must be unique and not empty", r.Name)
		}
		names[r.Name] = struct{}{}
		err := s.add(&r)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Name, err)
		}
	}
	slices.SortStableFunc(s.prefixes, func(a, b prefixRoute) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
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

func (s *Serving) add(r *Route) error {
	if len(r.Datasets) == 0 {
		return errors.New("names no dataset")
	}
	if r.PublicURL != "" {
		u, err := url.Parse(r.PublicURL)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			return errors.New("public_url is no absolute http or https URL")
		}
	}
	for _, pattern := range r.Datasets {
		prefix, open := strings.CutSuffix(pattern, "*")
		if strings.Contains(prefix, "*") || pattern == "" {
			return fmt.Errorf("dataset %q: want an id, or the beginning of ids followed by *", pattern)
		}
		if !open {
			other, twice := s.exact[pattern]
			if twice {
				return fmt.Errorf("dataset %q is also in route %q", pattern, other.Name)
			}
			s.exact[pattern] = r
			continue
		}
		for _, p := range s.prefixes {
			if p.prefix == prefix {
				return fmt.Errorf("dataset %q is also in route %q", pattern, p.route.Name)
			}
		}
		s.prefixes = append(s.prefixes, prefixRoute{prefix, r})
	}
	return nil
}

// RouteOf returns the name of the route that a dataset belongs to; empty: to none.
func (s *Serving) RouteOf(dataset string) string {
	r := s.route(dataset)
	if r == nil {
		return ""
	}
	return r.Name
}

func (s *Serving) route(dataset string) *Route {
	r, ok := s.exact[dataset]
	if ok {
		return r
	}
	for _, p := range s.prefixes {
		if strings.HasPrefix(dataset, p.prefix) {
			return p.route
		}
	}
	return nil
}

// place is where a flow will be served.
type place struct {
	route    string
	endpoint string // empty: the participant's
	async    bool

	// usesSource says that the flow's own source address will be used, so that it must be one that can be.
	usesSource bool
}

// place finds what serves a dataset. A flow that nothing can serve is refused at its start: the consumer would pay for a
// token that opens nothing.
func (s *Serving) place(dataset string, hasSource bool) (place, error) {
	p := place{usesSource: hasSource && s.ownBackends}
	r := s.route(dataset)
	if r != nil {
		p.route, p.endpoint, p.async = r.Name, r.PublicURL, r.Async
		return p, nil
	}
	if p.usesSource {
		return p, nil
	}
	rule := s.datasets[dataset]
	switch {
	case !rule.served && !s.any.served:
		return place{}, unserved("no route and no edr_auth names the dataset, and there is no edr_proxy for its source address")
	case hasSource && !rule.ignoresSource && !s.any.ignoresSource:
		// The address says where the provider wants the consumer to end up, and with which flags. To serve something else
		// in silence could publish more than the asset.
		return place{}, unserved("an edr_auth names the dataset, but the start message has a source address: use edr_proxy, " +
			"or set ignore_source_address in that edr_auth")
	}
	return p, nil
}

func unserved(detail string) *refusal {
	return &refusal{status: http.StatusBadRequest, outcome: outcomeUnserved, text: textUnserved, detail: detail}
}

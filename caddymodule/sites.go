package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/tokens"
)

// sites are the handlers that serve a participant in all sites of one config. Each adds itself when it is provisioned, which Caddy does
// one after the other; when the first request or Start comes, all are known.
type sites struct {
	auths      []*Auth
	proxies    []*Proxy
	signalings []*Signaling
	refreshes  int

	once    sync.Once
	err     error
	serving *signaling.Serving
}

// complete checks what only all handlers together show, once. What one handler shows is checked when it is provisioned,
// which `caddy validate` sees too; this is seen when the config is loaded, and the old one then stays.
func (s *sites) complete(p *participant) error {
	s.once.Do(func() { s.err = s.check(p) })
	return s.err
}

func (s *sites) check(p *participant) error {
	if p.consumesOnly() { // its handlers of the provider's side have been refused
		s.serving = signaling.ConsumesOnly()
		return s.checkRegistrations(p)
	}
	givesData := len(s.auths)+len(s.proxies)+len(s.signalings) > 0 || p.Consumer == nil
	if givesData && s.refreshes == 0 {
		return errors.New("no site has edr_refresh: consumers could not renew their tokens; add it to the site of public_url" + p.orConsume())
	}
	if givesData && len(s.signalings) == 0 {
		p.logger.Warn("no site has edr_signaling: no control plane can start flows")
	}
	err := s.checkRoutes(p.routes)
	if err != nil {
		return err
	}
	err = s.checkRegistrations(p)
	if err != nil {
		return err
	}
	s.serving, err = signaling.NewServing(p.routes.routes, s.served(), len(s.proxies) > 0)
	return err
}

// orConsume says how else to mend what a provider lacks, if it may not be meant to be one.
func (p *participant) orConsume() string {
	if p.Consumer == nil {
		return ""
	}
	return ", or remove public_url if the participant only uses data of others"
}

func (s *sites) served() []signaling.Site {
	served := make([]signaling.Site, 0, len(s.auths))
	for _, auth := range s.auths {
		at := auth.servedDatasets()
		served = append(served, signaling.Site{AnyDataset: at.Any, Datasets: at.Datasets, IgnoreSourceAddress: at.IgnoreSource})
	}
	return served
}

// checkRoutes refuses a route that nothing serves. A start for one of its datasets would be accepted, and its token would
// open nothing.
func (s *sites) checkRoutes(table *routeTable) error {
	for _, route := range table.routes {
		if s.named(route.Name) {
			continue
		}
		template, hasBackend := table.templates[route.Name]
		if !hasBackend {
			return fmt.Errorf("route %s has no backend, and no edr_auth serves it: write `route %s` into one", route.Name, route.Name)
		}
		err := s.anyProxy(func(h *Proxy) error { return h.checkRoute(template) })
		if errors.Is(err, errNotInBackends) || errors.Is(err, errNoProxy) {
			return fmt.Errorf("route %s: its backend is in the backends of no edr_proxy, and no edr_auth serves the route", route.Name)
		}
		if err != nil {
			return fmt.Errorf("route %s: no edr_proxy can serve it: %w", route.Name, err)
		}
	}
	return nil
}

// named reports whether an edr_auth serves a route, whatever its backend is.
func (s *sites) named(route string) bool {
	return slices.ContainsFunc(s.auths, func(h *Auth) bool {
		at := h.servedDatasets()
		return at.Any || slices.Contains(at.Routes, route)
	})
}

// errNoProxy is why nothing reaches a backend where no site could.
var errNoProxy = errors.New("no site has edr_proxy")

// anyProxy returns nil if check does for some edr_proxy. Otherwise it returns the error that is about more than the list of
// backends, if there is one: such an edr_proxy is the one that was meant.
func (s *sites) anyProxy(check func(*Proxy) error) error {
	fault := errNoProxy
	for _, proxy := range s.proxies {
		err := check(proxy)
		if err == nil {
			return nil
		}
		if errors.Is(fault, errNoProxy) || errors.Is(fault, errNotInBackends) {
			fault = err
		}
	}
	return fault
}

// checkSource returns nil if some edr_proxy can serve a flow with this source address. Errors name properties, never
// values.
func (s *sites) checkSource(source *tokens.Source) error {
	return s.anyProxy(func(h *Proxy) error { return h.checkSource(source) })
}

// checkFlow returns nil if some site can serve a flow by its route. Errors name placeholders, never what they stand for.
func (s *sites) checkFlow(table *routeTable, route string, f *routing.Facts) error {
	template, hasBackend := table.templates[route]
	if !hasBackend {
		return nil // an edr_auth serves it, or the config would not have been loaded
	}
	target, err := template.target(f)
	if err != nil {
		return err
	}
	if s.named(route) {
		return nil
	}
	return s.anyProxy(func(h *Proxy) error { return h.checkTarget(target) })
}

// speaks reports whether the dialect is spoken at some site. Without edr_signaling, flows of both may be in the store.
func (s *sites) speaks(dialect tokens.Dialect) bool {
	return len(s.signalings) == 0 ||
		slices.ContainsFunc(s.signalings, func(h *Signaling) bool { return h.speaks(dialect) })
}

// The rest is what the handlers of the data path ask of the participant.

func (p *participant) limits() *Limits { return p.app.Limits }

func (p *participant) rulesOf(route string) *requestRules { return p.routes.rules[route] }

func (p *participant) metrics() dataObserver { return p.observer }

// refreshRequest reports whether a request is a renewal, of whatever participant: the endpoint of one may lie below that of
// another, and no renewal may reach a backend.
func (p *participant) refreshRequest(r *http.Request) bool {
	_, ok := p.app.book.renewal(r)
	return ok
}

func (p *participant) classicOnly() bool {
	return p.sites.speaks(tokens.Classic) && !p.sites.speaks(tokens.DPS)
}

// checkRoute is for starts.
func (p *participant) checkRoute(route string, f *routing.Facts) error {
	return p.sites.checkFlow(p.routes, route, f)
}

// routed returns what this config makes of a flow. The service asks, and there is none before the sites are complete.
func (p *participant) routed(f *tokens.Flow) tokens.Routed {
	facts := routing.FactsOf(f)
	routed := tokens.Routed{Route: p.sites.serving.RouteOf(facts)}
	template, hasBackend := p.routes.templates[routed.Route]
	if !hasBackend {
		return routed
	}
	target, err := template.target(facts)
	if err != nil {
		routed.Err = err
		return routed
	}
	routed.Backend = target
	return routed
}

func (p *participant) registerAuth(h *Auth) error {
	err := p.checkGivesData("edr_auth")
	if err != nil {
		return err
	}
	for _, name := range h.servedDatasets().Routes {
		if !p.routes.has(name) {
			return p.fault(fmt.Errorf("edr_auth: there is no route %s in the global option %s", name, appName))
		}
	}
	p.sites.auths = append(p.sites.auths, h)
	return nil
}

func (p *participant) registerProxy(h *Proxy) error {
	err := p.checkGivesData("edr_proxy")
	if err != nil {
		return err
	}
	p.sites.proxies = append(p.sites.proxies, h)
	return nil
}

var _ dataApp = (*participant)(nil)

package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/tokens"
)

// sites are the app's handlers in all sites of one config. Each adds itself when it is provisioned, which Caddy does
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
func (s *sites) complete(a *App) error {
	s.once.Do(func() { s.err = s.check(a) })
	return s.err
}

func (s *sites) check(a *App) error {
	if s.refreshes == 0 {
		return errors.New("no site has edr_refresh: consumers could not renew their tokens; add it to the site of public_url")
	}
	if len(s.signalings) == 0 {
		a.logger.Warn("no site has edr_signaling: no control plane can start flows")
	}
	err := s.checkRoutes(a.routes)
	if err != nil {
		return err
	}
	err = s.checkRegistrations(a)
	if err != nil {
		return err
	}
	s.serving, err = signaling.NewServing(a.routes.routes, s.served(), len(s.proxies) > 0)
	return err
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
		named := slices.ContainsFunc(s.auths, func(h *Auth) bool {
			at := h.servedDatasets()
			return at.Any || slices.Contains(at.Routes, route.Name)
		})
		if named {
			continue
		}
		target, hasBackend := table.targets[route.Name]
		if !hasBackend {
			return fmt.Errorf("route %s has no backend, and no edr_auth serves it: write `route %s` into one", route.Name, route.Name)
		}
		reachable := slices.ContainsFunc(s.proxies, func(h *Proxy) bool { return h.checkRoute(target) == nil })
		if !reachable {
			return fmt.Errorf("route %s: its backend is in the backends of no edr_proxy, and no edr_auth serves the route", route.Name)
		}
	}
	return nil
}

// checkSource returns nil if some edr_proxy can serve a flow with this source address. Errors name properties, never
// values.
func (s *sites) checkSource(source *tokens.Source) error {
	err := errors.New("no site has edr_proxy")
	for _, proxy := range s.proxies {
		err = proxy.checkSource(source)
		if err == nil {
			return nil
		}
	}
	return err
}

// speaks reports whether the dialect is spoken at some site. Without edr_signaling, flows of both may be in the store.
func (s *sites) speaks(dialect tokens.Dialect) bool {
	return len(s.signalings) == 0 ||
		slices.ContainsFunc(s.signalings, func(h *Signaling) bool { return h.speaks(dialect) })
}

// The rest is what the handlers of the data path ask of the app.

func (a *App) metrics() dataObserver { return a.observer }

func (a *App) refreshRequest(r *http.Request) bool { return a.address.isRenewal(r) }

func (a *App) classicOnly() bool {
	return a.sites.speaks(tokens.Classic) && !a.sites.speaks(tokens.DPS)
}

func (a *App) routeTarget(name, dataset string) (*routeTarget, bool) {
	target, ok := a.routes.targets[name]
	return target, ok && a.routeOf(dataset) == name
}

// routeOf returns the route that a dataset belongs to in this config. No request comes before the sites are complete.
func (a *App) routeOf(dataset string) string {
	if a.sites.serving == nil {
		return ""
	}
	return a.sites.serving.RouteOf(dataset)
}

func (a *App) registerAuth(h *Auth) error {
	for _, name := range h.servedDatasets().Routes {
		if !a.routes.has(name) {
			return fmt.Errorf("edr_auth: there is no route %s in the global option %s", name, appName)
		}
	}
	a.sites.auths = append(a.sites.auths, h)
	return nil
}

func (a *App) registerProxy(h *Proxy) error {
	a.sites.proxies = append(a.sites.proxies, h)
	return nil
}

var _ dataApp = (*App)(nil)

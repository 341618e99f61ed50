package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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

// complete checks what only all handlers together show, once. The settings of each are checked when it is provisioned,
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
	spoken := slices.ContainsFunc(s.signalings, func(h *Signaling) bool { return h.speaks(tokens.Classic) })
	if spoken && !strings.HasSuffix(a.RefreshPath, tokens.DefaultRefreshPath) {
		// Tractus-X appends /token to a refreshEndpoint that does not end in it.
		return fmt.Errorf("refresh_path %s must end in %s, since consumers of EDC's classic signaling append it; or give edr_signaling only `protocol dps`",
			a.RefreshPath, tokens.DefaultRefreshPath)
	}
	err := s.checkListeners(a.ctx)
	if err != nil {
		return err
	}
	err = s.checkRoutes(a.routes)
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

// checkListeners refuses edr_signaling without authentication where others than this machine can reach it: whoever
// signals makes tokens.
func (s *sites) checkListeners(ctx caddy.Context) error {
	open := slices.ContainsFunc(s.signalings, func(h *Signaling) bool { return h.loopbackOnly })
	if !open {
		return nil
	}
	loaded, err := ctx.App("http")
	if err != nil {
		return err
	}
	app, ok := loaded.(*caddyhttp.App)
	if !ok {
		return fmt.Errorf("app http is a %T", loaded)
	}
	for _, handler := range s.signalings {
		if !handler.loopbackOnly {
			continue
		}
		for _, server := range app.Servers {
			if !contains(server.Routes, handler) {
				continue
			}
			for _, listen := range server.Listen {
				err := checkLoopback(listen)
				if err != nil {
					return fmt.Errorf("edr_signaling: %w", err)
				}
			}
		}
	}
	return nil
}

func checkLoopback(listen string) error {
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil {
		return fmt.Errorf("listener %s: %w", listen, err)
	}
	if address.IsUnixNetwork() || address.IsFdNetwork() || isLoopback(address.Host) {
		return nil
	}
	return fmt.Errorf("listener %s can be reached from other machines, and nobody is asked who he is: "+
		"write `auth bearer`, `auth network` or, if you must, `auth none insecure`, or bind it to 127.0.0.1", listen)
}

// contains looks for a handler in routes and what they nest. Handlers of other modules may hold handlers too; in those
// edr_signaling is not found, and its own check of each request has to do.
func contains(routes caddyhttp.RouteList, wanted caddyhttp.MiddlewareHandler) bool {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			if handler == wanted {
				return true
			}
			nested, ok := handler.(*caddyhttp.Subroute)
			if ok && contains(nested.Routes, wanted) {
				return true
			}
		}
	}
	return false
}

// The rest is what the handlers of the data path ask of the app.

func (a *App) metrics() dataObserver { return a.observer }

func (a *App) refreshRequest(r *http.Request) bool { return a.address.isRenewal(r) }

func (a *App) classicOnly() bool {
	return a.sites.speaks(tokens.Classic) && !a.sites.speaks(tokens.DPS)
}

func (a *App) routeTarget(name string) (*RouteTarget, bool) {
	target, ok := a.routes.targets[name]
	return target, ok
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

package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/store"
)

func init() {
	caddy.RegisterModule(new(Health))
	httpcaddyfile.RegisterHandlerDirective("edr_health", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		handler := new(Health)
		return handler, handler.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("edr_health", httpcaddyfile.Before, "basic_auth")
}

// Health answers the probes of an orchestrator. GET /live says that the process serves requests; GET /ready that it can
// also check tokens: 200, or 503 if the store cannot be used. A store that is short of space is ready, since tokens are
// still checked and access can still be ended; the answer and the metric edrgate_store_space_state say so. So is a shared
// store that cannot be reached, while what is known of it is fresh, and one that was restored.
//
// The answers tell nothing about flows, but put the handler on a private listener nevertheless.
type Health struct {
	app *App
}

// CaddyModule returns the Caddy module information.
func (*Health) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_health", New: func() caddy.Module { return new(Health) }}
}

// Provision takes the app.
func (h *Health) Provision(ctx caddy.Context) error {
	var err error
	h.app, err = configuredApp(ctx)
	return err
}

// healthTimeout is how long the store may take to answer a probe. Orchestrators wait for one second by default.
const healthTimeout = 800 * time.Millisecond

// ServeHTTP answers /live and /ready, and leaves all else to the next handler.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return next.ServeHTTP(w, r)
	}
	switch strings.TrimSuffix(r.URL.Path, "/") {
	case "/live":
		writeJSON(w, http.StatusOK, healthBody{Status: "live"})
		return nil
	case "/ready":
		status, body := h.ready(r.Context())
		writeJSON(w, status, body)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// healthBody is the answer to a probe. Its texts are fixed: errors of the store name directories and hosts.
type healthBody struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

func (h *Health) ready(ctx context.Context) (int, healthBody) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err := h.app.storeHealth(ctx)
	switch {
	case err == nil && !h.app.knowsPresent(time.Now()):
		return http.StatusServiceUnavailable, healthBody{Status: "unavailable", Reason: "changes by other gateways are not known"}
	case err == nil && h.app.storeRestored():
		return http.StatusOK, healthBody{Status: "degraded", Reason: "store was restored"}
	case err == nil:
		return http.StatusOK, healthBody{Status: "ready"}
	case errors.Is(err, store.ErrFull):
		return http.StatusOK, healthBody{Status: "degraded", Reason: "store is short of space"}
	case h.app.shared() != nil && h.app.knowsPresent(time.Now()):
		return http.StatusOK, healthBody{Status: "degraded", Reason: "store cannot be reached"}
	}
	h.app.logger.Warn("not ready", "error", err)
	return http.StatusServiceUnavailable, healthBody{Status: "unavailable", Reason: "store cannot be used"}
}

// storeHealth returns nil if the store takes reads and writes, store.ErrFull if it is short of space, else why not.
func (a *App) storeHealth(ctx context.Context) error {
	err := a.open()
	if err != nil {
		return err
	}
	a.mu.Lock()
	opened := a.engine
	a.mu.Unlock()
	return opened.store.Health(ctx)
}

// shared returns the engine if other gateways have its store too, else nil.
func (a *App) shared() *engine {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engine == nil || a.engine.follows == nil {
		return nil
	}
	return a.engine
}

// knowsPresent reports whether data is served: the states of flows are known, as far as other gateways may have changed them.
func (a *App) knowsPresent(now time.Time) bool {
	e := a.shared()
	return e == nil || e.live.IsFresh(now)
}

// storeRestored reports whether a shared store has lost writes and waits for an operator.
func (a *App) storeRestored() bool {
	e := a.shared()
	return e != nil && e.live.IsRestored()
}

// configuredApp returns the app. Without the global option there is none, and an app of nothing but defaults would
// fail with a message about a setting that nobody wrote.
func configuredApp(ctx caddy.Context) (*App, error) {
	loaded, err := ctx.AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, fmt.Errorf("the global option %s is missing: it says whose gateway this is", appName)
	}
	if err != nil {
		return nil, err
	}
	app, ok := loaded.(*App)
	if !ok {
		return nil, fmt.Errorf("app %s is a %T", appName, loaded)
	}
	return app, nil
}

// configuredParticipant returns a participant of the app by its name.
func configuredParticipant(ctx caddy.Context, name string) (*participant, error) {
	app, err := configuredApp(ctx)
	if err != nil {
		return nil, err
	}
	return app.findParticipant(name)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(data) // a client that is gone cannot be told so
}

// UnmarshalCaddyfile sets up the handler. Syntax:
//
//	edr_health
func (h *Health) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return endOfLine(d)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
	_ caddyfile.Unmarshaler       = (*Health)(nil)
)

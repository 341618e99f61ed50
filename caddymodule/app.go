package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/did"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

// appName is the module id of the app and the name of its global option.
const appName = "edrgate"

func init() {
	caddy.RegisterModule(new(App))
}

// App is the gateway: who it is, its keys, its store, and the rules of its tokens. The handlers edr_signaling,
// edr_refresh, edr_auth, edr_proxy and edr_health are its doors.
//
// Two running configs whose store is the same share the open store and what is known of the flows' states, so a reload
// neither closes it nor forgets a suspension.
type App struct {
	// Participant is the name of the participant context that flows belong to. It is part of every flow's key, so it
	// must not change while there are flows. Default: "default".
	Participant string `json:"participant,omitempty"`

	// DID is the participant's own DID, for example did:web:provider.example: the issuer of access tokens and the
	// audience of renewal proofs. Required.
	DID string `json:"did,omitempty"`

	// SigningKeys are the keys of access tokens. One must be active. Required.
	SigningKeys []SigningKey `json:"signing_keys,omitempty"`

	// RefreshKeys are files of at least 32 random bytes that refresh tokens are made with, the first for new ones. Not
	// needed, unless the signing key's private bytes cannot be read. Default: derived from each signing key.
	RefreshKeys []string `json:"refresh_keys,omitempty"`

	// SealingKeys are files of at least 32 random bytes that stored secrets of other parties are encrypted with, the
	// first for new ones. Default: derived from each signing key.
	SealingKeys []string `json:"sealing_keys,omitempty"`

	// PublicURL is where consumers reach the data, as written into EDRs. https, unless the host is a loopback one or
	// InsecurePublicURL is set. Required.
	PublicURL string `json:"public_url,omitempty"`

	// InsecurePublicURL allows a public_url that is not https, here and in routes. Tokens then travel in clear.
	InsecurePublicURL bool `json:"insecure_public_url,omitempty"`

	// RefreshPath is the path, below public_url, at which tokens are renewed. Consumers of the classic dialect append
	// /token to what they are told, so it must end in it where that dialect is served. Default: /token.
	RefreshPath string `json:"refresh_path,omitempty"`

	// TokenTTL is the life of access tokens whose holder can be expected to renew them. Default: 5m.
	TokenTTL caddy.Duration `json:"token_ttl,omitempty"`

	// TokenTTLWithoutRenewal is the life of the others, which end with their flow. Default: 365d.
	TokenTTLWithoutRenewal caddy.Duration `json:"token_ttl_without_renewal,omitempty"`

	// RefreshTTL is how long a refresh token may stay unused. 0, the default: as long as its flow lives.
	RefreshTTL caddy.Duration `json:"refresh_ttl,omitempty"`

	// UnacknowledgedTTL is how long after its start a flow may live whose EDR is never used. Then it is ended and reported
	// to its control plane: control planes forget flows without a word, for example when the answer to a start is lost,
	// and what they were given would open the data for ever. The first data request or renewal keeps the flow. 0: no
	// limit. Default: 30d.
	UnacknowledgedTTL *caddy.Duration `json:"unacknowledged_ttl,omitempty"`

	// TombstoneTTL is how long an ended flow is remembered, so that a late message cannot revive it. Default: 30d.
	TombstoneTTL caddy.Duration `json:"tombstone_ttl,omitempty"`

	// ClockSkew is the tolerance for other parties' clocks. Default: 60s.
	ClockSkew caddy.Duration `json:"clock_skew,omitempty"`

	// DIDMap gives the DID of a counterparty that the control plane names otherwise, for example by its business
	// partner number. It counts when a flow is created; a change affects new flows only.
	DIDMap map[string]string `json:"did_map,omitempty"`

	// DuplicateStart says what a repeated start under a new message id gets: "replay", the same EDR again, since EDC
	// sends it after a crash and gives the transfer up if refused; or "conflict", 409, as Data Plane Signaling has it.
	// Default: replay.
	DuplicateStart string `json:"duplicate_start,omitempty"`

	// ReusePolicy says what happens when a refresh token older than the superseded one is presented: "refuse" refuses
	// it; "revoke" ends the flow too. An EDR that is bound to a DID is useless without the consumer's key, so revoking
	// only helps whoever wants to end other parties' flows. Default: refuse.
	ReusePolicy string `json:"reuse_policy,omitempty"`

	// ErrorFormat is how edr_refresh writes errors: "edc", an array as Eclipse EDC writes it, or "rfc6749". Default:
	// by the dialect of the flow; where no flow could be told, edc if the classic dialect is served.
	ErrorFormat string `json:"error_format,omitempty"`

	// ControlPlanes are the control planes, one of which each authentication of edr_signaling stands for. Flows belong
	// to the control plane that started them. Default: one, called "default".
	ControlPlanes []ControlPlane `json:"control_planes,omitempty"`

	// Routes give datasets an address or a backend of their own, by name.
	Routes map[string]*Route `json:"routes,omitempty"`

	// Resolver says how the DIDs of consumers are resolved.
	Resolver *Resolver `json:"resolver,omitempty"`

	// StoreRaw is the store of flows. Default: badger in the directory edrgate of Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=edrgate.stores inline_key=module"`

	// What follows comes from Provision.
	logger   *slog.Logger
	config   tokens.Config // all but Store and Live
	resolver *did.Resolver
	opener   StoreOpener
	address  *addresses
	routes   *routeTable
	observer *observer
	client   *controlplane.Client
	calls    map[string]*url.URL // where control planes are called back, by name
	register *controlplane.Registrar
	sites    sites

	service atomic.Pointer[tokens.Service]
	mu      sync.Mutex // guards what follows
	held    string     // key of the reference to the pool; empty: none
	engine  *engine
	cleaned bool
	stopRun context.CancelFunc
	ran     *sync.WaitGroup // the background work
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// errCleaned is returned by Service of an app that was cleaned up before it was ever used.
var errCleaned = errors.New("this configuration is no longer in use")

// Provision reads the keys and checks the settings. It opens no store and no connection: `caddy validate` runs it in a
// second process beside the live one, which holds the store's lock, and the hosts it would ask may be served by this
// very Caddy.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Slogger()
	a.setDefaults()
	err := a.checkSettings()
	if err != nil {
		return err
	}
	err = registerMetrics(ctx.GetMetricsRegistry())
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	a.observer = processObserver()

	replacer := caddy.NewReplacer()
	ring, err := a.loadRing(replacer)
	if err != nil {
		return err
	}
	a.address, err = newAddresses(a.PublicURL, a.RefreshPath, a.InsecurePublicURL)
	if err != nil {
		return err
	}
	a.routes, err = newRouteTable(a.Routes, a.address, replacer)
	if err != nil {
		return err
	}
	a.resolver, err = a.Resolver.resolver(a.observer, a.logger)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	a.calls, err = a.callbacks(replacer)
	if err != nil {
		return err
	}
	a.client, err = controlplane.NewClient(adminEndpoints())
	if err != nil {
		return err
	}
	err = a.provisionRegistrar(replacer)
	if err != nil {
		return err
	}
	a.opener, err = a.loadStore(ctx)
	if err != nil {
		return err
	}
	a.config = tokens.Config{
		Participant:             a.Participant,
		DID:                     a.DID,
		Keys:                    ring,
		Resolver:                a.resolver,
		ControlPlanes:           a.controlPlaneNames(),
		Formerly:                a.formerNames(),
		DIDMap:                  a.DIDMap,
		PublicURL:               a.address.public,
		RefreshPath:             a.RefreshPath,
		TokenTTL:                time.Duration(a.TokenTTL),
		TokenTTLWithoutRenewal:  time.Duration(a.TokenTTLWithoutRenewal),
		RefreshTTL:              time.Duration(a.RefreshTTL),
		UnacknowledgedTTL:       time.Duration(*a.UnacknowledgedTTL),
		TombstoneTTL:            time.Duration(a.TombstoneTTL),
		ClockSkew:               time.Duration(a.ClockSkew),
		RevokeOnReuse:           a.ReusePolicy == reuseRevoke,
		ConflictOnRepeatedStart: a.DuplicateStart == duplicateConflict,
		Observer:                a.observer,
		Logger:                  a.logger,
	}
	return nil
}

// Start opens the store. What only the whole configuration shows is checked here too: the handlers of all sites are
// known by now.
func (a *App) Start() error {
	_, err := a.Service()
	if err != nil {
		return err
	}
	a.startRegistrar()
	a.logger.Info("gateway is ready", "did", a.DID, "participant", a.Participant, "public_url", a.address.public)
	return nil
}

// Stop does nothing: requests of this config may still be running, and the order in which Caddy stops apps is random.
// Cleanup releases what Start acquired.
func (a *App) Stop() error { return nil }

// Service returns the token service, opening the store if Start has not done so yet: Caddy starts apps in random
// order, so a request may come first. An error means "cannot tell": 503.
func (a *App) Service() (*tokens.Service, error) {
	service := a.service.Load()
	if service != nil {
		return service, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	service = a.service.Load()
	if service != nil {
		return service, nil
	}
	if a.cleaned {
		// A reference taken now would never be given back.
		return nil, errCleaned
	}
	// Requests may come before Start, also to a config that Start is about to refuse.
	err := a.sites.complete(a)
	if err != nil {
		return nil, err
	}
	eng, err := acquireEngine(a.opener, a.observer, a.logger)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	a.engine, a.held = eng, eng.key

	config := a.config
	config.Store, config.Live = eng.store, eng.live
	service, err = tokens.New(config)
	if err != nil {
		return nil, errors.Join(err, a.release())
	}
	outbox, err := a.newOutbox(service)
	if err != nil {
		return nil, errors.Join(err, a.release())
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stopRun, a.ran = cancel, new(sync.WaitGroup)
	a.ran.Go(func() { service.Run(ctx) })
	a.ran.Go(func() { outbox.Run(ctx) })
	a.service.Store(service)
	a.warnOfLostKey()
	return service, nil
}

// Cleanup ends the background work and gives the store back. The service is kept: requests of this config that are
// still running go on using it, and get "cannot tell" from it once the store is closed.
func (a *App) Cleanup() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleaned = true
	if a.stopRun != nil {
		a.stopRun()
		a.ran.Wait()
		a.stopRun = nil
	}
	if a.client != nil {
		a.client.Close()
	}
	a.closeResolver()
	return a.release()
}

// renewalGrace is longer than a renewal that is under way can take.
const renewalGrace = 30 * time.Second

// closeResolver closes the DID resolver when no request of this config can need it any more. Caddy does not wait for
// running requests when it reloads, and a renewal must not fail because of a reload.
func (a *App) closeResolver() {
	resolver := a.resolver
	if resolver == nil {
		return
	}
	a.resolver = nil
	if a.service.Load() == nil {
		_ = resolver.Close() // nothing was asked of it, so there is nothing that could fail
		return
	}
	time.AfterFunc(renewalGrace, func() { _ = resolver.Close() })
}

// release gives back the reference to the store, if there is one. The caller holds a.mu.
func (a *App) release() error {
	if a.held == "" {
		return nil
	}
	key := a.held
	a.held = ""
	return releaseEngine(key)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)

package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
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

// App is the gateway: whom it serves, its store, and the rules of its tokens. The handlers edr_signaling, edr_refresh,
// edr_auth, edr_proxy and edr_health are its doors. It serves one participant context, whose settings are its own, or
// several, or both; they share the store, the resolver and the rules, and nothing of one opens anything at another.
//
// Two running configs whose store is the same share the open store and what is known of the flows' states, so a reload
// neither closes it nor forgets a suspension.
type App struct {
	// Participant is the name of the participant context whose settings are the app's own. It is part of every flow's
	// key, so it must not change while there are flows. Default: "default".
	Participant string `json:"participant,omitempty"`

	ParticipantSettings

	// Participants are further participant contexts by their names, to which the same applies. If there are any and
	// nothing is set of the app's own participant, there is no such one. Default: none.
	Participants map[string]*ParticipantSettings `json:"participants,omitempty"`

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

	// Limits bound what one party can take of the gateway. Default: those of each.
	Limits *Limits `json:"limits,omitempty"`

	// Resolver says how the DIDs of consumers are resolved.
	Resolver *Resolver `json:"resolver,omitempty"`

	// PolicyRaw is asked whether a flow may be started, and at each renewal whether its tokens may be renewed. Default: none;
	// then the control plane's word is enough.
	PolicyRaw json.RawMessage `json:"policy,omitempty" caddy:"namespace=edrgate.policies inline_key=module"`

	// StoreRaw is the store of flows. Default: badger in the directory edrgate of Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=edrgate.stores inline_key=module"`

	// What follows comes from Provision.
	logger       *slog.Logger
	resolver     *did.Resolver
	opener       StoreOpener
	observer     *observer
	client       *controlplane.Client
	calls        []*http.Transport // of the client
	participants []*participant    // in the order of names, the app's own first
	book         *addressBook
	issuers      []issuerOf    // of all sites, as they are provisioned
	policy       tokens.Policy // nil: none
	endOnDeny    bool
	renewing     inFlight // renewals of all participants

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

// errCleaned is returned by open of an app that was cleaned up before it was ever used.
var errCleaned = errors.New("this configuration is no longer in use")

// Provision reads the keys and checks the settings. It opens no store and no connection: `caddy validate` runs it in a
// second process beside the live one, which holds the store's lock, and the hosts it would ask may be served by this
// very Caddy.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Slogger()
	err := a.listParticipants()
	if err != nil {
		return err
	}
	a.setDefaults()
	err = a.checkSettings()
	if err != nil {
		return err
	}
	a.renewing.limit = int64(a.Limits.Renewals)
	err = registerMetrics(ctx.GetMetricsRegistry())
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	a.observer = processObserver()

	a.resolver, err = a.Resolver.resolver(a.observer, a.logger)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	err = a.provisionClient()
	if err != nil {
		return err
	}
	a.opener, err = a.loadStore(ctx)
	if err != nil {
		return err
	}
	err = a.provisionPolicy(ctx)
	if err != nil {
		return err
	}
	return a.provisionParticipants(ctx)
}

// minCacheEntries is the least number of verified tokens that each of many participants may remember.
const minCacheEntries = 4096

// tokenConfig is what the token services of all participants have in common.
func (a *App) tokenConfig() tokens.Config {
	return tokens.Config{
		Resolver:                a.resolver,
		RefreshPath:             a.RefreshPath,
		TokenTTL:                time.Duration(a.TokenTTL),
		TokenTTLWithoutRenewal:  time.Duration(a.TokenTTLWithoutRenewal),
		RefreshTTL:              time.Duration(a.RefreshTTL),
		UnacknowledgedTTL:       time.Duration(*a.UnacknowledgedTTL),
		TombstoneTTL:            time.Duration(a.TombstoneTTL),
		ClockSkew:               time.Duration(a.ClockSkew),
		RevokeOnReuse:           a.ReusePolicy == reuseRevoke,
		ConflictOnRepeatedStart: a.DuplicateStart == duplicateConflict,
		RenewalsPerConsumer:     a.Limits.RenewalsPerConsumer,
		MaxTokenBytes:           a.Limits.TokenBytes,
		CacheEntries:            max(tokens.DefaultCacheEntries/len(a.participants), minCacheEntries),
		Policy:                  a.policy,
		EndOnDeny:               a.endOnDeny,
	}
}

// Start opens the store. What only the whole configuration shows is checked here too: the handlers of all sites are
// known by now.
func (a *App) Start() error {
	err := a.open()
	if err != nil {
		return err
	}
	for _, p := range a.participants {
		p.startRegistrar()
		a.logger.Info("gateway is ready", "did", p.DID, "participant", p.name, "public_url", p.address.public)
	}
	return nil
}

// Stop does nothing: requests of this config may still be running, and the order in which Caddy stops apps is random.
// Cleanup releases what Start acquired.
func (a *App) Stop() error { return nil }

// open opens the store and starts the participants, once. Requests may come before Start, also to a config that Start is
// about to refuse.
func (a *App) open() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engine != nil {
		return nil
	}
	if a.cleaned {
		// A reference taken now would never be given back.
		return errCleaned
	}
	for _, p := range a.participants {
		err := p.sites.complete(p)
		if err != nil {
			return p.fault(err)
		}
	}
	eng, err := acquireEngine(a.opener, time.Duration(a.TombstoneTTL), a.observer, a.logger)
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	a.held = eng.key
	running := make([]opened, len(a.participants))
	for i, p := range a.participants {
		running[i], err = p.open(eng)
		if err != nil {
			for _, other := range running[:i] {
				other.edrs.close()
			}
			return errors.Join(p.fault(err), a.release())
		}
	}
	a.engine = eng
	ctx, cancel := context.WithCancel(context.Background())
	a.stopRun, a.ran = cancel, new(sync.WaitGroup)
	for i, p := range a.participants {
		a.ran.Go(func() { running[i].service.Run(ctx) })
		a.ran.Go(func() { running[i].outbox.Run(ctx) })
		if running[i].edrs != nil {
			a.ran.Go(func() { running[i].edrs.run(ctx) })
			p.edrs.Store(running[i].edrs)
		}
		p.warnOfLostKey(eng)
	}
	if eng.follows != nil {
		eng.follows.begin(a.participants)
	}
	for i, p := range a.participants {
		p.service.Store(running[i].service)
	}
	return nil
}

// Cleanup ends the background work and gives the store back. The service is kept: requests of this config that are
// still running go on using it, and get "cannot tell" from it once the store is closed.
func (a *App) Cleanup() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cleaned {
		return nil // the observers are given back once: other configs have them too
	}
	a.cleaned = true
	if a.stopRun != nil {
		a.stopRun()
		for _, p := range a.participants {
			p.edrs.Load().close() // a provider that does not answer must not hold up the reload
		}
		a.ran.Wait()
		a.stopRun = nil
		if a.engine.follows != nil {
			a.engine.follows.end(a.participants)
		}
	}
	closeIdle(a.calls)
	a.closeResolver()
	for _, p := range a.participants {
		p.consuming.close()
		if p.observer != nil {
			p.observer.release()
		}
	}
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
	if a.engine == nil {
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

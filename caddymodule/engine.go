package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/store/postgres"
	"github.com/edrgate/edrgate/tokens"
)

// storeNamespace is the namespace of the modules that open a store. They implement StoreOpener.
const storeNamespace = "edrgate.stores"

// defaultStore is the store of a config that names none.
const defaultStore = "badger"

// StoreOpener is what a module of the namespace edrgate.stores implements. Its Provision opens, locks and creates
// nothing: `caddy validate` runs it beside the live process.
type StoreOpener interface {
	caddy.Module

	// StoreKey names what is opened, such as a cleaned absolute directory, and nothing of how: two configs with the
	// same key share one open store, also across a reload that changes an option.
	StoreKey() string

	// StoreOptions tells how it is opened, without secrets. When it differs between two configs that share a store,
	// the change waits for a restart, and a warning says so.
	StoreOptions() string

	// OpenStore opens the store. It is called again only after the store was closed.
	OpenStore(metrics StoreObserver, logger *slog.Logger) (store.Store, error)
}

// StoreObserver is told what a store does, for metrics.
type StoreObserver interface {
	badger.Observer
	postgres.Observer
}

// engine is what all running configs over one store share: the store itself and what is known of its flows' states.
// A suspension under a new config must stop requests that run under the old one, so the states cannot belong to one.
type engine struct {
	key     string
	options string
	store   store.Store
	live    *tokens.Live
	follows *following // nil: no other gateway has the store

	mu      sync.Mutex
	signing map[string]tokens.KeyID // by participant: the key that the newest config signs with
}

// signsWith remembers the key that a participant signs with from now on, and returns the one before.
func (e *engine) signsWith(participant string, key tokens.KeyID) tokens.KeyID {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.signing[participant]
	e.signing[participant] = key
	return before
}

// engines holds the open stores by their key. It outlives configs, which is its purpose.
var engines = caddy.NewUsagePool()

// Destruct closes the store. The pool calls it when the last config that used the store is cleaned up.
func (e *engine) Destruct() error {
	var err error
	if e.follows != nil {
		err = e.follows.close()
	}
	err = errors.Join(err, e.store.Close())
	if err != nil {
		return fmt.Errorf("closing store %s: %w", e.key, err)
	}
	return nil
}

// loadStore provisions the store's module.
func (a *App) loadStore(ctx caddy.Context) (StoreOpener, error) {
	if a.StoreRaw == nil {
		a.StoreRaw = caddyconfig.JSONModuleObject(struct{}{}, "module", defaultStore, nil)
	}
	loaded, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the store's module: %w", err)
	}
	opener, ok := loaded.(StoreOpener)
	if !ok {
		return nil, fmt.Errorf("module %T opens no store", loaded)
	}
	if opener.StoreKey() == "" {
		return nil, errors.New("the store's module names nothing to open")
	}
	return opener, nil
}

// openEngine opens the store of a module. keep is how long endings are remembered where several gateways share it.
func openEngine(opener StoreOpener, mayBeAway bool, keep time.Duration, metrics *observer, logger *slog.Logger) (*engine, error) {
	open := opener.OpenStore
	shared, ok := opener.(SharedStore)
	if ok && mayBeAway {
		open = shared.OpenAway
	}
	opened, err := open(metrics, logger)
	if err != nil {
		return nil, err
	}
	e := &engine{
		key: storeName(opener), options: opener.StoreOptions(), store: opened, live: tokens.NewLive(),
		signing: map[string]tokens.KeyID{},
	}
	if !ok {
		return e, nil
	}
	e.follows, err = follow(shared.Replica(), keep, opened, e.live, metrics, logger)
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	e.store = e.follows.follower.Watched()
	return e, nil
}

// acquireEngine takes a reference to the store. With an error there is none.
func acquireEngine(opener StoreOpener, keep time.Duration, metrics *observer, logger *slog.Logger) (*engine, error) {
	key := storeName(opener)
	// A process that starts comes up without its shared store, and is not ready: its orchestrator waits for it, and what waits
	// in its journal is in effect. A reload is refused instead, and the config that runs goes on.
	first := true
	engines.Range(func(any, any) bool {
		first = false
		return false
	})
	value, shared, err := engines.LoadOrNew(key, func() (caddy.Destructor, error) {
		e, err := openEngine(opener, first, keep, metrics, logger)
		if err != nil {
			return nil, err
		}
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	e, ok := value.(*engine)
	if !ok {
		return nil, fmt.Errorf("store %s: the pool holds a %T", key, value)
	}
	if shared && e.options != opener.StoreOptions() {
		logger.Warn("the store is open with other options, the new ones count after a restart",
			"store", key, "open_with", e.options, "configured", opener.StoreOptions())
	}
	return e, nil
}

// releaseEngine gives a reference back.
func releaseEngine(key string) error {
	_, err := engines.Delete(key)
	return err
}

// storeName is how a store is called in logs and answers.
func storeName(opener StoreOpener) string {
	return opener.CaddyModule().ID.Name() + " " + opener.StoreKey()
}

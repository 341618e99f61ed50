package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/replica"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// SharedStore is a StoreOpener whose store several gateways share. Each then follows what the others change, and keeps the
// endings that the store does not take in a journal (docs/decisions: replicas).
type SharedStore interface {
	StoreOpener

	// OpenAway is OpenStore for a process that serves nothing yet: a store that cannot be reached is opened nevertheless, and
	// every call of it fails until it can. What only an operator can mend is an error.
	OpenAway(metrics StoreObserver, logger *slog.Logger) (store.Store, error)

	// Replica returns how this gateway keeps in step with the others. It is called after Provision.
	Replica() *ReplicaSettings
}

// What a gateway does that does not know what the others have changed.
const (
	staleRefuse = "refuse"
	staleServe  = "until_token_expiry"
)

// ReplicaSettings are the part of a shared store's configuration that says how this gateway keeps in step with the others.
// A module of such a store embeds them.
type ReplicaSettings struct {
	// StateDir is a directory of this gateway alone: how far it has read the log of state changes, the endings that it has
	// seen, and a journal of those that the store did not take. Put it where it outlives the process. Placeholders are
	// replaced when the config is loaded. Default: below edrgate-replica in Caddy's data directory.
	StateDir string `json:"state_dir,omitempty"`

	// MaxStaleness is how long data is served while the store cannot be reached, that is while nobody can tell whether
	// another gateway has ended a flow. Then requests get 503 until it is reached again. Default: 10s.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`

	// StalePolicy is what happens then: "refuse"; or "until_token_expiry", which goes on serving, so that an ended flow may
	// stay open here as long as its access tokens live. Default: refuse.
	StalePolicy string `json:"stale_policy,omitempty"`

	// Canary is how often an entry is written to the log to measure how long a change takes to arrive. 0: never.
	// Default: 30s.
	Canary *caddy.Duration `json:"canary,omitempty"`
}

// defaultCanary makes a million entries a year.
const defaultCanary = caddy.Duration(30 * time.Second)

// provision fills in the defaults. key is what the settings' store is called.
func (r *ReplicaSettings) provision(key string) error {
	digest := sha256.Sum256([]byte(key))
	dir := orDefault(r.StateDir, filepath.Join(caddy.AppDataDir(), "edrgate-replica", hex.EncodeToString(digest[:8])))
	dir, err := replacePlaceholders(caddy.NewReplacer(), dir)
	if err == nil {
		r.StateDir, err = filepath.Abs(dir)
	}
	if err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	r.MaxStaleness = orDefault(r.MaxStaleness, caddy.Duration(replica.DefaultMaxStaleness))
	if r.MaxStaleness < caddy.Duration(time.Second) || r.MaxStaleness > caddy.Duration(time.Hour) {
		return errors.New("max_staleness: must be from 1s to 1h")
	}
	r.StalePolicy = orDefault(r.StalePolicy, staleRefuse)
	if r.StalePolicy != staleRefuse && r.StalePolicy != staleServe {
		return fmt.Errorf("stale_policy: %q is neither %s nor %s", r.StalePolicy, staleRefuse, staleServe)
	}
	if r.Canary == nil {
		canary := defaultCanary
		r.Canary = &canary
	}
	if *r.Canary != 0 && *r.Canary < caddy.Duration(time.Second) {
		return errors.New("canary: must be at least 1s, or 0 for none")
	}
	return nil
}

// options are the settings in one text, for StoreOptions.
func (r *ReplicaSettings) options() string {
	return fmt.Sprintf("state_dir %s, max_staleness %s, stale_policy %s, canary %s",
		r.StateDir, time.Duration(r.MaxStaleness), r.StalePolicy, time.Duration(*r.Canary))
}

// parsers are those of the settings' options, for the module of the store. Syntax:
//
//	state_dir     <directory>
//	max_staleness <duration>
//	stale_policy  refuse|until_token_expiry
//	canary        <duration>
func (r *ReplicaSettings) parsers() map[string]func(*caddyfile.Dispenser) error {
	return map[string]func(*caddyfile.Dispenser) error{
		"state_dir":     text(&r.StateDir),
		"max_staleness": duration(&r.MaxStaleness),
		"stale_policy":  word(&r.StalePolicy, staleRefuse, staleServe),
		"canary":        durationOrOff(&r.Canary),
	}
}

// following is how a process keeps in step with the others over its store. It belongs to the engine, not to a config: what
// is known of the flows does too.
type following struct {
	journal  *replica.Journal
	follower *replica.Follower
	stop     context.CancelFunc
	ran      sync.WaitGroup
	logger   *slog.Logger

	started sync.Once
	mu      sync.Mutex
	serves  map[string]int // configs that are open, by their participants
}

// follow puts into effect what the process before has left in the journal, and prepares to follow the store. Nothing is
// served from memory until the first look at the log has succeeded.
func follow(settings *ReplicaSettings, keep time.Duration, s store.Store, live *tokens.Live, metrics *observer, logger *slog.Logger) (*following, error) {
	f := &following{serves: map[string]int{}, logger: logger}
	var err error
	f.journal, err = replica.OpenJournal(filepath.Join(settings.StateDir, "journal"), live.Recover)
	if err != nil {
		return nil, err
	}
	live.KeepIn(f.journal)
	f.follower, err = replica.New(replica.Config{
		Store: s, Memory: memoryOf(live, settings), Repeater: &repeater{following: f, live: live},
		Dir:          filepath.Join(settings.StateDir, "log"),
		MaxStaleness: time.Duration(settings.MaxStaleness),
		Keep:         keep,
		Canary:       time.Duration(*settings.Canary),
		Observer:     metrics, Logger: logger,
	})
	if err != nil {
		return nil, errors.Join(err, f.journal.Close())
	}
	live.AskClosed(f.follower.Closed)
	return f, nil
}

// firstLookWait is how long the first requests wait for the first look at the log, instead of being refused.
const firstLookWait = time.Second

// begin follows the store from now on, for the participants of a config too. Their services run. It returns when the log
// was looked at once, or that takes too long.
func (f *following) begin(participants []*participant) {
	f.mu.Lock()
	for _, p := range participants {
		f.serves[p.name]++
	}
	f.mu.Unlock()
	f.started.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		f.stop = cancel
		f.ran.Go(func() { f.follower.Run(ctx) })
		wait := time.NewTimer(firstLookWait)
		defer wait.Stop()
		select {
		case <-f.follower.Looked():
		case <-wait.C:
		}
	})
}

// end notes that a config that has begun is closed: a participant that no other one has is not served any more.
func (f *following) end(participants []*participant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range participants {
		f.serves[p.name]--
		if f.serves[p.name] == 0 {
			delete(f.serves, p.name)
		}
	}
}

// close ends it before the store is closed.
func (f *following) close() error {
	if f.stop != nil {
		f.stop()
		f.ran.Wait()
	}
	return errors.Join(f.follower.Close(), f.journal.Close())
}

// repeater ends flows once more in a store that has lost their ends.
type repeater struct {
	*following
	live *tokens.Live
}

// EndAgain implements replica.Repeater. The services of participants that are served may not have begun yet.
func (r *repeater) EndAgain(ctx context.Context, e store.Entry) error {
	err := r.live.EndAgain(ctx, e)
	var unserved *tokens.UnservedError
	if !errors.As(err, &unserved) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.serves[unserved.Participant] > 0 {
		return err
	}
	r.logger.Warn("end of a flow is not repeated in the restored store, since its participant is not configured any more", "flow", e.ID)
	return nil
}

// memoryOf returns what a follower tells of its looks.
func memoryOf(live *tokens.Live, settings *ReplicaSettings) replica.Memory {
	if settings.StalePolicy == staleServe {
		return servingMemory{live}
	}
	return live
}

// servingMemory goes on serving when the store cannot be reached, but not before the first look nor in a restored store
// whose endings are not repeated yet.
type servingMemory struct{ *tokens.Live }

// Fresh implements replica.Memory.
func (m servingMemory) Fresh(until time.Time) {
	if until.IsZero() {
		m.Live.Fresh(until)
		return
	}
	m.FreshForEver()
}

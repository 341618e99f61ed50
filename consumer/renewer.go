package consumer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// RenewerConfig is what a Renewer needs. Fields without a stated default are required.
type RenewerConfig struct {
	Cache  *Cache
	Signer Signer // nil: nothing is renewed

	// Transport sends renewals to addresses that providers named: it must check what it dials, and have no proxy and no
	// compression (internal/dial.NewTransport).
	Transport http.RoundTripper

	Timeout time.Duration // of one renewal request; default 10 s
	Tries   int           // requests of one renewal, before the EDR rests; default 4

	// Backoff is the pause after the first request that could not tell; each further one is twice as long, up to
	// MaxBackoff. A provider's Retry-After makes it longer, and ends the renewal if it is longer than MaxBackoff.
	Backoff    time.Duration // default 500 ms
	MaxBackoff time.Duration // default 5 s

	// Lease is for how long nobody else renews an EDR that one process has begun to renew. It is to be about the same in all
	// processes over a store: one that ends later than twice ours counts for nothing. Default 60 s.
	Lease time.Duration

	// Margin is how long before its end an access token is no longer used. Default 5 s, and at most a tenth of its life.
	Margin time.Duration

	// RejectedPause is the least time between two renewals that a data plane's 401 and 403 lead to, for one EDR: they may
	// come from a backend, which no renewal helps. Default 30 s.
	RejectedPause time.Duration

	// Scan is how often Run looks through the store for EDRs that fall due. Default 30 s.
	Scan time.Duration

	// Parallel is how many renewals Run has going at once. Default 8.
	Parallel int
}

func (c *RenewerConfig) complete() error {
	switch {
	case c.Cache == nil:
		return refuse(CodeInvalid, "renewer: cache is needed")
	case c.Signer != nil && c.Transport == nil:
		return refuse(CodeInvalid, "renewer: transport is needed")
	case c.Tries < 0 || c.Parallel < 0:
		return refuse(CodeInvalid, "renewer: tries and parallel must not be negative")
	}
	for _, d := range []struct {
		name  string
		field *time.Duration
		value time.Duration
	}{
		{"timeout", &c.Timeout, defaultExchangeTimeout},
		{"backoff", &c.Backoff, 500 * time.Millisecond},
		{"max backoff", &c.MaxBackoff, 5 * time.Second},
		{"lease", &c.Lease, time.Minute},
		{"margin", &c.Margin, 5 * time.Second},
		{"rejected pause", &c.RejectedPause, 30 * time.Second},
		{"scan", &c.Scan, 30 * time.Second},
	} {
		if *d.field < 0 {
			return refuse(CodeInvalid, "renewer: %s must not be negative", d.name)
		}
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Tries == 0 {
		c.Tries = 4
	}
	if c.Parallel == 0 {
		c.Parallel = 8
	}
	return nil
}

// Renewer renews the EDRs of a cache. All methods may be called by many goroutines at once, and by several renewers over
// one store: there is one renewal at a time for each EDR, and the others wait for it.
type Renewer struct {
	c     RenewerConfig
	cache *Cache
	name  string // of this renewer, in leases

	base   context.Context // ends with Close; renewals outlive the request that began them
	cancel context.CancelFunc

	mu      sync.Mutex
	flights map[flightKey]*flight
	begun   int // flights so far
	closed  bool
	running sync.WaitGroup
	due     chan dueEDR
	unwatch func()
}

// flightKey keeps renewals that somebody asked for explicitly apart: they are not turned away where others are.
type flightKey struct {
	id       string
	explicit bool
}

// flight is a renewal of this process. What it found is set before done is closed.
type flight struct {
	done  chan struct{}
	entry *Entry
	err   error
}

// NewRenewer returns a renewer. Close it when it is not needed any more.
func NewRenewer(c RenewerConfig) (*Renewer, error) {
	err := c.complete()
	if err != nil {
		return nil, err
	}
	name := make([]byte, 8)
	_, err = rand.Read(name)
	if err != nil {
		return nil, unavailable(err, "reading random bytes")
	}
	r := &Renewer{
		c: c, cache: c.Cache, name: hex.EncodeToString(name), flights: map[flightKey]*flight{}, due: make(chan dueEDR, maxQueued),
	}
	r.base, r.cancel = context.WithCancel(context.Background())
	r.unwatch = c.Cache.watch(r.fallsDue)
	return r, nil
}

// Close ends the renewals that are going on and waits for them. A renewal whose answer was not seen goes on later with the
// same refresh token.
func (r *Renewer) Close() {
	r.unwatch()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.running.Wait()
}

// Current returns an EDR that can be used now: renewed first if its access token has expired or is about to. This is what
// `GET /edrs/{id}/dataaddress?auto_refresh=true` answers; without auto_refresh it is Cache.Get.
//
// CodeSuspended and CodeEnded: nothing is served. An EDR that cannot be renewed is returned until its token has expired;
// then the error says why.
func (r *Renewer) Current(ctx context.Context, id string) (*Entry, error) {
	e, err := r.cache.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	err = e.State.serves()
	if err != nil {
		return nil, err
	}
	now := r.cache.c.Now()
	if !r.expiring(e, now) {
		return e, nil
	}
	fresh, err := r.renew(ctx, id, want{seen: e.Generation})
	if err == nil {
		return fresh, nil
	}
	switch CodeOf(err) {
	case CodeSuspended, CodeEnded, CodeUnknown: // it was told so meanwhile
		return nil, err
	}
	if e.Expires.After(r.cache.c.Now()) { // asking may have taken what was left of its life
		return e, nil // in its last seconds it is better than nothing
	}
	return nil, err
}

// expiring reports whether the access token has expired or does so within the margin.
func (r *Renewer) expiring(e *Entry, now time.Time) bool {
	if e.Expires.IsZero() {
		return false
	}
	if e.Received.Sub(now) > r.c.Lease {
		return true // received by a clock that was ahead: when it expires is not known
	}
	margin := min(r.c.Margin, e.Expires.Sub(e.Received)/10)
	return !now.Add(margin).Before(e.Expires)
}

// Refresh renews an EDR whatever its expiry, also one that was refused before: `POST /edrs/{id}/refresh`. CodeRefused: the
// provider said no, with Status.
func (r *Renewer) Refresh(ctx context.Context, id string) (*Entry, error) {
	e, err := r.cache.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.renew(ctx, id, want{seen: e.Generation, explicit: true})
}

// renew has an EDR renewed, or waits for the renewal that is going on. The renewal goes on when ctx ends: a rotation
// whose answer nobody reads may lose the transfer.
func (r *Renewer) renew(ctx context.Context, id string, w want) (*Entry, error) {
	if r.c.Signer == nil {
		return nil, refuse(CodeNotRenewable, "nothing signs proofs here")
	}
	for {
		f, err := r.join(id, w)
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, unavailable(ctx.Err(), "EDR %s: waiting for its renewal", id)
		case <-f.done:
		}
		if f.err != nil {
			return nil, f.err
		}
		err = f.entry.State.serves() // it may have been suspended or ended meanwhile
		if err != nil {
			return nil, err
		}
		if f.entry.Generation != w.seen {
			return f.entry.clone(), nil
		}
		// It was begun for an earlier token than the one that does not do any more.
	}
}

// join returns the flight of an EDR, and begins it if there is none.
func (r *Renewer) join(id string, w want) (*flight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := flightKey{id, w.explicit}
	f := r.flights[key]
	if f != nil {
		return f, nil
	}
	if r.closed {
		return nil, unavailable(errors.New("renewer is closed"), "EDR %s", id)
	}
	f = &flight{done: make(chan struct{})}
	r.flights[key] = f
	r.begun++
	owner := fmt.Sprintf("%s-%d", r.name, r.begun)
	r.running.Go(func() {
		f.entry, f.err = r.fly(id, w, owner)
		r.mu.Lock()
		delete(r.flights, key)
		r.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

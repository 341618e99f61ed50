package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/edrgate/edrgate/store"
)

// canaryKind is the kind of the records whose only purpose is their entries in the log.
const canaryKind = "canary"

// canaryLife is how long the record of a gateway that is gone stays.
const canaryLife = time.Hour

// canary measures how long a change takes to arrive: from the moment that this process begins to write it until its own
// look at the log has it. That is what another gateway would see too, and a little more.
type canary struct {
	id string

	mu      sync.Mutex
	written time.Time // zero: seen
}

func newCanary() canary { return canary{id: rand.Text()} }

// sendCanaries writes one now and then, until ctx ends.
func (f *Follower) sendCanaries(ctx context.Context) {
	if f.c.Canary == 0 {
		return
	}
	next := time.NewTicker(f.c.Canary)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		err := f.sendCanary(ctx)
		if err != nil && ctx.Err() == nil {
			f.c.Observer.FollowError("canary")
			f.c.Logger.Debug("cannot write an entry to measure the lag", "error", err)
		}
	}
}

func (f *Follower) sendCanary(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tailTimeout)
	defer cancel()
	expires := f.c.Now().UTC().Add(canaryLife)
	f.own.sent(f.c.Now())
	for {
		_, err := f.c.Store.Update(ctx, canaryKind, f.own.id, func(store.Record) (store.Edit, error) {
			return store.Edit{Event: "sent", Expires: expires}, nil
		})
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		_, err = f.c.Store.Create(ctx, store.Record{Kind: canaryKind, ID: f.own.id, Expires: expires})
		if err != nil && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
}

// sent notes when one is written. One that is under way stays: its lag is what counts.
func (c *canary) sent(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.written.IsZero() {
		c.written = at
	}
}

// arrived returns when the one under way was written; ok is false if none is.
func (c *canary) arrived() (at time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok = c.written, !c.written.IsZero()
	c.written = time.Time{}
	return at, ok
}

// seen measures the lag of this process's own canary.
func (f *Follower) seen(e store.Entry) {
	if e.ID != f.own.id {
		return
	}
	at, ok := f.own.arrived()
	if ok {
		f.c.Observer.Lag(f.c.Now().Sub(at))
	}
}

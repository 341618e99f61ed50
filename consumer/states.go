package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/edrgate/edrgate/store"
)

// Suspend keeps an EDR without serving or renewing it until it is resumed. Unlike EDC, which throws the EDR away: what is
// resumed is the same grant, and EDC 0.18 sends no EDR with a resume. Suspending what is suspended changes nothing.
func (c *Cache) Suspend(ctx context.Context, id string) (*Entry, error) {
	return c.suspend(ctx, id, time.Time{})
}

func (c *Cache) suspend(ctx context.Context, id string, at time.Time) (*Entry, error) {
	return c.change(ctx, id, at, func(rec *record, now time.Time) error {
		switch rec.State {
		case Ended:
			return refuse(CodeEnded, "the transfer is over")
		case Suspended:
			if at.IsZero() {
				return store.ErrKeep
			}
			return nil // its time counts: a start that was told before it comes too late
		case Preparing, Prepared:
			return rec.holds()
		}
		rec.State, rec.Changed = Suspended, now
		return nil
	})
}

// Resume brings a suspended or refused EDR to life with the tokens that it has. A resume that comes with an EDR is a Put.
// Resuming what is started changes nothing.
func (c *Cache) Resume(ctx context.Context, id string) (*Entry, error) {
	e, err := c.change(ctx, id, time.Time{}, func(rec *record, _ time.Time) error {
		switch rec.State {
		case Ended:
			return refuse(CodeEnded, "the transfer is over")
		case Started:
			return store.ErrKeep
		case Preparing, Prepared:
			return rec.holds()
		}
		c.revive(rec)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.announce(e)
	return e, nil
}

// End forgets the tokens of a transfer that is completed or terminated, for ever: a late start does not bring it to life,
// also where it was not known. Ending what is ended changes nothing.
func (c *Cache) End(ctx context.Context, id string) error {
	return c.finish(ctx, id, time.Time{})
}

func (c *Cache) finish(ctx context.Context, id string, at time.Time) error {
	err := checkID(id)
	if err != nil {
		return err
	}
	for {
		var held []string
		_, err = c.update(ctx, id, func(rec *record) error {
			if rec.State == Ended {
				held = nil
				return store.ErrKeep
			}
			held = rec.Held
			rec.end(c.c.Now().UTC())
			rec.Told = later(rec.Told, at)
			return nil
		})
		if err == nil {
			c.release(ctx, id, held)
			return nil
		}
		if CodeOf(err) != CodeUnknown {
			return err
		}
		now := c.c.Now().UTC()
		err = c.create(ctx, &record{Participant: c.c.Participant, ID: id, State: Ended, Created: now, Changed: now, Told: at.UTC()})
		if !errors.Is(err, store.ErrExists) {
			return err
		}
	}
}

// Remove takes an EDR out of the cache, as if it had never been there. It may be put again. A transfer that signaling
// prepared goes on without it: its control plane is going to suspend and end it.
func (c *Cache) Remove(ctx context.Context, id string) error {
	err := checkID(id)
	if err != nil {
		return err
	}
	var held []string
	_, err = c.c.Store.Update(ctx, edrKind, c.key(id), func(old store.Record) (store.Edit, error) {
		rec, err := decode(old)
		if err != nil {
			return store.Edit{}, err
		}
		held = rec.Held
		if rec.ControlPlane != "" {
			if rec.EDR == nil {
				return store.Edit{}, store.ErrNotFound
			}
			rec.empty()
			return c.encode(rec)
		}
		rec.end(c.c.Now().UTC())
		edit, err := c.encode(rec)
		edit.Expires = c.c.Now()
		return edit, err
	})
	if errors.Is(err, store.ErrNotFound) {
		return refuse(CodeUnknown, "no EDR %s", id)
	}
	if err != nil {
		return unavailable(err, "EDR %s", id)
	}
	c.release(ctx, id, held)
	return nil
}

// Learn tells the cache what was not known of a transfer, such as the counterparty of an EDR that came by an event. If the
// EDR names another audience than that counterparty it is marked refused, and the error has CodeAudience; CodeConflict:
// something else is known already.
func (c *Cache) Learn(ctx context.Context, id string, t Terms) (*Entry, error) {
	if t.CounterpartyDID == "" && isDID(t.Counterparty) {
		t.CounterpartyDID = t.Counterparty
	}
	err := t.check()
	if err != nil {
		return nil, err
	}
	var mismatch error
	e, err := c.change(ctx, id, time.Time{}, func(rec *record, now time.Time) error {
		mismatch = nil
		if rec.State == Ended {
			return refuse(CodeEnded, "the transfer is over")
		}
		err := rec.learn(t)
		if err != nil {
			return err
		}
		if rec.EDR == nil {
			return nil // judged when it comes
		}
		edr, err := c.unseal(rec.ID, rec.EDR)
		if err != nil {
			return err
		}
		rec.Renewable, mismatch = c.renewable(edr, rec.CounterpartyDID)
		if mismatch != nil && rec.State == Started { // a suspended one is not served, and stays so
			rec.State, rec.Changed = Refused, now
		}
		c.schedule(rec)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if mismatch != nil {
		return nil, c.refused(&Put{ID: id}, mismatch)
	}
	c.announce(e)
	return e, nil
}

// Apply carries out an event of EDC's callback. It returns nil for an event that means nothing here: of another kind, of
// a transfer whose provider is our own control plane, or the start of one that signaling has suspended. One that is older
// than the newest one that was applied changes nothing.
func (c *Cache) Apply(ctx context.Context, e *Event) (*Entry, error) {
	if e.Kind == KindOther || !e.Consumer {
		return nil, nil
	}
	switch {
	case e.Kind == KindEnded:
		return nil, c.finish(ctx, e.ID, e.At)
	case e.Kind == KindStarted && e.EDR != nil:
		entry, err := c.Put(ctx, Put{
			ID: e.ID, EDR: e.EDR, Origin: ByEvent, At: e.At, Terms: Terms{Asset: e.Asset, Agreement: e.Agreement},
		})
		if err != nil && CodeOf(err) == CodeSuspended {
			return nil, nil
		}
		return entry, err
	case e.Kind == KindStarted:
		return nil, nil // push, or a transfer of something else than EDRs
	}
	entry, err := c.suspend(ctx, e.ID, e.At)
	if err != nil && (CodeOf(err) == CodeUnknown || CodeOf(err) == CodeEnded) {
		return nil, nil // nothing is served either way
	}
	return entry, err
}

// change is an update of a record's state. An event that is older than the newest applied changes nothing.
func (c *Cache) change(ctx context.Context, id string, at time.Time, edit func(rec *record, now time.Time) error) (*Entry, error) {
	err := checkID(id)
	if err != nil {
		return nil, err
	}
	rec, err := c.update(ctx, id, func(rec *record) error {
		if !at.IsZero() && at.Before(rec.Told) {
			return store.ErrKeep
		}
		rec.Told = later(rec.Told, at)
		return edit(rec, c.c.Now().UTC())
	})
	if err != nil {
		return nil, err
	}
	return c.open(rec)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b.UTC()
	}
	return a
}

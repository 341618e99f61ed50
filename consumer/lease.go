package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/edrgate/edrgate/store"
)

// want is what a caller asks of a renewal.
type want struct {
	// seen is the generation of the access token that does not do any more. If the entry has another one by now, nothing is
	// to be done: a lower one is that of an EDR that was removed and put again.
	seen uint64

	// explicit says that somebody asked for just this: also a refused EDR is tried, and the rest after a failure is cut
	// short.
	explicit bool
}

// standing says where an EDR stands with its renewal.
type standing int

const (
	leased   standing = iota // ours to renew
	settled                  // there is a newer access token
	occupied                 // somebody else renews
)

// turn is the result of asking for the lease.
type turn struct {
	standing standing
	rec      *record
	edr      *EDR
	audience string // of the proof, if leased
}

// acquire takes the lease on an EDR's renewal: one compare-and-swap on its record decides between all processes over the
// store. It runs out by itself, so that a process that dies renewing stops nobody for long.
func (c *Cache) acquire(ctx context.Context, id string, w want, owner string, lease time.Duration) (turn, error) {
	var t turn
	rec, err := c.update(ctx, id, func(rec *record) error {
		t = turn{}
		now := c.c.Now().UTC()
		err := errors.Join(rec.State.serves(), rec.holds())
		if err != nil {
			return err
		}
		edr, err := c.unseal(rec.ID, rec.EDR)
		if err != nil {
			return err
		}
		t.edr = edr
		if rec.Generation != w.seen {
			t.standing = settled
			return store.ErrKeep
		}
		t.audience, err = edr.audience(c.c.DID, rec.CounterpartyDID)
		if err != nil {
			return err // also of one that is marked as refused for it: no provider has said no
		}
		if rec.State == Refused && !w.explicit {
			return &Error{Code: CodeRefused, Detail: "the provider refused to renew", Status: rec.Status}
		}
		err = edr.Check(c.c.AllowHTTP...) // again: what is allowed may have changed since it was put
		if err != nil {
			return err
		}
		if edr.RefreshToken == "" || edr.RefreshEndpoint == "" || edr.AccessToken == "" {
			return refuse(CodeNotRenewable, "the EDR has no renewal properties")
		}
		// One that ends much later than ours would was taken by a clock that was ahead.
		if rec.RenewingOwner != owner && now.Before(rec.RenewingUntil) && rec.RenewingUntil.Before(now.Add(2*lease)) {
			t.standing = occupied
			return store.ErrKeep
		}
		// A rest that is longer than any was begun by such a clock too.
		rest := rec.RetryAt.Sub(now)
		if !w.explicit && rest > 0 && rest <= longestRest {
			return &Error{Code: CodeUnavailable, Detail: "the last renewals failed", RetryAfter: rest}
		}
		rec.RenewingOwner, rec.RenewingUntil = owner, now.Add(lease)
		return nil
	})
	t.rec = rec
	return t, err
}

// serves returns the error for a state in which nothing is served.
func (s State) serves() error {
	switch s {
	case Suspended:
		return refuse(CodeSuspended, "the transfer is suspended")
	case Ended:
		return refuse(CodeEnded, "the transfer is over")
	}
	return nil
}

// conclude writes what became of a leased renewal. change is not called if the EDR was put anew
// meanwhile, or if the lease ran out and somebody else has it: then what was renewed is not what is held, or will not be.
func (c *Cache) conclude(ctx context.Context, t turn, owner string, change func(rec *record) error) (*record, error) {
	return c.update(ctx, t.rec.ID, func(rec *record) error {
		if rec.State == Ended {
			return store.ErrKeep
		}
		err := rec.holds() // it was removed meanwhile
		if err != nil {
			return err
		}
		if rec.RenewingOwner != owner {
			return store.ErrKeep
		}
		rec.RenewingOwner, rec.RenewingUntil = "", time.Time{}
		if rec.Generation != t.rec.Generation {
			return nil
		}
		return change(rec)
	})
}

// succeed installs renewed tokens. Of a suspended EDR as well: the provider has rotated them.
func (c *Cache) succeed(ctx context.Context, t turn, owner string, n *renewed) (*Entry, error) {
	edr := *t.edr
	edr.AccessToken = n.access
	if n.refresh != "" {
		edr.RefreshToken = n.refresh
	}
	if n.life > 0 {
		edr.ExpiresIn = n.life
	}
	rec, err := c.conclude(ctx, t, owner, func(rec *record) error {
		sealed, err := c.seal(rec.ID, &edr)
		if err != nil {
			return err
		}
		rec.EDR, rec.Renewed = sealed, c.c.Now().UTC()
		if rec.State == Refused {
			rec.State, rec.Changed = Started, rec.Renewed
		}
		rec.RetryAt, rec.Failures, rec.Status = time.Time{}, 0, 0
		c.install(rec, &edr, n.asked)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.release(ctx, rec.ID, rec.dropped)
	c.announce(rec.entry())
	return c.open(rec)
}

// refuseRenewal marks an EDR as refused by its provider.
func (c *Cache) refuseRenewal(ctx context.Context, t turn, owner string, status int) error {
	_, err := c.conclude(ctx, t, owner, func(rec *record) error {
		rec.Renewed = c.c.Now().UTC()
		if rec.State == Started {
			rec.State, rec.Changed = Refused, rec.Renewed
		}
		rec.Status, rec.Due = status, time.Time{}
		return nil
	})
	return err
}

// putOff notes a renewal that could not tell. The EDR rests for a while, longer with each failure.
func (c *Cache) putOff(ctx context.Context, t turn, owner string, after time.Duration) (time.Duration, error) {
	var rest time.Duration
	rec, err := c.conclude(ctx, t, owner, func(rec *record) error {
		rec.Failures++
		rest = max(min(restAfterFailure<<min(rec.Failures-1, 6), longestRest), min(after, longestRest))
		rec.Renewed = c.c.Now().UTC()
		rec.RetryAt = rec.Renewed.Add(rest)
		if rec.Renewable && !rec.Due.IsZero() {
			rec.Due = rec.RetryAt
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	c.announce(rec.entry())
	return rest, nil
}

// How long an EDR rests after a renewal that could not tell.
const (
	restAfterFailure = 2 * time.Second
	longestRest      = 2 * time.Minute
)

// giveBack ends a lease without a renewal. after is how long it is not tried ahead again; 0: nothing was found out, and the
// next one who asks tries.
func (c *Cache) giveBack(ctx context.Context, t turn, owner string, after time.Duration) error {
	_, err := c.conclude(ctx, t, owner, func(rec *record) error {
		if after == 0 {
			return nil
		}
		rec.Renewed = c.c.Now().UTC()
		if !rec.Due.IsZero() {
			rec.Due = rec.Renewed.Add(after)
		}
		return nil
	})
	return err
}

package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/edrgate/edrgate/store"
)

// A restored store is marked by one record, so that every gateway over it knows, also one that starts later.
const (
	restoreKind    = "restore"
	restoreID      = "store"
	restorePending = "pending"
	restoreDone    = "accepted"
)

// restored handles a store that has lost writes: it was restored from a backup, or a standby took over that did not have
// all of them. Nothing is fresh until what had ended has ended again, and nobody renews until an operator has said that
// the lost writes are lost. Whatever fails is done again by the next look.
func (f *Follower) restored(ctx context.Context) error {
	f.c.Memory.Fresh(time.Time{})
	f.hold(true)
	f.state.trim(f.c.Now().Add(-f.c.Keep))
	for _, n := range f.written.due() {
		f.keep(n.entry) // acknowledged here, and perhaps lost before any look
	}
	if !f.suspects {
		f.c.Logger.Error("the store has lost writes: renewals wait until an operator accepts that it was restored",
			"seen", f.state.last.Seq, "endings", f.state.len())
		f.marked = 0
	}
	f.suspects = true
	last, err := f.end(ctx) // what is written from here on is read afterwards
	if err != nil {
		return err
	}
	if f.marked == 0 {
		f.marked, err = f.mark(ctx, restorePending)
	}
	if err != nil {
		f.c.Observer.FollowError("restore")
		return fmt.Errorf("marking the restored store: %w", err)
	}
	err = f.endAgain(ctx)
	if err != nil {
		f.c.Observer.FollowError("restore")
		return err
	}
	// An operator may have accepted while some were still ended, in an entry that is passed over.
	pending, err := f.pending(ctx)
	if err != nil {
		return err
	}
	f.hold(pending)
	f.written.clear()
	f.c.Memory.Reread()
	f.state.at(last)
	f.suspects = false
	return nil
}

// repeatsAtOnce is how many records are ended at the same time: data waits for the last of tens of thousands.
const repeatsAtOnce = 8

// endAgain repeats what is remembered. Of each record that is the newest change only, so their order is of no account.
func (f *Follower) endAgain(ctx context.Context) error {
	repeating, ctx := errgroup.WithContext(ctx)
	repeating.SetLimit(repeatsAtOnce)
	for _, e := range f.state.endings() {
		repeating.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err := f.c.Repeater.EndAgain(ctx, e)
			if err != nil {
				return fmt.Errorf("ending record %s again: %w", e.ID, err)
			}
			return nil
		})
	}
	return repeating.Wait()
}

// relax ends a suspicion that was none: what was read last was another database for a while, such as a primary that had
// been replaced.
func (f *Follower) relax(ctx context.Context) error {
	if !f.suspects {
		return nil
	}
	pending, err := f.pending(ctx)
	if err != nil {
		return err
	}
	f.hold(pending)
	f.suspects = false
	f.c.Memory.Reread()
	f.c.Logger.Warn("the store has the writes again that it seemed to have lost")
	return nil
}

// hold passes on whether a restored store waits for an operator.
func (f *Follower) hold(pending bool) {
	f.c.Memory.Restored(pending)
	f.c.Observer.Rollback(pending)
}

// pending reports whether the store is marked as restored.
func (f *Follower) pending(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, tailTimeout)
	defer cancel()
	r, err := f.c.Store.Get(ctx, restoreKind, restoreID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading whether the store was restored: %w", err)
	}
	return string(r.Data) == restorePending, nil
}

// mark writes the record, and an entry of the log from which the other gateways learn of it, and returns the record's version.
func (f *Follower) mark(ctx context.Context, as string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*tailTimeout)
	defer cancel()
	return markRestore(ctx, f.c.Store, as)
}

// Accept says that an operator knows that the store has lost writes, so that renewals go on. It reports whether there was
// anything to accept.
func Accept(ctx context.Context, s store.Store) (bool, error) {
	r, err := s.Get(ctx, restoreKind, restoreID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil || string(r.Data) != restorePending {
		return false, err
	}
	_, err = markRestore(ctx, s, restoreDone)
	return true, err
}

func markRestore(ctx context.Context, s store.Store, as string) (uint64, error) {
	for {
		r, err := s.Update(ctx, restoreKind, restoreID, func(store.Record) (store.Edit, error) {
			return store.Edit{Data: []byte(as), Event: as}, nil
		})
		if !errors.Is(err, store.ErrNotFound) {
			return r.Version, err
		}
		// A creation has no entry in the log, so the record is made first and marked then.
		_, err = s.Create(ctx, store.Record{Kind: restoreKind, ID: restoreID})
		if err != nil && !errors.Is(err, store.ErrExists) {
			return 0, err
		}
	}
}

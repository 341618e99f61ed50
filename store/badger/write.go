package badger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/edrgate/edrgate/store"
)

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, r store.Record) (store.Record, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer s.calls.End()
	err = store.CheckRecord(r)
	if err != nil {
		return store.Record{}, err
	}
	// Copied here, because the caller may go, and reuse what it passed, while the transaction is under way.
	r.Version = 1
	r.Expires = normal(r.Expires)
	r.Labels = maps.Clone(r.Labels)
	r.Data = bytes.Clone(r.Data)
	value := encodeRecord(r)

	read := s.readAhead(r.Kind, r.ID)
	err = s.commits.do(ctx, func(b *batch) error {
		old, found, err := b.current(read)
		if err != nil {
			return err
		}
		if found && alive(old, s.clock()) {
			return store.ErrExists
		}
		err = b.admit(SpaceOK)
		if err != nil {
			return err
		}
		if found {
			b.remove(old)
		}
		b.add(r, value)
		return nil
	})
	if err != nil {
		return store.Record{}, err
	}
	return r, nil
}

// Update implements store.Store. The closure runs in the goroutine of whoever leads the group; a panic of it is thrown
// in the caller's.
func (s *Store) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer s.calls.End()
	err = store.CheckKey(kind, id)
	if err != nil {
		return store.Record{}, err
	}
	read := s.readAhead(kind, id)
	var stored store.Record
	err = s.commits.do(ctx, func(b *batch) error {
		old, found, err := b.current(read)
		if err != nil {
			return err
		}
		if !found || !alive(old, s.clock()) {
			return store.ErrNotFound
		}
		e, err := edit(old)
		if errors.Is(err, store.ErrKeep) {
			stored = old
			return nil
		}
		if err != nil {
			return err
		}
		stored, err = b.replace(old, e)
		return err
	})
	if err != nil {
		return store.Record{}, err
	}
	return stored, nil
}

// replace writes the successor of old.
func (b *batch) replace(old store.Record, e store.Edit) (store.Record, error) {
	err := store.CheckEdit(e)
	if err != nil {
		return store.Record{}, err
	}
	worst := SpaceOK
	if e.Ending {
		worst = SpaceReserve
	}
	err = b.admit(worst)
	if err != nil {
		return store.Record{}, err
	}
	r := old
	r.Version++
	r.Expires = normal(e.Expires)
	r.Data = e.Data
	value := encodeRecord(r)
	end := len(value) - sumBytes
	r.Data = value[end-len(e.Data) : end : end] // the caller may reuse its own
	if !old.Expires.Equal(r.Expires) {
		b.moveExpiry(old, r)
	}
	if e.Event != "" {
		err = b.report(r, e.Event)
		if err != nil {
			return store.Record{}, err
		}
	}
	b.set(recordKey(r.Kind, r.ID), value)
	return r, nil
}

func (b *batch) moveExpiry(old, r store.Record) {
	if !old.Expires.IsZero() {
		b.delete(expiryKey(old.Expires, old.Kind, old.ID))
	}
	if !r.Expires.IsZero() {
		b.set(expiryKey(r.Expires, r.Kind, r.ID), nil)
	}
}

// report appends an entry to the log. Its position is in the transaction, so entries have no gaps and become visible in
// their order.
func (b *batch) report(r store.Record, event string) error {
	p, err := readPosition(b.txn)
	if err != nil {
		return err
	}
	p.last++
	b.set(entryKey(p.last), encodeEntry(store.Entry{
		Seq: p.last, Kind: r.Kind, ID: r.ID, Version: r.Version, Event: event, At: normal(b.store.clock()),
	}))
	b.set(logKey, encodePosition(p))
	return nil
}

// add writes r, whose stored form is value, and what points to it.
func (b *batch) add(r store.Record, value []byte) {
	for name, value := range r.Labels {
		b.set(labelKey(r.Kind, name, value, r.ID), nil)
	}
	if !r.Expires.IsZero() {
		b.set(expiryKey(r.Expires, r.Kind, r.ID), nil)
	}
	b.set(recordKey(r.Kind, r.ID), value)
}

// remove deletes r and what points to it.
func (b *batch) remove(r store.Record) {
	for name, value := range r.Labels {
		b.delete(labelKey(r.Kind, name, value, r.ID))
	}
	if !r.Expires.IsZero() {
		b.delete(expiryKey(r.Expires, r.Kind, r.ID))
	}
	b.delete(recordKey(r.Kind, r.ID))
}

// checkFull is the guard's part of Health.
func (s *Store) checkFull() error {
	space := s.guard.space()
	if space != SpaceOK {
		return fmt.Errorf("%w: %s", store.ErrFull, space)
	}
	return nil
}

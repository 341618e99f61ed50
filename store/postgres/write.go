package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/edrgate/edrgate/store"
)

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, r store.Record) (store.Record, error) {
	bounded, end, err := s.call(ctx, "create")
	if err != nil {
		return store.Record{}, err
	}
	defer end()
	err = store.CheckRecord(r)
	if err != nil {
		return store.Record{}, err
	}
	r.Version = 1
	r.Expires = normal(r.Expires)
	r.Labels = maps.Clone(r.Labels)
	r.Data = bytes.Clone(r.Data)
	for {
		created, err := s.insert(bounded, r)
		if err != nil {
			return store.Record{}, s.failed(ctx, "commit", err)
		}
		if created {
			return r, nil
		}
		old, err := s.read(bounded, r.Kind, r.ID)
		if err != nil {
			return store.Record{}, s.failed(ctx, "read", err)
		}
		if old == nil {
			continue // it has gone since
		}
		now := s.clock()
		if alive(old.Record, now) {
			return store.Record{}, store.ErrExists
		}
		// Taken away by somebody else or not: the next turn sees.
		_, err = s.pool.Exec(bounded, s.sql.remove, []byte(r.Kind), []byte(r.ID), old.birth, int64(old.Version), seconds(now))
		if err != nil {
			return store.Record{}, s.failed(ctx, "commit", err)
		}
	}
}

// insert reports false if there is a record, expired or not.
func (s *Store) insert(ctx context.Context, r store.Record) (bool, error) {
	birth, err := newBirth()
	if err != nil {
		return false, err
	}
	began := time.Now()
	var written int
	err = s.pool.QueryRow(ctx, s.sql.create, []byte(r.Kind), []byte(r.ID), birth, flat(r.Labels), seconds(r.Expires), notNull(r.Data)).Scan(&written)
	err = orGivenUp(ctx, err)
	if err != nil || written == 0 {
		return false, err
	}
	s.committed(1, began)
	return true, nil
}

// newBirth is drawn for each row that is written, so that no two are taken for each other: neither a record and an earlier
// one of the same id, nor two with the same version of which one was lost, because the database was restored or a standby
// took over. An update that has seen the one must not be written over the other.
func newBirth() (int64, error) {
	b := make([]byte, 8)
	_, err := rand.Read(b)
	return int64(binary.BigEndian.Uint64(b) >> 1), err
}

// notNull keeps no data apart from NULL.
func notNull(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	return s.change(ctx, kind, id, false, edit)
}

// change is Update, or UpdateRecalled.
func (s *Store) change(ctx context.Context, kind, id string, recalled bool, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	bounded, end, err := s.call(ctx, "update")
	if err != nil {
		return store.Record{}, err
	}
	defer end()
	err = store.CheckKey(kind, id)
	if err != nil {
		return store.Record{}, err
	}
	leave, err := s.turns.take(bounded, recordKey{kind, id})
	if err != nil {
		return store.Record{}, s.failed(ctx, "commit", err)
	}
	defer leave()
	if recalled {
		r, done, err := s.changeRecalled(bounded, kind, id, edit)
		if err != nil {
			return store.Record{}, s.failed(ctx, "commit", err)
		}
		if done {
			return r, nil
		}
	}
	for {
		old, err := s.read(bounded, kind, id)
		if err != nil {
			return store.Record{}, s.failed(ctx, "read", err)
		}
		if old == nil || !alive(old.Record, s.clock()) {
			return store.Record{}, store.ErrNotFound
		}
		e, err := edit(old.Record)
		if errors.Is(err, store.ErrKeep) {
			s.remember(old.Record, old.birth)
			return old.Record, nil
		}
		if err != nil {
			return store.Record{}, err
		}
		err = store.CheckEdit(e)
		if err != nil {
			return store.Record{}, err
		}
		r, swapped, err := s.swap(bounded, *old, e)
		if err != nil {
			return store.Record{}, s.failed(ctx, "commit", err)
		}
		if swapped {
			return r, nil
		}
	}
}

// swap writes what an edit wants, remembers the record and returns it. It reports false if the record is no longer old.
func (s *Store) swap(ctx context.Context, old stored, e store.Edit) (store.Record, bool, error) {
	birth, err := newBirth()
	if err != nil {
		return store.Record{}, false, err
	}
	sql := s.sql.update
	var event []any
	if e.Event != "" {
		sql, event = s.sql.report, []any{[]byte(e.Event), seconds(s.clock())}
	}
	swapped, err := s.swapRow(ctx, sql, old, e, birth, event...)
	if err != nil || !swapped {
		return store.Record{}, false, err
	}
	return s.written(old, e, birth), true, nil
}

// swapRow reports false if the record is no longer old.
func (s *Store) swapRow(ctx context.Context, sql string, old stored, e store.Edit, birth int64, event ...any) (bool, error) {
	args := []any{[]byte(old.Kind), []byte(old.ID), old.birth, int64(old.Version), birth, seconds(e.Expires), notNull(e.Data)}
	began := time.Now()
	tag, err := s.pool.Exec(ctx, sql, append(args, event...)...)
	err = orGivenUp(ctx, err)
	if err != nil {
		return false, err
	}
	switch tag.RowsAffected() {
	case 0:
		return false, nil
	case 1:
		s.committed(1, began)
		return true, nil
	}
	return false, fmt.Errorf("%w: an update of one record has changed %d rows", errDamaged, tag.RowsAffected())
}

// written remembers the record that an edit has made of another one, and returns it.
func (s *Store) written(old stored, e store.Edit, birth int64) store.Record {
	r := old.Record
	r.Version++
	r.Expires = normal(e.Expires)
	r.Data = e.Data
	s.remember(r, birth)
	return own(r)
}

// orGivenUp returns the context's error for a write that was to be stopped meanwhile, although the server says that it is
// done: one that waits for a synchronous standby does not end with an error when it is stopped, but as committed here and
// perhaps nowhere else (PostgreSQL documentation, synchronous_commit). That is lost when the standby takes over.
func orGivenUp(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return ctx.Err()
}

// committed reports writes that shared a transaction.
func (s *Store) committed(writes int, began time.Time) {
	s.full.Store(false)
	s.observer.Committed(writes, time.Since(began))
}

// sweepMax is how many records and log entries one Sweep removes.
const sweepMax = 500

// Sweep implements store.Store. It removes at most 500 records and log entries in one call. Gateways may sweep at the
// same time.
func (s *Store) Sweep(ctx context.Context, now time.Time, keepLog time.Duration) (int, error) {
	bounded, end, err := s.call(ctx, "sweep")
	if err != nil {
		return 0, err
	}
	defer end()
	var removed, trimmed int
	err = s.pool.QueryRow(bounded, s.sql.sweep, seconds(now), sweepMax).Scan(&removed)
	if err != nil {
		return 0, s.failed(ctx, "commit", err)
	}
	if removed < sweepMax {
		err = s.pool.QueryRow(bounded, s.sql.trim, seconds(now.Add(-keepLog)), sweepMax-removed).Scan(&trimmed)
		if err != nil {
			return removed, s.failed(ctx, "commit", err)
		}
	}
	return removed + trimmed, nil
}

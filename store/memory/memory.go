// Package memory is a store that keeps its records in the memory of the process, for tests. It never runs out of space
// and forgets everything when it is closed.
//
// Its Update is optimistic on purpose: edit closures run at the same time and more than once, as they do over a
// database, so that a caller whose closure cannot bear that is found by its own tests.
package memory

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edrgate/edrgate/store"
)

// sweepMax is how many records and log entries one Sweep removes.
const sweepMax = 500

type key struct{ kind, id string }

// Store is a store.Store in memory.
type Store struct {
	clock func() time.Time

	mu      sync.Mutex
	idle    sync.Cond // running fell to zero
	running int       // calls that Close waits for
	closed  bool
	records map[key]*store.Record // never changed in place: another pointer is another state
	log     []store.Entry
	trimmed uint64 // the newest entry removed from the log
}

// New returns an empty store. A nil clock means time.Now.
func New(clock func() time.Time) *Store {
	if clock == nil {
		clock = time.Now
	}
	s := &Store{clock: clock, records: make(map[key]*store.Record)}
	s.idle.L = &s.mu
	return s
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, r store.Record) (store.Record, error) {
	err := s.begin(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer s.end()
	err = store.CheckRecord(r)
	if err != nil {
		return store.Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live(key{r.Kind, r.ID}) != nil {
		return store.Record{}, store.ErrExists
	}
	stored := clone(r)
	stored.Version = 1
	s.records[key{r.Kind, r.ID}] = &stored
	return clone(stored), nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, kind, id string) (store.Record, error) {
	err := s.begin(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer s.end()
	err = store.CheckKey(kind, id)
	if err != nil {
		return store.Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.live(key{kind, id})
	if r == nil {
		return store.Record{}, store.ErrNotFound
	}
	return clone(*r), nil
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	err := s.begin(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer s.end()
	err = store.CheckKey(kind, id)
	if err != nil {
		return store.Record{}, err
	}
	for {
		err = ctx.Err()
		if err != nil {
			return store.Record{}, err
		}
		r, done, err := s.try(key{kind, id}, edit)
		if done || err != nil {
			return r, err
		}
	}
}

// try runs edit once. It reports false if the record changed meanwhile.
func (s *Store) try(k key, edit func(store.Record) (store.Edit, error)) (store.Record, bool, error) {
	s.mu.Lock()
	old := s.live(k)
	s.mu.Unlock()
	if old == nil {
		return store.Record{}, true, store.ErrNotFound
	}
	e, err := edit(clone(*old))
	if errors.Is(err, store.ErrKeep) {
		return clone(*old), true, nil
	}
	if err != nil {
		return store.Record{}, true, err
	}
	err = store.CheckEdit(e)
	if err != nil {
		return store.Record{}, true, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live(k) != old {
		return store.Record{}, false, nil
	}
	changed := clone(*old)
	changed.Version++
	changed.Expires = normal(e.Expires)
	changed.Data = bytes.Clone(e.Data)
	s.records[k] = &changed
	if e.Event != "" {
		s.log = append(s.log, store.Entry{
			Seq: s.last() + 1, Kind: k.kind, ID: k.id, Version: changed.Version, Event: e.Event, At: normal(s.clock()),
		})
	}
	return clone(changed), true, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) ([]store.Record, error) {
	err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	err = store.CheckQuery(q)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var page []store.Record
	for k := range s.records {
		r := s.live(k)
		if r == nil || k.kind != q.Kind || k.id <= q.After {
			continue
		}
		value, labelled := r.Labels[q.Label]
		if q.Label != "" && (!labelled || value != q.Value) {
			continue
		}
		page = append(page, clone(*r))
	}
	slices.SortFunc(page, func(a, b store.Record) int { return strings.Compare(a.ID, b.ID) })
	return page[:min(len(page), store.PageSize(q.Limit))], nil
}

// Sweep implements store.Store.
func (s *Store) Sweep(ctx context.Context, now time.Time, keepLog time.Duration) (int, error) {
	err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := 0
	for k, r := range s.records {
		if removed < sweepMax && !r.Expires.IsZero() && r.Expires.Before(now) {
			delete(s.records, k)
			removed++
		}
	}
	for removed < sweepMax && len(s.log) > 1 && s.log[0].At.Before(now.Add(-keepLog)) {
		s.trimmed = s.log[0].Seq
		s.log = s.log[1:]
		removed++
	}
	return removed, nil
}

// Tail implements store.Store.
func (s *Store) Tail(ctx context.Context, after uint64, limit int) ([]store.Entry, error) {
	err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	from, _ := slices.BinarySearchFunc(s.log, after, func(e store.Entry, seq uint64) int {
		if e.Seq <= seq {
			return -1
		}
		return 1
	})
	entries := slices.Clone(s.log[from:min(len(s.log), from+store.PageSize(limit))])
	if after < s.trimmed {
		return entries, store.ErrTrimmed
	}
	return entries, nil
}

// Health implements store.Store.
func (s *Store) Health(ctx context.Context) error {
	err := s.begin(ctx)
	if err != nil {
		return err
	}
	s.end()
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for s.running > 0 {
		s.idle.Wait()
	}
	s.records = nil
	s.log = nil
	return nil
}

func (s *Store) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	err := ctx.Err()
	if err != nil {
		return err
	}
	s.running++
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if s.running == 0 {
		s.idle.Broadcast()
	}
}

// live returns the record if it exists and has not expired.
func (s *Store) live(k key) *store.Record {
	r := s.records[k]
	if r == nil || (!r.Expires.IsZero() && !s.clock().Before(r.Expires)) {
		return nil
	}
	return r
}

// last is the sequence of the newest log entry.
func (s *Store) last() uint64 {
	if len(s.log) == 0 {
		return s.trimmed
	}
	return s.log[len(s.log)-1].Seq
}

func clone(r store.Record) store.Record {
	r.Labels = maps.Clone(r.Labels)
	r.Data = bytes.Clone(r.Data)
	r.Expires = normal(r.Expires)
	return r
}

// normal is t as a store with a disk would give it back: in UTC, without a monotonic reading.
func normal(t time.Time) time.Time {
	return t.Round(0).UTC()
}

var _ store.Store = (*Store)(nil)

package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edrgate/edrgate/store"
)

const (
	// maxGroups is how many groups are under way at once: a few, so that whoever comes meanwhile shares the next one, and
	// more than one, so that the database has something to do while an answer is on its way.
	maxGroups = 2

	// maxGroupWrites is how many writes one group has at most.
	maxGroupWrites = 64
)

// groups put compare-and-swaps that are wanted at the same time into one statement. Each is decided by itself: those whose
// record is another by now change nothing and hold none of the others up. There is no timer. A write that comes alone goes
// alone and at once.
type groups struct {
	mu      sync.Mutex
	waiting []*wanted
	running int

	ended sync.WaitGroup // of the goroutines that write groups
}

// wanted is one compare-and-swap in a group.
type wanted struct {
	old   stored
	edit  store.Edit
	birth int64 // of the row that it writes

	done    chan struct{} // closed when the rest is there
	swapped bool
	err     error
}

// swapGrouped is swap for an edit without an event, together with others. It does not wait longer than ctx; what has been sent by
// then may be written all the same.
func (s *Store) swapGrouped(ctx context.Context, old stored, e store.Edit) (store.Record, bool, error) {
	birth, err := newBirth()
	if err != nil {
		return store.Record{}, false, err
	}
	w := &wanted{old: old, edit: e, birth: birth, done: make(chan struct{})}
	s.groups.mu.Lock()
	s.groups.waiting = append(s.groups.waiting, w)
	if s.groups.running < maxGroups {
		s.groups.running++
		s.groups.ended.Go(func() { s.writeGroups(context.WithoutCancel(ctx)) })
	}
	s.groups.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		return store.Record{}, false, ctx.Err()
	}
	if w.err != nil || !w.swapped {
		return store.Record{}, false, w.err
	}
	return s.written(old, e, birth), true, nil
}

// writeGroups writes what waits until nothing does.
func (s *Store) writeGroups(ctx context.Context) {
	for {
		group := s.groups.take()
		if group == nil {
			return
		}
		s.writeGroup(ctx, group)
		for _, w := range group {
			close(w.done)
		}
	}
}

// take returns the next group; nil: nobody waits, and the caller is not counted as running any more.
func (g *groups) take() []*wanted {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), maxGroupWrites)
	if n == 0 {
		g.running--
		g.waiting = nil
		return nil
	}
	group := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	return group
}

// writeGroup fills in how each of the writes has ended. A group that the server refuses changed nothing, perhaps because of one
// of its writes, so each is tried by itself then.
func (s *Store) writeGroup(ctx context.Context, group []*wanted) {
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if len(group) > 1 {
		err := s.writeTogether(bounded, group)
		var said *pgconn.PgError
		if !errors.As(err, &said) {
			return
		}
	}
	for _, w := range group {
		w.swapped, w.err = s.writeAlone(bounded, w)
	}
}

// writeTogether is one statement for all. Each of the writes gets the error that it returns.
func (s *Store) writeTogether(ctx context.Context, group []*wanted) error {
	began := time.Now()
	swapped, err := s.swapAll(ctx, group)
	err = orGivenUp(ctx, err)
	if err == nil && len(swapped) > 0 {
		s.committed(len(swapped), began)
	}
	for _, w := range group {
		w.swapped, w.err = err == nil && swapped[w.birth], err
	}
	return err
}

// swapAll returns the births of the rows that were written.
func (s *Store) swapAll(ctx context.Context, group []*wanted) (map[int64]bool, error) {
	n := len(group)
	kinds, ids, data := make([][]byte, n), make([][]byte, n), make([][]byte, n)
	births, versions, next := make([]int64, n), make([]int64, n), make([]int64, n)
	expires := make([]pgtype.Numeric, n)
	for i, w := range group {
		kinds[i], ids[i], births[i], versions[i] = []byte(w.old.Kind), []byte(w.old.ID), w.old.birth, int64(w.old.Version)
		next[i], expires[i], data[i] = w.birth, seconds(w.edit.Expires), notNull(w.edit.Data)
	}
	rows, err := s.pool.Query(ctx, s.sql.updateAll, kinds, ids, births, versions, next, expires, data)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	swapped := make(map[int64]bool, n)
	for rows.Next() {
		var birth int64
		err = rows.Scan(&birth)
		if err != nil {
			return nil, err
		}
		swapped[birth] = true
	}
	return swapped, rows.Err()
}

// writeAlone is one compare-and-swap by itself.
func (s *Store) writeAlone(ctx context.Context, w *wanted) (bool, error) {
	return s.swapRow(ctx, s.sql.update, w.old, w.edit, w.birth)
}

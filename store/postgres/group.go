package postgres

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edrgate/edrgate/store"
)

const (
	// maxAlone is how many writes are under way by themselves before others are put into groups.
	maxAlone = 1

	// maxGroups is how many groups are under way at once. Another one begins when there is enough for a full one, since the
	// larger groups are, the less each write costs, and when somebody has waited for long, since a connection may be dead.
	maxGroups = 4
	longWait  = 100 * time.Millisecond

	// maxGroupWrites is how many writes one group has at most.
	maxGroupWrites = 64
)

// groups put compare-and-swaps that are wanted at the same time into one statement. Each is decided by itself: those whose
// record is another by now, or is being changed by somebody else, change nothing and hold none of the others up. No write waits
// for others to come. One that comes alone goes alone and at once; should it have to wait for a lock, it is the only one that does.
type groups struct {
	alone atomic.Int64 // writes under way by themselves

	mu      sync.Mutex
	waiting []*wanted // by callers that still wait
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

// swapGrouped is swap for an edit without an event, perhaps together with others. It may report false also for a record that is
// still old. It does not wait longer than ctx; what is in a group that is under way by then may be written all the same, and
// nothing else is.
func (s *Store) swapGrouped(ctx context.Context, old stored, e store.Edit) (store.Record, bool, error) {
	if s.groups.alone.Add(1) <= maxAlone {
		defer s.groups.alone.Add(-1)
		return s.swap(ctx, old, e)
	}
	s.groups.alone.Add(-1)
	birth, err := newBirth()
	if err != nil {
		return store.Record{}, false, err
	}
	e.Data = bytes.Clone(e.Data) // it may be sent when the caller has given up
	w := &wanted{old: old, edit: e, birth: birth, done: make(chan struct{})}
	s.join(w)
	long := time.NewTimer(longWait)
	defer long.Stop()
	for {
		select {
		case <-w.done:
			if w.err != nil || !w.swapped {
				return store.Record{}, false, w.err
			}
			return s.written(old, e, birth), true, nil
		case <-long.C:
			s.hurry()
		case <-ctx.Done():
			s.groups.leave(w)
			return store.Record{}, false, ctx.Err()
		}
	}
}

// join has a write wait for the next group.
func (s *Store) join(w *wanted) {
	g := &s.groups
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, w)
	if g.running == 0 || len(g.waiting) >= maxGroupWrites {
		s.begin()
	}
}

// hurry has whoever waits not wait for the groups that are under way.
func (s *Store) hurry() {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	if len(s.groups.waiting) > 0 {
		s.begin()
	}
}

// begin has one more group written beside those that are under way, unless there are many. The caller holds the lock.
func (s *Store) begin() {
	if s.groups.running < maxGroups {
		s.groups.running++
		s.groups.ended.Go(s.writeGroups)
	}
}

// leave has a write that nobody waits for any more not be sent, unless it has been.
func (g *groups) leave(w *wanted) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = slices.DeleteFunc(g.waiting, func(other *wanted) bool { return other == w })
}

// take returns the next group; nil: nobody waits, and the caller is not counted as running any more.
func (g *groups) take() []*wanted {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), maxGroupWrites)
	if n == 0 {
		g.running--
		return nil
	}
	group := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	return group
}

// writeGroups writes what waits until nothing does.
func (s *Store) writeGroups() {
	for {
		group := s.groups.take()
		if group == nil {
			return
		}
		s.writeGroup(group)
		for _, w := range group {
			close(w.done)
		}
	}
}

// writeGroup fills in how each of the writes has ended.
func (s *Store) writeGroup(group []*wanted) {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	began := time.Now()
	swapped, err := s.swapAll(ctx, group)
	err = orGivenUp(ctx, err)
	if err != nil {
		swapped = nil // also of a statement that was stopped and has ended as done
	}
	if isRefusal(err) {
		// Perhaps because of one of the writes: the others are decided again, each by itself.
		err = nil
	}
	if len(swapped) > 0 {
		s.committed(len(swapped), began)
	}
	for _, w := range group {
		w.swapped, w.err = swapped[w.birth], err
	}
}

// isRefusal reports whether an error says that a statement was rolled back by a server that goes on. A pooler reports one that it
// has lost as an error of the server too, also after the commit.
func isRefusal(err error) bool {
	var said *pgconn.PgError
	return errors.As(err, &said) && said.SeverityUnlocalized == "ERROR" && said.Code != completionUnknown && !isAway(err)
}

// swapAll returns the births of the rows that were written; none if there is an error.
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
	err = rows.Err()
	if err != nil {
		return nil, err
	}
	return swapped, nil
}

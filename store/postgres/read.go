package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edrgate/edrgate/store"
)

// call lets a call in and bounds it. What it does with the database goes on when the caller goes away, for as long as it
// may take: a statement that is given up costs a connection, and its outcome would be unknown. A deadline of the caller
// counts. end must be called.
func (s *Store) call(ctx context.Context, operation string) (bounded context.Context, end func(), err error) {
	err = s.calls.Begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	until := began.Add(s.timeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(until) {
		until = deadline
	}
	bounded, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	end = func() {
		cancel()
		s.observer.Called(operation, time.Since(began))
		s.calls.End()
	}
	err = s.schema.passed(bounded)
	if err != nil {
		err = s.failed(ctx, "read", err)
		end()
		return nil, nil, err
	}
	return bounded, end, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, kind, id string) (store.Record, error) {
	bounded, end, err := s.call(ctx, "get")
	if err != nil {
		return store.Record{}, err
	}
	defer end()
	err = store.CheckKey(kind, id)
	if err != nil {
		return store.Record{}, err
	}
	found, err := s.read(bounded, kind, id)
	if err != nil {
		return store.Record{}, s.failed(ctx, "read", err)
	}
	if found == nil || !alive(found.Record, s.clock()) {
		return store.Record{}, store.ErrNotFound
	}
	s.remember(found.Record, found.birth)
	return found.Record, nil
}

// stored is a record and what makes it another than its namesakes and its other versions.
type stored struct {
	store.Record
	birth int64
}

// read returns a record, expired or not; nil: there is none.
func (s *Store) read(ctx context.Context, kind, id string) (*stored, error) {
	rows, err := s.pool.Query(ctx, s.sql.get, []byte(kind), []byte(id))
	if err != nil {
		return nil, err
	}
	found, err := collect(rows)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// collect reads the rows of get, list and listLabel. The columns of a record are all NULL when there is none.
func collect(rows pgx.Rows) ([]stored, error) {
	defer rows.Close()
	var found []stored
	answered := false
	for rows.Next() {
		var standby bool
		var kind, id, data []byte
		var birth, version *int64
		var labels [][]byte
		var expires pgtype.Numeric
		err := rows.Scan(&standby, &kind, &id, &birth, &version, &labels, &expires, &data)
		if err != nil {
			return nil, err
		}
		if standby {
			return nil, errStandby
		}
		answered = true
		if birth == nil || version == nil {
			continue
		}
		r := store.Record{Kind: string(kind), ID: string(id), Version: uint64(*version), Data: data}
		r.Expires, err = moment(expires)
		if err != nil {
			return nil, err
		}
		r.Labels, err = unflat(labels)
		if err != nil {
			return nil, err
		}
		found = append(found, stored{Record: r, birth: *birth})
	}
	err := rows.Err()
	if err == nil && !answered {
		err = fmt.Errorf("%w: a read without an answer", errDamaged)
	}
	return found, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) ([]store.Record, error) {
	bounded, end, err := s.call(ctx, "list")
	if err != nil {
		return nil, err
	}
	defer end()
	err = store.CheckQuery(q)
	if err != nil {
		return nil, err
	}
	sql := s.sql.list
	args := []any{[]byte(q.Kind), []byte(q.After), seconds(s.clock()), store.PageSize(q.Limit)}
	if q.Label != "" {
		sql = s.sql.listLabel
		args = append(args, []byte(q.Label), []byte(q.Value))
	}
	rows, err := s.pool.Query(bounded, sql, args...)
	if err != nil {
		return nil, s.failed(ctx, "read", err)
	}
	found, err := collect(rows)
	if err != nil {
		return nil, s.failed(ctx, "read", err)
	}
	page := make([]store.Record, 0, len(found))
	for _, r := range found {
		page = append(page, r.Record)
	}
	return page, nil
}

// Tail implements store.Store.
func (s *Store) Tail(ctx context.Context, after uint64, limit int) ([]store.Entry, error) {
	bounded, end, err := s.call(ctx, "tail")
	if err != nil {
		return nil, err
	}
	defer end()
	trimmed, entries, err := s.entries(bounded, after, store.PageSize(limit))
	if err != nil {
		return nil, s.failed(ctx, "read", err)
	}
	if after < trimmed {
		return entries, store.ErrTrimmed
	}
	return entries, nil
}

// entries returns the number of the newest entry that was removed, and at most limit of those behind after.
func (s *Store) entries(ctx context.Context, after uint64, limit int) (uint64, []store.Entry, error) {
	if after > maxSequence {
		after = maxSequence
	}
	rows, err := s.pool.Query(ctx, s.sql.tail, int64(after), limit)
	if err != nil {
		return 0, nil, err
	}
	defer rows.Close()
	var list []store.Entry
	var trimmed int64
	answered := false
	for rows.Next() {
		var standby bool
		var seq, version *int64
		var kind, id, event []byte
		var at pgtype.Numeric
		err = rows.Scan(&standby, &trimmed, &seq, &kind, &id, &version, &event, &at)
		if err != nil {
			return 0, nil, err
		}
		if standby {
			return 0, nil, errStandby
		}
		answered = true
		if seq == nil || version == nil {
			continue
		}
		e := store.Entry{Seq: uint64(*seq), Kind: string(kind), ID: string(id), Version: uint64(*version), Event: string(event)}
		e.At, err = moment(at)
		if err != nil {
			return 0, nil, err
		}
		list = append(list, e)
	}
	err = rows.Err()
	if err == nil && !answered {
		err = fmt.Errorf("%w: the log has no position", errDamaged)
	}
	return uint64(trimmed), list, err
}

// maxSequence is the largest number that an entry can have here.
const maxSequence = 1<<63 - 1

// Health implements store.Store. A disk that is full is noticed by a write, and so is its end.
func (s *Store) Health(ctx context.Context) error {
	bounded, end, err := s.call(ctx, "health")
	if err != nil {
		return err
	}
	defer end()
	var standby, readOnly bool
	err = s.pool.QueryRow(bounded, s.sql.health).Scan(&standby, &readOnly)
	switch {
	case err != nil:
		return s.failed(ctx, "read", err)
	case standby:
		return errStandby
	case readOnly:
		return errReadOnly
	case s.full.Load():
		return fmt.Errorf("%w: the database's disk is full", store.ErrFull)
	}
	return nil
}

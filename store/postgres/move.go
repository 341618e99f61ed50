package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edrgate/edrgate/store"
)

// Export implements store.Mover.
func (s *Store) Export(ctx context.Context, afterKind, afterID string, limit int) ([]store.Record, error) {
	bounded, end, err := s.call(ctx, "list")
	if err != nil {
		return nil, err
	}
	defer end()
	rows, err := s.pool.Query(bounded, s.sql.export, []byte(afterKind), []byte(afterID), store.PageSize(limit))
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

// Import implements store.Mover. The records are one transaction.
func (s *Store) Import(ctx context.Context, records []store.Record) error {
	bounded, end, err := s.call(ctx, "create")
	if err != nil {
		return err
	}
	defer end()
	batch := &pgx.Batch{}
	for _, r := range records {
		err = store.CheckRecord(r)
		if err != nil {
			return err
		}
		birth, err := newBirth()
		if err != nil {
			return err
		}
		kind, id := r.Kind, r.ID
		batch.Queue(s.sql.include, []byte(kind), []byte(id), birth, flat(r.Labels), seconds(r.Expires), notNull(r.Data), int64(r.Version)).
			QueryRow(func(row pgx.Row) error {
				var written int
				err := row.Scan(&written)
				if err == nil && written == 0 {
					err = fmt.Errorf("%w: %s %q", store.ErrExists, kind, id)
				}
				return err
			})
	}
	err = s.pool.SendBatch(bounded, batch).Close()
	if err != nil {
		return s.failed(ctx, "commit", err)
	}
	return nil
}

// ImportLog implements store.Mover. The entries are one transaction.
func (s *Store) ImportLog(ctx context.Context, entries []store.Entry) error {
	bounded, end, err := s.call(ctx, "create")
	if err != nil {
		return err
	}
	defer end()
	batch := &pgx.Batch{}
	for _, e := range entries {
		batch.Queue(s.sql.includeEntry, int64(e.Seq), []byte(e.Kind), []byte(e.ID), int64(e.Version), []byte(e.Event), seconds(e.At)).
			Exec(func(tag pgconn.CommandTag) error {
				if tag.RowsAffected() != 1 {
					return fmt.Errorf("%w: log entry %d does not follow", store.ErrExists, e.Seq)
				}
				return nil
			})
	}
	err = s.pool.SendBatch(bounded, batch).Close()
	if err != nil {
		return s.failed(ctx, "commit", err)
	}
	return nil
}

var _ store.Mover = (*Store)(nil)

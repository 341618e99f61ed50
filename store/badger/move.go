package badger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/store"
)

// importWriters is how many records are imported at once, to share transactions.
const importWriters = 64

// Export implements store.Mover.
func (s *Store) Export(ctx context.Context, afterKind, afterID string, limit int) ([]store.Record, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.calls.End()
	limit = store.PageSize(limit)
	from := []byte{familyRecord}
	if afterKind != "" {
		from = append(recordKey(afterKind, afterID), 0) // the first key behind it: no id holds a NUL
	}
	var page []store.Record
	err = s.view(func(txn *badgerdb.Txn) error {
		it := txn.NewIterator(badgerdb.IteratorOptions{Prefix: []byte{familyRecord}})
		defer it.Close()
		for it.Seek(from); it.Valid() && len(page) < limit; it.Next() {
			kind, id, ok := bytes.Cut(it.Item().Key()[1:], []byte{0})
			if !ok {
				return s.readFailed(fmt.Errorf("read records: %w: key without an end of its kind", errCorrupt))
			}
			r, found, err := readRecord(txn, string(kind), string(id))
			if err != nil {
				return s.readFailed(err)
			}
			if found {
				page = append(page, r)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// Import implements store.Mover.
func (s *Store) Import(ctx context.Context, records []store.Record) error {
	err := s.calls.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.calls.End()
	var group sync.WaitGroup
	errs := make([]error, importWriters)
	for writer := range errs {
		group.Go(func() {
			for i := writer; i < len(records) && errs[writer] == nil; i += importWriters {
				errs[writer] = s.importRecord(ctx, records[i])
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (s *Store) importRecord(ctx context.Context, r store.Record) error {
	err := store.CheckRecord(r)
	if err != nil {
		return err
	}
	r.Expires = normal(r.Expires)
	r.Labels = maps.Clone(r.Labels)
	r.Data = bytes.Clone(r.Data)
	value := encodeRecord(r)
	return s.commits.do(ctx, func(b *batch) error {
		_, found, err := b.record(r.Kind, r.ID)
		if err != nil {
			return err
		}
		if found {
			return store.ErrExists
		}
		err = b.admit(SpaceOK)
		if err != nil {
			return err
		}
		b.add(r, value)
		return nil
	})
}

// ImportLog implements store.Mover.
func (s *Store) ImportLog(ctx context.Context, entries []store.Entry) error {
	err := s.calls.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.calls.End()
	for _, e := range entries {
		err = s.commits.do(ctx, func(b *batch) error {
			p, err := readPosition(b.txn)
			if err != nil {
				return err
			}
			if p.last == 0 && e.Seq > 0 {
				p = position{last: e.Seq - 1, trimmed: e.Seq - 1}
			}
			if e.Seq != p.last+1 {
				return fmt.Errorf("%w: log entry %d behind %d", store.ErrExists, e.Seq, p.last)
			}
			err = b.admit(SpaceOK)
			if err != nil {
				return err
			}
			p.last = e.Seq
			e.At = normal(e.At)
			b.set(entryKey(e.Seq), encodeEntry(e))
			b.set(logKey, encodePosition(p))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var _ store.Mover = (*Store)(nil)

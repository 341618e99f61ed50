package badger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/store"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, kind, id string) (store.Record, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer s.calls.End()
	err = store.CheckKey(kind, id)
	if err != nil {
		return store.Record{}, err
	}
	var r store.Record
	err = s.view(func(txn *badgerdb.Txn) error {
		stored, found, err := readRecord(txn, kind, id)
		if err != nil {
			return s.readFailed(err)
		}
		if !found || !alive(stored, s.clock()) {
			return store.ErrNotFound
		}
		r = stored
		return nil
	})
	if err != nil {
		return store.Record{}, err
	}
	return r, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) ([]store.Record, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.calls.End()
	err = store.CheckQuery(q)
	if err != nil {
		return nil, err
	}
	prefix := recordPrefix(q.Kind)
	if q.Label != "" {
		prefix = labelPrefix(q.Kind, q.Label, q.Value)
	}
	from := bytes.Clone(prefix)
	if q.After != "" {
		// No id holds a NUL, so this is the first key behind that of After.
		from = append(append(from, q.After...), 0)
	}
	limit := store.PageSize(q.Limit)
	now := s.clock()

	var page []store.Record
	err = s.view(func(txn *badgerdb.Txn) error {
		it := txn.NewIterator(badgerdb.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Seek(from); it.Valid() && len(page) < limit; it.Next() {
			err := ctx.Err()
			if err != nil {
				return err
			}
			id := string(it.Item().Key()[len(prefix):])
			r, found, err := readRecord(txn, q.Kind, id)
			if err != nil {
				return s.readFailed(err)
			}
			if found && alive(r, now) {
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

// Tail implements store.Store.
func (s *Store) Tail(ctx context.Context, after uint64, limit int) ([]store.Entry, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.calls.End()
	limit = store.PageSize(limit)
	var entries []store.Entry
	err = s.view(func(txn *badgerdb.Txn) error {
		p, err := readPosition(txn)
		if err != nil {
			return s.readFailed(err)
		}
		entries, err = readEntries(txn, max(after, p.trimmed), limit)
		if err != nil {
			return s.readFailed(err)
		}
		if after < p.trimmed {
			return store.ErrTrimmed
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrTrimmed) {
		return nil, err
	}
	return entries, err
}

// Health implements store.Store.
func (s *Store) Health(ctx context.Context) error {
	err := s.calls.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.calls.End()
	err = s.writable()
	if err != nil {
		return err
	}
	err = s.view(func(txn *badgerdb.Txn) error {
		_, _, err := read(txn, formatKey)
		return err
	})
	if err != nil {
		return s.readFailed(err)
	}
	return s.checkFull()
}

func (s *Store) readFailed(err error) error {
	s.observer.Failed("read")
	return err
}

// read returns a copy of the value of key, or false if there is none.
func read(txn *badgerdb.Txn, key []byte) ([]byte, bool, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badgerdb.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value, err := item.ValueCopy(nil)
	if err != nil {
		return nil, false, err
	}
	return value, true, nil
}

// readRecord returns a record, expired or not.
func readRecord(txn *badgerdb.Txn, kind, id string) (store.Record, bool, error) {
	value, ok, err := read(txn, recordKey(kind, id))
	if err != nil {
		return store.Record{}, false, fmt.Errorf("read %s: %w", kind, err)
	}
	if !ok {
		return store.Record{}, false, nil
	}
	r, err := decodeRecord(kind, id, value)
	if err != nil {
		return store.Record{}, false, fmt.Errorf("read %s: %w", kind, err)
	}
	return r, true, nil
}

// readPosition returns where the log stands.
func readPosition(txn *badgerdb.Txn) (position, error) {
	value, ok, err := read(txn, logKey)
	if err != nil {
		return position{}, fmt.Errorf("read log position: %w", err)
	}
	if !ok {
		return position{}, nil
	}
	p, err := decodePosition(value)
	if err != nil {
		return position{}, fmt.Errorf("read log position: %w", err)
	}
	return p, nil
}

// readEntries returns at most limit entries behind after.
func readEntries(txn *badgerdb.Txn, after uint64, limit int) ([]store.Entry, error) {
	var entries []store.Entry
	it := txn.NewIterator(badgerdb.IteratorOptions{Prefix: []byte{familyEntry}})
	defer it.Close()
	for it.Seek(entryKey(after + 1)); it.Valid() && len(entries) < limit; it.Next() {
		key := it.Item().Key()
		if len(key) != 9 {
			return nil, fmt.Errorf("read log: %w: key of %d bytes", errCorrupt, len(key))
		}
		value, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		e, err := decodeEntry(binary.BigEndian.Uint64(key[1:]), value)
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

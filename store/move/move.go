// Package move copies everything that a store holds into an empty one of another engine, and looks whether both hold the
// same. Versions, expiry and the numbers of log entries stay: to whoever uses them, both are one store.
package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/edrgate/edrgate/store"
)

// page is how many records or entries are moved at once.
const page = 200

// ErrNotEmpty is returned for a target that holds something.
var ErrNotEmpty = errors.New("the target is not empty")

// Counts say what was moved, or would be.
type Counts struct {
	Records map[string]int // by kind
	Entries int            // of the log
}

// Count returns what a store holds.
func Count(ctx context.Context, from store.Mover) (Counts, error) {
	return each(ctx, from, func([]store.Record) error { return nil }, func([]store.Entry) error { return nil })
}

// Copy writes all of from into to, which must be empty. With an error, to has a part of it and is of no use.
func Copy(ctx context.Context, from, to store.Mover) (Counts, error) {
	err := checkEmpty(ctx, to)
	if err != nil {
		return Counts{}, err
	}
	return each(ctx, from,
		func(records []store.Record) error { return to.Import(ctx, records) },
		func(entries []store.Entry) error { return to.ImportLog(ctx, entries) })
}

// Verify returns an error that names the first difference between two stores.
func Verify(ctx context.Context, a, b store.Mover) error {
	var kind, id string
	var seq uint64
	counted, err := each(ctx, a,
		func(records []store.Record) error {
			others, err := b.Export(ctx, kind, id, len(records))
			if err != nil {
				return err
			}
			for i, r := range records {
				if i >= len(others) || !sameRecord(r, others[i]) {
					return fmt.Errorf("record %s %q is not the same in both", r.Kind, r.ID)
				}
			}
			last := records[len(records)-1]
			kind, id = last.Kind, last.ID
			return nil
		},
		func(entries []store.Entry) error {
			others, err := b.Tail(ctx, seq, len(entries))
			if err != nil && !errors.Is(err, store.ErrTrimmed) {
				return err
			}
			for i, e := range entries {
				if i >= len(others) || !sameEntry(e, others[i]) {
					return fmt.Errorf("log entry %d is not the same in both", e.Seq)
				}
			}
			seq = entries[len(entries)-1].Seq
			return nil
		})
	if err != nil {
		return err
	}
	more, err := b.Export(ctx, kind, id, 1)
	if err != nil {
		return err
	}
	if len(more) > 0 {
		return fmt.Errorf("record %s %q is in one of both only", more[0].Kind, more[0].ID)
	}
	entries, err := b.Tail(ctx, seq, 1)
	if err != nil && !(errors.Is(err, store.ErrTrimmed) && counted.Entries == 0) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("log entry %d is in one of both only", entries[0].Seq)
	}
	return nil
}

// each calls with all pages of records, and of log entries.
func each(ctx context.Context, from store.Mover, records func([]store.Record) error, entries func([]store.Entry) error) (Counts, error) {
	counts := Counts{Records: map[string]int{}}
	var kind, id string
	for {
		list, err := from.Export(ctx, kind, id, page)
		if err != nil {
			return counts, fmt.Errorf("read records: %w", err)
		}
		if len(list) == 0 {
			break
		}
		err = records(list)
		if err != nil {
			return counts, err
		}
		for _, r := range list {
			counts.Records[r.Kind]++
		}
		last := list[len(list)-1]
		kind, id = last.Kind, last.ID
	}
	seq := uint64(0)
	for {
		list, err := from.Tail(ctx, seq, page)
		if err != nil && !(errors.Is(err, store.ErrTrimmed) && seq == 0) {
			return counts, fmt.Errorf("read log: %w", err)
		}
		if len(list) == 0 {
			return counts, nil
		}
		err = entries(list)
		if err != nil {
			return counts, err
		}
		counts.Entries += len(list)
		seq = list[len(list)-1].Seq
	}
}

func checkEmpty(ctx context.Context, to store.Mover) error {
	records, err := to.Export(ctx, "", "", 1)
	if err != nil {
		return err
	}
	entries, err := to.Tail(ctx, 0, 1)
	if err != nil && !errors.Is(err, store.ErrTrimmed) {
		return err
	}
	if len(records)+len(entries) > 0 {
		return ErrNotEmpty
	}
	return nil
}

func sameRecord(a, b store.Record) bool {
	return a.Kind == b.Kind && a.ID == b.ID && a.Version == b.Version && a.Expires.Equal(b.Expires) &&
		maps.Equal(a.Labels, b.Labels) && bytes.Equal(a.Data, b.Data)
}

func sameEntry(a, b store.Entry) bool {
	same := a.At.Equal(b.At)
	a.At = b.At
	return same && a == b
}

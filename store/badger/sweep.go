package badger

import (
	"bytes"
	"context"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/store"
)

const (
	sweepMax   = 500 // records and log entries that one call removes
	sweepTries = 3   // times it looks again when others have changed all that it found
)

// expired is what an expiry key says.
type expired struct {
	expires  time.Time
	kind, id string
}

// Sweep implements store.Store. It removes at most 500 records and log entries in one call, and fewer when their labels
// fill the transaction.
func (s *Store) Sweep(ctx context.Context, now time.Time, keepLog time.Duration) (int, error) {
	err := s.calls.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer s.calls.End()
	for range sweepTries {
		found, trim, err := s.sweepable(now, keepLog)
		if err != nil {
			return 0, err
		}
		if len(found) == 0 && !trim {
			return 0, nil
		}
		removed, err := s.sweep(ctx, found, now.Add(-keepLog))
		if removed > 0 || err != nil {
			return removed, err
		}
	}
	return 0, nil
}

// sweepable returns records whose expiry lies before now, and whether the oldest log entry is older than keepLog.
func (s *Store) sweepable(now time.Time, keepLog time.Duration) ([]expired, bool, error) {
	var found []expired
	trim := false
	err := s.view(func(txn *badgerdb.Txn) error {
		found = readExpired(txn, now)
		p, err := readPosition(txn)
		if err != nil {
			return s.readFailed(err)
		}
		oldest, err := readEntries(txn, p.trimmed, 1)
		if err != nil {
			return s.readFailed(err)
		}
		trim = len(oldest) == 1 && oldest[0].Seq < p.last && oldest[0].At.Before(now.Add(-keepLog))
		return nil
	})
	return found, trim, err
}

// readExpired returns at most sweepMax records whose expiry lies before now, the longest expired first.
func readExpired(txn *badgerdb.Txn, now time.Time) []expired {
	var found []expired
	prefix := []byte{familyExpiry}
	end := appendTime(bytes.Clone(prefix), now)
	it := txn.NewIterator(badgerdb.IteratorOptions{Prefix: prefix})
	defer it.Close()
	for it.Seek(prefix); it.Valid() && len(found) < sweepMax; it.Next() {
		key := it.Item().Key()
		if bytes.Compare(key, end) >= 0 {
			break
		}
		kind, id, ok := bytes.Cut(key[min(len(key), 1+timeBytes):], []byte{0})
		if ok {
			found = append(found, expired{expires: readTime(key[1:]), kind: string(kind), id: string(id)})
		}
	}
	return found
}

// sweep removes what was found, unless it has changed meanwhile, and log entries written before keepFrom.
func (s *Store) sweep(ctx context.Context, found []expired, keepFrom time.Time) (int, error) {
	removed := 0
	err := s.commits.do(ctx, func(b *batch) error {
		removed = 0
		err := b.admit(SpaceLow)
		if err != nil {
			return err
		}
		for _, x := range found {
			if b.stagedBytes() > b.maxBytes/2 {
				return nil
			}
			r, stored, err := b.record(x.kind, x.id)
			if err != nil {
				// One damaged record must not keep all others from being removed.
				s.log.Error("cannot sweep a record", "kind", x.kind, "error", err)
				continue
			}
			if stored && r.Expires.Equal(x.expires) {
				b.remove(r)
				removed++
			}
		}
		trimmed, err := b.trim(keepFrom, sweepMax-removed)
		removed += trimmed
		return err
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// trim removes at most limit log entries written before keepFrom, oldest first, but not the newest entry of all.
func (b *batch) trim(keepFrom time.Time, limit int) (int, error) {
	p, err := readPosition(b.txn)
	if err != nil {
		return 0, err
	}
	trimmed := 0
	for trimmed < limit && p.trimmed+1 < p.last {
		key := entryKey(p.trimmed + 1)
		value, ok, err := b.get(key)
		if err != nil {
			return 0, err
		}
		if ok {
			e, err := decodeEntry(p.trimmed+1, value)
			if err != nil {
				return 0, err
			}
			if !e.At.Before(keepFrom) {
				break
			}
			b.delete(key)
		}
		p.trimmed++
		trimmed++
	}
	if trimmed > 0 {
		b.set(logKey, encodePosition(p))
	}
	return trimmed, nil
}

var _ store.Store = (*Store)(nil)

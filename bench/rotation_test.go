// Package bench holds the benchmarks of the gateway's parts against what they replace.
package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	badgeroptions "github.com/dgraph-io/badger/v4/options"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
)

const (
	recordBytes = 1 << 10
	records     = 4096
)

// BenchmarkRotation measures compare-and-swaps of 1 KiB records, the write of a token renewal: by the store, and by
// Badger alone with a synced transaction for each. Writers take records in turn, so they hardly ever meet. How long a
// sync takes drifts by several times within a minute on a shared disk, so the two run by turns, for a few swaps each, and
// the ratio is the result; the rates say little without it.
//
//	go test -run '^$' -bench Rotation -benchtime 3s ./bench
func BenchmarkRotation(b *testing.B) {
	for _, writers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			ours, plain := openStore(b), openBadger(b)
			turn := max(64, 8*writers)
			var oursTook, plainTook time.Duration
			b.ResetTimer()
			for done := 0; done < b.N; done += turn {
				n := min(turn, b.N-done)
				oursTook += rotate(b, writers, done, n, ours)
				plainTook += rotate(b, writers, done, n, plain)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/oursTook.Seconds(), "store-ops/s")
			b.ReportMetric(float64(b.N)/plainTook.Seconds(), "badger-ops/s")
			b.ReportMetric(plainTook.Seconds()/oursTook.Seconds(), "ratio")
		})
	}
}

// rotate runs n swaps spread over the writers, from the record first on, and returns how long that took.
func rotate(b *testing.B, writers, first, n int, swap func(record int) error) time.Duration {
	b.Helper()
	start := time.Now()
	next := atomic.Int64{}
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				err := swap((first + i) % records)
				if err != nil {
					b.Errorf("swap: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	return time.Since(start)
}

func openStore(b *testing.B) func(int) error {
	b.Helper()
	s, err := badger.Open(badger.Options{Dir: b.TempDir(), ReserveBytes: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closing(b, s.Close()) })
	inParallel(func(i int) error {
		_, err := s.Create(context.Background(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Data: make([]byte, recordBytes)})
		return err
	}, b)
	return func(record int) error {
		_, err := s.Update(context.Background(), "flow", fmt.Sprint(record), func(old store.Record) (store.Edit, error) {
			return store.Edit{Data: successor(old.Data), Expires: old.Expires}, nil
		})
		return err
	}
}

// openPlain opens Badger with the sizes that the store uses. Conflict detection is on, since here it is what makes a read
// and a write a compare-and-swap.
func openPlain(b *testing.B) *badgerdb.DB {
	b.Helper()
	db, err := badgerdb.Open(badgerdb.DefaultOptions(b.TempDir()).
		WithSyncWrites(true).
		WithCompression(badgeroptions.None).
		WithMemTableSize(8 << 20).
		WithNumMemtables(4).
		WithNumLevelZeroTables(2).
		WithBaseTableSize(4 << 20).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithNumCompactors(2).
		WithValueThreshold(1 << 20).
		WithValueLogFileSize(16 << 20).
		WithMetricsEnabled(false).
		WithLogger(nil))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closing(b, db.Close()) })
	return db
}

func openBadger(b *testing.B) func(int) error {
	b.Helper()
	db := openPlain(b)
	inParallel(func(i int) error {
		return db.Update(func(txn *badgerdb.Txn) error { return txn.Set([]byte(fmt.Sprint(i)), make([]byte, recordBytes)) })
	}, b)
	return func(record int) error {
		for {
			err := db.Update(func(txn *badgerdb.Txn) error {
				key := []byte(fmt.Sprint(record))
				item, err := txn.Get(key)
				if err != nil {
					return err
				}
				data, err := item.ValueCopy(nil)
				if err != nil {
					return err
				}
				return txn.Set(key, successor(data))
			})
			if !errors.Is(err, badgerdb.ErrConflict) {
				return err
			}
		}
	}
}

// successor is a record's next content: its generation, the first eight bytes, plus one.
func successor(data []byte) []byte {
	next := append([]byte(nil), data...)
	binary.BigEndian.PutUint64(next, binary.BigEndian.Uint64(data)+1)
	return next
}

// inParallel calls f for each record, many at a time.
func inParallel(f func(i int) error, b *testing.B) {
	b.Helper()
	next := atomic.Int64{}
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= records {
					return
				}
				err := f(int(i))
				if err != nil {
					b.Errorf("prepare record %d: %v", i, err)
					return
				}
			}
		})
	}
	group.Wait()
}

func closing(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Errorf("close: %v", err)
	}
}

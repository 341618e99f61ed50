//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

const (
	benchWriters = 64
	benchBytes   = 1000 // data of a record
	benchTurns   = 8    // each way is measured so many times, by turns, since the machine is not always as fast
)

// BenchmarkUpdateBesideBare measures updates of the store, and beside them bare compare-and-swaps: the same number of
// writers, connections and bytes, with the version known beforehand. store/bare is what is left after the store, which
// reads each record first.
func BenchmarkUpdateBesideBare(b *testing.B) {
	s := open(b, Options{})
	data := make([]byte, benchBytes)
	ids := make([]string, benchWriters)
	for i := range ids {
		ids[i] = fmt.Sprintf("flow-%d", i)
		_, err := s.Create(b.Context(), store.Record{Kind: "flow", ID: ids[i], Labels: map[string]string{"participant": "p"}, Data: data})
		if err != nil {
			b.Fatal(err)
		}
	}
	births := make([]int64, benchWriters)
	versions := make([]uint64, benchWriters)
	read := func() {
		for i, id := range ids {
			r, err := s.read(context.Background(), "flow", id)
			if err != nil || r == nil {
				b.Fatal(err)
			}
			births[i], versions[i] = r.birth, r.Version
		}
	}
	each := func(write func(i int) error) time.Duration {
		began := time.Now()
		var group sync.WaitGroup
		for i := range benchWriters {
			group.Go(func() {
				for range max(1, b.N/benchWriters/benchTurns) {
					err := write(i)
					if err != nil {
						b.Errorf("write: %v", err)
						return
					}
				}
			})
		}
		group.Wait()
		return time.Since(began)
	}
	var stored, bare time.Duration
	b.ResetTimer()
	for range benchTurns {
		stored += each(func(i int) error {
			_, err := s.Update(context.Background(), "flow", ids[i], func(store.Record) (store.Edit, error) { return store.Edit{Data: data}, nil })
			return err
		})
		read()
		bare += each(func(i int) error {
			tag, err := s.pool.Exec(context.Background(), s.sql.update, []byte("flow"), []byte(ids[i]), births[i], int64(versions[i]), seconds(time.Time{}), data)
			if err == nil && tag.RowsAffected() != 1 {
				err = errDamaged
			}
			versions[i]++
			return err
		})
	}
	writes := float64(benchWriters * benchTurns * max(1, b.N/benchWriters/benchTurns))
	b.ReportMetric(writes/stored.Seconds(), "store/s")
	b.ReportMetric(writes/bare.Seconds(), "bare/s")
	b.ReportMetric(bare.Seconds()/stored.Seconds(), "store/bare")
	b.ReportMetric(0, "ns/op")
}

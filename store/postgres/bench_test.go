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
// writers, connections and bytes, with the version known beforehand. store/bare is what is left after Update, which reads
// each record first, and recalled/bare after UpdateRecalled.
func BenchmarkUpdateBesideBare(b *testing.B) {
	schema := newSchema(b)
	s := open(b, Options{Schema: schema})
	data := make([]byte, benchBytes)
	ids := make([]string, benchWriters)
	for i := range ids {
		ids[i] = fmt.Sprintf("flow-%d", i)
		_, err := s.Create(b.Context(), store.Record{Kind: "flow", ID: ids[i], Labels: map[string]string{"participant": "p"}, Data: data})
		if err != nil {
			b.Fatal(err)
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
	type update func(context.Context, string, string, func(store.Record) (store.Edit, error)) (store.Record, error)
	versions := make([]uint64, benchWriters)
	by := func(u update) func(int) error {
		return func(i int) error {
			r, err := u(context.Background(), "flow", ids[i], func(store.Record) (store.Edit, error) { return store.Edit{Data: data}, nil })
			versions[i] = r.Version
			return err
		}
	}
	swap := "UPDATE " + schema + ".record SET version = version + 1, data = $4 WHERE kind = $1 AND id = $2 AND version = $3"
	var stored, recalled, bare time.Duration
	b.ResetTimer()
	for range benchTurns {
		stored += each(by(s.Update))
		recalled += each(by(s.UpdateRecalled))
		bare += each(func(i int) error {
			tag, err := s.pool.Exec(context.Background(), swap, []byte("flow"), []byte(ids[i]), int64(versions[i]), data)
			if err == nil && tag.RowsAffected() != 1 {
				err = errDamaged
			}
			versions[i]++
			return err
		})
	}
	writes := float64(benchWriters * benchTurns * max(1, b.N/benchWriters/benchTurns))
	b.ReportMetric(writes/stored.Seconds(), "store/s")
	b.ReportMetric(writes/recalled.Seconds(), "recalled/s")
	b.ReportMetric(writes/bare.Seconds(), "bare/s")
	b.ReportMetric(bare.Seconds()/stored.Seconds(), "store/bare")
	b.ReportMetric(bare.Seconds()/recalled.Seconds(), "recalled/bare")
	b.ReportMetric(0, "ns/op")
}

package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// OpenShared opens the same empty records twice, as two gateways do that share a database. The suite closes both.
type OpenShared func(t *testing.T, clock func() time.Time) (a, b store.Store)

// RunShared tests what an engine promises that several gateways can have open at once.
func RunShared(t *testing.T, open OpenShared) {
	tests := []struct {
		name string
		run  func(*testing.T, *testkit.Clock, [2]store.Store)
	}{
		{"Seen", testSharedSeen},
		{"Update", testSharedUpdate},
		{"Namesake", testSharedNamesake},
		{"Recalled", testSharedRecalled},
		{"CreateOverExpired", testSharedCreateOverExpired},
		{"Tail", testSharedTail},
		{"Sweep", testSharedSweep},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			clock := testkit.NewClock()
			a, b := open(t, clock.Now)
			t.Cleanup(func() {
				closeStore(t, a)
				closeStore(t, b)
			})
			test.run(t, clock, [2]store.Store{a, b})
		})
	}
}

// What one has acknowledged, the other shows.
func testSharedSeen(t *testing.T, clock *testkit.Clock, gateways [2]store.Store) {
	a, b := gateways[0], gateways[1]
	created := mustCreate(t, a, store.Record{Kind: "flow", ID: "a", Labels: map[string]string{"k": "v"}, Data: []byte("1")})
	wantRecord(t, mustGet(t, b, "flow", "a"), created)
	_, err := b.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	wantError(t, "create what the other has created", err, store.ErrExists)
	updated := mustUpdate(t, b, "flow", "a", store.Edit{Data: []byte("2"), Expires: clock.Now().Add(time.Hour), Event: "e", Ending: true})
	wantRecord(t, mustGet(t, a, "flow", "a"), updated)
	page, err := a.List(t.Context(), store.Query{Kind: "flow", Label: "k", Value: "v"})
	if err != nil || len(page) != 1 {
		t.Fatalf("list: got %q, %v; want one", ids(page), err)
	}
	wantRecord(t, page[0], updated)
	entries, err := a.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 1 || entries[0].Event != "e" {
		t.Errorf("tail: got %v, %v; want the other's entry", entries, err)
	}
}

// Every increment of either is there.
func testSharedUpdate(t *testing.T, _ *testkit.Clock, gateways [2]store.Store) {
	mustCreate(t, gateways[0], store.Record{Kind: "flow", ID: "a", Data: []byte("0")})
	seen := make([]atomic.Int64, writers*rounds+1)
	inParallel(writers, func(i int) {
		for range rounds {
			r, err := gateways[i%2].Update(t.Context(), "flow", "a", increment)
			if err != nil {
				t.Errorf("update: %v", err)
				return
			}
			n, err := strconv.Atoi(string(r.Data))
			if err != nil || n < 1 || n >= len(seen) {
				t.Errorf("update returned %q", r.Data)
				return
			}
			seen[n].Add(1)
		}
	})
	for n := 1; n < len(seen); n++ {
		if seen[n].Load() != 1 {
			t.Errorf("increment to %d was returned %d times", n, seen[n].Load())
		}
	}
}

// A record that has expired and was created anew by the other meanwhile has the same id, and may have the same version.
// An update that has seen the first must not be written over the second.
func testSharedNamesake(t *testing.T, clock *testkit.Clock, gateways [2]store.Store) {
	mustCreate(t, gateways[0], store.Record{Kind: "flow", ID: "a", Expires: clock.Now().Add(time.Minute), Data: []byte("first")})
	read, release := make(chan struct{}), make(chan struct{})
	type result struct {
		record store.Record
		err    error
	}
	updated := make(chan result, 1)
	var seen []string
	go func() {
		r, err := gateways[0].Update(t.Context(), "flow", "a", func(old store.Record) (store.Edit, error) {
			seen = append(seen, string(old.Data))
			if len(seen) == 1 {
				close(read)
				<-release
			}
			return store.Edit{Data: append(old.Data, " updated"...)}, nil
		})
		updated <- result{r, err}
	}()
	<-read
	clock.Advance(time.Hour)
	mustCreate(t, gateways[1], store.Record{Kind: "flow", ID: "a", Data: []byte("second")})
	close(release)
	got := <-updated
	if got.err != nil || string(got.record.Data) != "second updated" || fmt.Sprint(seen) != "[first second]" {
		t.Errorf("got %q, %v after the edits saw %q; want the second record, updated", got.record.Data, got.err, seen)
	}
	wantData(t, "after the update", mustGet(t, gateways[1], "flow", "a").Data, "second updated")
}

// Of many who find an expired record, one creates the next, whose labels are the only ones.
func testSharedCreateOverExpired(t *testing.T, clock *testkit.Clock, gateways [2]store.Store) {
	for round := range 5 {
		won := atomic.Int64{}
		winner := atomic.Int64{}
		inParallel(16, func(i int) {
			_, err := gateways[i%2].Create(t.Context(), store.Record{
				Kind: "flow", ID: "a", Labels: map[string]string{"by": fmt.Sprint(i), "all": "yes"}, Expires: clock.Now().Add(time.Minute),
			})
			if err != nil {
				wantError(t, "create", err, store.ErrExists)
				return
			}
			won.Add(1)
			winner.Store(int64(i))
		})
		if won.Load() != 1 {
			t.Errorf("round %d: %d creations succeeded", round, won.Load())
		}
		page, err := gateways[0].List(t.Context(), store.Query{Kind: "flow", Label: "all", Value: "yes"})
		if err != nil || len(page) != 1 || page[0].Labels["by"] != fmt.Sprint(winner.Load()) {
			t.Errorf("round %d: list: got %v, %v; want the record of %d", round, page, err, winner.Load())
		}
		for i := range 16 {
			page, err = gateways[1].List(t.Context(), store.Query{Kind: "flow", Label: "by", Value: fmt.Sprint(i)})
			if err != nil || (len(page) == 1) != (int64(i) == winner.Load()) {
				t.Errorf("round %d: list by label of %d: got %q, %v", round, i, ids(page), err)
			}
		}
		clock.Advance(time.Hour)
	}
}

// Readers of either see the entries of both in one order without gaps, while others sweep the log.
func testSharedTail(t *testing.T, clock *testkit.Clock, gateways [2]store.Store) {
	for i := range 8 {
		mustCreate(t, gateways[0], store.Record{Kind: "flow", ID: fmt.Sprint(i)})
	}
	written := atomic.Bool{}
	logs := make(chan []store.Entry, 2)
	for _, s := range gateways {
		go func() {
			var all []store.Entry
			for {
				last := written.Load()
				entries, err := s.Tail(t.Context(), uint64(len(all)), 10)
				if err != nil {
					t.Errorf("tail: %v", err)
					break
				}
				all = append(all, entries...)
				if len(entries) == 0 && last {
					break
				}
			}
			logs <- all
		}()
	}
	inParallel(writers, func(i int) {
		for range rounds {
			_, err := gateways[i%2].Update(t.Context(), "flow", fmt.Sprint(i%8), write(store.Edit{Event: fmt.Sprint(i)}))
			if err != nil {
				t.Errorf("update: %v", err)
			}
		}
	})
	written.Store(true)
	first, second := <-logs, <-logs
	if len(first) != writers*rounds || len(second) != len(first) {
		t.Fatalf("the readers have %d and %d entries, want %d", len(first), len(second), writers*rounds)
	}
	versions := map[string]uint64{}
	for i, e := range first {
		if e.Seq != uint64(i)+1 || e != second[i] {
			t.Fatalf("entry %d is %+v for one and %+v for the other", i+1, e, second[i])
		}
		if e.Version <= versions[e.ID] {
			t.Errorf("entry %d has version %d of %s after version %d", e.Seq, e.Version, e.ID, versions[e.ID])
		}
		versions[e.ID] = e.Version
	}

	clock.Advance(time.Hour)
	removed := [2]int{}
	inParallel(2, func(i int) { _, removed[i] = sweepAll(t, gateways[i], clock.Now(), 0) })
	if removed[0]+removed[1] != len(first)-1 {
		t.Errorf("the sweeps removed %d and %d entries, want all of %d but the newest", removed[0], removed[1], len(first))
	}
	for _, s := range gateways {
		entries, err := s.Tail(t.Context(), 0, 0)
		if !errors.Is(err, store.ErrTrimmed) || len(entries) != 1 || entries[0].Seq != uint64(len(first)) {
			t.Errorf("tail of a swept log: got %v, %v; want the newest entry and ErrTrimmed", entries, err)
		}
	}
}

// Each expired record is counted by one of those who sweep at the same time.
func testSharedSweep(t *testing.T, clock *testkit.Clock, gateways [2]store.Store) {
	const records = 1200
	inParallel(40, func(i int) {
		for j := range records / 40 {
			r := store.Record{Kind: "flow", ID: fmt.Sprintf("%d-%d", i, j), Labels: map[string]string{"k": "v"}, Expires: clock.Now().Add(time.Second)}
			_, err := gateways[i%2].Create(t.Context(), r)
			if err != nil {
				t.Errorf("create: %v", err)
			}
		}
	})
	clock.Advance(time.Minute)
	removed := [2]int{}
	inParallel(2, func(i int) { _, removed[i] = sweepAll(t, gateways[i], clock.Now(), 0) })
	_, rest := sweepAll(t, gateways[0], clock.Now(), 0) // what each has left to the other
	if removed[0]+removed[1]+rest != records {
		t.Errorf("the sweeps removed %d, %d and %d records, want %d together", removed[0], removed[1], rest, records)
	}
}

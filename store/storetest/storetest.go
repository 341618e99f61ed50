// Package storetest is the conformance suite of the store contract. Every implementation of store.Store runs it in its
// own tests, over the engine it ships with.
package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// Open opens an empty store that tells the time by clock. It may stop the test. The suite closes what it opens.
type Open func(t *testing.T, clock func() time.Time) store.Store

// OpenDurable opens an empty store, as Open does, and returns besides a function that opens the same records again after
// the store has been closed.
type OpenDurable func(t *testing.T, clock func() time.Time) (store.Store, func(t *testing.T) store.Store)

// Run tests everything that the contract promises of any store.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"Create", testCreate},
		{"CreateExists", testCreateExists},
		{"CreateOverExpired", testCreateOverExpired},
		{"CreateConcurrent", testCreateConcurrent},
		{"Get", testGet},
		{"Update", testUpdate},
		{"UpdateKeep", testUpdateKeep},
		{"UpdateError", testUpdateError},
		{"UpdatePanic", testUpdatePanic},
		{"UpdateConcurrent", testUpdateConcurrent},
		{"UpdateManyRecords", testUpdateManyRecords},
		{"UpdateRecalled", testUpdateRecalled},
		{"Expiry", testExpiry},
		{"ExpiryMoved", testExpiryMoved},
		{"ExpiryPrecision", testExpiryPrecision},
		{"Ownership", testOwnership},
		{"OwnershipOfLabels", testOwnershipOfLabels},
		{"Limits", testLimits},
		{"LimitsOfUpdate", testLimitsOfUpdate},
		{"ListOrder", testListOrder},
		{"ListLabel", testListLabel},
		{"ListPaging", testListPaging},
		{"ListSkipsExpired", testListSkipsExpired},
		{"LabelsStay", testLabelsStay},
		{"Tail", testTail},
		{"TailPaging", testTailPaging},
		{"TailConcurrent", testTailConcurrent},
		{"SweepRecords", testSweepRecords},
		{"SweepBounded", testSweepBounded},
		{"SweepLog", testSweepLog},
		{"SweepConcurrent", testSweepConcurrent},
		{"Cancelled", testCancelled},
		{"Health", testHealth},
		{"Closed", testClosed},
		{"CloseWaits", testCloseWaits},
		{"CloseUnderLoad", testCloseUnderLoad},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := &fixture{clock: testkit.NewClock()}
			f.Store = open(t, f.clock.Now)
			t.Cleanup(func() { closeStore(t, f.Store) })
			test.run(t, f)
		})
	}
}

// fixture is a store and its time.
type fixture struct {
	store.Store
	clock *testkit.Clock
}

func closeStore(t *testing.T, s store.Store) {
	t.Helper()
	err := s.Close()
	if err != nil {
		t.Errorf("close: %v", err)
	}
}

func mustCreate(t *testing.T, s store.Store, r store.Record) store.Record {
	t.Helper()
	created, err := s.Create(t.Context(), r)
	if err != nil {
		t.Fatalf("create %s %q: %v", r.Kind, r.ID, err)
	}
	return created
}

func mustGet(t *testing.T, s store.Store, kind, id string) store.Record {
	t.Helper()
	r, err := s.Get(t.Context(), kind, id)
	if err != nil {
		t.Fatalf("get %s %q: %v", kind, id, err)
	}
	return r
}

func mustUpdate(t *testing.T, s store.Store, kind, id string, e store.Edit) store.Record {
	t.Helper()
	r, err := s.Update(t.Context(), kind, id, write(e))
	if err != nil {
		t.Fatalf("update %s %q: %v", kind, id, err)
	}
	return r
}

// write returns an edit closure that writes e.
func write(e store.Edit) func(store.Record) (store.Edit, error) {
	return func(store.Record) (store.Edit, error) { return e, nil }
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func wantRecord(t *testing.T, got, want store.Record) {
	t.Helper()
	if got.Kind != want.Kind || got.ID != want.ID || got.Version != want.Version || string(got.Data) != string(want.Data) ||
		!got.Expires.Equal(want.Expires) || !sameLabels(got.Labels, want.Labels) {
		t.Errorf("got record %+v, want %+v", got, want)
	}
}

func sameLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, value := range a {
		other, ok := b[name]
		if !ok || other != value {
			return false
		}
	}
	return true
}

func ids(records []store.Record) []string {
	list := make([]string, 0, len(records))
	for _, r := range records {
		list = append(list, r.ID)
	}
	return list
}

// sweepAll sweeps until nothing is left. It returns how many calls removed something, and how much they removed.
func sweepAll(t *testing.T, s store.Store, now time.Time, keepLog time.Duration) (int, int) {
	t.Helper()
	calls, removed := 0, 0
	for {
		n, err := s.Sweep(t.Context(), now, keepLog)
		if err != nil {
			t.Fatalf("sweep: %v", err)
		}
		if n == 0 {
			return calls, removed
		}
		calls++
		removed += n
		if calls > 10_000 {
			t.Fatalf("sweep does not come to an end: %d calls removed %d", calls, removed)
		}
	}
}

// tailAll reads the log from its start.
func tailAll(ctx context.Context, s store.Store, page int) ([]store.Entry, error) {
	var all []store.Entry
	after := uint64(0)
	for {
		entries, err := s.Tail(ctx, after, page)
		if err != nil {
			return all, err
		}
		if len(entries) == 0 {
			return all, nil
		}
		all = append(all, entries...)
		after = entries[len(entries)-1].Seq
	}
}

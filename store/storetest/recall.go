package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// UpdateRecalled comes to the same as Update, for a store that remembers records and for one that does not.
func testUpdateRecalled(t *testing.T, f *fixture) {
	_, err := store.UpdateRecalled(t.Context(), f.Store, "flow", "a", increment)
	wantError(t, "update of nothing", err, store.ErrNotFound)
	labels := map[string]string{"k": "v"}
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Labels: labels, Data: []byte("0")})
	mustGet(t, f, "flow", "a")
	for i := 1; i <= 3; i++ {
		r, err := store.UpdateRecalled(t.Context(), f.Store, "flow", "a", increment)
		if err != nil {
			t.Fatal(err)
		}
		want := store.Record{Kind: "flow", ID: "a", Version: uint64(i) + 1, Labels: labels, Data: []byte(strconv.Itoa(i))}
		wantRecord(t, r, want)
		r.Data[0], r.Labels["k"] = 'x', "changed" // what is returned is the caller's
		wantRecord(t, mustGet(t, f, "flow", "a"), want)
	}
	_, err = store.UpdateRecalled(t.Context(), f.Store, "flow", "a", write(store.Edit{Data: make([]byte, store.MaxDataBytes+1)}))
	wantError(t, "too much data", err, store.ErrInvalid)
	refusal := errors.New("refused by the test")
	_, err = store.UpdateRecalled(t.Context(), f.Store, "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, refusal })
	wantError(t, "refused", err, refusal)
	r, err := store.UpdateRecalled(t.Context(), f.Store, "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, store.ErrKeep })
	if err != nil {
		t.Fatal(err)
	}
	wantRecord(t, r, store.Record{Kind: "flow", ID: "a", Version: 4, Labels: labels, Data: []byte("3")})

	_, err = store.UpdateRecalled(t.Context(), f.Store, "flow", "a", write(store.Edit{Expires: f.clock.Now().Add(time.Minute), Event: "e", Ending: true}))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 1 || entries[0].Event != "e" || entries[0].Version != 5 {
		t.Errorf("tail: got %v, %v; want the entry of version 5", entries, err)
	}
	f.clock.Advance(time.Minute)
	_, known := store.Recall(f.Store, "flow", "a")
	if known {
		t.Error("a record that has expired is recalled")
	}
	_, err = store.UpdateRecalled(t.Context(), f.Store, "flow", "a", increment)
	wantError(t, "update of what has expired", err, store.ErrNotFound)
}

// What one remembers decides nothing once the other has changed it.
func testSharedRecalled(t *testing.T, clock *testkit.Clock, gateways [2]store.Store) {
	a, b := gateways[0], gateways[1]
	refusal := errors.New("refused by the test")
	tests := []struct {
		name string
		edit func(old string) (store.Edit, error) // given the first content it does what must not count
		want string
		err  error
	}{
		{"written over another content", func(old string) (store.Edit, error) { return store.Edit{Data: []byte(old + "+")}, nil }, "second+", nil},
		{"refused for the old content", func(old string) (store.Edit, error) {
			if old == "first" {
				return store.Edit{}, refusal
			}
			return store.Edit{Data: []byte(old + "+")}, nil
		}, "second+", nil},
		{"kept for the old content", func(old string) (store.Edit, error) {
			if old == "first" {
				return store.Edit{}, store.ErrKeep
			}
			return store.Edit{Data: []byte(old + "+")}, nil
		}, "second+", nil},
		{"refused for the new content", func(old string) (store.Edit, error) {
			if old == "second" {
				return store.Edit{}, refusal
			}
			return store.Edit{Data: []byte(old + "+")}, nil
		}, "second", refusal},
		{"kept for the new content", func(old string) (store.Edit, error) {
			if old == "second" {
				return store.Edit{}, store.ErrKeep
			}
			return store.Edit{Data: []byte(old + "+")}, nil
		}, "second", nil},
		{"too large for the old content", func(old string) (store.Edit, error) {
			if old == "first" {
				return store.Edit{Data: make([]byte, store.MaxDataBytes+1)}, nil
			}
			return store.Edit{Data: []byte(old + "+")}, nil
		}, "second+", nil},
	}
	for i, test := range tests {
		for _, anew := range []bool{false, true} {
			id := fmt.Sprint(i, anew)
			mustCreate(t, a, store.Record{Kind: "flow", ID: id, Data: []byte("first"), Expires: clock.Now().Add(time.Minute)})
			mustGet(t, a, "flow", id)
			if anew { // the other's is another record, with the same version
				mustUpdate(t, b, "flow", id, store.Edit{Expires: clock.Now()})
				mustCreate(t, b, store.Record{Kind: "flow", ID: id, Data: []byte("second")})
			} else {
				mustUpdate(t, b, "flow", id, store.Edit{Data: []byte("second")})
			}
			_, err := store.UpdateRecalled(t.Context(), a, "flow", id, func(old store.Record) (store.Edit, error) { return test.edit(string(old.Data)) })
			if !errors.Is(err, test.err) {
				t.Errorf("%s, created anew %v: got error %v, want %v", test.name, anew, err, test.err)
			}
			wantData(t, test.name, mustGet(t, b, "flow", id).Data, test.want)
		}
	}

	mustCreate(t, a, store.Record{Kind: "flow", ID: "gone", Data: []byte("0")})
	mustGet(t, a, "flow", "gone")
	mustUpdate(t, b, "flow", "gone", store.Edit{Expires: clock.Now()})
	_, err := store.UpdateRecalled(t.Context(), a, "flow", "gone", increment)
	wantError(t, "update of what the other has ended", err, store.ErrNotFound)
	wantRecord(t, mustCreate(t, a, store.Record{Kind: "flow", ID: "gone"}), store.Record{Kind: "flow", ID: "gone", Version: 1})

	mustCreate(t, a, store.Record{Kind: "flow", ID: "counted", Data: []byte("0")})
	inParallel(writers, func(i int) {
		for range rounds {
			_, err := store.UpdateRecalled(t.Context(), gateways[i%2], "flow", "counted", increment)
			if err != nil {
				t.Errorf("update: %v", err)
				return
			}
		}
	})
	wantData(t, "after the increments of both", mustGet(t, b, "flow", "counted").Data, strconv.Itoa(writers*rounds))
}

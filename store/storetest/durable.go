package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// RunDurable tests that all of a store is there again after it has been closed and opened.
func RunDurable(t *testing.T, open OpenDurable) {
	t.Run("Reopen", func(t *testing.T) {
		c := testkit.NewClock()
		s, reopen := open(t, c.Now)
		f := &fixture{Store: s, clock: c}
		want := fill(t, f)
		closeStore(t, s)

		f.Store = reopen(t)
		t.Cleanup(func() { closeStore(t, f.Store) })
		check(t, f, want)
	})
	t.Run("ReopenAfterSweep", func(t *testing.T) {
		c := testkit.NewClock()
		s, reopen := open(t, c.Now)
		f := &fixture{Store: s, clock: c}
		fill(t, f)
		c.Advance(2 * time.Hour)
		sweepAll(t, s, c.Now(), 0)
		closeStore(t, s)

		f.Store = reopen(t)
		t.Cleanup(func() { closeStore(t, f.Store) })
		calls, removed := sweepAll(t, f, c.Now(), 0)
		if removed != 0 {
			t.Errorf("%d sweeps removed %d again", calls, removed)
		}
		entries, err := f.Tail(t.Context(), 0, 0)
		if !errors.Is(err, store.ErrTrimmed) || len(entries) != 1 || entries[0].Seq != 10 {
			t.Errorf("tail: got %v, %v; want the newest entry and ErrTrimmed", entries, err)
		}
		page, err := f.List(t.Context(), store.Query{Kind: "flow"})
		if err != nil || len(page) != 40 {
			t.Errorf("list: got %d records, %v; want 40", len(page), err)
		}
	})
}

// fill writes 50 records, 10 of which expire after an hour, and 10 log entries.
func fill(t *testing.T, f *fixture) []store.Record {
	t.Helper()
	var records []store.Record
	for i := range 50 {
		r := store.Record{Kind: "flow", ID: fmt.Sprintf("%02d", i), Labels: map[string]string{"tens": fmt.Sprint(i / 10)}, Data: []byte{byte(i)}}
		if i < 10 {
			r.Expires = f.clock.Now().Add(time.Hour)
		}
		r = mustCreate(t, f, r)
		if i%5 == 0 {
			r = mustUpdate(t, f, r.Kind, r.ID, store.Edit{Data: []byte("updated"), Expires: r.Expires, Event: "e"})
		}
		records = append(records, r)
	}
	return records
}

func check(t *testing.T, f *fixture, want []store.Record) {
	t.Helper()
	for _, r := range want {
		wantRecord(t, mustGet(t, f, r.Kind, r.ID), r)
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "tens", Value: "2"})
	if err != nil || len(page) != 10 {
		t.Errorf("list by label: got %q, %v; want ten", ids(page), err)
	}
	entries, err := tailAll(t.Context(), f, 3)
	if err != nil || len(entries) != 10 {
		t.Errorf("tail: got %d entries, %v; want 10", len(entries), err)
	}
	r := mustUpdate(t, f, "flow", "49", store.Edit{Event: "e"})
	if r.Version != want[49].Version+1 {
		t.Errorf("version went on with %d after %d", r.Version, want[49].Version)
	}
	entries, err = f.Tail(t.Context(), 10, 0)
	if err != nil || len(entries) != 1 || entries[0].Seq != 11 {
		t.Errorf("log went on with %v, %v; want entry 11", entries, err)
	}
	_, err = f.Create(t.Context(), store.Record{Kind: "flow", ID: "00"})
	wantError(t, "create what was there", err, store.ErrExists)
	f.clock.Advance(2 * time.Hour)
	_, removed := sweepAll(t, f, f.clock.Now(), 24*time.Hour)
	if removed != 10 {
		t.Errorf("sweep removed %d, want 10", removed)
	}
}

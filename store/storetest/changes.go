package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

func testTail(t *testing.T, f *fixture) {
	entries, err := f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 0 {
		t.Fatalf("tail of an empty log: got %v, %v; want nothing", entries, err)
	}
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a/\xff"})
	mustCreate(t, f, store.Record{Kind: "flow", ID: "b"})
	mustUpdate(t, f, "flow", "a/\xff", store.Edit{})
	first := f.clock.Now()
	mustUpdate(t, f, "flow", "a/\xff", store.Edit{Event: "suspended", Ending: true})
	f.clock.Advance(time.Minute)
	mustUpdate(t, f, "flow", "b", store.Edit{Event: "ended"})
	want := []store.Entry{
		{Seq: 1, Kind: "flow", ID: "a/\xff", Version: 3, Event: "suspended", At: first},
		{Seq: 2, Kind: "flow", ID: "b", Version: 2, Event: "ended", At: first.Add(time.Minute)},
	}
	entries, err = f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 2 {
		t.Fatalf("tail: got %v, %v; want %v", entries, err, want)
	}
	for i, e := range entries {
		w := want[i]
		if !e.At.Equal(w.At) {
			t.Errorf("entry %d was written at %v, want %v", e.Seq, e.At, w.At)
		}
		e.At, w.At = time.Time{}, time.Time{}
		if e != w {
			t.Errorf("got entry %+v, want %+v", e, w)
		}
	}
	entries, err = f.Tail(t.Context(), 2, 0)
	if err != nil || len(entries) != 0 {
		t.Errorf("tail behind the newest: got %v, %v; want nothing", entries, err)
	}
}

func testTailPaging(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a"})
	for i := range 25 {
		mustUpdate(t, f, "flow", "a", store.Edit{Event: fmt.Sprint(i)})
	}
	for _, limit := range []int{1, 7, 25, 100, 0, -1, store.MaxPage + 1} {
		entries, err := tailAll(t.Context(), f, limit)
		if err != nil || len(entries) != 25 {
			t.Fatalf("limit %d: got %d entries, %v; want 25", limit, len(entries), err)
		}
		for i, e := range entries {
			if e.Seq != uint64(i)+1 || e.Version != uint64(i)+2 || e.Event != fmt.Sprint(i) {
				t.Errorf("limit %d: entry %d is %+v", limit, i, e)
			}
		}
	}
	entries, err := f.Tail(t.Context(), 20, 3)
	if err != nil || len(entries) != 3 || entries[0].Seq != 21 {
		t.Errorf("tail of three behind 20: got %v, %v", entries, err)
	}
}

// A reader who follows the log while many write sees every entry once, in order and without a gap, and each record's
// versions grow.
func testTailConcurrent(t *testing.T, f *fixture) {
	for i := range 8 {
		mustCreate(t, f, store.Record{Kind: "flow", ID: fmt.Sprint(i)})
	}
	written := atomic.Bool{}
	read := make(chan []store.Entry, 1)
	go func() {
		var all []store.Entry
		for {
			last := written.Load()
			after := uint64(len(all))
			entries, err := f.Tail(t.Context(), after, 10)
			if err != nil {
				t.Errorf("tail: %v", err)
				break
			}
			all = append(all, entries...)
			if len(entries) == 0 && last {
				break
			}
		}
		read <- all
	}()
	inParallel(writers, func(i int) {
		for range rounds {
			_, err := f.Update(t.Context(), "flow", fmt.Sprint(i%8), write(store.Edit{Event: fmt.Sprint(i)}))
			if err != nil {
				t.Errorf("update: %v", err)
			}
		}
	})
	written.Store(true)
	entries := <-read
	if len(entries) != writers*rounds {
		t.Errorf("read %d entries, want %d", len(entries), writers*rounds)
	}
	versions := make(map[string]uint64)
	for i, e := range entries {
		if e.Seq != uint64(i)+1 {
			t.Fatalf("entry %d has sequence %d", i+1, e.Seq)
		}
		if e.Version <= versions[e.ID] {
			t.Errorf("entry %d has version %d of %s after version %d", e.Seq, e.Version, e.ID, versions[e.ID])
		}
		versions[e.ID] = e.Version
	}
}

func testSweepRecords(t *testing.T, f *fixture) {
	now := f.clock.Now()
	mustCreate(t, f, store.Record{Kind: "flow", ID: "early", Labels: map[string]string{"k": "v"}, Expires: now.Add(time.Minute)})
	mustCreate(t, f, store.Record{Kind: "flow", ID: "late", Labels: map[string]string{"k": "v"}, Expires: now.Add(time.Hour)})
	mustCreate(t, f, store.Record{Kind: "flow", ID: "never", Labels: map[string]string{"k": "v"}})
	_, removed := sweepAll(t, f, now, 0)
	if removed != 0 {
		t.Errorf("sweep before any expiry removed %d", removed)
	}
	f.clock.Advance(2 * time.Minute)
	_, removed = sweepAll(t, f, f.clock.Now(), 0)
	if removed != 1 {
		t.Errorf("sweep removed %d, want 1", removed)
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "k", Value: "v"})
	if err != nil || fmt.Sprint(ids(page)) != "[late never]" {
		t.Errorf("left are %q, %v; want late and never", ids(page), err)
	}
	mustUpdate(t, f, "flow", "never", store.Edit{})
}

// One call does a bounded part of the work, and enough calls do all of it.
func testSweepBounded(t *testing.T, f *fixture) {
	const records = 2500
	inParallel(50, func(i int) {
		for j := range records / 50 {
			r := store.Record{Kind: "flow", ID: fmt.Sprintf("%d-%d", i, j), Labels: map[string]string{"k": "v"}, Expires: f.clock.Now().Add(time.Second)}
			_, err := f.Create(t.Context(), r)
			if err != nil {
				t.Errorf("create: %v", err)
			}
		}
	})
	mustCreate(t, f, store.Record{Kind: "flow", ID: "stays"})
	f.clock.Advance(time.Minute)
	calls, removed := sweepAll(t, f, f.clock.Now(), 0)
	if removed != records || calls < 2 {
		t.Errorf("%d calls removed %d records, want %d in at least 2", calls, removed, records)
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil || fmt.Sprint(ids(page)) != "[stays]" {
		t.Errorf("left are %q, %v", ids(page), err)
	}
}

func testSweepLog(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a"})
	for range 10 {
		mustUpdate(t, f, "flow", "a", store.Edit{Event: "e"})
		f.clock.Advance(time.Minute)
	}
	now := f.clock.Now() // entries were written 10, 9, ... 1 minutes ago
	_, removed := sweepAll(t, f, now, time.Hour)
	if removed != 0 {
		t.Errorf("sweep removed %d entries that were to be kept", removed)
	}
	_, removed = sweepAll(t, f, now, 5*time.Minute+time.Second)
	if removed != 5 {
		t.Errorf("sweep removed %d entries, want 5", removed)
	}
	for after, want := range map[uint64]error{0: store.ErrTrimmed, 4: store.ErrTrimmed, 5: nil, 9: nil, 10: nil} {
		entries, err := f.Tail(t.Context(), after, 0)
		if !errors.Is(err, want) {
			t.Errorf("tail behind %d: got error %v, want %v", after, err, want)
		}
		first := max(after, 5) + 1
		if first <= 10 && (len(entries) != int(11-first) || entries[0].Seq != first) {
			t.Errorf("tail behind %d: got %v, want entries from %d on", after, entries, first)
		}
	}

	// The newest entry stays, and sequences go on behind it.
	_, removed = sweepAll(t, f, now.Add(time.Hour), 0)
	if removed != 4 {
		t.Errorf("sweep of the whole log removed %d entries, want 4", removed)
	}
	entries, err := f.Tail(t.Context(), 0, 0)
	if !errors.Is(err, store.ErrTrimmed) || len(entries) != 1 || entries[0].Seq != 10 {
		t.Errorf("tail of a swept log: got %v, %v; want the newest entry and ErrTrimmed", entries, err)
	}
	mustUpdate(t, f, "flow", "a", store.Edit{Event: "e"})
	entries, err = f.Tail(t.Context(), 10, 0)
	if err != nil || len(entries) != 1 || entries[0].Seq != 11 {
		t.Errorf("tail after a sweep and a write: got %v, %v; want entry 11", entries, err)
	}
}

// A record that is renewed while it is swept is either swept or renewed.
func testSweepConcurrent(t *testing.T, f *fixture) {
	for i := range writers {
		mustCreate(t, f, store.Record{Kind: "flow", ID: fmt.Sprint(i), Expires: f.clock.Now().Add(time.Minute)})
	}
	sweepAt := f.clock.Now().Add(time.Hour) // by a clock that is ahead
	renewed := make([]atomic.Bool, writers)
	inParallel(writers+2, func(i int) {
		if i >= writers {
			sweepAll(t, f, sweepAt, 0)
			return
		}
		_, err := f.Update(t.Context(), "flow", fmt.Sprint(i), write(store.Edit{Expires: f.clock.Now().Add(2 * time.Hour)}))
		renewed[i].Store(err == nil)
		if err != nil {
			wantError(t, "renew", err, store.ErrNotFound)
		}
	})
	for i := range writers {
		_, err := f.Get(t.Context(), "flow", fmt.Sprint(i))
		if renewed[i].Load() != (err == nil) {
			t.Errorf("record %d: renewed is %v, get returned %v", i, renewed[i].Load(), err)
		}
	}
}

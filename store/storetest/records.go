package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

func testCreate(t *testing.T, f *fixture) {
	want := store.Record{
		Kind: "flow", ID: "a", Version: 1, Labels: map[string]string{"plane": "p", "empty": ""},
		Expires: f.clock.Now().Add(time.Hour), Data: []byte("x\x00y"),
	}
	given := want
	given.Version = 77 // set by the store
	wantRecord(t, mustCreate(t, f, given), want)
	wantRecord(t, mustGet(t, f, "flow", "a"), want)

	wantRecord(t, mustCreate(t, f, store.Record{Kind: "flow", ID: "bare"}), store.Record{Kind: "flow", ID: "bare", Version: 1})
	wantRecord(t, mustGet(t, f, "flow", "bare"), store.Record{Kind: "flow", ID: "bare", Version: 1})
}

func testCreateExists(t *testing.T, f *fixture) {
	first := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Labels: map[string]string{"k": "v"}, Data: []byte("1")})
	_, err := f.Create(t.Context(), store.Record{Kind: "flow", ID: "a", Labels: map[string]string{"k": "w"}, Data: []byte("2")})
	wantError(t, "create again", err, store.ErrExists)
	wantRecord(t, mustGet(t, f, "flow", "a"), first)

	other := mustCreate(t, f, store.Record{Kind: "other", ID: "a", Data: []byte("3")})
	wantRecord(t, mustGet(t, f, "other", "a"), other)
	wantRecord(t, mustGet(t, f, "flow", "a"), first)
}

func testCreateOverExpired(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{
		Kind: "flow", ID: "a", Labels: map[string]string{"k": "old", "gone": "x"}, Expires: f.clock.Now().Add(time.Minute), Data: []byte("1"),
	})
	mustUpdate(t, f, "flow", "a", store.Edit{Data: []byte("2"), Expires: f.clock.Now().Add(time.Minute)})
	f.clock.Advance(time.Minute)
	second := mustCreate(t, f, store.Record{
		Kind: "flow", ID: "a", Labels: map[string]string{"k": "new"}, Expires: f.clock.Now().Add(time.Hour), Data: []byte("3"),
	})
	if second.Version != 1 {
		t.Errorf("version is %d, want 1", second.Version)
	}
	wantRecord(t, mustGet(t, f, "flow", "a"), second)
	for _, q := range []store.Query{{Kind: "flow", Label: "k", Value: "old"}, {Kind: "flow", Label: "gone", Value: "x"}} {
		page, err := f.List(t.Context(), q)
		if err != nil || len(page) != 0 {
			t.Errorf("list %s=%s: got %q, %v; want nothing", q.Label, q.Value, ids(page), err)
		}
	}
	// What is left of the first record's expiry must not take the second away.
	sweepAll(t, f, f.clock.Now().Add(time.Second), 0)
	wantRecord(t, mustGet(t, f, "flow", "a"), second)
}

func testGet(t *testing.T, f *fixture) {
	_, err := f.Get(t.Context(), "flow", "a")
	wantError(t, "get what was never there", err, store.ErrNotFound)
	mustCreate(t, f, store.Record{Kind: "flow", ID: "ab"})
	for _, key := range [][2]string{{"flow", "a"}, {"flow", "abc"}, {"flo", "wab"}, {"flowa", "b"}, {"Flow", "ab"}} {
		_, err = f.Get(t.Context(), key[0], key[1])
		wantError(t, fmt.Sprintf("get %q", key), err, store.ErrNotFound)
	}
}

func testUpdate(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Labels: map[string]string{"k": "v"}, Data: []byte("1")})
	later := f.clock.Now().Add(time.Hour)
	updated, err := f.Update(t.Context(), "flow", "a", func(old store.Record) (store.Edit, error) {
		wantRecord(t, old, created)
		return store.Edit{Data: []byte("2"), Expires: later}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := created
	want.Version, want.Expires, want.Data = 2, later, []byte("2")
	wantRecord(t, updated, want)
	wantRecord(t, mustGet(t, f, "flow", "a"), want)

	updated = mustUpdate(t, f, "flow", "a", store.Edit{Ending: true})
	want.Version, want.Expires, want.Data = 3, time.Time{}, nil
	wantRecord(t, updated, want)
	wantRecord(t, mustGet(t, f, "flow", "a"), want)

	called := false
	_, err = f.Update(t.Context(), "flow", "b", func(store.Record) (store.Edit, error) {
		called = true
		return store.Edit{}, nil
	})
	wantError(t, "update what is not there", err, store.ErrNotFound)
	if called {
		t.Error("edit was called for a record that is not there")
	}
}

func testUpdateKeep(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Data: []byte("1")})
	kept, err := f.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
		return store.Edit{Data: []byte("2"), Event: "no"}, fmt.Errorf("nothing to do: %w", store.ErrKeep)
	})
	if err != nil {
		t.Fatalf("update that keeps: %v", err)
	}
	wantRecord(t, kept, created)
	wantRecord(t, mustGet(t, f, "flow", "a"), created)
	entries, err := f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 0 {
		t.Errorf("tail: got %v, %v; want nothing", entries, err)
	}
}

func testUpdateError(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Data: []byte("1")})
	refusal := errors.New("refused by the test")
	_, err := f.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
		return store.Edit{Data: []byte("2"), Event: "no"}, refusal
	})
	if err != refusal { //nolint:errorlint // the contract: as it is
		t.Errorf("got error %v, want that of the closure as it is", err)
	}
	wantRecord(t, mustGet(t, f, "flow", "a"), created)
	entries, err := f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 0 {
		t.Errorf("tail: got %v, %v; want nothing", entries, err)
	}
}

// A closure that panics must harm nobody but its caller.
func testUpdatePanic(t *testing.T, f *fixture) {
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Data: []byte("1")})
	thrown := make(chan any, 1)
	func() {
		defer func() { thrown <- recover() }()
		_, err := f.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) { panic("by the test") })
		thrown <- err
	}()
	got := <-thrown
	if got == nil || !strings.Contains(fmt.Sprint(got), "by the test") {
		t.Errorf("caller saw %v, want the panic of its closure", got)
	}
	wantRecord(t, mustGet(t, f, "flow", "a"), created)
	wantRecord(t, mustUpdate(t, f, "flow", "a", store.Edit{Data: []byte("2")}),
		store.Record{Kind: "flow", ID: "a", Version: 2, Data: []byte("2")})
}

func testExpiry(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Expires: f.clock.Now().Add(time.Minute)})
	f.clock.Advance(time.Minute - time.Nanosecond)
	mustGet(t, f, "flow", "a")
	f.clock.Advance(time.Nanosecond)
	_, err := f.Get(t.Context(), "flow", "a")
	wantError(t, "get at the time of expiry", err, store.ErrNotFound)
	called := false
	_, err = f.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
		called = true
		return store.Edit{}, nil
	})
	wantError(t, "update at the time of expiry", err, store.ErrNotFound)
	if called {
		t.Error("edit was called for an expired record")
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil || len(page) != 0 {
		t.Errorf("list at the time of expiry: got %q, %v; want nothing", ids(page), err)
	}
}

func testExpiryMoved(t *testing.T, f *fixture) {
	start := f.clock.Now()
	for _, id := range []string{"longer", "shorter", "never", "now"} {
		expires := start.Add(time.Minute)
		if id == "now" {
			expires = time.Time{}
		}
		mustCreate(t, f, store.Record{Kind: "flow", ID: id, Expires: expires})
	}
	mustUpdate(t, f, "flow", "longer", store.Edit{Expires: start.Add(time.Hour)})
	mustUpdate(t, f, "flow", "shorter", store.Edit{Expires: start.Add(time.Second)})
	mustUpdate(t, f, "flow", "never", store.Edit{})
	mustUpdate(t, f, "flow", "now", store.Edit{Expires: start.Add(time.Second)})
	f.clock.Advance(2 * time.Minute)
	_, removed := sweepAll(t, f, f.clock.Now(), 0)
	if removed != 2 {
		t.Errorf("sweep removed %d, want 2", removed)
	}
	page, err := f.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil || strings.Join(ids(page), " ") != "longer never" {
		t.Errorf("list: got %q, %v; want longer and never", ids(page), err)
	}
}

// Times go in and out unchanged, whatever zone they were in, and however far away they are.
func testExpiryPrecision(t *testing.T, f *fixture) {
	for i, expires := range []time.Time{
		f.clock.Now().Add(time.Hour + time.Microsecond),
		f.clock.Now().Add(time.Hour).In(time.FixedZone("east", 3*3600)),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		id := fmt.Sprint(i)
		mustCreate(t, f, store.Record{Kind: "flow", ID: id, Expires: expires})
		got := mustGet(t, f, "flow", id).Expires
		if !got.Equal(expires) {
			t.Errorf("expiry came back as %v, want %v", got, expires)
		}
	}
}

// Nobody can change the store through memory that was passed in or given out.
func testOwnership(t *testing.T, f *fixture) {
	data := []byte("abc")
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Data: data})
	spoil(data)
	spoil(created.Data)
	got := mustGet(t, f, "flow", "a")
	wantData(t, "after create", got.Data, "abc")
	spoil(got.Data)
	wantData(t, "after get", mustGet(t, f, "flow", "a").Data, "abc")

	edit := []byte("def")
	updated := mustUpdate(t, f, "flow", "a", store.Edit{Data: edit, Event: "e"})
	spoil(edit)
	spoil(updated.Data)
	wantData(t, "after update", mustGet(t, f, "flow", "a").Data, "def")

	kept, err := f.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, store.ErrKeep })
	if err != nil {
		t.Fatal(err)
	}
	spoil(kept.Data)
	wantData(t, "after keep", mustGet(t, f, "flow", "a").Data, "def")

	page, err := f.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil || len(page) != 1 {
		t.Fatalf("list: got %q, %v", ids(page), err)
	}
	spoil(page[0].Data)
	wantData(t, "after list", mustGet(t, f, "flow", "a").Data, "def")

	entries, err := f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 1 {
		t.Fatalf("tail: got %v, %v", entries, err)
	}
	entries[0].Event = "spoiled"
	entries, err = f.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 1 || entries[0].Event != "e" {
		t.Errorf("after tail: got %v, %v", entries, err)
	}
}

func testOwnershipOfLabels(t *testing.T, f *fixture) {
	labels := map[string]string{"k": "v"}
	created := mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Labels: labels})
	labels["k"] = "spoiled"
	created.Labels["k"] = "spoiled"
	got := mustGet(t, f, "flow", "a")
	got.Labels["k"] = "spoiled"
	updated := mustUpdate(t, f, "flow", "a", store.Edit{})
	updated.Labels["new"] = "spoiled"
	page, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "k", Value: "v"})
	if err != nil || len(page) != 1 {
		t.Fatalf("list by the label: got %q, %v; want one", ids(page), err)
	}
	page[0].Labels["k"] = "spoiled"
	wantRecord(t, mustGet(t, f, "flow", "a"), store.Record{Kind: "flow", ID: "a", Version: 2, Labels: map[string]string{"k": "v"}})
}

func spoil(b []byte) {
	for i := range b {
		b[i] = '!'
	}
}

func wantData(t *testing.T, when string, got []byte, want string) {
	t.Helper()
	if string(got) != want {
		t.Errorf("%s: data is %q, want %q", when, got, want)
	}
}

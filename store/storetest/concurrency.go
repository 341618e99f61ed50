package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/edrgate/edrgate/store"
)

const (
	writers = 64
	rounds  = 5 // writes of each writer
)

// increment is an edit closure that counts in the record's data.
func increment(old store.Record) (store.Edit, error) {
	n, err := strconv.Atoi(string(old.Data))
	if err != nil {
		return store.Edit{}, err
	}
	return store.Edit{Data: []byte(strconv.Itoa(n + 1))}, nil
}

// inParallel runs f for 0 to n-1 at once and waits.
func inParallel(n int, f func(i int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { f(i) })
	}
	group.Wait()
}

// Every increment is there, and each caller got the version and the content that it alone wrote.
func testUpdateConcurrent(t *testing.T, f *fixture) {
	mustCreate(t, f, store.Record{Kind: "flow", ID: "a", Data: []byte("0")})
	seen := make([]atomic.Int64, writers*rounds+1)
	calls := atomic.Int64{}
	inParallel(writers, func(int) {
		for range rounds {
			r, err := f.Update(t.Context(), "flow", "a", func(old store.Record) (store.Edit, error) {
				calls.Add(1)
				return increment(old)
			})
			if err != nil {
				t.Errorf("update: %v", err)
				return
			}
			n, err := strconv.Atoi(string(r.Data))
			if err != nil || n < 1 || n >= len(seen) || r.Version != uint64(n)+1 {
				t.Errorf("update returned version %d with data %q", r.Version, r.Data)
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
	wantRecord(t, mustGet(t, f, "flow", "a"), store.Record{
		Kind: "flow", ID: "a", Version: writers*rounds + 1, Data: []byte(strconv.Itoa(writers * rounds)),
	})
	if calls.Load() < writers*rounds {
		t.Errorf("edit was called %d times for %d updates", calls.Load(), writers*rounds)
	}
}

// Many records, many writers, some of whom give up: what each is told is what happened.
func testUpdateManyRecords(t *testing.T, f *fixture) {
	refusal := errors.New("refused by the test")
	inParallel(writers, func(i int) {
		id := fmt.Sprint(i)
		_, err := f.Create(t.Context(), store.Record{Kind: "flow", ID: id, Data: []byte("0")})
		if err != nil {
			t.Errorf("create: %v", err)
			return
		}
		for round := range rounds {
			_, err = f.Update(t.Context(), "flow", id, func(old store.Record) (store.Edit, error) {
				if round%2 == 1 {
					return store.Edit{}, refusal
				}
				return increment(old)
			})
			if (round%2 == 1) != errors.Is(err, refusal) {
				t.Errorf("round %d: got error %v", round, err)
			}
		}
	})
	for i := range writers {
		wantRecord(t, mustGet(t, f, "flow", fmt.Sprint(i)), store.Record{Kind: "flow", ID: fmt.Sprint(i), Version: 4, Data: []byte("3")})
	}
}

func testCreateConcurrent(t *testing.T, f *fixture) {
	won := atomic.Int64{}
	winner := atomic.Value{}
	inParallel(writers, func(i int) {
		data := fmt.Sprint(i)
		_, err := f.Create(t.Context(), store.Record{Kind: "flow", ID: "a", Labels: map[string]string{"by": data}, Data: []byte(data)})
		if err == nil {
			won.Add(1)
			winner.Store(data)
			return
		}
		wantError(t, "create", err, store.ErrExists)
	})
	if won.Load() != 1 {
		t.Fatalf("%d creations of one record succeeded", won.Load())
	}
	data := winner.Load().(string)
	want := store.Record{Kind: "flow", ID: "a", Version: 1, Labels: map[string]string{"by": data}, Data: []byte(data)}
	wantRecord(t, mustGet(t, f, "flow", "a"), want)
	for i := range writers {
		page, err := f.List(t.Context(), store.Query{Kind: "flow", Label: "by", Value: fmt.Sprint(i)})
		if err != nil || len(page) > 0 && fmt.Sprint(i) != data {
			t.Errorf("list by label of %d: got %q, %v", i, ids(page), err)
		}
	}
}

package badger

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/store"
)

// What was read ahead is used once, and only while nobody can have written the record.
func TestReadAhead(t *testing.T) {
	const ahead, stored = "read ahead", "stored"
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, s *Store) // after it was read, before its transaction
		first     string                       // what the transaction is given
	}{
		"nothing else":               {func(*testing.T, *Store) {}, ahead},
		"others were written":        {func(t *testing.T, s *Store) { rotate(t, s, "b", 2) }, ahead},
		"it was written":             {func(t *testing.T, s *Store) { rotate(t, s, "a", 1) }, stored},
		"it was written and another": {func(t *testing.T, s *Store) { rotate(t, s, "a", 1); rotate(t, s, "b", 1) }, stored},
		"longer ago than is known":   {func(t *testing.T, s *Store) { rotate(t, s, "b", 5) }, stored},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{})
			for _, id := range []string{"a", "b"} {
				_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: id, Data: []byte(stored)})
				if err != nil {
					t.Fatal(err)
				}
			}
			read := s.readAhead("flow", "a")
			read.record.Data = []byte(ahead)
			c.meanwhile(t, s)
			err := s.commits.do(t.Context(), func(b *batch) error {
				for i, want := range []string{c.first, stored} {
					r, found, err := b.current(read)
					if err != nil || !found || string(r.Data) != want {
						t.Errorf("time %d: %q, %t, %v, want %q", i+1, r.Data, found, err, want)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// rotate writes a record some times with the content that it has.
func rotate(t *testing.T, s *Store, id string, times int) {
	t.Helper()
	for range times {
		_, err := s.Update(t.Context(), "flow", id, func(old store.Record) (store.Edit, error) {
			return store.Edit{Data: old.Data}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Writers that were answered together and come again share the next transaction as well, though the first of them finds nobody
// who leads.
func TestWritersComeAgainTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const tries = 100
	together := 0
	for range tries {
		c := committer{lately: 2, queue: []*change{{}}}
		var second sync.WaitGroup
		second.Go(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.queue = append(c.queue, &change{})
		})
		if len(c.take().changes) == 2 {
			together++
		}
		second.Wait()
	}
	if together < tries/2 { // Go lets others run first now and then
		t.Error(fmt.Sprint(together, " of ", tries))
	}
}

package badger

import (
	"testing"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/store"
)

// Reads are not held up by a writer, nor do they see what is not yet durable.
func TestReadsDoNotWait(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b")
	l := hold(t, s, "a")
	for _, id := range []string{"a", "b"} {
		r, err := s.Get(t.Context(), "flow", id)
		if err != nil || r.Version != 1 {
			t.Errorf("get %s: got %+v, %v", id, r, err)
		}
	}
	page, err := s.List(t.Context(), store.Query{Kind: "flow"})
	if err != nil || len(page) != 2 {
		t.Errorf("list: got %d records, %v", len(page), err)
	}
	l.finish(t)
}

// A read sees one state of the database to its end, even if compaction removes old versions meanwhile.
func TestReadsKeepTheirVersion(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a")
	err := s.view(func(txn *badgerdb.Txn) error {
		for i := range 500 { // enough for tables to be compacted
			_, err := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
				return store.Edit{Data: make([]byte, store.MaxDataBytes-i)}, nil
			})
			if err != nil {
				return err
			}
		}
		err := s.db.Flatten(2)
		if err != nil {
			return err
		}
		r, found, err := readRecord(txn, "flow", "a")
		if err != nil || !found || r.Version != 1 {
			t.Errorf("got version %d, %v, %v; want the first", r.Version, found, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.snapshots.reading) != 0 {
		t.Errorf("versions are held for reads that have ended: %v", s.snapshots.reading)
	}
}

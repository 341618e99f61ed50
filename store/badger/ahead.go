package badger

import "github.com/edrgate/edrgate/store"

// ahead is a record as its caller read it before the change came into a transaction. Callers read side by side, and while
// others are being synced; the goroutine that leads them all would read one by one.
type ahead struct {
	kind, id string
	version  uint64 // of the database when it was read
	record   store.Record
	found    bool
	usable   bool
}

// readAhead reads a record at the newest durable version. What cannot be read is left to the leader.
func (s *Store) readAhead(kind, id string) *ahead {
	a := &ahead{kind: kind, id: id}
	a.version = s.snapshots.acquire()
	defer s.snapshots.release(a.version)
	txn := s.db.NewTransactionAt(a.version, false)
	defer txn.Discard()
	var err error
	a.record, a.found, err = readRecord(txn, kind, id)
	a.usable = err == nil
	return a
}

// current returns the record of a as the changes before have left it, expired or not: as it was read ahead, unless somebody
// may have written it since. It is given once, since a change that runs again may have altered it.
func (b *batch) current(a *ahead) (store.Record, bool, error) {
	key := string(recordKey(a.kind, a.id))
	_, written := b.written[key]
	if !a.usable || written || b.store.writes.maybeSince(a.version, b.version, key) {
		return b.record(a.kind, a.id)
	}
	a.usable = false
	return a.record, a.found, nil
}

// recentWrites is which records the last transactions wrote. It belongs to whoever leads.
type recentWrites struct {
	transactions [4]struct { // a change waits for one or two of them
		version uint64
		keys    map[string]struct{}
	}
}

func (w *recentWrites) add(version uint64, keys map[string]struct{}) {
	t := &w.transactions[version%uint64(len(w.transactions))]
	t.version, t.keys = version, keys
}

// maybeSince reports whether a record was written after one version and up to another, or that this is not known any more.
func (w *recentWrites) maybeSince(after, until uint64, key string) bool {
	if until-after > uint64(len(w.transactions)) {
		return true
	}
	for version := after + 1; version <= until; version++ {
		t := w.transactions[version%uint64(len(w.transactions))]
		_, written := t.keys[key]
		if t.version != version || written {
			return true
		}
	}
	return false
}

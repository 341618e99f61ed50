package badger

import (
	"sync"

	badgerdb "github.com/dgraph-io/badger/v4"
)

// snapshots gives reads the newest durable version of the database.
//
// Badger would give versions out by itself, but a read then waits for the commit that is under way, which on a slow disk
// is a sync; and it would show a commit whose sync failed. With versions given out here, which Badger calls managed mode,
// a read sees exactly what has been acknowledged.
type snapshots struct {
	db *badgerdb.DB

	mu      sync.Mutex
	last    uint64         // the newest durable version
	reading map[uint64]int // running reads by version: compaction keeps what they may still ask for
}

func (s *snapshots) start(db *badgerdb.DB) {
	s.db = db
	s.last = db.MaxVersion()
	s.reading = make(map[uint64]int)
	db.SetDiscardTs(s.last)
}

func (s *snapshots) acquire() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading[s.last]++
	return s.last
}

func (s *snapshots) release(version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading[version]--
	if s.reading[version] == 0 {
		delete(s.reading, version)
	}
}

// advance makes version the newest durable one. Only the leader of a group calls it.
func (s *snapshots) advance(version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = version
	oldest := version
	for v := range s.reading {
		oldest = min(oldest, v)
	}
	s.db.SetDiscardTs(oldest)
}

// view calls f with a transaction at the newest durable version.
func (s *Store) view(f func(*badgerdb.Txn) error) error {
	version := s.snapshots.acquire()
	defer s.snapshots.release(version)
	txn := s.db.NewTransactionAt(version, false)
	defer txn.Discard()
	return f(txn)
}

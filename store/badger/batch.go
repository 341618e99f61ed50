package badger

import (
	"errors"
	"fmt"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/store"
)

// errFailed is wrapped by the errors of writes after a failed commit.
var errFailed = errors.New("store takes no writes until it is opened again")

// Badger counts this much for an entry besides its key and value, and has this much of its own in a transaction; both
// rounded up.
const (
	entryOverhead = 32
	batchOverhead = 256
)

// batch is a transaction that takes changes one by one. A change sees those before it. What it writes is staged and
// joins the transaction only if the change succeeds and there is room for it.
type batch struct {
	store   *Store
	txn     *badgerdb.Txn
	version uint64
	begun   time.Time
	staged  []entry
	refused error // why Badger did not take an entry

	bytes, entries       int64 // in the transaction
	maxBytes, maxEntries int64
	writes               int                 // changes in the transaction
	written              map[string]struct{} // keys of records in the transaction

	space    Space // what the guard lets through for this transaction
	measured bool
}

type entry struct {
	key, value []byte
	deleted    bool
}

// newBatch starts a transaction on top of the last durable one. Only a leader may.
func (s *Store) newBatch() *batch {
	version := s.snapshots.acquire()
	return &batch{
		store: s, txn: s.db.NewTransactionAt(version, true), version: version, begun: s.clock(),
		written: map[string]struct{}{}, bytes: batchOverhead, entries: 1, maxBytes: s.db.MaxBatchSize(), maxEntries: s.db.MaxBatchCount(),
	}
}

// discard ends the transaction, committed or not.
func (b *batch) discard() {
	b.txn.Discard()
	b.store.snapshots.release(b.version)
}

// stage forgets what the change before has not kept.
func (b *batch) stage() { b.staged = b.staged[:0] }

func (b *batch) set(key, value []byte) { b.staged = append(b.staged, entry{key: key, value: value}) }

func (b *batch) delete(key []byte) { b.staged = append(b.staged, entry{key: key, deleted: true}) }

// get returns the value of key as the changes before have left it.
func (b *batch) get(key []byte) ([]byte, bool, error) { return read(b.txn, key) }

// record returns the record as the changes before have left it, expired or not.
func (b *batch) record(kind, id string) (store.Record, bool, error) {
	r, ok, err := readRecord(b.txn, kind, id)
	if err != nil {
		b.store.observer.Failed("read")
	}
	return r, ok, err
}

// stagedBytes is the size of what the present change has staged.
func (b *batch) stagedBytes() int64 {
	n := int64(0)
	for _, e := range b.staged {
		n += int64(len(e.key)+len(e.value)) + entryOverhead
	}
	return n
}

// keep moves what is staged into the transaction. It reports false, and moves nothing, if there is no room.
func (b *batch) keep() bool {
	if len(b.staged) == 0 {
		return true
	}
	bytes := b.bytes + b.stagedBytes()
	entries := b.entries + int64(len(b.staged))
	if b.writes > 0 && (bytes >= b.maxBytes || entries >= b.maxEntries) {
		return false
	}
	b.bytes, b.entries = bytes, entries
	b.writes++
	for _, e := range b.staged {
		b.put(e)
	}
	return true
}

// put writes e to the transaction. Its size has been counted, so an error here means that the counting is wrong; the
// transaction is then not committed.
func (b *batch) put(e entry) {
	var err error
	if e.deleted {
		err = b.txn.Delete(e.key)
	}
	if !e.deleted {
		err = b.txn.Set(e.key, e.value)
	}
	if err != nil {
		b.refused = err
	}
	if e.key[0] == familyRecord {
		b.written[string(e.key)] = struct{}{}
	}
}

// commit makes the transaction durable. If it cannot, what is on the disk is unknown, and a later sync that succeeds
// proves nothing about the pages of this one: so the store takes no more writes.
func (b *batch) commit() error {
	s := b.store
	if b.writes == 0 {
		return nil
	}
	if b.refused != nil {
		return fmt.Errorf("assemble transaction: %w", b.refused)
	}
	err := s.writable()
	if err != nil {
		return err
	}
	version := b.version + 1
	err = b.txn.CommitAt(version, nil)
	if err == nil {
		err = s.wal.settle()
	}
	if err != nil {
		s.failed.Store(&err)
		s.observer.Failed("commit")
		s.log.Error("store cannot commit and takes no writes until it is opened again", "error", err)
		return s.writable()
	}
	s.writes.add(version, b.written)
	s.snapshots.advance(version)
	s.observer.Committed(b.writes, s.clock().Sub(b.begun))
	return nil
}

// writable returns an error after a failed commit.
func (s *Store) writable() error {
	cause := s.failed.Load()
	if cause == nil {
		return nil
	}
	return fmt.Errorf("%w: commit: %w", errFailed, *cause)
}

// admit returns store.ErrFull if space is shorter than worst. The guard is asked once for the transaction. Space is measured again if it was short, so that what is let through
// then does not rely on a value a second old.
func (b *batch) admit(worst Space) error {
	if !b.measured {
		b.space = b.store.guard.space()
		if b.space != SpaceOK {
			b.space = b.store.guard.check()
		}
		b.measured = true
	}
	if b.space > worst {
		return store.ErrFull
	}
	return nil
}

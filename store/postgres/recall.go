package postgres

import (
	"bytes"
	"container/list"
	"context"
	"maps"
	"sync"

	"github.com/edrgate/edrgate/store"
)

// DefaultRecallBytes is how much memory a store uses for records that it has seen.
const DefaultRecallBytes = 32 << 20

// recalledOverhead is what an entry takes besides its bytes, about. It bounds their number too.
const recalledOverhead = 512

// memory remembers the records seen last. What it has may be out of date, which the compare-and-swap finds out: the birth
// of a row is drawn anew by each write, so a row that has it is that very one.
type memory struct {
	limit int

	mu      sync.Mutex
	size    int
	order   *list.List // of *stored, those used last in front
	records map[recordKey]*list.Element
}

func newMemory(limit int) *memory {
	return &memory{limit: limit, order: list.New(), records: map[recordKey]*list.Element{}}
}

func sizeOf(r *stored) int {
	size := recalledOverhead + len(r.Kind) + len(r.ID) + len(r.Data)
	for name, value := range r.Labels {
		size += len(name) + len(value)
	}
	return size
}

// get returns a record that nobody may change; nil: not remembered.
func (m *memory) get(key recordKey) *stored {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.records[key]
	if at == nil {
		return nil
	}
	m.order.MoveToFront(at)
	return at.Value.(*stored)
}

// put remembers a record, which belongs to the memory from then on. A reader that comes late does not displace what was
// written since.
func (m *memory) put(r *stored) {
	size := sizeOf(r)
	if size > m.limit/8 { // one must not drive out most of the others
		m.forget(recordKey{r.Kind, r.ID})
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := recordKey{r.Kind, r.ID}
	at := m.records[key]
	if at != nil {
		old := at.Value.(*stored)
		if old.Version > r.Version {
			return
		}
		m.size += size - sizeOf(old)
		at.Value = r
		m.order.MoveToFront(at)
	} else {
		m.size += size
		m.records[key] = m.order.PushFront(r)
	}
	for m.size > m.limit {
		m.drop(m.order.Back())
	}
}

// forget drops what is remembered of a record.
func (m *memory) forget(key recordKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.records[key]
	if at != nil {
		m.drop(at)
	}
}

// drop removes an entry. The caller holds the lock.
func (m *memory) drop(at *list.Element) {
	r := m.order.Remove(at).(*stored)
	m.size -= sizeOf(r)
	delete(m.records, recordKey{r.Kind, r.ID})
}

// own returns a copy that shares nothing with r.
func own(r store.Record) store.Record {
	r.Labels = maps.Clone(r.Labels)
	r.Data = bytes.Clone(r.Data)
	return r
}

// remember keeps what was read or written. r stays the caller's.
func (s *Store) remember(r store.Record, birth int64) {
	s.memory.put(&stored{Record: own(r), birth: birth})
}

// Recall implements store.Recaller.
func (s *Store) Recall(kind, id string) (store.Record, bool) {
	r := s.memory.get(recordKey{kind, id})
	if r == nil || !alive(r.Record, s.clock()) {
		return store.Record{}, false
	}
	return own(r.Record), true
}

// UpdateRecalled implements store.Recaller.
func (s *Store) UpdateRecalled(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	return s.change(ctx, kind, id, true, edit)
}

// changeRecalled makes the first try of UpdateRecalled. done is false if the record must be read: it is not remembered, it
// is not that one any more, or edit does not want it written, which can be for that reason. The caller has the turn.
func (s *Store) changeRecalled(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (r store.Record, done bool, err error) {
	key := recordKey{kind, id}
	old := s.memory.get(key)
	if old == nil || !alive(old.Record, s.clock()) {
		return store.Record{}, false, nil
	}
	e, refused := edit(old.Record)
	if refused == nil && store.CheckEdit(e) == nil {
		swap := s.swapGrouped
		if e.Event != "" {
			swap = s.swap
		}
		r, done, err = swap(ctx, *old, e)
	}
	if !done {
		s.memory.forget(key)
	}
	return r, done, err
}

var _ store.Recaller = (*Store)(nil)

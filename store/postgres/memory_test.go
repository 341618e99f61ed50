package postgres

import (
	"fmt"
	"testing"

	"github.com/edrgate/edrgate/store"
)

func remembered(id string, version uint64, data int) *stored {
	return &stored{Record: store.Record{Kind: "flow", ID: id, Version: version, Data: make([]byte, data)}}
}

// What is remembered is bounded, by bytes and so by number, and the first to go is what was not used lately.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const records, data = 100, 1000
	each := sizeOf(remembered("000", 1, data))
	m := newMemory(records * each)
	for i := range 10 * records {
		m.put(remembered(fmt.Sprintf("%03d", i), 1, data))
		if m.get(recordKey{"flow", "000"}) == nil {
			t.Fatalf("what is used all the time is forgotten after %d records", i)
		}
		if m.size > m.limit || len(m.records) != m.order.Len() {
			t.Fatalf("%d bytes of %d, %d records in the index and %d in the order", m.size, m.limit, len(m.records), m.order.Len())
		}
	}
	if len(m.records) != records {
		t.Errorf("%d records are remembered, want %d", len(m.records), records)
	}
	for i := range 10 * records {
		m.put(remembered(fmt.Sprint("empty", i), 1, 0))
	}
	if limit := m.limit / recalledOverhead; len(m.records) > limit {
		t.Errorf("%d records without data are remembered, want at most %d", len(m.records), limit)
	}
	m.put(remembered("small", 1, 0))
	m.put(remembered("small", 2, m.limit/2))
	if m.get(recordKey{"flow", "small"}) != nil {
		t.Error("a record is remembered that has become too large")
	}
	for key := range m.records {
		m.forget(key)
	}
	m.forget(recordKey{"flow", "never seen"})
	if m.size != 0 || m.order.Len() != 0 {
		t.Errorf("%d bytes are left of nothing", m.size)
	}
}

// A reader that comes late does not displace what was written since.
func TestMemoryKeepsTheNewer(t *testing.T) {
	t.Parallel()
	m := newMemory(DefaultRecallBytes)
	for _, step := range []struct{ put, want uint64 }{{2, 2}, {1, 2}, {3, 3}, {3, 3}} {
		m.put(remembered("a", step.put, 10))
		if got := m.get(recordKey{"flow", "a"}).Version; got != step.want {
			t.Errorf("after version %d: version %d is remembered, want %d", step.put, got, step.want)
		}
	}
}

package replica

import (
	"sync"

	"github.com/edrgate/edrgate/store"
)

// endingIndex has the newest ending of each record that is remembered. The follower changes it; requests ask it too.
type endingIndex struct {
	mu      sync.RWMutex
	entries map[string]store.Entry // by recordOf
}

func newEndingIndex() *endingIndex { return &endingIndex{entries: map[string]store.Entry{}} }

func (i *endingIndex) get(record string) (store.Entry, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	e, ok := i.entries[record]
	return e, ok
}

func (i *endingIndex) put(record string, e store.Entry) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.entries[record] = e
}

func (i *endingIndex) drop(record string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.entries, record)
}

func (i *endingIndex) len() int {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return len(i.entries)
}

// Closed returns the version at which a record was ended or suspended, as far as this gateway remembers and no newer change is
// known. A record of the store that is older and open shows that the store has lost writes, before a look at the log does.
func (f *Follower) Closed(kind, id string) (version uint64, ok bool) {
	e, ok := f.state.index.get(recordOf(store.Entry{Kind: kind, ID: id}))
	if !ok || e.At.Before(f.c.Now().Add(-f.c.Keep)) {
		return 0, false // the id may have been given again since
	}
	return e.Version, true
}

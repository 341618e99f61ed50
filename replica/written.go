package replica

import (
	"context"
	"slices"
	"sync"

	"github.com/edrgate/edrgate/store"
)

// maxWritten bounds the entries that are waited for.
const maxWritten = 1 << 14

// written are the entries that this process has put into the log and not read there yet. One that is acknowledged and does
// not arrive is the only trace of writes that were lost before any gateway looked: a standby that takes over is behind by
// less than the time between two looks.
type written struct {
	mu    sync.Mutex
	notes map[writtenKey]*note
}

type writtenKey struct {
	kind, id string
	version  uint64
}

type note struct {
	entry     store.Entry
	confirmed bool // the store has acknowledged it
	seen      bool
}

// expect notes an entry that is about to be written.
func (w *written) expect(e store.Entry) *note {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := &note{entry: e}
	if len(w.notes) < maxWritten {
		w.notes[keyOf(e)] = n
	}
	return n
}

// settle says whether the store has acknowledged an entry. One whose outcome is unknown is not waited for.
func (w *written) settle(n *note, acknowledged bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notes[keyOf(n.entry)] != n {
		return
	}
	n.confirmed = acknowledged
	if !acknowledged || n.seen {
		delete(w.notes, keyOf(n.entry))
	}
}

// see takes an entry of the log. It may come before the store's acknowledgement.
func (w *written) see(e store.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.notes[keyOf(e)]
	if n == nil || n.entry.Event != e.Event {
		return
	}
	n.seen = true
	if n.confirmed {
		delete(w.notes, keyOf(e))
	}
}

// due returns what a look that begins now must find, in the order of writing.
func (w *written) due() []*note {
	w.mu.Lock()
	defer w.mu.Unlock()
	var due []*note
	for _, n := range w.notes {
		if n.confirmed {
			due = append(due, n)
		}
	}
	slices.SortFunc(due, func(a, b *note) int { return a.entry.At.Compare(b.entry.At) })
	return due
}

// misses reports whether one of them is still waited for.
func (w *written) misses(due []*note) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(due, func(n *note) bool { return w.notes[keyOf(n.entry)] == n })
}

// clear waits for nothing any more: a part of the log is passed over.
func (w *written) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.notes)
}

func keyOf(e store.Entry) writtenKey { return writtenKey{e.Kind, e.ID, e.Version} }

// Watched returns the store for the rest of the process: what it writes to the log is waited for there.
func (f *Follower) Watched() store.Store { return watched{f.c.Store, f} }

type watched struct {
	store.Store
	follower *Follower
}

// Update implements store.Store.
func (w watched) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	var last *note
	drop := func(acknowledged bool) {
		if last != nil {
			w.follower.written.settle(last, acknowledged)
		}
		last = nil
	}
	r, err := w.Store.Update(ctx, kind, id, func(old store.Record) (store.Edit, error) {
		drop(false) // somebody else was first
		e, err := edit(old)
		if err == nil && e.Event != "" {
			last = w.follower.written.expect(store.Entry{
				Kind: kind, ID: id, Version: old.Version + 1, Event: e.Event, At: w.follower.c.Now(),
			})
		}
		return e, err
	})
	drop(err == nil)
	return r, err
}

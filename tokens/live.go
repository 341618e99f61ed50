package tokens

import (
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// Live holds the present state of the flows that are in use. It hangs on the store, not on a configuration, so that a
// flow ended under a new configuration is seen by requests admitted under an old one. Memory follows use: a flow's
// entry goes when no remembered token points at it any more.
type Live struct {
	seed   maphash.Seed
	shards [liveShards]liveShard
}

const liveShards = 64

// maxPins bounds the endings kept in memory while the store does not take them.
const maxPins = 64 << 10

type liveShard struct {
	mu    sync.Mutex
	flows map[string]weak.Pointer[liveFlow]
	pins  map[string]pin
}

// liveFlow is the state of one flow as last seen, in one word: the record's version and the state. A newer version
// always wins, in whatever order readers and writers arrive.
type liveFlow struct {
	word   atomic.Uint64
	owner  atomic.Pointer[string] // name of the control plane that the flow belongs to
	pinned atomic.Pointer[State]  // an ending that the store did not take: overrides the word
	marked atomic.Bool            // the first use is recorded, or on its way
}

// pin is the ending or suspension of a flow that took effect here although the store could not record it.
type pin struct {
	caller  Caller
	op      operation
	message Message
}

// NewLive returns an empty set of states.
func NewLive() *Live {
	l := &Live{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].flows = map[string]weak.Pointer[liveFlow]{}
		l.shards[i].pins = map[string]pin{}
	}
	return l
}

func (l *Live) shard(key string) *liveShard {
	return &l.shards[maphash.String(l.seed, key)%liveShards]
}

// enter returns the entry of a flow, made if there is none, and the flow's pin if it has one. It must be called before
// the record is read, so that a change written after the reading finds the entry.
func (l *Live) enter(key string) (*liveFlow, *pin) {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	var pinned *pin
	if p, ok := s.pins[key]; ok {
		pinned = &p
	}
	if f := s.flows[key].Value(); f != nil {
		return f, pinned
	}
	f := new(liveFlow)
	s.flows[key] = weak.Make(f)
	runtime.AddCleanup(f, l.forget, key)
	return f, pinned
}

// forget drops the entry of a flow nobody uses any more, unless another has taken its place.
func (l *Live) forget(key string) {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows[key].Value() == nil {
		delete(s.flows, key)
	}
}

// advance tells of a record's state at a version. A state that the store has taken ends a pin that it supersedes.
func (l *Live) advance(key string, version uint64, state State) {
	s := l.shard(key)
	s.mu.Lock()
	p, isPinned := s.pins[key]
	release := isPinned && (state.Ended() || p.op.state == Suspended)
	if release {
		delete(s.pins, key)
	}
	f := s.flows[key].Value()
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.advance(version, state)
	if release {
		f.pinned.Store(nil)
	}
}

// pin makes an ending or suspension effective here and now, and keeps it for a later try at the store. It applies only
// to a flow whose owner passes. It reports false when too many wait already.
func (l *Live) pin(key string, p pin, applies func(owner string) bool) bool {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[key].Value()
	if f != nil && f.owner.Load() != nil && !applies(*f.owner.Load()) {
		return true // somebody else's flow: nothing to end
	}
	old, waiting := s.pins[key]
	if !waiting && len(s.pins) >= maxPins/liveShards {
		return false
	}
	if waiting && old.op.state.Ended() {
		return true // an ending is never weakened to a suspension
	}
	s.pins[key] = p
	if f != nil && f.owner.Load() != nil {
		f.pinned.Store(&p.op.state)
	}
	return true
}

// waiting returns the pins by the keys of their flows.
func (l *Live) waiting() map[string]pin {
	all := map[string]pin{}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for key, p := range s.pins {
			all[key] = p
		}
		s.mu.Unlock()
	}
	return all
}

// unpin drops a pin that turned out not to apply, or that has been recorded.
func (l *Live) unpin(key string) {
	s := l.shard(key)
	s.mu.Lock()
	delete(s.pins, key)
	f := s.flows[key].Value()
	s.mu.Unlock()
	if f != nil {
		f.pinned.Store(nil)
	}
}

// stateBits hold a state beside the version in one word.
const stateBits = 4

var stateCodes = map[State]uint64{
	Preparing: 1, Prepared: 2, Starting: 3, Started: 4, Suspended: 5, Completed: 6, Terminated: 7,
}

var stateNames = func() [1 << stateBits]State {
	var names [1 << stateBits]State
	for state, code := range stateCodes {
		names[code] = state
	}
	return names
}()

func (f *liveFlow) advance(version uint64, state State) {
	word := version<<stateBits | stateCodes[state]
	for {
		old := f.word.Load()
		if old>>stateBits >= version {
			return
		}
		if f.word.CompareAndSwap(old, word) {
			return
		}
	}
}

// state returns the present state.
func (f *liveFlow) state() State {
	if p := f.pinned.Load(); p != nil {
		return *p
	}
	return stateNames[f.word.Load()&(1<<stateBits-1)]
}

package tokens

import (
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// Live holds the present state of the flows that are in use. It hangs on the store, not on a configuration, so that a
// flow ended under a new configuration is seen by requests admitted under an old one. Memory follows use: a flow's
// entry goes when no remembered token points at it any more. It also holds which reports are owed, which flows wait for the policy, and
// what each consumer has under way.
type Live struct {
	seed   maphash.Seed
	shards [liveShards]liveShard

	replica // what several gateways over one store need

	mu        sync.Mutex // guards what follows, by participant
	owed      map[string]*OwedReports
	rechecks  map[string]*rechecks
	running   map[string][]*Service // the newest last
	consumers map[consumerKey]weak.Pointer[liveConsumer]
}

const liveShards = 64

// maxPins bounds the endings kept in memory while the store does not take them.
const maxPins = 64 << 10

type liveShard struct {
	mu    sync.Mutex
	flows map[string]weak.Pointer[liveFlow]
	pins  map[string]*pin
}

// liveFlow is the state of one flow as last seen, in one word: the record's version and the state. A newer version
// always wins, in whatever order readers and writers arrive.
type liveFlow struct {
	word   atomic.Uint64
	owner  atomic.Pointer[string] // name of the control plane that the flow belongs to
	pinned atomic.Pointer[State]  // an ending that the store did not take: overrides the word
	marked atomic.Bool            // the first use is recorded, or on its way
	facts  atomic.Pointer[facts]  // of the token that was remembered last; nil: none

	requests atomic.Int64 // data requests that are under way
}

// share returns facts that say the same as k: those that a token of the flow has already, if they do.
func (f *liveFlow) share(k *facts) *facts {
	shared := f.facts.Load()
	if shared != nil && shared.same(k) {
		return shared
	}
	f.facts.Store(k)
	return k
}

// pin is the ending or suspension of a flow that is in effect here before the store has recorded it, and also if the store
// does not. One that waits to be recorded is known by its address: another with the same content is another request.
type pin struct {
	caller  Caller
	op      operation
	message Message
	at      time.Time // when it was asked for
	refused bool      // the store did not take it, so that it waits for another try; set once

	journaled atomic.Bool // it is durable on this machine
}

// NewLive returns an empty set of states.
func NewLive() *Live {
	l := &Live{
		seed: maphash.MakeSeed(), owed: map[string]*OwedReports{}, rechecks: map[string]*rechecks{},
		running: map[string][]*Service{}, consumers: map[consumerKey]weak.Pointer[liveConsumer]{},
	}
	for i := range l.shards {
		l.shards[i].flows = map[string]weak.Pointer[liveFlow]{}
		l.shards[i].pins = map[string]*pin{}
	}
	return l
}

// OwedReports returns the reports of one book, such as those of the flows of a participant. They are here so that what is
// promised under an old configuration while a new one starts is known to both.
func (l *Live) OwedReports(book string) *OwedReports {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owed[book]
	if o == nil {
		o = NewOwedReports()
		l.owed[book] = o
	}
	return o
}

// recheckedBy returns the flows of a participant that wait for the policy. They are here for the same reason.
func (l *Live) recheckedBy(participant string) *rechecks {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rechecks[participant]
	if r == nil {
		r = newRechecks()
		l.rechecks[participant] = r
	}
	return r
}

// begin notes that a service runs, and end that it does no more.
func (l *Live) begin(s *Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[s.c.Participant] = append(l.running[s.c.Participant], s)
}

func (l *Live) end(s *Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[s.c.Participant] = slices.DeleteFunc(l.running[s.c.Participant], func(r *Service) bool { return r == s })
}

// replaced reports whether a newer service runs for the participant. An old configuration runs on as long as its requests
// do, and may not know the policy, or the callback of a control plane: what is unchecked or owed is not its business any more.
func (l *Live) replaced(s *Service) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	running := l.running[s.c.Participant]
	return len(running) > 0 && running[len(running)-1] != s
}

func (l *Live) shard(key string) *liveShard {
	return &l.shards[maphash.String(l.seed, key)%liveShards]
}

// enter returns the entry of a flow, made if there is none. It must be called before the record is read, so that a change
// written after the reading finds the entry.
func (l *Live) enter(key string) *liveFlow {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[key].Value(); f != nil {
		return f
	}
	f := new(liveFlow)
	s.flows[key] = weak.Make(f)
	runtime.AddCleanup(f, l.forget, key)
	return f
}

// leave drops the entry of a flow that has ended, for a new flow of the same id: the versions of its record begin anew.
// Tokens of the old one keep the old entry, and with it the end.
func (l *Live) leave(key string) {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[key].Value(); f != nil && f.state().Ended() {
		delete(s.flows, key)
	}
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
	defer s.mu.Unlock()
	f := s.flows[key].Value()
	if f != nil {
		f.advance(version, state)
	}
	p := s.pins[key]
	if p != nil && (state.Ended() || p.op.state == Suspended) {
		s.release(key, f)
	}
}

// saw tells of a record's state at a version as a reader does: a pin that waits to be recorded stays.
func (l *Live) saw(key string, version uint64, state State) {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[key].Value()
	if f != nil {
		f.advance(version, state)
	}
}

// release drops the pin of a flow. The caller holds the lock.
func (s *liveShard) release(key string, f *liveFlow) {
	delete(s.pins, key)
	if f != nil {
		f.pinned.Store(nil)
	}
}

// bind names the owner of a flow, and puts a pin that waits for it into effect if it applies to that owner. Both happen
// under the lock: a pin that comes or goes while a record is read must be neither missed nor kept.
func (l *Live) bind(key string, f *liveFlow, owner string, applies func(*pin) bool) {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f.owner.Store(&owner)
	p := s.pins[key]
	if p != nil && applies(p) {
		f.pinned.Store(&p.op.state)
	}
}

// pin makes an ending or suspension effective here and now, and keeps it until it is recorded. It applies only to a flow
// whose owner passes. It reports whether it is kept: not if the flow is somebody else's, or too many wait already. refused
// says that the store did not take it.
func (l *Live) pin(key string, p *pin, refused bool, applies func(owner string) bool) bool {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.refused = refused
	f := s.flows[key].Value()
	owned := f != nil && f.owner.Load() != nil
	if owned && !applies(*f.owner.Load()) {
		return false
	}
	old := s.pins[key]
	if old == nil && len(s.pins) >= maxPins/liveShards {
		return false
	}
	if old != nil && old.op.state.Ended() {
		return old == p // an ending is never weakened to a suspension
	}
	s.pins[key] = p
	if owned {
		f.pinned.Store(&p.op.state)
	}
	return true
}

// pinned returns the pin of a flow, or nil.
func (l *Live) pinned(key string) *pin {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pins[key]
}

// unpin drops a pin that turned out not to apply, or that has been recorded; another one stays.
func (l *Live) unpin(key string, p *pin) {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[key] == p {
		s.release(key, s.flows[key].Value())
	}
}

// lift drops a suspension that a resume undoes, and reports whether it waited to be recorded.
func (l *Live) lift(key string, p *pin) bool {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[key] != p {
		return false
	}
	s.release(key, s.flows[key].Value())
	return p.refused
}

// waiting returns the pins that the store did not take, by the keys of their flows.
func (l *Live) waiting() map[string]*pin {
	all := map[string]*pin{}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for key, p := range s.pins {
			if p.refused {
				all[key] = p
			}
		}
		s.mu.Unlock()
	}
	return all
}

// marked reports whether the first use of a flow is recorded, or on its way to be.
func (l *Live) marked(key string) bool {
	s := l.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flows[key].Value()
	return f != nil && f.marked.Load()
}

// stateBits hold a state beside the version in one word.
const stateBits = 4

var stateCodes = map[State]uint64{
	Preparing: 1, Prepared: 2, Starting: 3, Started: 4, Suspended: 5, Completed: 6, Terminated: 7, unchecked: 8,
	unread: 9,
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

// state returns the present state. A record that was seen ended stays so: a suspension that waits comes too late.
func (f *liveFlow) state() State {
	recorded := stateNames[f.word.Load()&(1<<stateBits-1)]
	if p := f.pinned.Load(); p != nil && !recorded.Ended() {
		return *p
	}
	return recorded
}

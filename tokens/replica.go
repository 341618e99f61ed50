package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/edrgate/edrgate/store"
)

// unread is the state of an entry whose flow must be read again before anything is decided about it. It is no state of a
// record.
const unread State = "UNREAD"

var (
	errStale    = errors.New("what other gateways have changed is not known")
	errRestored = errors.New("the store was restored, and no operator has accepted that yet")
)

// replica is what a process knows of the other gateways over its store (docs/decisions: replicas). The zero value is that
// there are none: what is in memory is always fresh.
type replica struct {
	until    atomic.Pointer[time.Time] // when the states here stop being fresh; nil: never
	restored atomic.Bool
	log      atomic.Pointer[Journal]
	closed   atomic.Pointer[func(kind, id string) (uint64, bool)]
}

// Fresh says until when the states here count as the present ones. The zero time: they do not.
func (l *Live) Fresh(until time.Time) {
	l.until.Store(&until)
	if !until.IsZero() {
		l.reached()
	}
}

// FreshForEver says that the states here count as the present ones however long the store was not seen.
func (l *Live) FreshForEver() {
	l.until.Store(nil)
	l.reached()
}

// reached tells the services that the store can be reached, if the journal has something for it: the other gateways that
// were cut off too serve what it has ended until the store has that.
func (l *Live) reached() {
	log := l.log.Load()
	if log == nil || (*log).Empty() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, running := range l.running {
		if len(running) == 0 {
			continue
		}
		select {
		case running[len(running)-1].reached <- struct{}{}:
		default: // it has been told
		}
	}
}

// IsFresh reports whether the states here count as the present ones.
func (l *Live) IsFresh(now time.Time) bool {
	until := l.until.Load()
	return until == nil || now.Before(*until)
}

// Restored says whether the store has lost writes and no operator has accepted that yet. Meanwhile nobody renews, and a
// flow that is not known may be one of those that were lost.
func (l *Live) Restored(pending bool) { l.replica.restored.Store(pending) }

// AskClosed makes the live states ask at which version a record was ended or suspended, as far as is remembered.
func (l *Live) AskClosed(ask func(kind, id string) (version uint64, ok bool)) { l.closed.Store(&ask) }

// isLost reports whether a flow that its record shows open is known to have been closed by a later write: the store has
// been restored a moment ago.
func (l *Live) isLost(record store.Record, f *Flow) bool {
	ask := l.closed.Load()
	if ask == nil || f.State.Ended() || f.State == Suspended {
		return false
	}
	version, ok := (*ask)(record.Kind, record.ID)
	return ok && record.Version < version
}

// doubt returns why the store may not say no now: an answer that is final for a consumer must not come from a store that
// may have lost writes. nil: it may.
func (l *Live) doubt(now time.Time) error {
	if l.IsRestored() {
		return errRestored
	}
	if !l.IsFresh(now) {
		return errStale
	}
	return nil
}

// IsRestored reports what Restored was told last.
func (l *Live) IsRestored() bool { return l.replica.restored.Load() }

// Changed tells of a change of a flow that may have been made by another gateway. Changes may arrive twice and in any
// order: only a newer version counts.
func (l *Live) Changed(e store.Entry) {
	if e.Kind != flowKind {
		return
	}
	state := State(e.Event)
	if _, known := stateCodes[state]; !known {
		state = unread // of a later release: the record says what it is
	}
	if state.Ended() {
		l.advance(e.ID, e.Version, state)
		return
	}
	l.saw(e.ID, e.Version, state)
}

// Closes reports whether a change is the end of a flow, or its suspension.
func (l *Live) Closes(e store.Entry) bool {
	return e.Kind == flowKind && (State(e.Event).Ended() || State(e.Event) == Suspended)
}

// Reread forgets the states of all flows: each is read again when one of its tokens is next used. Endings that wait to be
// recorded stay in effect.
func (l *Live) Reread() {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for key, pointer := range s.flows {
			if f := pointer.Value(); f != nil {
				f.word.Store(unreadWord)
			}
			delete(s.flows, key)
		}
		s.mu.Unlock()
	}
}

// unreadWord has the greatest version, so that nothing supersedes it: the entry has been left.
var unreadWord = ^uint64(1<<stateBits-1) | stateCodes[unread]

// isUnread reports whether the flow must be read again. What else the entry says is not to be relied on then.
func (f *liveFlow) isUnread() bool { return f.word.Load()&(1<<stateBits-1) == stateCodes[unread] }

// ended reports whether the record was seen ended.
func (f *liveFlow) ended() bool { return stateNames[f.word.Load()&(1<<stateBits-1)].Ended() }

// opRepeatedEnd and opRepeatedCompletion are endings that a restored store has lost. Their control planes know of them.
var (
	opRepeatedEnd        = operation{name: "terminate", state: Terminated, own: true}
	opRepeatedCompletion = operation{name: "completed", state: Completed, own: true}
	opRepeatedSuspend    = operation{name: "suspend", state: Suspended, own: true}
)

// UnservedError is returned by EndAgain for a flow of a participant whose service does not run in this process.
type UnservedError struct{ Participant string }

// Error implements error.
func (e *UnservedError) Error() string {
	return fmt.Sprintf("no service of participant %q runs", e.Participant)
}

// EndAgain ends or suspends a flow once more, in a store that has lost that it was. One of which the store knows already is
// left alone, and a flow that was opened after its suspension.
func (l *Live) EndAgain(ctx context.Context, e store.Entry) error {
	participant, id, ok := strings.Cut(e.ID, "/")
	if !ok || !l.Closes(e) {
		return nil
	}
	s := l.newest(participant)
	if s == nil {
		return &UnservedError{Participant: participant}
	}
	op := opRepeatedEnd
	switch State(e.Event) {
	case Completed:
		op = opRepeatedCompletion
	case Suspended:
		op = opRepeatedSuspend
	}
	return s.endAgain(ctx, id, op, e.At)
}

func (s *Service) endAgain(ctx context.Context, id string, op operation, at time.Time) error {
	caller := Caller("")
	f, err := s.flow(ctx, id)
	switch {
	case err != nil && CodeOf(err) == CodeFlowUnknown:
	case errors.Is(err, errUndecodable):
		// It must not keep all others closed.
		s.c.Logger.Error("end of a flow is not repeated: its record cannot be read", "flow", id, "error", err)
		return nil
	case err == nil && !at.IsZero() && f.Created.After(at.Add(s.c.ClockSkew)):
		return nil // a later flow of the same id: that of the ending was remembered for longer
	case err != nil:
		return err
	case f.State.Ended() && s.c.Live.pinned(f.key()) == nil:
		return nil
	default:
		caller = Caller(s.owner(f))
	}
	p := &pin{
		caller: caller, op: op, at: at,
		message: Message{ProcessID: id, Reason: "ended before the store was restored"},
	}
	s.hold(p, true)
	ending, err := s.carryOut(ctx, p)
	if err != nil {
		return unavailable(err, "%s of flow %s is not recorded", op.name, id)
	}
	if ending.Outcome == Applied || ending.Outcome == Unknown && op.state.Ended() {
		s.c.Observer.Event(EventRepeatedEnd)
		s.c.Logger.Warn("flow ended once more, since the store had lost its end", "flow", id, "operation", op.name)
	}
	return nil
}

// newest returns the service that runs for a participant, the newest if there are several; nil if there is none.
func (l *Live) newest(participant string) *Service {
	l.mu.Lock()
	defer l.mu.Unlock()
	running := l.running[participant]
	if len(running) == 0 {
		return nil
	}
	return running[len(running)-1]
}

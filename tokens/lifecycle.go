package tokens

import (
	"context"
	"errors"
	"time"

	"github.com/edrgate/edrgate/store"
)

// The events of an Observer.
const (
	EventRollForward   = "rollforward"    // a refresh token newer than the record: the store lost a write
	EventReuse         = "reuse"          // a refresh token older than the superseded one, with a good proof
	EventReplay        = "proof_replay"   // a proof used before with another refresh token
	EventConflict      = "conflict"       // a start with other terms for an existing flow
	EventForeign       = "foreign"        // a message for the flow of another control plane
	EventOrphan        = "orphan"         // a flow ended by another control plane, since its own is not configured
	EventUnknownEnding = "unknown_ending" // an ending of a flow that was never started here
	EventClockJump     = "clock_jump"     // the machine's clock was set
	EventPinned        = "pinned"         // an ending that the store did not take, effective in memory only
	EventUnused        = "unused"         // a flow ended since its EDR was never used
	EventUntold        = "untold"         // a flow ended by the gateway whose control plane cannot be told
	EventUnchecked     = "unchecked"      // a flow started although the policy could not tell: it opens nothing yet
	EventDenied        = "denied"         // a flow ended since the policy denies it
	EventJournaled     = "journaled"      // an ending that the store did not take, effective here and kept in the journal
	EventRepeatedEnd   = "repeated_end"   // a flow ended once more, in a store that had lost its end
)

// Suspend blocks a flow until it is resumed. Tokens stay what they are; none of them opens anything meanwhile. A flow
// that is not known is not an error: Ending.Outcome says so, and nothing is written.
func (s *Service) Suspend(ctx context.Context, caller Caller, m Message) (Ending, error) {
	return s.end(ctx, caller, m, opSuspend)
}

// Terminate ends a flow for ever. It is never refused: of an unknown flow a tombstone is left, so that a late start
// does not bring it to life.
func (s *Service) Terminate(ctx context.Context, caller Caller, m Message) (Ending, error) {
	return s.end(ctx, caller, m, opTerminate)
}

// Complete ends a flow for ever because its transfer is finished. It is never refused, as Terminate.
func (s *Service) Complete(ctx context.Context, caller Caller, m Message) (Ending, error) {
	return s.end(ctx, caller, m, opComplete)
}

// Revoke ends a flow for ever because the operator says so. Its control plane is owed a report; Ending.Report says whether
// it can be told.
func (s *Service) Revoke(ctx context.Context, processID, reason string) (Ending, error) {
	return s.revoke(ctx, processID, reason, opRevoke)
}

// RevokeQuietly is Revoke without a report: the control plane goes on to take the flow for started.
func (s *Service) RevokeQuietly(ctx context.Context, processID, reason string) (Ending, error) {
	return s.revoke(ctx, processID, reason, opRevokeQuietly)
}

func (s *Service) revoke(ctx context.Context, processID, reason string, op operation) (Ending, error) {
	caller := Caller("")
	f, err := s.flow(ctx, processID)
	switch {
	case err == nil:
		caller = Caller(s.owner(f))
	case CodeOf(err) != CodeUnavailable:
		return Ending{}, err
	}
	// A store that cannot be reached must not keep the operator from ending the access here.
	return s.end(ctx, caller, Message{ProcessID: processID, Reason: reason}, op)
}

// end carries out a suspension or an ending. It takes effect here before it is durable, and also if it cannot be made
// durable; it is reported as done only when it is.
func (s *Service) end(ctx context.Context, caller Caller, m Message, op operation) (Ending, error) {
	if !ValidFlowID(m.ProcessID) {
		return Ending{}, refuse(CodeInvalid, `flow id must have 1 to %d printable characters and no "/"`, MaxFlowIDBytes)
	}
	p := &pin{caller: caller, op: op, message: m, at: s.c.Now().UTC()}
	if op.state.Ended() {
		// Whatever the record says, the flow is over. A suspension waits for the record, which tells a late repeat.
		s.hold(p, false)
	}
	ending, err := s.carryOut(ctx, p)
	if err == nil {
		return ending, nil
	}
	if s.hold(p, true) {
		if s.journal(p) {
			s.c.Logger.Error("flow ended here and in the journal, since the store did not record it", "flow", m.ProcessID, "operation", op.name, "error", err)
			return Ending{Outcome: Journaled}, nil
		}
		s.c.Observer.Event(EventPinned)
		s.c.Logger.Error("flow ended in memory only, since the store did not record it", "flow", m.ProcessID, "operation", op.name, "error", err)
	}
	if outcome, ok := s.endsAlready(p); ok {
		return Ending{Outcome: outcome}, nil
	}
	return Ending{}, unavailable(err, "%s of flow %s is not recorded", op.name, m.ProcessID)
}

// endsAlready reports what a request comes to that the store did not take, where an earlier ending by the same control plane
// waits in the journal. Control planes repeat a message whose answer was lost, and take a refusal for final.
func (s *Service) endsAlready(p *pin) (Outcome, bool) {
	waits := s.c.Live.pinned(s.keyOf(p))
	if waits == nil || waits == p || !waits.op.state.Ended() || !waits.op.own && waits.caller != p.caller {
		return "", false
	}
	if !waits.journaled.Load() && !s.journal(waits) {
		return "", false
	}
	if p.op.state == Suspended {
		return OutOfState, true
	}
	return Journaled, true
}

// hold puts a pin into effect, and reports whether it is kept.
func (s *Service) hold(p *pin, refused bool) bool {
	return s.c.Live.pin(s.keyOf(p), p, refused, func(owner string) bool { return s.applies(p, owner) })
}

func (s *Service) keyOf(p *pin) string { return flowKey(s.c.Participant, p.message.ProcessID) }

// applyPin gives a flow the state that it has here, where the store has not recorded that yet. A flow that another gateway
// has ended stays so, whatever waits here.
func (s *Service) applyPin(f *Flow) {
	p := s.pinOf(f)
	if p != nil && !f.State.Ended() {
		f.State = p.op.state
	}
}

// pinOf returns the suspension or ending of a flow that is in effect here and not recorded yet, or nil.
func (s *Service) pinOf(f *Flow) *pin {
	p := s.c.Live.pinned(f.key())
	if p == nil || !s.applies(p, f.ControlPlane) {
		return nil
	}
	return p
}

// carryOut records what a pin asks for. The error is the store's: then nobody knows, and the pin stays.
func (s *Service) carryOut(ctx context.Context, p *pin) (Ending, error) {
	for {
		ending, err := s.endKnown(ctx, p)
		if errors.Is(err, store.ErrNotFound) && p.op.state == Suspended {
			ending, err = Ending{Outcome: Unknown}, nil
		}
		if errors.Is(err, store.ErrNotFound) {
			ending, err = s.leaveTombstone(ctx, p)
		}
		if errors.Is(err, store.ErrExists) {
			continue // started meanwhile
		}
		if err == nil {
			s.c.Live.unpin(s.keyOf(p), p)
		}
		return ending, err
	}
}

// endKnown ends a flow that has a record.
func (s *Service) endKnown(ctx context.Context, p *pin) (Ending, error) {
	var result Ending
	now := s.c.Now().UTC().Truncate(time.Second)
	record, err := s.c.Store.Update(ctx, flowKind, s.keyOf(p), func(old store.Record) (store.Edit, error) {
		f, err := decodeFlow(old)
		if err != nil {
			return store.Edit{}, err
		}
		result = Ending{Flow: f, Outcome: s.endingOf(p, f)}
		if result.Outcome != Applied {
			return store.Edit{}, store.ErrKeep
		}
		s.hold(p, p.refused)
		// Whoever suspends or ends a flow knows of it, and of one that the gateway ends nobody needs to hear that it started.
		f.Report = nil
		result.Report = f.promise(p.op, f.State, now)
		f.State, f.Reason, f.Changed = p.op.state, p.message.Reason, now
		f.remember(p.message.MessageID, p.op)
		edit := store.Edit{Event: string(p.op.state), Ending: true}
		if p.op.state.Ended() {
			edit.Expires = s.forgotten(f)
			f.bury()
		}
		edit.Data, err = f.encode()
		return edit, err
	})
	if err != nil {
		return Ending{}, err
	}
	if result.Outcome == NotOwned {
		s.c.Observer.Event(EventForeign)
		return Ending{Outcome: NotOwned}, nil
	}
	if result.Outcome == Applied || result.Flow.State.Ended() {
		s.c.Live.advance(result.Flow.key(), record.Version, result.Flow.effective())
	} else {
		s.c.Live.saw(result.Flow.key(), record.Version, result.Flow.effective())
	}
	if result.Outcome == Applied {
		s.owe(result.Flow)
	}
	if result.Outcome == Applied && !p.op.own && s.owner(result.Flow) != string(p.caller) {
		s.c.Observer.Event(EventOrphan)
	}
	if result.Report == ReportImpossible {
		s.c.Observer.Event(EventUntold)
		s.c.Logger.Warn("control plane cannot be told that a flow has ended, since it is suspended there: terminate the transfer there too",
			"flow", result.Flow.ID, "control_plane", s.owner(result.Flow), "cause", p.op.cause)
	}
	return result, nil
}

// buriedUntil is how long the end of a flow is remembered: as long as configured, and as long as a token of it that was
// issued a moment ago could be presented. Afterwards its id may be used again.
func (s *Service) buriedUntil(f *Flow, now time.Time) time.Time {
	return now.Add(max(s.c.TombstoneTTL, s.life(f)+s.c.ClockSkew))
}

// endingOf decides what a request to suspend or end comes to, given the present state.
func (s *Service) endingOf(p *pin, f *Flow) Outcome {
	if !s.applies(p, f.ControlPlane) {
		return NotOwned
	}
	if f.State.Ended() {
		if p.op.state == Suspended {
			return OutOfState
		}
		return Already
	}
	if p.op == opUnused && !s.unused(f) {
		return Already // used meanwhile
	}
	if p.op.state != Suspended {
		return Applied
	}
	if f.State == Suspended {
		return Already
	}
	// A suspend that arrives again after the flow was resumed is the same message, not a second one. So is one that the
	// store did not take, when it is tried again after a resume has lifted it.
	used, seen := f.seen(p.message.MessageID)
	lifted := p.refused && s.c.Live.pinned(f.key()) != p
	// One that waited in a journal is overtaken by what was done at another gateway since.
	overtaken := p.refused && (f.Changed.After(p.at) || f.Opened.After(p.at))
	if lifted || overtaken || seen && used == p.op.name {
		return Already
	}
	if f.State != Started {
		return OutOfState
	}
	return Applied
}

// bury takes away what an ended flow must not keep: credentials, and what renewals need. What remains tells an operator
// what the flow was, and keeps its id from being used again.
func (f *Flow) bury() {
	f.Source, f.Salt, f.Proofs = nil, nil, nil
	f.Claims, f.Metadata, f.Labels = nil, nil, nil
	f.CurrentKey, f.PreviousKey, f.FirstKey = "", "", ""
	f.Unchecked = time.Time{}
}

// leaveTombstone records the ending of a flow that is not known.
func (s *Service) leaveTombstone(ctx context.Context, p *pin) (Ending, error) {
	s.c.Observer.Event(EventUnknownEnding)
	now := s.c.Now().UTC().Truncate(time.Second)
	f := &Flow{
		Participant: s.c.Participant, ID: p.message.ProcessID, State: p.op.state, Reason: p.message.Reason,
		ControlPlane: string(p.caller), Created: now, Changed: now,
	}
	data, err := f.encode()
	if err != nil {
		return Ending{}, err
	}
	_, err = s.c.Store.Create(ctx, store.Record{
		Kind: flowKind, ID: f.key(), Labels: f.labels(), Data: data, Expires: now.Add(s.c.TombstoneTTL),
	})
	if errors.Is(err, store.ErrFull) {
		// Refusing would leave the counterparty's side open for want of a few bytes; nothing here is open.
		return Ending{Outcome: Unrecorded}, nil
	}
	if err != nil {
		return Ending{}, err
	}
	return Ending{Outcome: Unknown}, nil
}

// Resume unblocks a suspended flow and renders its EDR: a fresh access token and the same refresh token, since an EDC
// consumer never sees the EDR of a resume and goes on with its first one. Earlier access tokens work again.
func (s *Service) Resume(ctx context.Context, caller Caller, m Message) (*EDR, error) {
	if !ValidFlowID(m.ProcessID) {
		return nil, refuse(CodeFlowUnknown, "flow id is malformed")
	}
	return s.resume(ctx, caller, m, opResume)
}

func (s *Service) resume(ctx context.Context, caller Caller, m Message, op operation) (*EDR, error) {
	var f *Flow
	exact := s.c.Now().UTC()
	now := exact.Truncate(time.Second)
	changed := false
	var lifted *pin // a suspension that waited to be recorded
	record, err := s.c.Store.Update(ctx, flowKind, flowKey(s.c.Participant, m.ProcessID), func(old store.Record) (store.Edit, error) {
		var err error
		f, err = decodeFlow(old)
		if err != nil {
			return store.Edit{}, err
		}
		s.applyPin(f)
		changed, err = s.checkResume(caller, m, op, f)
		if err != nil {
			return store.Edit{}, err
		}
		// Who resumes a flow has seen it start.
		known := f.startKnown()
		noted := s.noteOpened(f, exact)
		if !changed && !known && !noted {
			return store.Edit{}, store.ErrKeep
		}
		if !changed {
			data, err := f.encode()
			return store.Edit{Data: data}, err
		}
		// Lifted here and not after the commit: a suspension that waits to be recorded must not come after this.
		held := s.c.Live.pinned(f.key())
		if held != nil && held.op.state == Suspended {
			if s.c.Live.lift(f.key(), held) {
				lifted = held
			}
		}
		f.State, f.Reason, f.Changed = Started, "", now
		f.remember(m.MessageID, op)
		edit := store.Edit{Event: string(f.effective())}
		edit.Data, err = f.encode()
		return edit, err
	})
	if err != nil && lifted != nil && s.hold(lifted, true) && lifted.journaled.Load() {
		// Nobody was told that the flow is open again. The journal may have been emptied meanwhile.
		s.journal(lifted)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(CodeFlowUnknown, "no flow %s", m.ProcessID)
	}
	var refusal *Error
	if errors.As(err, &refusal) {
		if refusal.Code == CodeForeign {
			s.c.Observer.Event(EventForeign)
		}
		return nil, refusal
	}
	if err != nil {
		return nil, unavailable(err, "resuming flow %s", m.ProcessID)
	}
	s.c.Live.saw(f.key(), record.Version, f.effective()) // a suspension that came since stays
	s.owe(f)
	if !changed {
		return s.edr(f, "repeat", true)
	}
	return s.edr(f, "resume", false)
}

// noteOpened notes that the control plane has asked for the flow to be open now, and reports whether that must be written
// though nothing else changes: another gateway may have a suspension in its journal that came before.
func (s *Service) noteOpened(f *Flow, now time.Time) bool {
	if s.c.Live.log.Load() == nil {
		return false
	}
	f.Opened = now
	return true
}

// checkResume decides whether a resume changes the flow. Its message has no binding fields: EDC sends a process id that
// names nothing and the EDR that we issued last, both to be ignored (observed on EDC 0.16 to 0.18).
func (s *Service) checkResume(caller Caller, m Message, op operation, f *Flow) (bool, error) {
	if s.owner(f) != string(caller) {
		return false, refuse(CodeForeign, "flow %s belongs to control plane %q", f.ID, f.ControlPlane)
	}
	if used, seen := f.seen(m.MessageID); seen && used != op.name {
		return false, refuse(CodeConflict, "message id was used for another operation on flow %s", f.ID)
	}
	switch f.State {
	case Suspended:
		_, repeated := f.seen(m.MessageID)
		if repeated {
			// A resume that arrives again after the flow was suspended anew must not undo that.
			return false, refuse(CodeState, "flow %s was suspended after this message", f.ID)
		}
		return true, nil
	case Started:
		return false, nil
	}
	return false, &Error{Code: CodeState, Detail: "flow " + f.ID + " is " + string(f.State), Dialect: f.Dialect}
}

// Status returns a flow of the caller.
func (s *Service) Status(ctx context.Context, caller Caller, processID string) (*Flow, error) {
	f, err := s.flow(ctx, processID)
	if err != nil {
		return nil, err
	}
	if s.owner(f) != string(caller) {
		// Answered as if it did not exist: ids of other callers' flows are not to be found out.
		return nil, refuse(CodeFlowUnknown, "flow %s belongs to control plane %q", f.ID, f.ControlPlane)
	}
	return f, nil
}

// Flow returns a flow by its id, for the operator.
func (s *Service) Flow(ctx context.Context, processID string) (*Flow, error) {
	return s.flow(ctx, processID)
}

func (s *Service) flow(ctx context.Context, processID string) (*Flow, error) {
	f, _, err := s.read(ctx, processID)
	return f, err
}

// read returns a flow as it is in effect here, and as it is recorded.
func (s *Service) read(ctx context.Context, processID string) (*Flow, *recorded, error) {
	if !ValidFlowID(processID) {
		return nil, nil, refuse(CodeFlowUnknown, "flow id is malformed")
	}
	record, err := s.c.Store.Get(ctx, flowKind, flowKey(s.c.Participant, processID))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, refuse(CodeFlowUnknown, "no flow %s", processID)
	}
	if err != nil {
		return nil, nil, unavailable(err, "reading flow %s", processID)
	}
	f, err := decodeFlow(record)
	if err != nil {
		return nil, nil, unavailable(err, "flow %s", processID)
	}
	// What is answered from here on holds for data too, also if the log has not been read so far.
	s.c.Live.saw(f.key(), record.Version, f.effective())
	kept := recordedAs(record, f)
	s.applyPin(f)
	return f, kept, nil
}

// owner is the present name of the control plane that a flow belongs to.
func (s *Service) owner(f *Flow) string { return s.presentName(f.ControlPlane) }

func (s *Service) presentName(name string) string {
	if now, moved := s.c.Formerly[name]; moved {
		return now
	}
	return name
}

// applies reports whether a pin concerns the flows of an owner. What the gateway ends by itself may be anybody's.
func (s *Service) applies(p *pin, owner string) bool { return p.op.own || s.mayEnd(p.caller, owner) }

// mayEnd reports whether the caller may suspend or end the flows of an owner: its own, and those of a name that is no
// longer configured, which nobody else could ever end.
func (s *Service) mayEnd(caller Caller, owner string) bool {
	owner = s.presentName(owner)
	return owner == string(caller) || !s.controlPlanes[owner]
}

package tokens

import (
	"context"
	"errors"
	"time"

	"github.com/edrgate/edrgate/store"
)

// ReportEvent is what a control plane is told of a flow.
type ReportEvent string

// The events of a Report.
const (
	ReportCompleted ReportEvent = "completed" // the flow is finished
	ReportFailed    ReportEvent = "failed"    // the flow failed, so that the transfer is terminated
	ReportStarted   ReportEvent = "started"   // the flow, which was started asynchronously, can be used
	ReportPrepared  ReportEvent = "prepared"  // the transfer, which was prepared asynchronously, can be requested
)

// ReportEvents lists every ReportEvent.
func ReportEvents() []ReportEvent {
	return []ReportEvent{ReportCompleted, ReportFailed, ReportStarted, ReportPrepared}
}

// Awaited reports whether a transfer stands still until its control plane has the news.
func (e ReportEvent) Awaited() bool { return e == ReportStarted || e == ReportPrepared }

// The causes of a Report of an ending.
const (
	CauseRevoked = "revoke" // by the operator, or because of a stolen refresh token
	CauseUnused  = "unused" // its EDR was never used
	CauseDenied  = "denied" // the policy does not permit it
)

// ReportPromise says whether the control plane will be told of an ending.
type ReportPromise string

// The promises. The empty one: nobody was to be told.
const (
	ReportPromised ReportPromise = "promised"

	// ReportImpossible: a control plane of Data Plane Signaling does not take the news of a suspended flow (observed on
	// EDC 0.18: 409, the transfer stays suspended).
	ReportImpossible ReportPromise = "suspended"
)

// How reports are kept.
const (
	// ReportWithin is how long after the ending its report is tried: a weekend.
	ReportWithin = 72 * time.Hour

	// reportAfter lets whoever asked for the ending or the start be answered before the gateway calls in turn.
	reportAfter = time.Second

	// storeTrouble is how long a report rests whose record the store did not give or take.
	storeTrouble = 30 * time.Second
)

// Report is what the gateway owes a control plane: the news that it ended a flow by itself, or that a flow has started
// which was answered as starting, or, on a consumer's side, that a transfer is prepared or completed. What is promised is part
// of the record, written with the change that it is about, so that no crash can come between the two.
type Report struct {
	Flow         string
	Dialect      Dialect
	ControlPlane string // present name
	Callback     string // as the start message had it; not checked
	Registered   string // the endpoint that the control plane registered, if it did
	Event        ReportEvent
	Cause        string    // of an ending
	Since        time.Time // when the flow ended, or its start was answered
	Attempt      int       // 1 for the first
	Unknown      int       // attempts before this one to which the control plane said that it does not know the flow
	EDR          *EDR      // of ReportStarted, unless it is too old: made for this attempt

	Authorization *PlaneAuthorization // what the control plane registered to be called with, if it did
}

// TooOld reports whether the report is not worth another attempt.
func (r *Report) TooOld(now time.Time) bool {
	within := ReportWithin
	if r.Event.Awaited() {
		within = StartedWithin
	}
	return now.Sub(r.Since) > within
}

// promise notes in a flow that its ending is to be reported. before is the state that it ended in.
func (f *Flow) promise(op operation, before State, now time.Time) ReportPromise {
	if !op.reports {
		return ""
	}
	r := NewPromise(ReportFailed, op.cause, now)
	if f.Dialect == DPS {
		if before == Suspended {
			return ReportImpossible
		}
		// EDC 0.18 only logs "errored" and leaves the transfer started; "completed" ends both sides.
		r.Event = ReportCompleted
	}
	f.Report = r
	return ReportPromised
}

// forgotten is when the tombstone of an ended flow may go. A report outlives a short tombstone_ttl.
func (s *Service) forgotten(f *Flow) time.Time {
	until := s.buriedUntil(f, f.Changed)
	reported := f.Changed.Add(ReportWithin + time.Hour)
	if f.Report != nil && reported.After(until) {
		return reported
	}
	return until
}

// owe remembers what a flow's record says about its report. A flow that lives may have ended since its record was read or
// written, and the report of that stays.
func (s *Service) owe(f *Flow) {
	if f.Report == nil && f.State.Ended() {
		s.owed.Drop(f.ID)
		return
	}
	if f.Report == nil {
		s.owed.DropAwaited(f.ID)
		return
	}
	s.owed.Put(OwedReport{Flow: f.ID, ControlPlane: s.owner(f), Event: f.Report.Event}, f.Report.Due)
}

// DueReports returns the reports that may be tried now, those of starts before the others, since a transfer waits for them,
// and how many of each event are owed in all as far as this process knows.
//
// Of several configurations that run, only the newest has any to try.
func (s *Service) DueReports() ([]OwedReport, map[ReportEvent]int) {
	due, all := s.owed.Due(s.c.Now())
	if s.Replaced() {
		due = nil
	}
	return due, all
}

// ClaimReport takes a report to deliver it: for the time of lease no other gateway over the same store does. nil without
// an error: there is nothing to deliver now. An error means that nobody can tell.
//
// The first claim of a start is what starts the flow, so that its EDR can be used from the moment that anybody can have it.
func (s *Service) ClaimReport(ctx context.Context, flow string, lease time.Duration) (*Report, error) {
	now := s.c.Now().UTC()
	claimed, held := false, false
	f, err := s.editReport(ctx, flow, func(f *Flow) bool {
		held = f.startOwed() && s.pinOf(f) != nil
		claimed = f.Report != nil && !held && f.Report.Claim(now, lease)
		if claimed && f.startOwed() {
			f.offerStart(now)
		}
		return claimed
	})
	if err != nil || f == nil {
		return nil, err
	}
	if held {
		s.owed.Rest(flow, now.Add(storeTrouble))
	}
	if !claimed {
		return nil, nil
	}
	r := f.Report.Report()
	r.Flow, r.Dialect, r.ControlPlane, r.Callback = f.ID, f.Dialect, s.owner(f), f.Callback
	if r.TooOld(now) {
		return r, nil
	}
	err = s.prepare(ctx, r, f)
	if err != nil {
		// Nothing has been sent, so this was no attempt that can have been taken.
		return nil, errors.Join(err, s.SettleReport(ctx, r, Settlement{Again: storeTrouble}))
	}
	return r, nil
}

// prepare adds to a claimed report what its delivery needs.
func (s *Service) prepare(ctx context.Context, r *Report, f *Flow) error {
	plane, err := s.ControlPlane(ctx, r.ControlPlane)
	if err != nil {
		return err
	}
	r.Registered, r.Authorization = plane.Endpoint, plane.Authorization
	if !f.startOwed() {
		return nil
	}
	reason := "start"
	if r.Attempt > 1 {
		reason = "repeat"
	}
	r.EDR, err = s.edr(f, reason, r.Attempt > 1)
	return err
}

// SettleReport records what became of a claimed report. A settlement that comes after the lease, when another gateway has
// claimed it, or when something else is owed, changes nothing.
func (s *Service) SettleReport(ctx context.Context, r *Report, settled Settlement) error {
	now := s.c.Now().UTC()
	settles := false
	f, err := s.editReport(ctx, r.Flow, func(f *Flow) bool {
		settles = f.Report.SettledBy(r)
		if !settles {
			return false
		}
		if f.Report.Settle(settled, now) {
			f.startUntaken(now)
		}
		if settled.Done {
			f.Report = nil
		}
		return true
	})
	if err == nil && settles && r.Event == ReportStarted && settled.Done && !settled.Delivered {
		s.logUntaken(f)
	}
	return err
}

// editReport changes the report of a flow's record, if edit says that there is something to change, and remembers what
// the record says then. A flow that is gone is nil.
func (s *Service) editReport(ctx context.Context, flow string, edit func(*Flow) bool) (*Flow, error) {
	var f *Flow
	changed := false // the state
	record, err := s.c.Store.Update(ctx, flowKind, flowKey(s.c.Participant, flow), func(old store.Record) (store.Edit, error) {
		var err error
		f, err = decodeFlow(old)
		if err != nil {
			return store.Edit{}, err
		}
		before := f.State
		changed = false
		if !edit(f) {
			return store.Edit{}, store.ErrKeep
		}
		result := store.Edit{Expires: old.Expires}
		changed = f.State != before
		if changed {
			result.Event, result.Ending = string(f.effective()), f.State.Ended()
		}
		if f.State.Ended() {
			result.Expires = s.forgotten(f)
			f.bury()
		}
		result.Data, err = f.encode()
		return result, err
	})
	if errors.Is(err, store.ErrNotFound) {
		s.owed.Drop(flow)
		return nil, nil
	}
	if err != nil {
		s.owed.Rest(flow, s.c.Now().Add(storeTrouble))
		return nil, unavailable(err, "report of flow %s", flow)
	}
	switch {
	case changed && f.State.Ended():
		s.c.Live.advance(f.key(), record.Version, f.effective())
	case changed:
		// A start lifts no suspension that came meanwhile and waits to be recorded.
		s.c.Live.saw(f.key(), record.Version, f.effective())
	}
	s.owe(f)
	return f, nil
}

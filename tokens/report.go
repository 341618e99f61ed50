package tokens

import (
	"context"
	"errors"
	"sync"
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
)

// ReportEvents lists every ReportEvent.
func ReportEvents() []ReportEvent { return []ReportEvent{ReportCompleted, ReportFailed, ReportStarted} }

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

	// maxOwed bounds the reports held in memory for each control plane, so that one that is gone takes no other's room.
	// Further ones are found by the count of flows.
	maxOwed = 10_000
)

// Report is what the gateway owes a control plane: the news that it ended a flow by itself, or that a flow has started
// which was answered as starting. It is part of the flow's record, written with the ending or the start, so that no crash
// can come between the two.
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
	if r.Event == ReportStarted {
		within = StartedWithin
	}
	return now.Sub(r.Since) > within
}

// report is the part of a Report that is stored with its flow.
type report struct {
	Event   ReportEvent `json:"event"`
	Cause   string      `json:"cause,omitempty"`
	Since   time.Time   `json:"since"`
	Due     time.Time   `json:"due"` // when it may be tried again; in the future while somebody tries
	Attempt int         `json:"attempt,omitempty"`
	Unknown int         `json:"unknown,omitempty"`
	Unsure  int         `json:"unsure,omitempty"` // of ReportStarted: attempts that may have been taken
}

// OwedReport names a report and who is to get it.
type OwedReport struct {
	Flow         string
	ControlPlane string // present name
	Event        ReportEvent
}

// Settlement is what became of an attempt to deliver a report.
type Settlement struct {
	Done      bool          // nothing is owed any more: delivered, refused for good, or given up
	Delivered bool          // the control plane took it
	Unsure    bool          // if not delivered: the control plane may have taken it all the same
	Again     time.Duration // if not done: when it may be tried again
	Unknown   bool          // if not done: the control plane said that it does not know the flow
}

// promise notes in a flow that its ending is to be reported. before is the state that it ended in.
func (f *Flow) promise(op operation, before State, now time.Time) ReportPromise {
	if !op.reports {
		return ""
	}
	r := &report{Event: ReportFailed, Cause: op.cause, Since: now, Due: now.Add(reportAfter)}
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

// owed are the reports that this process knows to be due, by flow. The store is the truth: it is read anew at every
// count of flows.
type owed struct {
	mu    sync.Mutex
	flows map[string]owedFlow
	held  map[string]int // reports by control plane
}

func newOwed() *owed { return &owed{flows: map[string]owedFlow{}, held: map[string]int{}} }

type owedFlow struct {
	controlPlane string
	event        ReportEvent
	due          time.Time
}

func (o *owed) put(flow string, f owedFlow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known, held := o.flows[flow]
	if held && known.event != ReportStarted && f.event == ReportStarted {
		return // the flow has ended since
	}
	if held && known.controlPlane == f.controlPlane {
		o.flows[flow] = f
		return
	}
	o.remove(flow)
	if o.held[f.controlPlane] < maxOwed {
		o.held[f.controlPlane]++
		o.flows[flow] = f
	}
}

// rest puts off what is due, if it is held.
func (o *owed) rest(flow string, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known, held := o.flows[flow]
	if held {
		known.due = until
		o.flows[flow] = known
	}
}

func (o *owed) drop(flow string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.remove(flow)
}

// dropStart drops what was promised of a start.
func (o *owed) dropStart(flow string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.flows[flow].event == ReportStarted {
		o.remove(flow)
	}
}

// remove needs the lock.
func (o *owed) remove(flow string) {
	known, held := o.flows[flow]
	if !held {
		return
	}
	delete(o.flows, flow)
	o.held[known.controlPlane]--
	if o.held[known.controlPlane] == 0 {
		delete(o.held, known.controlPlane)
	}
}

// owe remembers what a flow's record says about its report. A flow that lives may have ended since its record was read or
// written, and the report of that stays.
func (s *Service) owe(f *Flow) {
	if f.Report == nil && f.State.Ended() {
		s.owed.drop(f.ID)
		return
	}
	if f.Report == nil {
		s.owed.dropStart(f.ID)
		return
	}
	s.owed.put(f.ID, owedFlow{s.owner(f), f.Report.Event, f.Report.Due})
}

// DueReports returns the reports that may be tried now, those of starts before the others, since a transfer waits for them,
// and how many of each event are owed in all as far as this process knows.
//
// Of several configurations that run, only the newest has any to try.
func (s *Service) DueReports() ([]OwedReport, map[ReportEvent]int) {
	now, replaced := s.c.Now(), s.c.Live.replaced(s)
	s.owed.mu.Lock()
	defer s.owed.mu.Unlock()
	var starts, endings []OwedReport
	all := map[ReportEvent]int{}
	for flow, o := range s.owed.flows {
		all[o.event]++
		report := OwedReport{Flow: flow, ControlPlane: o.controlPlane, Event: o.event}
		switch {
		case replaced, o.due.After(now):
		case o.event == ReportStarted:
			starts = append(starts, report)
		default:
			endings = append(endings, report)
		}
	}
	return append(starts, endings...), all
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
		claimed = f.Report != nil && !f.Report.Due.After(now) && !held
		if claimed {
			f.Report.Attempt++
			f.Report.Due = now.Add(lease)
		}
		if claimed && f.startOwed() {
			f.offerStart(now)
		}
		return claimed
	})
	if err != nil || f == nil {
		return nil, err
	}
	if held {
		s.owed.rest(flow, now.Add(storeTrouble))
	}
	if !claimed {
		return nil, nil
	}
	r := &Report{
		Flow: f.ID, Dialect: f.Dialect, ControlPlane: s.owner(f), Callback: f.Callback,
		Event: f.Report.Event, Cause: f.Report.Cause, Since: f.Report.Since, Attempt: f.Report.Attempt, Unknown: f.Report.Unknown,
	}
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
	plane, err := s.registered(ctx, r.ControlPlane)
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
		settles = f.Report != nil && f.Report.Event == r.Event && f.Report.Attempt == r.Attempt
		if !settles {
			return false
		}
		if f.startOwed() {
			f.settleStart(settled, now)
		}
		if settled.Done {
			f.Report = nil
			return true
		}
		f.Report.Due = now.Add(settled.Again)
		if settled.Unknown {
			f.Report.Unknown++
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
		s.owed.drop(flow)
		return nil, nil
	}
	if err != nil {
		s.owed.rest(flow, s.c.Now().Add(storeTrouble))
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

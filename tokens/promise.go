package tokens

import "time"

// Promise is the part of a Report that is stored with the record of what it is about, written in the same transaction.
type Promise struct {
	Event   ReportEvent `json:"event"`
	Cause   string      `json:"cause,omitempty"`
	Since   time.Time   `json:"since"`
	Due     time.Time   `json:"due"` // when it may be tried again; in the future while somebody tries
	Attempt int         `json:"attempt,omitempty"`
	Unknown int         `json:"unknown,omitempty"`
	Unsure  int         `json:"unsure,omitempty"` // of an awaited event: attempts that may have been taken
}

// NewPromise returns a promise that is first tried when whoever caused it has been answered.
func NewPromise(event ReportEvent, cause string, now time.Time) *Promise {
	return &Promise{Event: event, Cause: cause, Since: now, Due: now.Add(reportAfter)}
}

// Settlement is what became of an attempt to deliver a report.
type Settlement struct {
	Done      bool          // nothing is owed any more: delivered, refused for good, or given up
	Delivered bool          // the control plane took it
	Unsure    bool          // if not delivered: the control plane may have taken it all the same
	Again     time.Duration // if not done: when it may be tried again
	Unknown   bool          // if not done: the control plane said that it does not know the flow
}

// Claim begins an attempt, unless it is too early or somebody else is at it, and reports whether it did. Until it is settled
// nobody knows whether it was taken.
func (p *Promise) Claim(now time.Time, lease time.Duration) bool {
	if p.Due.After(now) {
		return false
	}
	p.Attempt++
	p.Due = now.Add(lease)
	if p.Event.Awaited() {
		p.Unsure++
	}
	return true
}

// Report returns the report of a claimed attempt, without what the record around the promise knows.
func (p *Promise) Report() *Report {
	return &Report{Event: p.Event, Cause: p.Cause, Since: p.Since, Attempt: p.Attempt, Unknown: p.Unknown}
}

// SettledBy reports whether r is the attempt that the promise waits for. p may be nil: nothing is promised.
func (p *Promise) SettledBy(r *Report) bool {
	return p != nil && p.Event == r.Event && p.Attempt == r.Attempt
}

// Settle records what became of the attempt. It reports whether an awaited event will not be told any more and no attempt
// can have been taken: then the transfer has no future. Where it is done the promise is fulfilled, or broken, and goes.
func (p *Promise) Settle(s Settlement, now time.Time) (untaken bool) {
	if p.Event.Awaited() && !s.Unsure {
		p.Unsure--
	}
	if s.Done {
		return p.Event.Awaited() && !s.Delivered && p.Unsure == 0
	}
	p.Due = now.Add(s.Again)
	if s.Unknown {
		p.Unknown++
	}
	return false
}

package tokens

import (
	"time"
)

// StartedWithin is how long a control plane is told of an asynchronous start or prepare. It is shorter than for an ending: who asked
// for data a day ago does not wait for it any more, and where an answer of the control plane was lost each further attempt
// locks the transfer there for a minute (observed on EDC 0.18).
const StartedWithin = 24 * time.Hour

// promiseStarted makes the start of a new flow an asynchronous one (DPS §1.1): the flow can be used when its control plane
// is told so.
func (f *Flow) promiseStarted(now time.Time) {
	f.State = Starting
	f.Report = NewPromise(ReportStarted, "", now)
}

// startOwed reports whether the flow's control plane waits to be told of its start, as far as is known here. Until then it
// must not get the EDR by another way: EDC takes a flow that is answered as started for started, and the news of it then
// for an error that locks the transfer for a minute (observed on EDC 0.18).
func (f *Flow) startOwed() bool { return f.Report != nil && f.Report.Event == ReportStarted }

// startKnown takes the promise back because the control plane is known to have taken the start: the EDR, which came by no
// other way, is in use, or the control plane speaks of a flow that has started. Its answer was lost. It reports whether
// there was a promise.
func (f *Flow) startKnown() bool {
	owed := f.startOwed()
	if owed {
		f.Report = nil
	}
	return owed
}

// offerStart starts the flow with an attempt to tell of it.
func (f *Flow) offerStart(now time.Time) {
	if f.State == Starting {
		f.State, f.Changed = Started, now.Truncate(time.Second)
	}
}

// startUntaken ends a flow whose control plane will not be told of its start any more and has taken no attempt: then no
// consumer can have the EDR. After any other outcome the flow stays, and ends if the EDR is never used.
func (f *Flow) startUntaken(now time.Time) {
	f.State, f.Reason, f.Changed = Terminated, "its control plane did not take its start", now.Truncate(time.Second)
}

// logUntaken says what became of a flow whose control plane did not confirm its start.
func (s *Service) logUntaken(f *Flow) {
	text := "flow ended, since its control plane did not take its start"
	if !f.State.Ended() {
		text = "flow stays although its control plane did not confirm its start, which may have arrived: it ends if its EDR is never used"
	}
	s.c.Logger.Warn(text, "flow", f.ID, "control_plane", s.owner(f))
}

package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

// storeTrouble is how long a report rests whose record the store did not give or take.
const storeTrouble = 30 * time.Second

// promisePrepared makes a prepare an asynchronous one (DPS §1.1): the transfer is prepared when its control plane is told so.
func (rec *record) promisePrepared(now time.Time) {
	rec.State = Preparing
	rec.Report = tokens.NewPromise(tokens.ReportPrepared, "", now)
}

// preparedOwed reports whether the control plane waits to be told that the transfer is prepared, as far as is known here.
func (rec *record) preparedOwed() bool {
	return rec.Report != nil && rec.Report.Event == tokens.ReportPrepared
}

// preparedKnown takes the promise back because the control plane speaks of a transfer that has gone on: it has taken the
// news, and its answer was lost.
func (rec *record) preparedKnown() {
	if rec.preparedOwed() {
		rec.Report = nil
	}
}

// answer is what a prepare is answered with. Until the control plane has taken the news, repeats must not say more than the
// first answer: it would go on, and not wait for the news that comes then.
func (rec *record) answer() *tokens.Flow {
	f := rec.flow()
	if rec.preparedOwed() {
		f.State = tokens.Preparing
	}
	return f
}

// Finish ends a transfer for ever because whoever uses its data has enough, and forgets its EDR. Its control plane is owed
// the report, which ends the provider's side too. tokens.Already: it had ended before.
//
// Errors are *Error: CodeUnknown; CodeState, with a Detail that says why not; CodeUnavailable.
func (t *Transfers) Finish(ctx context.Context, id string) (tokens.Outcome, error) {
	err := checkID(id)
	if err != nil {
		return "", err
	}
	var outcome tokens.Outcome
	var held []string
	rec, err := t.cache.update(ctx, id, func(rec *record) error {
		outcome, held = tokens.Already, nil
		err := t.mayFinish(rec)
		if err != nil {
			return err
		}
		if rec.State == Ended {
			return store.ErrKeep
		}
		now := t.cache.c.Now().UTC()
		outcome, held = tokens.Applied, rec.Held
		rec.end(now)
		rec.Completed = true
		rec.Report = tokens.NewPromise(tokens.ReportCompleted, "", now)
		return nil
	})
	if err != nil {
		return "", err
	}
	t.cache.release(ctx, id, held)
	t.owe(rec)
	return outcome, nil
}

// mayFinish refuses what nobody could be told of, or what the control plane would not take: DPS §1.3 has a way to COMPLETED
// from STARTED only, and EDC answers 409 to a completed of a suspended transfer and leaves it suspended (observed on 0.18).
func (t *Transfers) mayFinish(rec *record) error {
	switch {
	case rec.ControlPlane == "":
		return refuse(CodeState, "the EDR did not come by Data Plane Signaling, so its control plane cannot be told: complete the transfer there")
	case rec.State == Ended:
		return nil
	case !t.c.Callable(t.owner(rec)):
		return refuse(CodeState, "control plane %s has no callback, so it cannot be told: complete the transfer there", t.owner(rec))
	case rec.State.waits():
		return refuse(CodeState, "the transfer is not started yet")
	case rec.State == Suspended:
		return refuse(CodeState, "the transfer is suspended, and its control plane takes no completion meanwhile: resume it, or terminate it there")
	}
	return nil
}

// endingKnown takes back the report of an ending that the control plane has ended by itself meanwhile. What fails here costs
// one call too many.
func (t *Transfers) endingKnown(ctx context.Context, rec *record) {
	if rec.Report == nil {
		return
	}
	rec, err := t.cache.update(ctx, rec.ID, func(rec *record) error {
		if rec.State != Ended || rec.Report == nil {
			return store.ErrKeep
		}
		rec.Report = nil
		return nil
	})
	if err == nil {
		t.owe(rec)
	}
}

// owe remembers what a transfer's record says about its report. A transfer that lives may have ended since its record was
// read or written, and the report of that stays.
func (t *Transfers) owe(rec *record) {
	switch {
	case rec.Report != nil:
		t.c.Owed.Put(tokens.OwedReport{Flow: rec.ID, ControlPlane: t.owner(rec), Event: rec.Report.Event}, rec.Report.Due)
	case rec.State == Ended:
		t.c.Owed.Drop(rec.ID)
	default:
		t.c.Owed.DropAwaited(rec.ID)
	}
}

// Count counts by state the EDRs that are not ended, and the transfers that wait for theirs. On the way it finds the reports
// that are owed, which after a restart nothing else knows. A record that cannot be read is left out, with an error in the log.
func (t *Transfers) Count(ctx context.Context) (map[State]int, error) {
	count := map[State]int{}
	skip := func(record string, err error) error {
		t.cache.c.Logger.Error("EDR record cannot be read and is left out of the count", "record", record, "error", err)
		return nil
	}
	err := t.cache.all(ctx, skip, func(rec *record) {
		// One that lives and owes nothing may have come to owe something since it was read.
		if rec.ControlPlane != "" && (rec.Report != nil || rec.State == Ended) {
			t.owe(rec)
		}
		if rec.State != Ended && (rec.EDR != nil || rec.State.waits()) {
			count[rec.State]++
		}
	})
	return count, err
}

// DueReports returns the reports that may be tried now, and how many of each event are owed in all as far as this process
// knows. Of several configurations that run, only the newest has any to try.
func (t *Transfers) DueReports() ([]tokens.OwedReport, map[tokens.ReportEvent]int) {
	due, all := t.c.Owed.Due(t.cache.c.Now())
	if t.c.Replaced() {
		due = nil
	}
	return due, all
}

// ClaimReport takes a report to deliver it: for the time of lease no other gateway over the same store does. nil without an
// error: there is nothing to deliver now. An error means that nobody can tell.
//
// The first claim of a prepare is what makes the transfer prepared, so that whatever the control plane sends next finds it so.
func (t *Transfers) ClaimReport(ctx context.Context, id string, lease time.Duration) (*tokens.Report, error) {
	now := t.cache.c.Now().UTC()
	claimed := false
	rec, err := t.editReport(ctx, id, func(rec *record) bool {
		claimed = rec.Report != nil && rec.Report.Claim(now, lease)
		if claimed && rec.State == Preparing {
			rec.State, rec.Changed = Prepared, now
		}
		return claimed
	})
	if err != nil || !claimed || rec == nil {
		return nil, err
	}
	r := rec.Report.Report()
	r.Flow, r.Dialect, r.ControlPlane, r.Callback = rec.ID, tokens.DPS, t.owner(rec), rec.Callback
	if r.TooOld(now) {
		return r, nil
	}
	plane, err := t.c.ControlPlane(ctx, r.ControlPlane)
	if err != nil {
		// Nothing has been sent, so this was no attempt that can have been taken.
		return nil, errors.Join(err, t.SettleReport(ctx, r, tokens.Settlement{Again: storeTrouble}))
	}
	r.Registered, r.Authorization = plane.Endpoint, plane.Authorization
	return r, nil
}

// SettleReport records what became of a claimed report. A settlement that comes after the lease, when another gateway has
// claimed it, or when something else is owed, changes nothing.
//
// A transfer of which its control plane will not learn that it is prepared ends, if no attempt can have been taken: nobody
// will start it.
func (t *Transfers) SettleReport(ctx context.Context, r *tokens.Report, settled tokens.Settlement) error {
	now := t.cache.c.Now().UTC()
	ended := false
	_, err := t.editReport(ctx, r.Flow, func(rec *record) bool {
		ended = false
		if !rec.Report.SettledBy(r) {
			return false
		}
		untaken := rec.Report.Settle(settled, now)
		if settled.Done {
			rec.Report = nil
		}
		ended = untaken && rec.State.waits()
		if ended {
			rec.end(now)
		}
		return true
	})
	if err == nil && ended {
		t.cache.c.Logger.Warn("transfer ended, since its control plane did not take that it is prepared", "edr", r.Flow, "control_plane", r.ControlPlane)
	}
	return err
}

// editReport changes the report of a transfer, if edit says that there is something to change, and remembers what the record
// says then. A transfer that is gone is nil.
func (t *Transfers) editReport(ctx context.Context, id string, edit func(*record) bool) (*record, error) {
	rec, err := t.cache.update(ctx, id, func(rec *record) error {
		if !edit(rec) {
			return store.ErrKeep
		}
		return nil
	})
	if err != nil && CodeOf(err) == CodeUnknown {
		t.c.Owed.Drop(id)
		return nil, nil
	}
	if err != nil {
		t.c.Owed.Rest(id, t.cache.c.Now().Add(storeTrouble))
		return nil, err
	}
	t.owe(rec)
	return rec, nil
}

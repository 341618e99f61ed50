package tokens

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

func TestStartWhoseRegistrationCannotBeRead(t *testing.T) {
	x := newFixture(t)
	ctx := context.Background()
	plane := ControlPlane{ID: "a", Endpoint: "http://cp/signaling", Authorization: &PlaneAuthorization{Type: "t", ClientSecret: "s"}}
	err := x.PutControlPlane(ctx, controlPlane, plane)
	if err != nil {
		t.Fatal(err)
	}
	x.Service = x.other(func(c *Config) { c.Keys = newRing(t, newKey(t)) }) // what is registered does not open any more
	x.start(asyncStart("refused"))
	x.start(asyncStart("given-up"))
	x.clock.Advance(reportAfter)
	for _, flow := range []string{"refused", "given-up"} {
		_, err = x.ClaimReport(ctx, flow, lease)
		wantCode(t, err, CodeUnavailable)
	}
	x.clock.Advance(StartedWithin + time.Minute)
	r, err := x.ClaimReport(ctx, "given-up", lease)
	if err != nil || r == nil || !r.TooOld(x.clock.Now()) {
		t.Fatalf("%+v %v", r, err)
	}
	x.settle(r, Settlement{Done: true})
	err = x.PutControlPlane(ctx, controlPlane, plane)
	if err != nil {
		t.Fatal(err)
	}
	x.settle(x.claim("refused"), Settlement{Done: true})
	for _, flow := range []string{"refused", "given-up"} {
		if x.stateOf(flow) != Terminated {
			t.Errorf("%s: %s, although nobody can have its EDR", flow, x.stateOf(flow))
		}
	}
}

func TestClaimKeepsASuspensionThatIsNotRecorded(t *testing.T) {
	x, h := withHooks(t)
	x.wantPending(asyncStart("flow-1"), false)
	x.clock.Advance(reportAfter)
	h.afterUpdate = func(string) {
		x.store.fail(nil, errBroken)
		_, err := x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m"))
		wantCode(t, err, CodeUnavailable)
		x.store.fail(nil, nil)
	}
	r := x.claim("flow-1")
	wantCode(t, x.verify(r.EDR.AccessToken), CodeFlowSuspended)
	x.retryPins(context.Background())
	if x.stateOf("flow-1") != Suspended {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

func TestFirstUseBesideARevocation(t *testing.T) {
	x, h := withHooks(t)
	x.wantPending(asyncStart("flow-1"), false)
	r := x.offer("flow-1")
	err := x.verify(r.EDR.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	h.inUpdate = func() { x.must(revoked(x)) }
	x.record(context.Background(), <-x.marks)
	x.clock.Advance(reportAfter)
	due, _ := x.DueReports()
	if len(due) != 1 || due[0].Event != ReportCompleted {
		t.Errorf("due %v, want the news of the ending", due)
	}
}

func TestSettlementBesideARevocation(t *testing.T) {
	x, h := withHooks(t)
	x.wantPending(asyncStart("flow-1"), false)
	r := x.offer("flow-1")
	h.afterUpdate = func(string) { x.must(revoked(x)) }
	x.settle(r, Settlement{Done: true, Delivered: true})
	x.clock.Advance(reportAfter)
	due, _ := x.DueReports()
	if len(due) != 1 || due[0].Event != ReportCompleted {
		t.Errorf("due %v, want the news of the ending", due)
	}
}

func TestOwedReportsOfAnIDThatIsUsedAgain(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(x.config.TombstoneTTL + DefaultTombstoneTTL + ReportWithin)
	x.wantPending(asyncStart("flow-1"), false)
	x.clock.Advance(reportAfter)
	due, owed := x.DueReports()
	if len(due) != 1 || due[0].Event != ReportStarted || len(owed) != 1 {
		t.Errorf("due %v, owed %v", due, owed)
	}
}

type lossyStore struct{ store.Store }

func (s lossyStore) Create(ctx context.Context, r store.Record) (store.Record, error) {
	_, err := s.Store.Create(ctx, r)
	return store.Record{}, errors.Join(err, context.DeadlineExceeded)
}

func TestRepeatedStartNotesWhatIsOwed(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	lossy := x.other(func(c *Config) { c.Store = lossyStore{x.store} })
	_, err := lossy.Start(context.Background(), controlPlane, asyncStart("flow-1"))
	wantCode(t, err, CodeUnavailable)
	x.wantPending(asyncStart("flow-1"), true)
	x.clock.Advance(reportAfter)
	due, _ := x.DueReports()
	if len(due) != 1 {
		t.Errorf("due %v", due)
	}
	p.now(permits)
	p.occasions()
	x.recheckDue(context.Background())
	p.wantAsked(t, PolicyRecheck)
}

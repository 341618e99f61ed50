package tokens

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// asyncStart is a start of a dataset whose route says async.

func asyncStart(id string) StartRequest {
	r := dpsStart(id)
	r.Async = true
	return r
}

// offer makes an attempt to tell of a flow's start.

func (x *fixture) offer(id string) *Report {
	x.t.Helper()
	x.clock.Advance(lease)
	r := x.claim(id)
	if r == nil || r.Event != ReportStarted || r.EDR == nil {
		x.t.Fatalf("claimed %+v", r)
	}
	return r
}

// wantNoOffer fails if anybody is going to be told that the flow has started.

func (x *fixture) wantNoOffer(id string) {
	x.t.Helper()
	due, owed := x.DueReports()
	if owed[ReportStarted] != 0 {
		x.t.Errorf("owed %v, due %v", owed, due)
	}
	x.clock.Advance(time.Hour)
	r := x.claim(id)
	if r != nil && r.Event == ReportStarted {
		x.t.Errorf("told again of the start: %+v", r)
	}
}

func (x *fixture) wantPending(r StartRequest, repeated bool) {
	x.t.Helper()
	e := x.start(r)
	if !e.Pending || e.Repeated != repeated || e.AccessToken != "" || e.RefreshToken != "" {
		x.t.Errorf("answered %+v, want a promise and no tokens", e)
	}
}

func TestAsynchronousStart(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	if x.stateOf("flow-1") != Starting {
		t.Fatalf("%s", x.stateOf("flow-1"))
	}
	if due, owed := x.DueReports(); len(due) != 0 || owed[ReportStarted] != 1 {
		t.Errorf("due %v before the answer can have arrived, owed %v", due, owed)
	}
	x.wantPending(asyncStart("flow-1"), true)
	again := asyncStart("flow-1")
	again.MessageID = "after a crash"
	x.wantPending(again, true)

	x.clock.Advance(reportAfter)
	if due, _ := x.DueReports(); len(due) != 1 || due[0] != (OwedReport{"flow-1", "cp", ReportStarted}) {
		t.Errorf("due %v", due)
	}
	first := x.claim("flow-1")
	if first == nil || first.Event != ReportStarted || first.Cause != "" || x.stateOf("flow-1") != Started {
		t.Fatalf("%+v, %s", first, x.stateOf("flow-1"))
	}
	err := x.verify(first.EDR.AccessToken)
	if err != nil {
		t.Errorf("the consumer may have the token by now: %v", err)
	}
	x.wantPending(asyncStart("flow-1"), true)
	x.settle(first, Settlement{Done: true, Delivered: true})
	x.wantNoOffer("flow-1")
	later := x.start(asyncStart("flow-1"))
	if later.Pending || !later.Repeated || later.RefreshToken != first.EDR.RefreshToken {
		t.Errorf("a repeat after the delivery: %+v", later)
	}
	x.mustRenew(first.EDR.RefreshToken, first.EDR.AccessToken)
}

// Nothing that could be used is out before the flow has started, but a token would not open it either.

func TestStartingFlowOpensNothing(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil {
		t.Fatal(err)
	}
	e, err := x.edr(f, "start", false)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, x.verify(e.AccessToken), CodeFlowNotStarted)
	_, err = x.renewWith(e.RefreshToken, e.AccessToken)
	wantCode(t, err, CodeFlowNotStarted)
	x.offer("flow-1")
	err = x.verify(e.AccessToken)
	if err != nil {
		t.Errorf("remembered as not started: %v", err)
	}
}

// A start comes up to eight times, also in the same moment.

func TestAsynchronousStartsAtTheSameMoment(t *testing.T) {
	x := newFixture(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		wg.Go(func() {
			e, err := x.Start(context.Background(), controlPlane, asyncStart("flow-1"))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || !e.Pending {
				t.Errorf("%+v %v", e, err)
				return
			}
			if !e.Repeated {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d flows", made)
	}
}

func TestClassicStartIsNeverAsynchronous(t *testing.T) {
	x := newFixture(t)
	r := classicStart("flow-1")
	r.Async = true
	e := x.start(r)
	if e.Pending || e.AccessToken == "" || x.stateOf("flow-1") != Started {
		t.Errorf("%+v, %s", e, x.stateOf("flow-1"))
	}
	x.wantNoOffer("flow-1")
}

// The answer to a callback is lost: EDC has taken it, and would answer 500 to each repeat and lock the transfer.

func TestWhatShowsThatTheStartWasTaken(t *testing.T) {
	ctx := context.Background()
	for name, test := range map[string]struct {
		happens func(*fixture, *EDR)
		state   State
	}{
		"a data request": {func(x *fixture, e *EDR) {
			err := x.verify(e.AccessToken)
			if err != nil {
				x.t.Fatal(err)
			}
			x.record(ctx, <-x.marks)
		}, Started},
		"a renewal": {func(x *fixture, e *EDR) { x.mustRenew(e.RefreshToken, e.AccessToken) }, Started},
		"a resume": {func(x *fixture, _ *EDR) {
			_, err := x.Resume(ctx, controlPlane, x.message("flow-1", "m"))
			if err != nil {
				x.t.Fatal(err)
			}
		}, Started},
		"a suspend":   {func(x *fixture, _ *EDR) { x.must(x.Suspend(ctx, controlPlane, x.message("flow-1", "m"))) }, Suspended},
		"a terminate": {func(x *fixture, _ *EDR) { x.must(x.Terminate(ctx, controlPlane, x.message("flow-1", "m"))) }, Terminated},
		"a completed": {func(x *fixture, _ *EDR) { x.must(x.Complete(ctx, controlPlane, x.message("flow-1", "m"))) }, Completed},
		"a revoke":    {func(x *fixture, _ *EDR) { x.must(x.Revoke(ctx, "flow-1", "")) }, Terminated},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.wantPending(asyncStart("flow-1"), false)
			r := x.offer("flow-1")
			test.happens(x, r.EDR)
			x.wantNoOffer("flow-1")
			// What the attempt came to is known late, and is of no interest any more.
			x.settle(r, Settlement{Again: time.Second, Unsure: true})
			x.wantNoOffer("flow-1")
			if x.stateOf("flow-1") != test.state {
				t.Errorf("%s, want %s", x.stateOf("flow-1"), test.state)
			}
		})
	}
}

func TestMessagesToAStartingFlow(t *testing.T) {
	ctx := context.Background()
	x := newFixture(t)
	for _, flow := range []string{"flow-1", "flow-2", "flow-3"} {
		x.wantPending(asyncStart(flow), false)
	}
	if e := x.must(x.Suspend(ctx, controlPlane, x.message("flow-1", "m1"))); e.Outcome != OutOfState {
		t.Errorf("suspend: %+v", e)
	}
	_, err := x.Resume(ctx, controlPlane, x.message("flow-1", "m2"))
	wantCode(t, err, CodeState)
	if _, owed := x.DueReports(); owed[ReportStarted] != 3 || x.stateOf("flow-1") != Starting {
		t.Errorf("%s, owed %v", x.stateOf("flow-1"), owed)
	}
	for flow, end := range map[string]func() (Ending, error){
		"flow-1": func() (Ending, error) { return x.Terminate(ctx, controlPlane, x.message("flow-1", "m3")) },
		"flow-2": func() (Ending, error) { return x.Complete(ctx, controlPlane, x.message("flow-2", "m3")) },
		"flow-3": func() (Ending, error) { return x.RevokeQuietly(ctx, "flow-3", "") },
	} {
		if e := x.must(end()); e.Outcome != Applied {
			t.Errorf("%s: %+v", flow, e)
		}
		_, err := x.Start(ctx, controlPlane, asyncStart(flow))
		wantCode(t, err, CodeState)
	}
	for _, flow := range []string{"flow-1", "flow-2", "flow-3"} {
		x.wantNoOffer(flow)
	}
}

// An ending that the store has not taken is in effect, so nothing is called in after it.

func TestNoCallbackAfterAnEndingThatIsHeld(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	x.store.fail(nil, errBroken)
	_, err := x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m"))
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	x.clock.Advance(lease)
	if r := x.claim("flow-1"); r != nil {
		t.Fatalf("%+v", r)
	}
	if due, _ := x.DueReports(); len(due) != 0 {
		t.Errorf("tried again at once: %v", due)
	}
	x.retryPins(context.Background())
	x.wantNoOffer("flow-1")
}

// What is refused for good or given up leaves no flow behind whose EDR nobody can have, and no consumer without a flow.

func TestStartThatIsNotTaken(t *testing.T) {
	refused := Settlement{Done: true}
	notTaken := Settlement{Again: time.Second}
	unsure := Settlement{Again: time.Second, Unsure: true}
	for name, test := range map[string]struct {
		settlements []*Settlement // nil: the gateway died before it could say
		state       State
	}{
		"refused":                             {[]*Settlement{&refused}, Terminated},
		"given up, never taken":               {[]*Settlement{&notTaken, &notTaken, &refused}, Terminated},
		"refused, the answer lost before":     {[]*Settlement{&unsure, &notTaken, &refused}, Started},
		"given up with a lost answer":         {[]*Settlement{{Done: true, Unsure: true}}, Started},
		"refused, the gateway died before":    {[]*Settlement{nil, &refused}, Started},
		"delivered":                           {[]*Settlement{{Done: true, Delivered: true}}, Started},
		"delivered, the answer lost before":   {[]*Settlement{&unsure, {Done: true, Delivered: true}}, Started},
		"delivered although it said no twice": {[]*Settlement{&notTaken, &notTaken, {Done: true, Delivered: true}}, Started},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.wantPending(asyncStart("flow-1"), false)
			var last *Report
			for _, s := range test.settlements {
				last = x.offer("flow-1")
				if s != nil {
					x.settle(last, *s)
				}
			}
			x.wantNoOffer("flow-1")
			f, err := x.Flow(context.Background(), "flow-1")
			if err != nil || f.State != test.state {
				t.Fatalf("%s, want %s: %v", f.State, test.state, err)
			}
			record, err := x.store.Get(context.Background(), flowKind, f.key())
			if err != nil {
				t.Fatal(err)
			}
			if test.state == Started {
				if !record.Expires.IsZero() {
					t.Errorf("a flow that lives expires %s", record.Expires)
				}
				err = x.verify(last.EDR.AccessToken)
				if CodeOf(err) != CodeTokenExpired {
					t.Errorf("%v: the token was good until it expired", err)
				}
				return
			}
			wantCode(t, x.verify(last.EDR.AccessToken), CodeFlowEnded)
			if f.Salt != nil || f.Reason == "" || record.Expires.IsZero() {
				t.Errorf("not buried: %+v, expires %s", f, record.Expires)
			}
			entries, err := x.store.Tail(context.Background(), 0, 0)
			if err != nil || len(entries) == 0 || entries[len(entries)-1].Event != string(Terminated) {
				t.Errorf("log of state changes: %v %v", entries, err)
			}
		})
	}
}

// The token of an attempt that was not taken is dead with its flow, if anybody has it after all.

func TestTokenOfAStartThatIsNotTaken(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	r := x.offer("flow-1")
	err := x.verify(r.EDR.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.settle(r, Settlement{Done: true})
	wantCode(t, x.verify(r.EDR.AccessToken), CodeFlowEnded)
}

// A settlement of the start must not settle the ending that is owed instead.

func TestSettlementOfAnotherEvent(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	start := x.offer("flow-1")
	x.must(x.Revoke(context.Background(), "flow-1", ""))
	x.clock.Advance(reportAfter)
	ending := x.claim("flow-1")
	if ending == nil || ending.Event != ReportCompleted || ending.EDR != nil || ending.Attempt != start.Attempt {
		t.Fatalf("%+v", ending)
	}
	x.settle(start, Settlement{Done: true, Delivered: true})
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil || f.Report == nil {
		t.Errorf("the ending is not owed any more: %v", err)
	}
}

// A process that is killed between commit and answer, or between claim and delivery, leaves the promise in the record.

func TestAsynchronousStartSurvivesTheProcess(t *testing.T) {
	for name, claimed := range map[string]bool{"before the first attempt": false, "in the middle of it": true} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.wantPending(asyncStart("flow-1"), false)
			x.clock.Advance(reportAfter)
			if claimed && x.claim("flow-1") == nil {
				t.Fatal("not claimed")
			}
			next := x.other(func(c *Config) { c.Live = NewLive() })
			e, err := next.Start(context.Background(), controlPlane, asyncStart("flow-1"))
			if err != nil || !e.Pending {
				t.Fatalf("repeat: %+v %v", e, err)
			}
			next.count(context.Background())
			if _, owed := next.DueReports(); owed[ReportStarted] != 1 {
				t.Errorf("owed %v", owed)
			}
			x.clock.Advance(lease)
			r, err := next.ClaimReport(context.Background(), "flow-1", lease)
			if err != nil || r == nil || r.EDR == nil {
				t.Fatalf("%+v %v", r, err)
			}
			_, err = next.Verify(context.Background(), r.EDR.AccessToken.Reveal(), atEndpoint, anySite)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What was promised under the old configuration while a new one starts is known to the new one before its next count.

func TestPromiseOverAReload(t *testing.T) {
	x := newFixture(t)
	next := x.other(func(*Config) {})
	x.wantPending(asyncStart("flow-1"), false)
	x.clock.Advance(reportAfter)
	if due, _ := next.DueReports(); len(due) != 1 {
		t.Errorf("due %v", due)
	}
}

// A flow that was counted from an old reading must not be taken for one that owes nothing.

func TestCountForgetsNoPromise(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	before, err := x.Flow(context.Background(), "flow-1")
	if err != nil {
		t.Fatal(err)
	}
	x.must(revoked(x))
	x.add(&FlowCount{ByState: map[State]int{}}, before)
	if _, owed := x.due(); owed != 1 {
		t.Errorf("%d owed", owed)
	}
}

func TestStartsAreTriedBeforeEndings(t *testing.T) {
	x := newFixture(t)
	for i := range 20 {
		ended, starting := fmt.Sprintf("ended-%d", i), fmt.Sprintf("starting-%d", i)
		x.start(dpsStart(ended))
		x.must(x.Revoke(context.Background(), ended, ""))
		x.wantPending(asyncStart(starting), false)
	}
	x.clock.Advance(reportAfter)
	due, _ := x.DueReports()
	if len(due) != 40 {
		t.Fatalf("%d due", len(due))
	}
	for i, d := range due {
		if want := i < 20; (d.Event == ReportStarted) != want {
			t.Errorf("%d: %+v", i, d)
		}
	}
}

func TestHowLongReportsAreTried(t *testing.T) {
	now := time.Now()
	for event, within := range map[ReportEvent]time.Duration{ReportStarted: StartedWithin, ReportCompleted: ReportWithin, ReportFailed: ReportWithin} {
		r := &Report{Event: event, Since: now}
		if r.TooOld(now.Add(within)) || !r.TooOld(now.Add(within+time.Second)) {
			t.Errorf("%s: not tried for %s", event, within)
		}
	}
}

// Nothing is minted for an attempt that is not made.

func TestStartThatIsTooOldGetsNoToken(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	x.clock.Advance(StartedWithin + time.Second)
	r := x.claim("flow-1")
	if r == nil || r.EDR != nil || !r.TooOld(x.clock.Now()) || len(x.observer.issued) != 0 {
		t.Fatalf("%+v, issued %v", r, x.observer.issued)
	}
	x.settle(r, Settlement{Done: true})
	if x.stateOf("flow-1") != Terminated {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

// Each attempt has an access token of its own, and the record has none.

func TestRecordOfAStartHoldsNoToken(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	first := x.offer("flow-1")
	second := x.offer("flow-1")
	if first.EDR.AccessToken == second.EDR.AccessToken || first.EDR.RefreshToken != second.EDR.RefreshToken {
		t.Error("want another access token and the same refresh token")
	}
	if x.observer.issued["start"] != 1 || x.observer.issued["repeat"] != 1 {
		t.Errorf("issued %v", x.observer.issued)
	}
	record, err := x.store.Get(context.Background(), flowKind, flowKey("default", "flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]Secret{"access": first.EDR.AccessToken, "refresh": first.EDR.RefreshToken} {
		if bytes.Contains(record.Data, []byte(token.Reveal())) {
			t.Errorf("the record holds the %s token", what)
		}
	}
}

func TestStartingFlowsAreCounted(t *testing.T) {
	x := newFixture(t)
	x.wantPending(asyncStart("flow-1"), false)
	x.count(context.Background())
	if n := x.observer.flows.ByState[Starting]; n != 1 {
		t.Errorf("counted as %v", x.observer.flows.ByState)
	}
}

// A starting flow whose control plane is never there ends like any that is not used.

func TestUnusedStartingFlowEnds(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.UnacknowledgedTTL = time.Hour })
	x.wantPending(asyncStart("flow-1"), false)
	x.clock.Advance(time.Hour)
	x.count(context.Background())
	if x.stateOf("flow-1") != Terminated {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
	x.wantNoOffer("flow-1")
}

// An attempt that ends before anything is sent cannot have been taken, and one that is too old needs nothing to be given up.

// A suspension that the store did not take while an attempt was being claimed stays in effect.

// What is noted of a first use must not hide the report of an ending that comes in between.

// Nor must what is noted of a start's settlement.

// The report of an ending that was not delivered goes with the flow, and a new flow of that id may take its place.

// lossyStore loses its answers to creations.

// A creation whose answer from the store was lost is a start that comes again, and the promise must not wait for the count.

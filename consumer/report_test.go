package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/tokens"
)

const (
	lease      = time.Minute
	firstAfter = time.Second // when a promise is tried first
)

func asyncPrepare(id string) tokens.StartRequest {
	r := prepareOf(id)
	r.Async, r.Callback = true, "http://cp/signaling"
	return r
}

// later is a script whose transfer is prepared asynchronously.
func (x *fixture) later(id string) script {
	x.t.Helper()
	s := script{x.transfers(), x.t, id}
	s.live(s.Prepare(context.Background(), main, asyncPrepare(id)))(tokens.Preparing, false)
	return s
}

// begun is a script whose transfer is started.
func (x *fixture) begun(id string) script {
	x.t.Helper()
	s := x.script(id)
	s.started("m-1", x.address("authorization", "access-of-"+id))(tokens.Started, false)
	return s
}

// claim takes the report of the script's transfer; nil: there is none.
func (s script) claim() *tokens.Report {
	s.t.Helper()
	r, err := s.ClaimReport(context.Background(), s.id, lease)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s script) settle(r *tokens.Report, settled tokens.Settlement) {
	s.t.Helper()
	err := s.SettleReport(context.Background(), r, settled)
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s script) finish(want tokens.Outcome) {
	s.t.Helper()
	outcome, err := s.Finish(context.Background(), s.id)
	if err != nil || outcome != want {
		s.t.Fatalf("outcome %q, error %v, want %q", outcome, err, want)
	}
}

// owes checks how many reports are owed, and how many are due.
func (s script) owes(event tokens.ReportEvent, owed, due int) {
	s.t.Helper()
	now, all := s.DueReports()
	if all[event] != owed || len(now) != due {
		s.t.Fatalf("owed %v, due %v; want %d of %s and %d due", all, now, owed, event, due)
	}
}

// TestPreparedLater: the transfer is prepared with the first attempt to tell of it, and the answer says PREPARING until the
// control plane has taken it.
func TestPreparedLater(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.later("tp-1")
	s.state(tokens.Preparing)
	s.owes(tokens.ReportPrepared, 1, 0) // first the answer
	if s.claim() != nil {
		t.Fatal("claimed before the answer")
	}
	_, _, err := s.Started(context.Background(), main, messageOf("tp-1", "m-1"), x.address())
	wantTold(t, err, tokens.CodeState, "not prepared yet")
	_, _, err = s.Resume(context.Background(), main, messageOf("tp-1", "m-2"), nil)
	wantTold(t, err, tokens.CodeState, "not started yet")
	s.end(s.Suspend, "m-3", tokens.OutOfState)

	x.clock.Advance(firstAfter)
	s.owes(tokens.ReportPrepared, 1, 1)
	r := s.claim()
	if r == nil || r.Event != tokens.ReportPrepared || r.Flow != "tp-1" || r.Dialect != tokens.DPS || r.ControlPlane != "main" ||
		r.Callback != "http://cp/signaling" || r.Attempt != 1 || r.EDR != nil {
		t.Fatalf("report %+v", r)
	}
	s.state(tokens.Prepared)
	s.live(s.Prepare(context.Background(), main, asyncPrepare("tp-1")))(tokens.Preparing, true)
	if s.claim() != nil {
		t.Fatal("claimed twice")
	}
	s.settle(r, tokens.Settlement{Unsure: true, Again: time.Second})
	x.clock.Advance(time.Second)
	r = s.claim()
	if r == nil || r.Attempt != 2 {
		t.Fatalf("report %+v", r)
	}
	s.settle(r, tokens.Settlement{Done: true, Delivered: true})
	s.owes(tokens.ReportPrepared, 0, 0)
	s.live(s.Prepare(context.Background(), main, asyncPrepare("tp-1")))(tokens.Prepared, true)
	s.started("m-4", x.address())(tokens.Started, false)
}

// TestPreparedIsKnown: an answer may be lost, and then what the control plane says next shows that it has taken the news.
func TestPreparedIsKnown(t *testing.T) {
	t.Parallel()
	for name, message := range map[string]func(script, *fixture){
		"started with an EDR":    func(s script, x *fixture) { s.started("m-1", x.address())(tokens.Started, false) },
		"started without an EDR": func(s script, _ *fixture) { s.started("m-1", nil)(tokens.Started, false) },
		"terminate":              func(s script, _ *fixture) { s.end(s.Terminate, "m-1", tokens.Applied) },
		"completed":              func(s script, _ *fixture) { s.end(s.Complete, "m-1", tokens.Applied) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			s := x.later("tp-1")
			x.clock.Advance(firstAfter)
			r := s.claim()
			message(s, x)
			s.owes(tokens.ReportPrepared, 0, 0)
			s.settle(r, tokens.Settlement{Done: true}) // too late
			x.clock.Advance(lease)
			if s.claim() != nil {
				t.Error("there is still something to tell")
			}
		})
	}
}

// TestPreparedIsNotTaken: a transfer that nobody will start goes, unless an attempt may have been taken.
func TestPreparedIsNotTaken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settled tokens.Settlement
		want    tokens.State
	}{
		"refused":                   {tokens.Settlement{Done: true}, tokens.Terminated},
		"refused after a lost one":  {tokens.Settlement{Unsure: true}, tokens.Prepared},
		"refused after an unsent":   {tokens.Settlement{}, tokens.Terminated},
		"given up and perhaps told": {tokens.Settlement{Done: true, Unsure: true}, tokens.Prepared},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			s := x.later("tp-1")
			x.clock.Advance(firstAfter)
			s.settle(s.claim(), test.settled)
			if !test.settled.Done {
				s.settle(s.claim(), tokens.Settlement{Done: true})
			}
			s.owes(tokens.ReportPrepared, 0, 0)
			s.state(test.want)
			if ended := strings.Contains(x.logs.String(), "did not take that it is prepared"); ended != (test.want == tokens.Terminated) {
				t.Errorf("log %s", x.logs)
			}
		})
	}
}

// TestPreparedByHandMeanwhile: an EDR that is put by hand brings the transfer to life, and the news of its prepare goes out.
func TestPreparedByHandMeanwhile(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.later("tp-1")
	x.put("tp-1", x.dps(), Terms{})
	s.state(tokens.Started)
	x.clock.Advance(firstAfter)
	r := s.claim()
	if r == nil || r.Event != tokens.ReportPrepared {
		t.Fatalf("report %+v", r)
	}
	s.settle(r, tokens.Settlement{Done: true})
	s.state(tokens.Started) // it is used
}

// TestFinish: the EDR is gone at once, and the control plane is owed the news.
func TestFinish(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.begun("tp-1")
	s.finish(tokens.Applied)
	s.state(tokens.Completed)
	if e := x.get("tp-1"); e.State != Ended || e.EDR != nil {
		t.Errorf("entry %+v", e)
	}
	s.finish(tokens.Already)
	s.owes(tokens.ReportCompleted, 1, 0)
	x.clock.Advance(firstAfter)
	r := s.claim()
	if r == nil || r.Event != tokens.ReportCompleted || r.Dialect != tokens.DPS || r.ControlPlane != "main" {
		t.Fatalf("report %+v", r)
	}
	s.settle(r, tokens.Settlement{Again: time.Minute})
	s.owes(tokens.ReportCompleted, 1, 0)
	x.clock.Advance(time.Minute)
	s.settle(s.claim(), tokens.Settlement{Done: true, Delivered: true})
	s.owes(tokens.ReportCompleted, 0, 0)
	s.state(tokens.Completed)
	// Its token is free, for an EDR that brings it again.
	other := x.script("tp-2")
	other.started("m-1", x.address("authorization", "access-of-tp-1"))(tokens.Started, false)
	if x.observer.event(EventForeignToken) != 0 {
		t.Error("the token is still claimed")
	}
}

// TestFinishWithoutAnEDR: the conformance kit starts transfers without one.
func TestFinishWithoutAnEDR(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", nil)(tokens.Started, false)
	s.finish(tokens.Applied)
	s.state(tokens.Completed)
}

func TestFinishIsRefused(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.begun("suspended")
	s.end(s.Suspend, "m-2", tokens.Applied)
	x.script("prepared")
	x.later("preparing")
	x.started("by-hand")
	for id, want := range map[string]struct {
		code Code
		text string
	}{
		"suspended": {CodeState, "suspended, and its control plane takes no completion"},
		"prepared":  {CodeState, "not started yet"},
		"preparing": {CodeState, "not started yet"},
		"by-hand":   {CodeState, "did not come by Data Plane Signaling"},
		"unknown":   {CodeUnknown, ""},
		"a/b":       {CodeInvalid, "transfer process id"},
	} {
		_, err := s.Finish(context.Background(), id)
		wantCode(t, err, want.code)
		if !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v", id, err)
		}
	}
	s.state(tokens.Suspended)
	x.get("by-hand")
}

// TestFinishWhereNobodyCanBeTold changes nothing.
func TestFinishWhereNobodyCanBeTold(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.begun("tp-1")
	s.c.Callable = func(name string) bool { return name != "main" }
	_, err := s.Finish(context.Background(), "tp-1")
	wantCode(t, err, CodeState)
	if !strings.Contains(err.Error(), "main has no callback") {
		t.Error(err)
	}
	s.state(tokens.Started)
}

// TestFinishedMeanwhile: a control plane that ends the transfer by itself needs not be told any more.
func TestFinishedMeanwhile(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.begun("tp-1")
	s.finish(tokens.Applied)
	x.clock.Advance(firstAfter)
	r := s.claim()
	s.end(s.Suspend, "m-2", tokens.OutOfState)
	s.owes(tokens.ReportCompleted, 1, 0)
	s.end(s.Terminate, "m-3", tokens.Already)
	s.owes(tokens.ReportCompleted, 0, 0)
	s.settle(r, tokens.Settlement{Again: time.Second})
	s.owes(tokens.ReportCompleted, 0, 0)
	s.state(tokens.Completed)
}

// TestReportsOfTransfersSurviveARestart: they are part of the records, of ended transfers too, and a short memory for these
// does not lose them.
func TestReportsOfTransfersSurviveARestart(t *testing.T) {
	t.Parallel()
	x := newFixture(t, func(c *Config, _ *RenewerConfig) { c.EndedTTL = time.Minute })
	x.begun("tp-1").finish(tokens.Applied)
	x.later("tp-2")
	x.clock.Advance(time.Hour)

	again := script{x.transfers(), t, "tp-1"}
	again.owes(tokens.ReportCompleted, 0, 0)
	count, err := again.Count(context.Background())
	if err != nil || count[Preparing] != 1 || len(count) != 1 {
		t.Fatalf("count %v, error %v", count, err)
	}
	again.owes(tokens.ReportCompleted, 1, 2)
	r := again.claim()
	if r == nil || r.Event != tokens.ReportCompleted {
		t.Fatalf("report %+v", r)
	}
	again.settle(r, tokens.Settlement{Done: true, Delivered: true})
	_, err = again.Status(context.Background(), main, "tp-1")
	wantTold(t, err, tokens.CodeFlowUnknown, "") // its time was over before
}

// TestReportsWaitForTheStore: an attempt that could not be begun is none.
func TestReportsWaitForTheStore(t *testing.T) {
	t.Parallel()
	broken := &brittleStore{}
	x := newFixture(t, func(c *Config, _ *RenewerConfig) { broken.Store, c.Store = c.Store, broken })
	s := x.begun("tp-1")
	broken.breaks(1)
	_, err := s.Finish(context.Background(), "tp-1")
	wantCode(t, err, CodeUnavailable)
	s.state(tokens.Started)
	s.finish(tokens.Applied)
	x.clock.Advance(firstAfter)
	broken.breaks(1)
	_, err = s.ClaimReport(context.Background(), "tp-1", lease)
	wantCode(t, err, CodeUnavailable)
	s.owes(tokens.ReportCompleted, 1, 0)
	x.clock.Advance(storeTrouble)
	s.owes(tokens.ReportCompleted, 1, 1)

	// What the control plane registered cannot be read: nothing is sent.
	s.c.ControlPlane = func(context.Context, string) (tokens.ControlPlane, error) { return tokens.ControlPlane{}, errBroken }
	_, err = s.ClaimReport(context.Background(), "tp-1", lease)
	if !errors.Is(err, errBroken) {
		t.Fatalf("error %v", err)
	}
	x.clock.Advance(storeTrouble)
	s.c.ControlPlane = func(_ context.Context, name string) (tokens.ControlPlane, error) {
		return tokens.ControlPlane{Endpoint: "http://" + name}, nil
	}
	if r := s.claim(); r == nil || r.Registered != "http://main" {
		t.Errorf("report %+v", r)
	}
}

// TestFinishWhereSpaceIsShort: the ending is let through from the reserve, and the attempts to tell of it do not use that up.
func TestFinishWhereSpaceIsShort(t *testing.T) {
	t.Parallel()
	edits := &editsOf{}
	x := newFixture(t, func(c *Config, _ *RenewerConfig) { edits.Store, c.Store = c.Store, edits })
	s := x.begun("tp-1")
	s.finish(tokens.Applied)
	x.clock.Advance(firstAfter)
	s.settle(s.claim(), tokens.Settlement{Again: time.Second})
	x.clock.Advance(time.Second)
	s.settle(s.claim(), tokens.Settlement{Done: true})
	if got, want := fmt.Sprint(edits.endings), "[false true false false false false]"; got != want {
		t.Errorf("endings %s, want %s", got, want)
	}
}

// TestReportsOfAnOldConfiguration are delivered by the newest, which knows of them.
func TestReportsOfAnOldConfiguration(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.begun("tp-1")
	replaced := false
	s.c.Replaced = func() bool { return replaced }
	next, err := NewTransfers(TransfersConfig{Cache: x.Cache, ControlPlanes: []string{"main"}, Owed: s.c.Owed})
	if err != nil {
		t.Fatal(err)
	}
	replaced = true
	s.finish(tokens.Applied)
	x.clock.Advance(firstAfter)
	s.owes(tokens.ReportCompleted, 1, 0)
	script{next, t, "tp-1"}.owes(tokens.ReportCompleted, 1, 1)
}

// TestCountLeavesOutWhatCannotBeRead: one such record must not keep the reports of the others from being found.
func TestCountLeavesOutWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	_, err := x.store.Create(context.Background(), store.Record{
		Kind: edrKind, ID: x.key("a"), Labels: map[string]string{"participant": "default"}, Data: []byte("{"),
	})
	if err != nil {
		t.Fatal(err)
	}
	x.begun("tp-1").finish(tokens.Applied)
	again := script{x.transfers(), t, "tp-1"}
	_, err = again.Count(context.Background())
	if err != nil || !strings.Contains(x.logs.String(), "cannot be read") {
		t.Fatalf("%v, log %s", err, x.logs)
	}
	again.owes(tokens.ReportCompleted, 1, 0)
}

// TestReportsAreOwnedByThePresentName of a control plane.
func TestReportsAreOwnedByThePresentName(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := script{x.transfers(), t, "tp-1"}
	s.live(s.Prepare(context.Background(), "first", prepareOf("tp-1")))(tokens.Prepared, false)
	s.started("m-1", x.address())(tokens.Started, false)
	s.finish(tokens.Applied)
	x.clock.Advance(firstAfter)
	if due, _ := s.DueReports(); len(due) != 1 || due[0].ControlPlane != "main" {
		t.Errorf("due %+v", due)
	}
	if r := s.claim(); r == nil || r.ControlPlane != "main" {
		t.Errorf("report %+v", r)
	}
}

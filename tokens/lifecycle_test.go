package tokens

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

func TestEndings(t *testing.T) {
	type op func(*Service, context.Context, Caller, Message) (Ending, error)
	suspend, terminate, complete := op((*Service).Suspend), op((*Service).Terminate), op((*Service).Complete)
	for name, c := range map[string]struct {
		before  func(x *fixture)
		op      op
		caller  Caller
		message string
		outcome Outcome
		state   State
	}{
		"suspend":                       {op: suspend, outcome: Applied, state: Suspended},
		"suspend again":                 {before: suspendFlow, op: suspend, outcome: Already, state: Suspended},
		"suspend an ended flow":         {before: terminateFlow, op: suspend, outcome: OutOfState, state: Terminated},
		"late repeat of a suspend":      {before: suspendResume, op: suspend, message: "suspend-1", outcome: Already, state: Started},
		"terminate":                     {op: terminate, outcome: Applied, state: Terminated},
		"terminate a suspended flow":    {before: suspendFlow, op: terminate, outcome: Applied, state: Terminated},
		"terminate again":               {before: terminateFlow, op: terminate, outcome: Already, state: Terminated},
		"complete":                      {op: complete, outcome: Applied, state: Completed},
		"complete a terminated flow":    {before: terminateFlow, op: complete, outcome: Already, state: Terminated},
		"terminate with a used message": {before: suspendResume, op: terminate, message: "suspend-1", outcome: Applied, state: Terminated},
		"terminate by another caller":   {op: terminate, caller: "other", outcome: NotOwned, state: Started},
		"suspend by another caller":     {op: suspend, caller: "other", outcome: NotOwned, state: Started},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t, func(cfg *Config) { cfg.ControlPlanes = []string{string(controlPlane), "other"} })
			x.start(dpsStart("flow-1"))
			if c.before != nil {
				c.before(x)
			}
			caller, id := controlPlane, "message-1"
			if c.caller != "" {
				caller = c.caller
			}
			if c.message != "" {
				id = c.message
			}
			ending := x.must(c.op(x.Service, context.Background(), caller, x.message("flow-1", id)))
			if ending.Outcome != c.outcome || (ending.Flow == nil) != (c.outcome == NotOwned) {
				t.Fatalf("outcome %s", ending.Outcome)
			}
			f, err := x.Flow(context.Background(), "flow-1")
			if err != nil || f.State != c.state {
				t.Fatalf("state %s, %v", f.State, err)
			}
		})
	}
}

func TestEndingOfAnUnknownFlow(t *testing.T) {
	x := newFixture(t)
	ending := x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m1")))
	if ending.Outcome != Unknown {
		t.Fatalf("suspend: %s", ending.Outcome)
	}
	x.start(dpsStart("flow-1")) // a suspend leaves nothing behind

	ending = x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-2", "m2")))
	if ending.Outcome != Unknown {
		t.Fatalf("terminate: %s", ending.Outcome)
	}
	_, err := x.Start(context.Background(), controlPlane, dpsStart("flow-2"))
	wantCode(t, err, CodeState)
	f, err := x.Flow(context.Background(), "flow-2")
	if err != nil || !f.Tombstone() {
		t.Fatalf("no tombstone: %v", err)
	}
	if x.observer.count(EventUnknownEnding) != 1 {
		t.Fatal("not reported")
	}
	ending = x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-2", "m3")))
	if ending.Outcome != Already {
		t.Fatalf("again: %s", ending.Outcome)
	}
}

func TestTombstonesExpire(t *testing.T) {
	x := newFixture(t)
	x.start(classicStart("flow-1"))
	terminateFlow(x)
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil || f.Source != nil || f.Salt != nil || f.CurrentKey != "" || f.Tombstone() {
		t.Fatalf("an ended flow keeps what it should not: %v", err)
	}
	if f.Agreement != "agreement-1" || f.Counterparty != consumerDID {
		t.Fatal("nobody can tell what the flow was")
	}
	x.clock.Advance(DefaultTombstoneTTL)
	x.sweep(context.Background())
	_, err = x.Flow(context.Background(), "flow-1")
	wantCode(t, err, CodeFlowUnknown)
}

func TestOrphanedFlowMayBeEndedByAnyControlPlane(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	renamed := x.other(func(c *Config) { c.ControlPlanes = []string{"new"} })
	_, err := renamed.Start(context.Background(), "new", dpsStart("flow-1"))
	wantCode(t, err, CodeForeign)
	_, err = renamed.Status(context.Background(), "new", "flow-1")
	wantCode(t, err, CodeFlowUnknown)
	ending := x.must(renamed.Terminate(context.Background(), "new", x.message("flow-1", "m1")))
	if ending.Outcome != Applied || x.observer.count(EventOrphan) != 1 {
		t.Fatalf("outcome %s", ending.Outcome)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
}

func TestRenamedControlPlaneKeepsItsFlows(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	renamed := x.other(func(c *Config) {
		c.ControlPlanes = []string{"new"}
		c.Formerly = map[string]string{string(controlPlane): "new"}
	})
	f, err := renamed.Status(context.Background(), "new", "flow-1")
	if err != nil || f.State != Started {
		t.Fatal(err)
	}
	_, err = renamed.Start(context.Background(), "new", dpsStart("flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	x.must(renamed.Suspend(context.Background(), "new", x.message("flow-1", "m1")))
	_, err = renamed.Resume(context.Background(), "new", x.message("flow-1", "m2"))
	if err != nil || x.observer.count(EventOrphan) != 0 {
		t.Fatal(err)
	}
}

func TestResume(t *testing.T) {
	for name, c := range map[string]struct {
		before  func(x *fixture)
		message string
		caller  Caller
		code    Code
		repeat  bool
	}{
		"suspended":                {before: suspendFlow},
		"started":                  {repeat: true},
		"repeated":                 {before: suspendResume, message: "resume-1", repeat: true},
		"ended":                    {before: terminateFlow, code: CodeState},
		"with the suspend's id":    {before: suspendFlow, message: "suspend-1", code: CodeConflict},
		"of another control plane": {before: suspendFlow, caller: "other", code: CodeForeign},
		"late repeat of a resume": {before: func(x *fixture) {
			suspendResume(x)
			x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "suspend-2")))
		}, message: "resume-1", code: CodeState},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t, func(cfg *Config) { cfg.ControlPlanes = []string{string(controlPlane), "other"} })
			first := x.start(dpsStart("flow-1"))
			if c.before != nil {
				c.before(x)
			}
			caller, id := controlPlane, "message-1"
			if c.caller != "" {
				caller = c.caller
			}
			if c.message != "" {
				id = c.message
			}
			edr, err := x.Resume(context.Background(), caller, x.message("flow-1", id))
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if edr.Repeated != c.repeat || edr.RefreshToken != first.RefreshToken {
				t.Fatalf("repeated %t", edr.Repeated)
			}
			err = x.verify(edr.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	x := newFixture(t)
	_, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", "m"))
	wantCode(t, err, CodeFlowUnknown)
	_, err = x.Resume(context.Background(), controlPlane, x.message("../x", "m"))
	wantCode(t, err, CodeFlowUnknown)
}

func TestRememberedMessagesAreBounded(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	for i := range 20 {
		x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", string(rune('a'+i))+"-suspend")))
		_, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", string(rune('a'+i))+"-resume"))
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil || len(f.Messages) != rememberedMessages || f.StartMessage != "start-flow-1" {
		t.Fatalf("%d messages", len(f.Messages))
	}
}

func TestStateChangesAreInTheLog(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.mustRenew(edr.RefreshToken, edr.AccessToken) // not a change of state
	suspendResume(x)
	terminateFlow(x)
	entries, err := x.store.Tail(context.Background(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	events := ""
	for _, e := range entries {
		events += e.Event + " "
	}
	if events != "SUSPENDED STARTED TERMINATED " {
		t.Fatalf("log %q", events)
	}
}

// What the store does not take holds here all the same, is answered as "cannot tell", and is recorded later.
func TestEndingThatTheStoreDoesNotTake(t *testing.T) {
	for name, seen := range map[string]bool{"token in use": true, "token not yet seen": false} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			edr := x.start(dpsStart("flow-1"))
			if seen {
				err := x.verify(edr.AccessToken)
				if err != nil {
					t.Fatal(err)
				}
			}
			x.store.fail(nil, errBroken)
			_, err := x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m1"))
			wantCode(t, err, CodeUnavailable)
			wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
			if x.observer.count(EventPinned) != 1 {
				t.Fatal("not reported")
			}
			x.retryPins(context.Background())
			wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
			x.store.fail(nil, nil)
			x.retryPins(context.Background())
			f, err := x.Flow(context.Background(), "flow-1")
			if err != nil || f.State != Terminated || len(x.config.Live.waiting()) != 0 {
				t.Fatalf("not recorded: %v", err)
			}
			wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
		})
	}
}

func TestSuspendThatTheStoreDidNotTakeIsLiftedByAResume(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.store.fail(nil, errBroken)
	_, err = x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m1"))
	wantCode(t, err, CodeUnavailable)
	wantCode(t, x.verify(edr.AccessToken), CodeFlowSuspended)
	x.store.fail(nil, nil)
	_, err = x.Resume(context.Background(), controlPlane, x.message("flow-1", "m2"))
	if err != nil {
		t.Fatal(err)
	}
	x.retryPins(context.Background())
	err = x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
}

// Trouble with the store must not let one control plane end the flows of another.
func TestForeignEndingDuringTrouble(t *testing.T) {
	for name, seen := range map[string]bool{"token in use": true, "token not yet seen": false} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t, func(cfg *Config) { cfg.ControlPlanes = []string{string(controlPlane), "other"} })
			edr := x.start(dpsStart("flow-1"))
			if seen {
				err := x.verify(edr.AccessToken)
				if err != nil {
					t.Fatal(err)
				}
			}
			x.store.fail(nil, errBroken)
			_, err := x.Terminate(context.Background(), "other", x.message("flow-1", "m1"))
			wantCode(t, err, CodeUnavailable)
			err = x.verify(edr.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			x.store.fail(nil, nil)
			x.retryPins(context.Background())
			err = x.verify(edr.AccessToken)
			if err != nil || len(x.config.Live.waiting()) != 0 {
				t.Fatal(err)
			}
		})
	}
}

func TestEndingWhileShortOfSpace(t *testing.T) {
	x := newFixture(t)
	x.store.fail(nil, nil)
	full := &fullStore{Store: x.store}
	short := x.other(func(c *Config) { c.Store = full })
	ending := x.must(short.Terminate(context.Background(), controlPlane, x.message("unknown", "m1")))
	if ending.Outcome != Unrecorded {
		t.Fatalf("outcome %s", ending.Outcome)
	}
	edr := x.start(dpsStart("flow-1"))
	ending = x.must(short.Terminate(context.Background(), controlPlane, x.message("flow-1", "m1")))
	if ending.Outcome != Applied || !full.sawEnding {
		t.Fatalf("outcome %s", ending.Outcome)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
}

// fullStore refuses what a store short of space refuses.
type fullStore struct {
	store.Store
	sawEnding bool
}

func (*fullStore) Create(context.Context, store.Record) (store.Record, error) {
	return store.Record{}, store.ErrFull
}

func (f *fullStore) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	return f.Store.Update(ctx, kind, id, func(old store.Record) (store.Edit, error) {
		e, err := edit(old)
		if err == nil && !e.Ending {
			return e, store.ErrFull
		}
		f.sawEnding = err == nil
		return e, err
	})
}

func TestRevoke(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	ending := x.must(x.Revoke(context.Background(), "flow-1", "contract breach"))
	if ending.Outcome != Applied || ending.Flow.Reason != "contract breach" {
		t.Fatalf("%+v", ending)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
	_, err := x.Revoke(context.Background(), "flow-2", "")
	wantCode(t, err, CodeFlowUnknown)
}

func TestFirstUseIsRecordedOnce(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { x.Run(ctx); close(done) }()
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "first use recorded", func() bool {
		f, err := x.Flow(context.Background(), "flow-1")
		if err != nil {
			t.Fatal(err)
		}
		return !f.Used.IsZero()
	})
	cancel()
	<-done
	record, err := x.store.Get(context.Background(), flowKind, flowKey("default", "flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	err = x.verify(edr.AccessToken)
	if err != nil || len(x.marks) != 0 || record.Version != 2 {
		t.Fatalf("recorded again: version %d, %v", record.Version, err)
	}
}

func TestCountAndList(t *testing.T) {
	x := newFixture(t)
	for _, id := range []string{"a", "b", "c"} {
		x.start(dpsStart(id))
	}
	x.must(x.Terminate(context.Background(), controlPlane, x.message("b", "m")))
	x.count(context.Background())
	if c := x.observer.flows; c.ByState[Started] != 2 || c.ByState[Terminated] != 1 || c.Orphaned != 0 || c.Expiring != 0 {
		t.Fatalf("%+v", c)
	}
	page, err := x.Flows(context.Background(), "a", 1)
	if err != nil || len(page) != 1 || page[0].ID != "b" {
		t.Fatalf("%v %v", page, err)
	}
	use, err := x.KeyUse(context.Background())
	if err != nil || use[x.config.Keys.activeRefresh] != 2 {
		t.Fatalf("%v %v", use, err)
	}
}

func TestCountOfFlowsThatNeedSomebody(t *testing.T) {
	x := newFixture(t)
	lasting := classicStart("a")
	lasting.Terms.Audience = "" // plain EDC: no renewal can be expected
	x.start(lasting)
	x.start(dpsStart("b"))
	x.clock.Advance(DefaultTokenTTLWithoutRenewal - expiringWithin + time.Second)
	x.other(func(c *Config) { c.ControlPlanes = []string{"new"} }).count(context.Background())
	if c := x.observer.flows; c.Expiring != 1 || c.Orphaned != 2 {
		t.Fatalf("%+v", c)
	}
}

func TestCountOverPages(t *testing.T) {
	x := newFixture(t)
	for i := range listPage + 1 {
		x.start(dpsStart(fmt.Sprintf("flow-%d", i)))
	}
	x.count(context.Background())
	if n := x.observer.flows.ByState[Started]; n != listPage+1 {
		t.Fatalf("%d flows", n)
	}
}

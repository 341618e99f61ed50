package tokens

import (
	"context"
	"fmt"
	"testing"
	"time"
)

const unusedFor = 30 * 24 * time.Hour

func newUnusedFixture(t *testing.T) *fixture {
	return newFixture(t, func(c *Config) { c.UnacknowledgedTTL, c.TombstoneTTL = unusedFor, 2*unusedFor })
}

func (x *fixture) stateOf(id string) State {
	x.t.Helper()
	f, err := x.Flow(context.Background(), id)
	if err != nil {
		x.t.Fatal(err)
	}
	return f.State
}

func TestUnusedFlowEnds(t *testing.T) {
	x := newUnusedFixture(t)
	edr := x.start(dpsStart("dps"))
	x.start(classicStart("classic"))
	x.clock.Advance(unusedFor - time.Second)
	x.count(context.Background())
	if x.stateOf("dps") != Started || x.observer.count(EventUnused) != 0 {
		t.Fatal("ended too early")
	}
	x.clock.Advance(time.Second)
	x.count(context.Background())
	if x.stateOf("dps") != Terminated || x.stateOf("classic") != Terminated || x.observer.count(EventUnused) != 2 {
		t.Fatalf("%s, %s, %d ended", x.stateOf("dps"), x.stateOf("classic"), x.observer.count(EventUnused))
	}
	if c := x.observer.flows; c.ByState[Terminated] != 2 || c.ByState[Started] != 0 {
		t.Errorf("counted as %v", c.ByState)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeFlowEnded)
	_, err = x.Start(context.Background(), controlPlane, dpsStart("dps"))
	wantCode(t, err, CodeState)

	x.clock.Advance(reportAfter)
	for flow, event := range map[string]ReportEvent{"dps": ReportCompleted, "classic": ReportFailed} {
		if r := x.claim(flow); r == nil || r.Event != event || r.Cause != CauseUnused {
			t.Errorf("%s: report %+v", flow, r)
		}
	}
}

func TestUsedFlowStays(t *testing.T) {
	for name, use := range map[string]func(*fixture, *EDR){
		"renewed": func(x *fixture, e *EDR) { x.mustRenew(e.RefreshToken, e.AccessToken) },
		"asked for data, recorded": func(x *fixture, e *EDR) {
			err := x.verify(e.AccessToken)
			if err != nil {
				x.t.Fatal(err)
			}
			x.record(context.Background(), <-x.marks)
		},
		"asked for data, not yet recorded": func(x *fixture, e *EDR) {
			err := x.verify(e.AccessToken)
			if err != nil {
				x.t.Fatal(err)
			}
		},
		"ended by its control plane": func(x *fixture, _ *EDR) {
			x.must(x.Complete(context.Background(), controlPlane, x.message("flow-1", "m")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newUnusedFixture(t)
			use(x, x.start(dpsStart("flow-1")))
			x.clock.Advance(unusedFor)
			x.count(context.Background())
			if x.stateOf("flow-1") == Terminated || x.observer.count(EventUnused) != 0 {
				t.Errorf("%s", x.stateOf("flow-1"))
			}
		})
	}
}

// The EDR is used between the reading of a page and the ending.
func TestUsedAtTheLastMoment(t *testing.T) {
	x := newUnusedFixture(t)
	x.start(dpsStart("flow-1"))
	x.clock.Advance(unusedFor)
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil {
		t.Fatal(err)
	}
	x.rewrite("flow-1", func(f *Flow) { f.Used = x.clock.Now() })
	if f := x.endUnused(context.Background(), f); f.State != Started {
		t.Errorf("%s", f.State)
	}
}

func TestUnusedFlowsStayWhenSwitchedOff(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.clock.Advance(10 * 365 * 24 * time.Hour)
	x.count(context.Background())
	if x.stateOf("flow-1") != Started {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

// A suspended flow that was never used ends too. Data Plane Signaling has no way to say so.
func TestUnusedSuspendedFlow(t *testing.T) {
	x := newUnusedFixture(t)
	x.start(dpsStart("flow-1"))
	x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m")))
	x.clock.Advance(unusedFor)
	x.count(context.Background())
	if x.stateOf("flow-1") != Terminated || x.observer.count(EventUntold) != 1 {
		t.Errorf("%s, untold %d", x.stateOf("flow-1"), x.observer.count(EventUntold))
	}
}

// A clock that jumped must not end all flows before anybody can look.
func TestUnusedEndingsAreBounded(t *testing.T) {
	x := newUnusedFixture(t)
	for i := range maxUnusedEndings + 5 {
		x.start(dpsStart(fmt.Sprintf("flow-%d", i)))
	}
	x.clock.Advance(unusedFor)
	x.count(context.Background())
	if n := x.observer.count(EventUnused); n != maxUnusedEndings {
		t.Errorf("%d ended at once", n)
	}
	x.count(context.Background())
	if n := x.observer.count(EventUnused); n != maxUnusedEndings+5 {
		t.Errorf("%d ended in all", n)
	}
}

// A suspension that waits for the store must not get lost over an ending that nobody asked for.
func TestUnusedEndingLeavesAHeldSuspensionAlone(t *testing.T) {
	x := newUnusedFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.clock.Advance(unusedFor)
	x.store.fail(nil, errBroken)
	_, err := x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m"))
	wantCode(t, err, CodeUnavailable)
	x.count(context.Background())
	x.store.fail(nil, nil)
	wantCode(t, x.verify(edr.AccessToken), CodeTokenExpired)
	if p := x.config.Live.pinned(flowKey("default", "flow-1")); p == nil || p.op != opSuspend {
		t.Errorf("%+v", p)
	}
	x.count(context.Background())
	if x.stateOf("flow-1") == Terminated {
		t.Error("ended before the suspension was recorded")
	}
	x.retryPins(context.Background())
	x.count(context.Background())
	if x.stateOf("flow-1") != Terminated {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

// What the store does not take is not pinned: nobody asked for the ending, so it can wait.
func TestUnusedEndingWaitsForTheStore(t *testing.T) {
	x := newUnusedFixture(t)
	x.start(dpsStart("flow-1"))
	x.clock.Advance(unusedFor)
	x.store.fail(nil, errBroken)
	x.count(context.Background())
	x.store.fail(nil, nil)
	if x.stateOf("flow-1") != Started || x.observer.count(EventPinned) != 0 {
		t.Fatalf("%s, pinned %d", x.stateOf("flow-1"), x.observer.count(EventPinned))
	}
	x.count(context.Background())
	if x.stateOf("flow-1") != Terminated {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

package tokens

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

const lease = time.Minute

func (x *fixture) claim(flow string) *Report {
	x.t.Helper()
	r, err := x.ClaimReport(context.Background(), flow, lease)
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

// due are the reports that may be tried now, and how many are owed in all.
func (x *fixture) due() ([]OwedReport, int) {
	due, owed := x.DueReports()
	all := 0
	for _, n := range owed {
		all += n
	}
	return due, all
}

func (x *fixture) settle(r *Report, s Settlement) {
	x.t.Helper()
	err := x.SettleReport(context.Background(), r, s)
	if err != nil {
		x.t.Fatal(err)
	}
}

func TestWhoIsTold(t *testing.T) {
	classic, dps := classicStart("flow-1"), dpsStart("flow-1")
	for name, test := range map[string]struct {
		start   StartRequest
		suspend bool
		end     func(*fixture) (Ending, error)
		promise ReportPromise
		event   ReportEvent
	}{
		"classic":           {classic, false, revoked, ReportPromised, ReportFailed},
		"classic suspended": {classic, true, revoked, ReportPromised, ReportFailed},
		"dps":               {dps, false, revoked, ReportPromised, ReportCompleted},
		"dps suspended":     {dps, true, revoked, ReportImpossible, ""},
		"quietly": {dps, false, func(x *fixture) (Ending, error) {
			return x.RevokeQuietly(context.Background(), "flow-1", "")
		}, "", ""},
		"terminated by the control plane": {dps, false, func(x *fixture) (Ending, error) {
			return x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m"))
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			r := test.start
			r.Callback = "http://cp:9191/control"
			x.start(r)
			if test.suspend {
				x.must(x.Suspend(context.Background(), controlPlane, Message{ProcessID: "flow-1", Dialect: r.Dialect}))
			}
			ending := x.must(test.end(x))
			if ending.Outcome != Applied || ending.Report != test.promise {
				t.Fatalf("%+v", ending)
			}
			if want := test.promise == ReportImpossible; (x.observer.count(EventUntold) == 1) != want {
				t.Errorf("untold: %d", x.observer.count(EventUntold))
			}
			if due, _ := x.due(); len(due) != 0 {
				t.Errorf("due before whoever asked can have been answered: %v", due)
			}
			x.clock.Advance(reportAfter)
			due, pending := x.due()
			got := x.claim("flow-1")
			if test.event == "" {
				if len(due) != 0 || pending != 0 || got != nil {
					t.Errorf("reported nevertheless: %v %+v", due, got)
				}
				return
			}
			if len(due) != 1 || pending != 1 || due[0] != (OwedReport{"flow-1", "cp", test.event}) {
				t.Errorf("due %v, pending %d", due, pending)
			}
			want := Report{
				Flow: "flow-1", Dialect: r.Dialect, ControlPlane: "cp", Callback: r.Callback, Event: test.event,
				Cause: CauseRevoked, Since: x.clock.Now().Add(-reportAfter), Attempt: 1,
			}
			if got == nil || *got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

func revoked(x *fixture) (Ending, error) { return x.Revoke(context.Background(), "flow-1", "") }

func TestReportIsTriedUntilSettled(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	if x.claim("flow-1") != nil {
		t.Fatal("claimed before it was due")
	}
	x.clock.Advance(reportAfter)
	first := x.claim("flow-1")
	if first == nil || x.claim("flow-1") != nil {
		t.Fatal("want one claim")
	}
	x.settle(first, Settlement{Again: 5 * time.Second, Unknown: true})
	x.clock.Advance(4 * time.Second)
	if due, pending := x.due(); len(due) != 0 || pending != 1 {
		t.Fatalf("due %v, pending %d", due, pending)
	}
	x.clock.Advance(time.Second)
	second := x.claim("flow-1")
	if second == nil || second.Attempt != 2 || second.Unknown != 1 {
		t.Fatalf("%+v", second)
	}
	x.settle(second, Settlement{Done: true})
	x.clock.Advance(time.Hour)
	if due, pending := x.due(); len(due) != 0 || pending != 0 || x.claim("flow-1") != nil {
		t.Fatalf("still owed: %v, %d", due, pending)
	}
	// The control plane's own terminate, which follows, finds the flow ended and is answered like any repeat.
	ending := x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-1", "late")))
	if ending.Outcome != Already || x.claim("flow-1") != nil {
		t.Fatalf("%+v", ending)
	}
}

// A gateway that died with a claim in its hand does not keep the report from being delivered.
func TestReportOfADeadGateway(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(reportAfter)
	lost := x.claim("flow-1")

	again := x.other(func(c *Config) { c.Live = NewLive() })
	again.count(context.Background())
	if _, pending := again.DueReports(); pending[ReportCompleted] != 1 {
		t.Fatal("a new process does not know of the report")
	}
	x.clock.Advance(lease)
	found, err := again.ClaimReport(context.Background(), "flow-1", lease)
	if err != nil || found == nil || found.Attempt != 2 {
		t.Fatalf("%+v %v", found, err)
	}
	// What the first one has to say now is out of date.
	x.settle(lost, Settlement{Done: true})
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil || f.Report == nil {
		t.Fatalf("settled by whom it no longer belongs to: %v", err)
	}
	err = again.SettleReport(context.Background(), found, Settlement{Done: true})
	if err != nil {
		t.Fatal(err)
	}
	x.count(context.Background())
	if _, pending := x.due(); pending != 0 {
		t.Error("the first process still holds it for owed")
	}
}

func TestReportIsClaimedOnce(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(reportAfter)
	var wg sync.WaitGroup
	var mu sync.Mutex
	claims := 0
	for range 8 {
		wg.Go(func() {
			r, err := x.ClaimReport(context.Background(), "flow-1", lease)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if r != nil {
				claims++
			}
		})
	}
	wg.Wait()
	if claims != 1 {
		t.Errorf("%d claims", claims)
	}
}

// A tombstone must not be swept while its report is on the way.
func TestReportOutlivesAShortTombstone(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.TombstoneTTL = time.Second })
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(time.Hour)
	r := x.claim("flow-1")
	if r == nil {
		t.Fatal("gone with its tombstone")
	}
	x.settle(r, Settlement{Done: true})
	_, err := x.Flow(context.Background(), "flow-1")
	wantCode(t, err, CodeFlowUnknown)
}

// An ending that the store takes late is reported when it is taken.
func TestPinnedRevocationIsReportedLater(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.store.fail(nil, errBroken)
	_, err := revoked(x)
	wantCode(t, err, CodeUnavailable)
	x.clock.Advance(time.Hour)
	if _, pending := x.due(); pending != 0 {
		t.Fatal("promised, although the ending is not recorded")
	}
	x.store.fail(nil, nil)
	x.retryPins(context.Background())
	x.clock.Advance(reportAfter)
	if x.claim("flow-1") == nil {
		t.Error("not promised when it was recorded")
	}
}

func TestReportWhileTheStoreIsInTrouble(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	x.must(revoked(x))
	x.clock.Advance(reportAfter)
	x.store.fail(nil, errBroken)
	_, err := x.ClaimReport(context.Background(), "flow-1", lease)
	wantCode(t, err, CodeUnavailable)
	if !errors.Is(err, errBroken) {
		t.Error(err)
	}
	if due, pending := x.due(); len(due) != 0 || pending != 1 {
		t.Errorf("due %v, %d owed: want it to rest", due, pending)
	}
	x.store.fail(nil, nil)
	x.clock.Advance(storeTrouble)
	if due, _ := x.due(); len(due) != 1 || x.claim("flow-1") == nil {
		t.Errorf("due %v, want it again", due)
	}
}

func TestOwedReportsAreBounded(t *testing.T) {
	now := time.Now()
	o := NewOwedReports()
	for i := range maxOwed + 10 {
		o.Put(OwedReport{Flow: fmt.Sprint(i), ControlPlane: "cp"}, now)
	}
	if len(o.flows) != maxOwed {
		t.Errorf("%d held", len(o.flows))
	}
	o.Put(OwedReport{Flow: "other", ControlPlane: "well"}, now)
	if o.flows["other"].controlPlane != "well" {
		t.Error("one control plane takes the room of another")
	}
	o.Put(OwedReport{Flow: "0", ControlPlane: "renamed"}, now)
	if o.held["cp"] != maxOwed-1 || o.held["renamed"] != 1 {
		t.Errorf("held %v", o.held)
	}
	o.Drop("0")
	o.Drop("0")
	if len(o.held) != 2 {
		t.Errorf("held %v", o.held)
	}
	o.Put(OwedReport{Flow: "0", ControlPlane: "renamed"}, now)
	if o.flows["0"].controlPlane != "renamed" {
		t.Error("a known one is not kept up to date")
	}
}

// The record of a flow whose report is pending has nothing secret in it, as any tombstone.
func TestReportKeepsNoSecrets(t *testing.T) {
	x := newFixture(t)
	x.start(classicStart("flow-1"))
	x.must(revoked(x))
	record, err := x.store.Get(context.Background(), flowKind, flowKey("default", "flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := decodeFlow(record)
	if err != nil || f.Report == nil || f.Source != nil || f.Salt != nil {
		t.Errorf("%+v %v", f, err)
	}
	if !record.Expires.Equal(f.Changed.Add(DefaultTombstoneTTL)) {
		t.Errorf("expires %s", record.Expires)
	}
}

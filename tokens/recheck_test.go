package tokens

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecheckInTheBackground(t *testing.T) {
	for name, test := range map[string]struct {
		start  func(string) StartRequest
		answer func(*fakePolicy)
		state  State
		marked bool
		data   Code
	}{
		"permit":        {dpsStart, permits, Started, false, ""},
		"deny dps":      {dpsStart, denies, Terminated, false, CodeFlowEnded},
		"deny classic":  {classicStart, denies, Terminated, false, CodeFlowEnded},
		"still no word": {dpsStart, away, Started, true, CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			x, p := newPolicyFixture(t, away)
			edr := x.startUnchecked(p, test.start("f"))
			wantCode(t, x.verify(edr.AccessToken), CodeUnavailable) // so that the token is remembered
			x.clock.Advance(recheckEvery)
			p.now(test.answer)
			x.recheckDue(context.Background())
			p.wantAsked(t, PolicyRecheck)
			if x.stateOf("f") != test.state || x.marked("f") != test.marked {
				t.Errorf("state %s, marked %v", x.stateOf("f"), x.marked("f"))
			}
			err := x.verify(edr.AccessToken)
			if test.data == "" {
				if err != nil {
					t.Errorf("data: %v", err)
				}
				x.mustRenew(edr.RefreshToken, edr.AccessToken)
			} else {
				wantCode(t, err, test.data)
			}
			if test.state == Terminated {
				x.wantDeniedReport("f", map[Dialect]ReportEvent{DPS: ReportCompleted, Classic: ReportFailed}[edr.Flow.Dialect])
			}
			if test.marked != (x.observer.unchecked == 1) {
				t.Errorf("%d flows are reported as unchecked", x.observer.unchecked)
			}
		})
	}
}

func TestRecheckBacksOff(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	x.startUnchecked(p, dpsStart("f"))
	var waits []time.Duration
	last := x.clock.Now()
	for len(waits) < 8 {
		x.clock.Advance(time.Second)
		x.recheckDue(context.Background())
		if len(p.occasions()) > 0 {
			waits = append(waits, x.clock.Now().Sub(last))
			last = x.clock.Now()
		}
	}
	want := []time.Duration{1, 1, 2, 4, 8, 16, 30, 30}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(waits, want) {
		t.Errorf("asked after %v, want %v", waits, want)
	}
}

// TestRecheckOfMany: while the policy is away a few are tried, and all as soon as it answers one.
func TestRecheckOfMany(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	const flows = 5 * recheckAtOnce
	for i := range flows {
		x.startUnchecked(p, dpsStart(fmt.Sprint("f", i)))
	}
	x.clock.Advance(recheckEvery)
	x.recheckDue(context.Background())
	if n := len(p.occasions()); n != recheckAtOnce {
		t.Errorf("asked about %d flows while the policy is away, want %d", n, recheckAtOnce)
	}
	p.now(permits)
	x.recheckDue(context.Background()) // those that were not tried
	x.recheckDue(context.Background()) // and, before their time, those that were
	if n := len(p.occasions()); n != flows || x.rechecks.len() != 0 || x.observer.unchecked != 0 {
		t.Errorf("asked about %d flows, %d are left", n, x.rechecks.len())
	}
}

// TestDataRequestHurriesARecheck, and is not answered by it: it does not wait for the policy.
func TestDataRequestHurriesARecheck(t *testing.T) {
	x, p := newPolicyFixture(t, away, func(c *Config) { c.TokenTTL = time.Hour })
	edr := x.startUnchecked(p, dpsStart("f"))
	for range 6 { // until the next time is far away
		x.clock.Advance(longEnough)
		x.recheckDue(context.Background())
	}
	p.occasions()
	x.clock.Advance(2 * time.Second)
	x.recheckDue(context.Background())
	p.wantAsked(t)
	p.now(permits)
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	p.wantAsked(t)
	select {
	case <-x.rechecks.wake:
	default:
		t.Error("the loop is not woken")
	}
	x.recheckDue(context.Background())
	p.wantAsked(t, PolicyRecheck)
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Error(err)
	}
}

const longEnough = time.Minute

func TestRenewalSettlesTheStartFirst(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(*fakePolicy)
		want   Code
		asked  []PolicyOccasion
	}{
		"permit":      {permits, "", []PolicyOccasion{PolicyRecheck, PolicyRenew}},
		"deny":        {denies, CodePolicyDenied, []PolicyOccasion{PolicyRecheck}},
		"cannot tell": {away, CodeUnavailable, []PolicyOccasion{PolicyRecheck}},
	} {
		t.Run(name, func(t *testing.T) {
			x, p := newPolicyFixture(t, away)
			edr := x.startUnchecked(p, dpsStart("f"))
			p.now(test.answer)
			_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
			p.wantAsked(t, test.asked...)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				err = x.verify(edr.AccessToken)
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantCode(t, err, test.want)
			if test.want == CodePolicyDenied && x.stateOf("f") != Terminated {
				t.Error("the flow goes on")
			}
			if test.want == CodeUnavailable && (x.generation("f") != 1 || !x.marked("f")) {
				t.Error("something changed")
			}
		})
	}
}

// TestConcurrentRenewalsShareOneRecheck: what they wait for is one answer.
func TestConcurrentRenewalsShareOneRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newPolicyFixture(t, away)
		edr := x.startUnchecked(p, dpsStart("f"))
		p.gate = make(chan struct{})
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
				if CodeOf(err) != CodeUnavailable || DialectOf(err) != DPS {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		p.wantAsked(t, PolicyRecheck)
		close(p.gate)
		all.Wait()
		p.wantAsked(t)
	})
}

// TestUncheckedOverSuspendAndResume: what the control plane does meanwhile neither lifts the mark nor is undone by the answer.
func TestUncheckedOverSuspendAndResume(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	edr := x.startUnchecked(p, dpsStart("f"))
	ctx := context.Background()
	x.must(x.Suspend(ctx, controlPlane, x.message("f", "s1")))
	wantCode(t, x.verify(edr.AccessToken), CodeFlowSuspended)
	_, err := x.Resume(ctx, controlPlane, x.message("f", "r1"))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	x.must(x.Suspend(ctx, controlPlane, x.message("f", "s1"))) // the old suspend once more
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	x.must(x.Suspend(ctx, controlPlane, x.message("f", "s2")))
	p.now(permits)
	x.clock.Advance(recheckEvery)
	x.recheckDue(ctx)
	wantCode(t, x.verify(edr.AccessToken), CodeFlowSuspended)
	_, err = x.Resume(ctx, controlPlane, x.message("f", "r2"))
	if err != nil {
		t.Fatal(err)
	}
	err = x.verify(edr.AccessToken)
	if err != nil {
		t.Error(err)
	}
	entries, err := x.store.Tail(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	for _, e := range entries {
		events = append(events, e.Event)
	}
	want := []string{"SUSPENDED", "UNCHECKED", "SUSPENDED", "SUSPENDED", "STARTED"}
	if !slices.Equal(events, want) {
		t.Errorf("the log of state changes is %v, want %v", events, want)
	}
}

// TestRecheckKeepsASuspensionThatIsNotRecorded: reading the record for the policy is no reason to forget what waits.
func TestRecheckKeepsASuspensionThatIsNotRecorded(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	edr := x.startUnchecked(p, dpsStart("f"))
	wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
	x.store.fail(nil, errBroken)
	_, err := x.Suspend(context.Background(), controlPlane, x.message("f", "s1"))
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	p.now(permits)
	x.clock.Advance(recheckEvery)
	x.recheckDue(context.Background())
	wantCode(t, x.verify(edr.AccessToken), CodeFlowSuspended)
}

// TestUncheckedIsDurable: another configuration over the same store, as after a restart, goes on where this one was.
func TestUncheckedIsDurable(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	edr := x.startUnchecked(p, dpsStart("f"))
	later := x.other(func(c *Config) { c.Live = NewLive() })
	_, err := later.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
	wantCode(t, err, CodeUnavailable)
	third := x.other(func(c *Config) { c.Live = NewLive() })
	third.count(context.Background())
	p.now(permits)
	third.recheckDue(context.Background())
	p.wantAsked(t, PolicyRecheck)

	// The gateway that has not asked learns of it as soon as it looks.
	p.now(denies)
	_, err = later.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
	wantCode(t, err, CodeUnavailable)
	later.recheckDue(context.Background())
	p.wantAsked(t)
	_, err = later.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil {
		t.Error(err)
	}
}

// TestUncheckedWithoutAPolicy: an operator who takes the policy out of the configuration permits what it would have decided.
func TestUncheckedWithoutAPolicy(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	edr := x.startUnchecked(p, dpsStart("f"))
	none := x.other(func(c *Config) { c.Policy = nil })
	none.count(context.Background())
	x.clock.Advance(recheckEvery)
	none.recheckDue(context.Background())
	_, err := none.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil || x.marked("f") {
		t.Errorf("marked %v, %v", x.marked("f"), err)
	}
}

// TestRecheckWhenTheStoreFails: the answer is carried out when it can be recorded.
func TestRecheckWhenTheStoreFails(t *testing.T) {
	for name, fail := range map[string][2]error{"reading": {errBroken, nil}, "writing": {nil, errBroken}} {
		t.Run(name, func(t *testing.T) {
			x, p := newPolicyFixture(t, away)
			edr := x.startUnchecked(p, dpsStart("f"))
			wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
			p.now(permits)
			x.store.fail(fail[0], fail[1])
			x.clock.Advance(recheckEvery)
			x.recheckDue(context.Background())
			wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
			x.store.fail(nil, nil)
			x.clock.Advance(longEnough)
			x.recheckDue(context.Background())
			err := x.verify(edr.AccessToken)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRecheckOfAFlowThatHasEnded(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	x.startUnchecked(p, dpsStart("f"))
	x.must(x.Terminate(context.Background(), controlPlane, x.message("f", "t")))
	x.clock.Advance(recheckEvery)
	x.recheckDue(context.Background())
	p.wantAsked(t)
	if x.rechecks.len() != 0 || x.marked("f") {
		t.Error("an ended flow is still to be asked about")
	}
}

// TestUncheckedFlowsAreKnownToBothConfigs: what is started under the old configuration while a reload is under way is asked
// about under the new one.
func TestUncheckedFlowsAreKnownToBothConfigs(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	reloaded := x.other(func(*Config) {})
	reloaded.count(context.Background())
	edr := x.startUnchecked(p, dpsStart("f"))
	p.now(permits)
	x.clock.Advance(recheckEvery)
	reloaded.recheckDue(context.Background())
	p.wantAsked(t, PolicyRecheck)
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Error(err)
	}
}

// TestUncheckedAsynchronousStart: the control plane is told of the start, and the EDR opens nothing until the policy answers.
func TestUncheckedAsynchronousStart(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	x.wantPending(asyncStart("f"), false)
	p.wantAsked(t, PolicyStart)
	if x.stateOf("f") != Starting || !x.marked("f") {
		t.Fatalf("state %s, marked %v", x.stateOf("f"), x.marked("f"))
	}
	x.recheckDue(context.Background())
	told := x.offer("f")
	wantCode(t, x.verify(told.EDR.AccessToken), CodeUnavailable)
	p.now(permits)
	x.recheckDue(context.Background())
	err := x.verify(told.EDR.AccessToken)
	if err != nil {
		t.Error(err)
	}
	x.settle(told, Settlement{Done: true, Delivered: true})

	// The answer may also come before the control plane is told.
	p.now(away)
	x.wantPending(asyncStart("g"), false)
	p.now(permits)
	x.clock.Advance(recheckEvery)
	x.recheckDue(context.Background())
	if x.stateOf("g") != Starting || x.marked("g") {
		t.Fatalf("state %s, marked %v", x.stateOf("g"), x.marked("g"))
	}
	err = x.verify(x.offer("g").EDR.AccessToken)
	if err != nil {
		t.Error(err)
	}

	p.now(denies)
	_, err = x.Start(context.Background(), controlPlane, asyncStart("h"))
	wantCode(t, err, CodePolicyDenied)
	_, err = x.Flow(context.Background(), "h")
	wantCode(t, err, CodeFlowUnknown)
}

// TestUncheckedDoesNotAllocate: the mark is part of the one word that each data request loads.
func TestUncheckedDoesNotAllocate(t *testing.T) {
	x, _ := newPolicyFixture(t, permits)
	edr := x.start(dpsStart("f"))
	token := edr.AccessToken.Reveal()
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	<-x.marks
	allocations := testing.AllocsPerRun(100, func() {
		_, err := x.Verify(context.Background(), token, atEndpoint, anySite)
		if err != nil {
			t.Fatal(err)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}

// An old configuration runs on as long as its requests do. It may have another policy, or none, and no callback of the
// control plane, so what is owed and unchecked is the business of the new one.
func TestOldConfigLeavesTheWorkToTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, p := newPolicyFixture(t, away, func(c *Config) { c.Now = time.Now })
		old := x.other(func(c *Config) { c.Policy = nil })
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { old.Run(ctx) })
		synctest.Wait()
		newer, stopNewer := context.WithCancel(ctx)
		running.Go(func() { x.Run(newer) })
		synctest.Wait()
		x.startUnchecked(p, asyncStart("f"))
		time.Sleep(time.Minute)
		if !x.marked("f") {
			t.Error("a configuration without a policy took the mark away")
		}
		due, owed := old.DueReports()
		if len(due) != 0 || owed[ReportStarted] != 1 {
			t.Errorf("the old configuration may try %v of %v", due, owed)
		}
		due, _ = x.DueReports()
		if len(due) != 1 {
			t.Errorf("the new one may try %v", due)
		}
		stopNewer() // it could not be started
		time.Sleep(time.Minute)
		due, _ = old.DueReports()
		if len(due) != 1 || x.marked("f") {
			t.Errorf("alone again, the old one may try %v", due)
		}
		stop()
		running.Wait()
	})
}

package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// fakePolicy answers as it is told and remembers what it was asked.
type fakePolicy struct {
	mu     sync.Mutex
	permit bool
	err    error
	asked  []PolicyQuestion
	gate   chan struct{} // if set, an answer waits for it
}

type awayError struct{}

func (awayError) Error() string             { return "policy is away" }
func (awayError) RetryAfter() time.Duration { return 7 * time.Second }

// The answers of a fakePolicy.
var (
	permits = func(p *fakePolicy) { p.permit, p.err = true, nil }
	denies  = func(p *fakePolicy) { p.permit, p.err = false, nil }
	away    = func(p *fakePolicy) { p.permit, p.err = true, awayError{} } // an error counts, whatever comes with it
)

func (p *fakePolicy) Decide(_ context.Context, q PolicyQuestion) (bool, error) {
	p.mu.Lock()
	p.asked = append(p.asked, q)
	gate := p.gate
	p.mu.Unlock()
	if gate != nil {
		<-gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.permit, p.err
}

func (p *fakePolicy) now(answer func(*fakePolicy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer(p)
}

// occasions returns what was asked since the last call.
func (p *fakePolicy) occasions() []PolicyOccasion {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []PolicyOccasion
	for _, q := range p.asked {
		all = append(all, q.Occasion)
	}
	p.asked = nil
	return all
}

func (p *fakePolicy) wantAsked(t *testing.T, want ...PolicyOccasion) {
	t.Helper()
	got := p.occasions()
	if !slices.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}

func newPolicyFixture(t *testing.T, answer func(*fakePolicy), change ...func(*Config)) (*fixture, *fakePolicy) {
	t.Helper()
	p := new(fakePolicy)
	answer(p)
	return newFixture(t, append(change, func(c *Config) { c.Policy = p })...), p
}

// startUnchecked starts a flow while the policy is away.
func (x *fixture) startUnchecked(p *fakePolicy, r StartRequest) *EDR {
	x.t.Helper()
	p.now(away)
	edr := x.start(r)
	p.occasions()
	return edr
}

func (x *fixture) marked(id string) bool {
	x.t.Helper()
	f, err := x.Flow(context.Background(), id)
	if err != nil {
		x.t.Fatal(err)
	}
	return !f.Unchecked.IsZero()
}

func TestPolicyAtStart(t *testing.T) {
	for name, start := range map[string]func(string) StartRequest{"dps": dpsStart, "classic": classicStart} {
		t.Run(name+" permitted", func(t *testing.T) {
			x, p := newPolicyFixture(t, permits)
			edr := x.start(start("f"))
			p.wantAsked(t, PolicyStart)
			err := x.verify(edr.AccessToken)
			if err != nil {
				t.Error(err)
			}
			p.wantAsked(t)
		})
		t.Run(name+" denied", func(t *testing.T) {
			x, p := newPolicyFixture(t, denies)
			_, err := x.Start(context.Background(), controlPlane, start("f"))
			wantCode(t, err, CodePolicyDenied)
			_, err = x.store.Get(context.Background(), flowKind, flowKey("default", "f"))
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a refused start left a record: %v", err)
			}
			if x.observer.issued["start"] != 0 {
				t.Error("a token was issued")
			}
			p.now(permits) // the operator has changed his mind, and the control plane asks again
			x.start(start("f"))
		})
		t.Run(name+" not answered", func(t *testing.T) {
			x, p := newPolicyFixture(t, away)
			edr := x.start(start("f"))
			p.wantAsked(t, PolicyStart)
			if edr.AccessToken == "" || edr.RefreshToken == "" || edr.Flow.State != Started {
				t.Errorf("the EDR is %+v", edr)
			}
			if !x.marked("f") || x.observer.count(EventUnchecked) != 1 || x.observer.unchecked != 1 {
				t.Error("the flow is not marked, counted and noted")
			}
			err := x.verify(edr.AccessToken)
			wantCode(t, err, CodeUnavailable)
			if RetryAfterOf(err) <= 0 {
				t.Error("no time to come again")
			}
		})
	}
}

func TestPolicyIsToldOfTheFlow(t *testing.T) {
	x, p := newPolicyFixture(t, permits, func(c *Config) { c.Formerly = map[string]string{"cp": "main"}; c.ControlPlanes = []string{"main"} })
	r := classicStart("f")
	r.Claims = json.RawMessage(`{"a":1}`)
	edr := x.start(r)
	x.mustRenew(edr.RefreshToken, edr.AccessToken)
	for i, occasion := range []PolicyOccasion{PolicyStart, PolicyRenew} {
		want := PolicyQuestion{
			Occasion: occasion, Participant: "default", DID: providerDID, Counterparty: consumerDID, BoundDID: consumerDID,
			BPN: "BPNL000000000001", Claims: json.RawMessage(`{"a":1}`), Dataset: "asset-1", Agreement: "agreement-1",
			Flow: "f", Dialect: Classic, Profile: "HttpData", ControlPlane: "main",
		}
		if fmt.Sprint(p.asked[i]) != fmt.Sprint(want) {
			t.Errorf("asked %+v\nwant %+v", p.asked[i], want)
		}
	}
}

// TestPolicyIsNotAskedAboutRepeats: control planes send one start up to eight times, and the renewals of what a repeat or a
// resume gives are asked about.
func TestPolicyIsNotAskedAboutRepeats(t *testing.T) {
	for _, answer := range []func(*fakePolicy){denies, away} {
		x, p := newPolicyFixture(t, permits)
		x.start(classicStart("classic"))
		x.start(dpsStart("dps"))
		p.occasions()
		p.now(answer)
		if !x.start(classicStart("classic")).Repeated || !x.start(dpsStart("dps")).Repeated {
			t.Error("not a repeat")
		}
		for _, id := range []string{"classic", "dps"} {
			x.must(x.Suspend(context.Background(), controlPlane, x.message(id, "suspend")))
		}
		x.start(classicStart("classic"))
		edr, err := x.Resume(context.Background(), controlPlane, x.message("dps", "resume"))
		if err != nil {
			t.Fatal(err)
		}
		p.wantAsked(t)
		err = x.verify(edr.AccessToken)
		if err != nil {
			t.Error(err)
		}
	}
}

func TestPolicyStartIsNotAskedForAControlPlaneThatIsGone(t *testing.T) {
	x, _ := newPolicyFixture(t, away)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := x.Start(ctx, controlPlane, dpsStart("f"))
	wantCode(t, err, CodeUnavailable)
	_, err = x.Flow(context.Background(), "f")
	wantCode(t, err, CodeFlowUnknown)
}

// TestPolicyAtRenewal, of the current refresh token, and of one whose answer was lost.
func TestPolicyAtRenewal(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for name, test := range map[string]struct {
			answer    func(*fakePolicy)
			endOnDeny bool
			want      Code
			state     State
		}{
			"permit":           {permits, false, "", Started},
			"deny":             {denies, false, CodePolicyDenied, Started},
			"deny and end":     {denies, true, CodePolicyDenied, Terminated},
			"cannot tell":      {away, false, CodeUnavailable, Started},
			"cannot tell, end": {away, true, CodeUnavailable, Started},
		} {
			t.Run(fmt.Sprintf("%s, lost answer %v", name, lost), func(t *testing.T) {
				x, p := newPolicyFixture(t, permits, func(c *Config) { c.EndOnDeny = test.endOnDeny })
				edr := x.start(dpsStart("f"))
				generation := uint64(1)
				if lost {
					x.mustRenew(edr.RefreshToken, edr.AccessToken)
					generation = 2
				}
				p.occasions()
				p.now(test.answer)
				renewed, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
				p.wantAsked(t, PolicyRenew)
				if x.stateOf("f") != test.state {
					t.Errorf("state %s, want %s", x.stateOf("f"), test.state)
				}
				if test.want == "" {
					if err != nil || renewed.RefreshToken == "" {
						t.Fatalf("%v, %v", renewed, err)
					}
					return
				}
				wantCode(t, err, test.want)
				if DialectOf(err) != DPS {
					t.Error("the refusal has no dialect")
				}
				if test.want == CodeUnavailable && RetryAfterOf(err) != 7*time.Second {
					t.Errorf("retry after %s", RetryAfterOf(err))
				}
				if test.state == Terminated {
					x.wantDeniedReport("f", ReportCompleted)
					wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
					return
				}
				if x.generation("f") != generation {
					t.Error("a refused renewal rotated the refresh token")
				}
				p.now(permits)
				x.mustRenew(edr.RefreshToken, edr.AccessToken) // nothing was lost
			})
		}
	}
}

// wantDeniedReport checks that the control plane will be told.
func (x *fixture) wantDeniedReport(id string, event ReportEvent) {
	x.t.Helper()
	x.clock.Advance(reportAfter)
	r := x.claim(id)
	if r == nil || r.Cause != CauseDenied || r.Event != event || x.observer.count(EventDenied) != 1 {
		x.t.Errorf("report %+v, %d denied", r, x.observer.count(EventDenied))
	}
}

// TestPolicyIsAskedOnlyAboutWhatIsProven: strangers cannot make the gateway ask, nor end a flow.
func TestPolicyIsAskedOnlyAboutWhatIsProven(t *testing.T) {
	x, p := newPolicyFixture(t, permits, func(c *Config) { c.EndOnDeny = true })
	edr := x.start(dpsStart("f"))
	other := x.start(dpsStart("g"))
	p.occasions()
	p.now(denies)
	_, err := x.renewWith(other.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeRefreshInvalid)
	thief := *x.wallet
	thief.Key = newKey(t)
	_, err = x.Renew(context.Background(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: thief.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeProofSignature)
	p.wantAsked(t)
	if x.stateOf("f") != Started {
		t.Error("ended on evidence that is not proven")
	}
}

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

// TestConcurrentRenewalsShareOneRecheck.
func TestConcurrentRenewalsShareOneRecheck(t *testing.T) {
	x, p := newPolicyFixture(t, away)
	edr := x.startUnchecked(p, dpsStart("f"))
	p.now(away)
	p.gate = make(chan struct{})
	const workers = 20
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
			if CodeOf(err) != CodeUnavailable || DialectOf(err) != DPS {
				t.Errorf("got %v", err)
			}
		})
	}
	testkit.Eventually(t, "the policy is asked", func() bool { return p.isAsked() })
	close(p.gate)
	all.Wait()
	if n := len(p.occasions()); n >= workers {
		t.Errorf("%d questions for %d renewals", n, workers)
	}
}

func (p *fakePolicy) isAsked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked) > 0
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

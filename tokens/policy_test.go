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

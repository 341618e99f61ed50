package tokens

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestRenewalRotatesAndRepeatsTheAnswerUntilItIsAcknowledged(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))

	first := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	if first.Outcome != Rotated || first.RefreshToken == edr.RefreshToken || x.generation("flow-1") != 2 {
		t.Fatalf("outcome %s, generation %d", first.Outcome, x.generation("flow-1"))
	}
	// The answer was lost: the consumer asks again with what it has (Tractus-X DR 2026-08-10).
	for range 3 {
		again := x.mustRenew(edr.RefreshToken, edr.AccessToken)
		if again.Outcome != Replayed || again.RefreshToken != first.RefreshToken {
			t.Fatalf("outcome %s, another successor", again.Outcome)
		}
		if again.AccessToken == first.AccessToken {
			t.Fatal("the access token is not fresh")
		}
		err := x.verify(again.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
	}
	if x.generation("flow-1") != 2 {
		t.Fatal("a replay wrote something")
	}
	second := x.mustRenew(first.RefreshToken, first.AccessToken)
	if second.Outcome != Rotated {
		t.Fatalf("outcome %s", second.Outcome)
	}
	// Earlier access tokens stay good until they expire.
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
}

func TestRenewalTable(t *testing.T) {
	// Each case starts from a flow of four generations (three renewals), and presents one of its tokens.
	tests := map[string]struct {
		classic bool
		present int  // generation presented
		lose    bool // the store has lost the last write
		outcome RenewalOutcome
		code    Code
		after   uint64 // generation afterwards
	}{
		"current":                         {present: 4, outcome: Rotated, after: 5},
		"superseded":                      {present: 3, outcome: Replayed, after: 4},
		"older":                           {present: 2, code: CodeRefreshReused, after: 4},
		"first, DPS":                      {present: 1, outcome: FirstAgain, after: 4},
		"first, classic":                  {present: 1, classic: true, code: CodeRefreshReused, after: 4},
		"newer than the record":           {present: 4, lose: true, outcome: RolledForward, after: 5},
		"current of a record that lost":   {present: 3, lose: true, outcome: Rotated, after: 4},
		"superseded, classic":             {present: 3, classic: true, outcome: Replayed, after: 4},
		"older of a record that lost one": {present: 2, lose: true, outcome: Replayed, after: 3},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			request := dpsStart("flow-1")
			if c.classic {
				request = classicStart("flow-1")
			}
			edr := x.start(request)
			issued := []Secret{"", edr.RefreshToken}
			for range 3 {
				r := x.mustRenew(issued[len(issued)-1], edr.AccessToken)
				issued = append(issued, r.RefreshToken)
			}
			if c.lose {
				x.rewrite("flow-1", func(f *Flow) {
					f.Generation--
					f.Proofs = f.Proofs[:len(f.Proofs)-1]
				})
			}
			r, err := x.renewWith(issued[c.present], edr.AccessToken)
			if c.code != "" {
				wantCode(t, err, c.code)
			} else if err != nil {
				t.Fatal(err)
			} else if r.Outcome != c.outcome {
				t.Fatalf("outcome %s, want %s", r.Outcome, c.outcome)
			}
			if g := x.generation("flow-1"); g != c.after {
				t.Fatalf("generation %d, want %d", g, c.after)
			}
			if c.outcome == FirstAgain && r.RefreshToken != issued[4] {
				t.Fatal("not the current refresh token")
			}
		})
	}
}

func TestRollForwardIsBoundedAndReported(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	ahead := func(n uint64) Secret {
		f, err := x.Flow(context.Background(), "flow-1")
		if err != nil {
			t.Fatal(err)
		}
		f.Generation += n
		token, err := x.config.Keys.refreshTokenOf(f)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	_, err := x.renewWith(ahead(maxRollForward+1), edr.AccessToken)
	wantCode(t, err, CodeRefreshInvalid)
	if x.generation("flow-1") != 1 {
		t.Fatal("state changed")
	}
	r, err := x.renewWith(ahead(maxRollForward), edr.AccessToken)
	if err != nil || r.Outcome != RolledForward {
		t.Fatalf("%v, %v", r, err)
	}
	if x.observer.count(EventRollForward) != 1 {
		t.Fatal("not reported")
	}
}

func TestParallelRenewalsConvergeOnOneSuccessor(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	var mu sync.Mutex
	successors := map[Secret]int{}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			r, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			successors[r.RefreshToken]++
		})
	}
	wg.Wait()
	if len(successors) != 1 || x.generation("flow-1") != 2 {
		t.Fatalf("%d successors, generation %d", len(successors), x.generation("flow-1"))
	}
}

func TestReuseRevokesOnlyWhereThePolicySaysSo(t *testing.T) {
	for _, revoke := range []bool{false, true} {
		t.Run(fmt.Sprint(revoke), func(t *testing.T) {
			x := newFixture(t, func(c *Config) { c.RevokeOnReuse = revoke })
			edr := x.start(classicStart("flow-1"))
			second := x.mustRenew(edr.RefreshToken, edr.AccessToken)
			third := x.mustRenew(second.RefreshToken, edr.AccessToken)
			_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
			wantCode(t, err, CodeRefreshReused)
			if x.observer.count(EventReuse) != 1 {
				t.Fatal("not reported")
			}
			_, err = x.renewWith(third.RefreshToken, third.AccessToken)
			if revoke {
				wantCode(t, err, CodeFlowEnded)
				wantCode(t, x.verify(third.AccessToken), CodeFlowEnded)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Whoever holds an old token but not the consumer's key must not be able to have the flow ended.
func TestReuseWithoutAProofChangesNothing(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.RevokeOnReuse = true })
	edr := x.start(classicStart("flow-1"))
	second := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	x.mustRenew(second.RefreshToken, edr.AccessToken)
	thief := testkit.NewWallet(consumerDID)
	_, err := x.Renew(context.Background(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: thief.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeProofSignature)
	if x.observer.count(EventReuse) != 0 || x.verify(edr.AccessToken) != nil {
		t.Fatal("an unproven request had an effect")
	}
}

func TestRetransmittedRenewalIsAnsweredAndASeenProofIsNot(t *testing.T) {
	x := newFixture(t)
	edr := x.start(classicStart("flow-1"))
	proof := x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
	renew := func(refresh Secret) (*Renewal, error) {
		return x.Renew(context.Background(), RenewRequest{RefreshToken: refresh.Reveal(), Proof: proof})
	}
	first, err := renew(edr.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	again, err := renew(edr.RefreshToken) // the same request sent again by the HTTP client
	if err != nil || again.RefreshToken != first.RefreshToken {
		t.Fatalf("retransmission: %v", err)
	}
	_, err = renew(first.RefreshToken)
	wantCode(t, err, CodeProofReplayed)
	if x.observer.count(EventReplay) != 1 {
		t.Fatal("not reported")
	}
	// A wallet that repeats its jti in another proof is no thief.
	claims := x.wallet.Claims(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
	claims["jti"] = "always-the-same"
	r, err := x.Renew(context.Background(), RenewRequest{RefreshToken: first.RefreshToken.Reveal(), Proof: x.wallet.Sign(claims)})
	if err != nil {
		t.Fatal(err)
	}
	x.clock.Advance(time.Second)
	claims["iat"] = x.clock.Now().Unix()
	_, err = x.Renew(context.Background(), RenewRequest{RefreshToken: r.RefreshToken.Reveal(), Proof: x.wallet.Sign(claims)})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRememberedProofsAreBounded(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	refresh := edr.RefreshToken
	for range 20 {
		refresh = x.mustRenew(refresh, edr.AccessToken).RefreshToken
	}
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil || len(f.Proofs) != rememberedProofs {
		t.Fatalf("%d proofs, %v", len(f.Proofs), err)
	}
	x.clock.Advance(time.Hour)
	x.mustRenew(refresh, edr.AccessToken)
	f, err = x.Flow(context.Background(), "flow-1")
	if err != nil || len(f.Proofs) != 1 {
		t.Fatalf("%d proofs after they expired, %v", len(f.Proofs), err)
	}
}

func TestRenewalOverAKeyRotation(t *testing.T) {
	oldKey, newSigningKey := newKey(t), newKey(t)
	x := newFixture(t, func(c *Config) { c.Keys = newRing(t, oldKey) })
	edr := x.start(dpsStart("flow-1"))
	before := x.mustRenew(edr.RefreshToken, edr.AccessToken)

	after := x.other(func(c *Config) { c.Keys = newRing(t, newSigningKey, oldKey) })
	renew := func(refresh, access Secret) (*Renewal, error) {
		return after.Renew(context.Background(), RenewRequest{
			RefreshToken: refresh.Reveal(), Proof: x.wallet.Proof(providerDID, access.Reveal(), x.clock.Now()),
		})
	}
	replay, err := renew(edr.RefreshToken, edr.AccessToken)
	if err != nil || replay.RefreshToken != before.RefreshToken {
		t.Fatalf("replay after the rotation of the key: %v", err)
	}
	next, err := renew(before.RefreshToken, before.AccessToken)
	if err != nil || next.Outcome != Rotated {
		t.Fatal(err)
	}
	// The first EDR's token is of the old key, and good for life.
	_, err = renew(next.RefreshToken, next.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	first, err := renew(edr.RefreshToken, edr.AccessToken)
	if err != nil || first.Outcome != FirstAgain {
		t.Fatalf("%v %v", first, err)
	}
	// Without the old key nobody can tell what its tokens were: not the consumer's fault.
	without := x.other(func(c *Config) { c.Keys = newRing(t, newSigningKey) })
	_, err = without.Renew(context.Background(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, first.AccessToken.Reveal(), x.clock.Now()),
	})
	if err == nil {
		t.Fatal("accepted a token of a key that is not listed")
	}
}

// A key that is listed but was not used for a generation makes no token of it.
func TestTokenOfAnotherListedKeyIsRefused(t *testing.T) {
	one, two := newKey(t), newKey(t)
	x := newFixture(t, func(c *Config) { c.Keys = newRing(t, one, two) })
	edr := x.start(dpsStart("flow-1"))
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil {
		t.Fatal(err)
	}
	f.CurrentKey = newRing(t, two).activeRefresh
	forged, err := x.config.Keys.refreshTokenOf(f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.renewWith(forged, edr.AccessToken)
	wantCode(t, err, CodeRefreshInvalid)
}

func TestRefreshTokenOfAnotherFlow(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	other := x.start(dpsStart("flow-2"))
	_, err := x.renewWith(other.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeRefreshInvalid)
	if x.resolver.asked() != 0 {
		t.Fatal("a DID document was fetched for it")
	}
	if x.generation("flow-1") != 1 || x.generation("flow-2") != 1 {
		t.Fatal("state changed")
	}
}

func TestRenewalByState(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m1")))
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeFlowSuspended)
	resumed, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", "m2"))
	if err != nil || resumed.RefreshToken != edr.RefreshToken {
		t.Fatalf("resume changed the refresh token: %v", err)
	}
	renewed := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m3")))
	_, err = x.renewWith(renewed.RefreshToken, renewed.AccessToken)
	wantCode(t, err, CodeFlowEnded)
	if DialectOf(err) != DPS {
		t.Fatal("the dialect for the answer is not known")
	}
}

// The state counts at the moment of the exchange, not when the request came in.
func TestFlowEndedWhileTheProofIsChecked(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	ended := x.other(func(c *Config) {
		c.Resolver = resolverFunc(func(ctx context.Context, did, kid string) (any, error) {
			x.must(x.Terminate(ctx, controlPlane, x.message("flow-1", "m1")))
			return x.resolver.ResolveKey(ctx, did, kid)
		})
	})
	_, err := ended.Renew(context.Background(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeFlowEnded)
}

func TestRefreshTTL(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.RefreshTTL = time.Hour })
	edr := x.start(dpsStart("flow-1"))
	x.clock.Advance(time.Hour)
	r := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	x.clock.Advance(time.Hour + time.Second)
	_, err := x.renewWith(r.RefreshToken, r.AccessToken)
	wantCode(t, err, CodeRefreshInvalid)
}

func TestStoreTroubleIsNotARefusal(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.store.fail(nil, errBroken)
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeUnavailable)
	if !errors.Is(err, errBroken) {
		t.Fatal("the cause is lost for the log")
	}
	x.store.fail(errBroken, nil)
	_, err = x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	x.mustRenew(edr.RefreshToken, edr.AccessToken)
}

package tokens

import (
	"context"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
)

// TestPowerLostWithTheLastWrites: the store is as it was a while ago. Renewals that were answered since go on from the token
// that the consumer holds, and what this gateway had seen end ends again before anything is served.
func TestPowerLostWithTheLastWrites(t *testing.T) {
	for name, request := range map[string]func(string) StartRequest{"dps": dpsStart, "classic": classicStart} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			kept, ended := x.start(request("kept")), x.start(request("ended"))
			first := x.mustRenew(kept.RefreshToken, kept.AccessToken)
			before := memory.New(x.clock.Now)
			records, err := x.store.List(t.Context(), store.Query{Kind: flowKind})
			for _, r := range records {
				if err == nil {
					_, err = before.Create(t.Context(), r)
				}
			}
			if err != nil || len(records) != 2 {
				t.Fatalf("%d records: %v", len(records), err)
			}
			last := first
			for range 3 {
				last = x.mustRenew(last.RefreshToken, last.AccessToken)
			}
			x.must(x.Terminate(t.Context(), controlPlane, x.message("ended", "end")))
			seen, err := x.store.Tail(t.Context(), 0, 0)
			if err != nil {
				t.Fatal(err)
			}

			s := x.other(func(c *Config) { c.Store, c.Live = before, NewLive() })
			live := s.c.Live
			live.begin(s)
			defer live.end(s)
			live.Fresh(time.Time{}) // as the follower does with a store that has lost writes
			live.Restored(true)
			wantCode(t, verifyAt(s, ended.AccessToken), CodeUnavailable)
			for _, e := range seen {
				if live.Closes(e) {
					err = live.EndAgain(t.Context(), e)
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			live.Restored(false)
			live.FreshForEver()
			wantCode(t, verifyAt(s, ended.AccessToken), CodeFlowEnded)

			renew := func(r *Renewal) *Renewal {
				t.Helper()
				renewed, err := s.Renew(t.Context(), RenewRequest{
					RefreshToken: r.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, r.AccessToken.Reveal(), x.clock.Now()),
				})
				if err != nil {
					t.Fatal(err)
				}
				return renewed
			}
			next := renew(last)
			if next.Outcome != RolledForward || x.observer.count(EventRollForward) != 1 {
				t.Errorf("outcome %s", next.Outcome)
			}
			if again := renew(last); again.RefreshToken != next.RefreshToken || again.Outcome != Replayed {
				t.Error("the newer token has two successors")
			}
			err = verifyAt(s, renew(next).AccessToken)
			if err != nil {
				t.Error(err)
			}
			wantCode(t, verifyAt(s, ended.AccessToken), CodeFlowEnded)
		})
	}
}

// TestClockOfOneReplicaIsWrong by an hour, in either direction. Generations do not go by clocks, so no refresh token has two
// successors; what a right clock has seen ended stays so; and the gateway reports a clock that was set.
func TestClockOfOneReplicaIsWrong(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t, func(c *Config) { c.TokenTTL = 5 * time.Minute })
			wrongNow := func() time.Time { return x.clock.Now().Add(off) }
			wrong := x.other(func(c *Config) { c.Now, c.Live = wrongNow, NewLive() })
			edr := x.start(dpsStart("flow-1"))

			renewAt := func(s *Service, now time.Time, refresh, access Secret) (*Renewal, error) {
				return s.Renew(t.Context(), RenewRequest{RefreshToken: refresh.Reveal(), Proof: x.wallet.Proof(providerDID, access.Reveal(), now)})
			}
			// A proof of the right time is refused by the wrong clock, and the flow does not suffer.
			_, err := renewAt(wrong, x.clock.Now(), edr.RefreshToken, edr.AccessToken)
			if err == nil {
				t.Fatal("a proof that is an hour off was accepted")
			}
			if x.generation("flow-1") != 1 {
				t.Fatal("a refused renewal has changed the flow")
			}
			// With one that it takes, both come to the same successor, whoever is first.
			held := &Renewal{RefreshToken: edr.RefreshToken, AccessToken: edr.AccessToken}
			for round := range 4 {
				services, times := []*Service{x.Service, wrong}, []time.Time{x.clock.Now(), wrongNow()}
				first, second := round%2, 1-round%2
				a, err := renewAt(services[first], times[first], held.RefreshToken, held.AccessToken)
				if err != nil {
					t.Fatal(err)
				}
				b, err := renewAt(services[second], times[second], held.RefreshToken, held.AccessToken)
				if err != nil {
					t.Fatal(err)
				}
				if a.RefreshToken != b.RefreshToken || a.Outcome != Rotated || b.Outcome != Replayed {
					t.Fatalf("round %d: %s, then %s", round, a.Outcome, b.Outcome)
				}
				held = a
			}
			// The life that the wrong clock gives a token is off by as much, and not more.
			x.clock.Advance(5*time.Minute + max(off, 0))
			for _, token := range []Secret{edr.AccessToken, held.AccessToken} {
				wantCode(t, x.verify(token), CodeTokenExpired)
			}

			x.must(x.Terminate(t.Context(), controlPlane, x.message("flow-1", "end")))
			follow(t, wrong)
			_, err = renewAt(wrong, wrongNow(), held.RefreshToken, held.AccessToken)
			if err == nil {
				t.Fatal("an ended flow was renewed")
			}
			// Its sweep takes the tombstone an hour early at most, after which nothing opens either.
			x.clock.Advance(DefaultTombstoneTTL - max(off, 0) + time.Minute)
			wrong.sweep(context.Background())
			for _, s := range []*Service{x.Service, wrong} {
				if verifyAt(s, held.AccessToken) == nil {
					t.Error("a token of a flow that has ended opens it")
				}
			}

			watch := newClockWatch(wrongNow, func() time.Duration { return 0 })
			x.clock.Advance(off)
			wrong.watchClock(watch)
			if x.observer.count(EventClockJump) != 1 {
				t.Error("a clock that was set is not reported")
			}
		})
	}
}

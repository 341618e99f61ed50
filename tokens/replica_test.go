package tokens

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

// gateways are two processes over one store.
func gateways(t *testing.T) (here *fixture, there *Service) {
	t.Helper()
	here = newFixture(t)
	there = here.other(func(c *Config) { c.Live = NewLive() })
	return here, there
}

// follow hands the whole log to a process, as its follower does.
func follow(t *testing.T, s *Service) {
	t.Helper()
	entries, err := s.c.Store.Tail(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		s.c.Live.Changed(e)
	}
}

// codeOf is the code of an error, empty for none.
func codeOf(err error) Code {
	if err == nil {
		return ""
	}
	return CodeOf(err)
}

func verifyAt(s *Service, token Secret) error {
	_, err := s.Verify(context.Background(), token.Reveal(), atEndpoint, anySite)
	return err
}

func TestChangesOfAnotherGatewayAreSeen(t *testing.T) {
	x, there := gateways(t)
	token := x.start(dpsStart("flow-1")).AccessToken
	for _, step := range []struct {
		name   string
		change func() error
		want   Code
	}{
		{"suspend", func() error { _, err := x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m1")); return err }, CodeFlowSuspended},
		{"resume", func() error { _, err := x.Resume(t.Context(), controlPlane, x.message("flow-1", "m2")); return err }, ""},
		{"terminate", func() error { _, err := x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m3")); return err }, CodeFlowEnded},
	} {
		before := codeOf(verifyAt(there, token))
		err := step.change()
		if err != nil {
			t.Fatal(step.name, err)
		}
		if after := codeOf(verifyAt(there, token)); after != before {
			t.Fatalf("%s: the other gateway knows before it has followed: %q", step.name, after)
		}
		follow(t, there)
		follow(t, there) // entries may come twice
		if after := codeOf(verifyAt(there, token)); after != step.want {
			t.Fatalf("%s: %q, want %q", step.name, after, step.want)
		}
	}
}

func TestStaleStatesServeNothing(t *testing.T) {
	x := newFixture(t)
	served := x.start(dpsStart("served")).AccessToken
	ended := x.start(dpsStart("ended")).AccessToken
	suspended := x.start(dpsStart("suspended")).AccessToken
	for _, token := range []Secret{served, ended, suspended} {
		err := x.verify(token)
		if err != nil {
			t.Fatal(err)
		}
	}
	x.must(x.Terminate(t.Context(), controlPlane, x.message("ended", "m1")))
	x.must(x.Suspend(t.Context(), controlPlane, x.message("suspended", "m1")))
	x.config.Live.Fresh(x.clock.Now().Add(10 * time.Second))
	check := func(name string, token Secret, want Code) {
		t.Helper()
		if code := codeOf(x.verify(token)); code != want {
			t.Errorf("%s: %q, want %q", name, code, want)
		}
	}
	x.clock.Advance(10*time.Second - time.Nanosecond)
	check("fresh", served, "")
	check("fresh, suspended", suspended, CodeFlowSuspended)
	x.clock.Advance(time.Nanosecond)
	check("stale", served, CodeUnavailable)
	check("stale, suspended", suspended, CodeUnavailable) // it may have been resumed
	check("stale, ended", ended, CodeFlowEnded)           // that cannot have changed
	x.config.Live.Fresh(x.clock.Now().Add(time.Second))
	check("fresh again", served, "")
	x.config.Live.FreshForEver()
	x.clock.Advance(time.Minute)
	check("for ever", served, "")
}

func TestUnreadStatesAreReadAgain(t *testing.T) {
	x, there := gateways(t)
	token := x.start(dpsStart("flow-1")).AccessToken
	err := verifyAt(there, token)
	if err != nil {
		t.Fatal(err)
	}
	x.must(x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m1")))
	there.c.Live.Reread() // its follower has come too late for the entry
	wantCode(t, verifyAt(there, token), CodeFlowSuspended)
	_, err = x.Resume(t.Context(), controlPlane, x.message("flow-1", "m2"))
	if err != nil {
		t.Fatal(err)
	}
	follow(t, there)
	for range 2 { // what is remembered then is the new entry
		err = verifyAt(there, token)
		if err != nil {
			t.Fatal(err)
		}
	}
	remembered := 0
	for i := range there.verdicts.shards {
		remembered += len(there.verdicts.shards[i].ring)
	}
	if remembered != 1 {
		t.Errorf("%d tokens remembered, want 1", remembered)
	}
}

// Requests read again, change and verify at the same time: none sees a flow as not started because of that.
func TestReadingAgainRacesNothing(t *testing.T) {
	x := newFixture(t)
	token := x.start(dpsStart("flow-1")).AccessToken
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 300 {
				err := x.verify(token)
				if err != nil && CodeOf(err) != CodeUnavailable {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Go(func() {
		for range 300 {
			x.config.Live.Reread()
		}
	})
	group.Wait()
}

// A new flow whose id had an earlier one begins at version 1 again, at another gateway.
func TestLaterFlowOfTheSameIDLivesAtAnotherGateway(t *testing.T) {
	x, there := gateways(t)
	old := x.start(dpsStart("flow-1")).AccessToken
	err := verifyAt(there, old)
	if err != nil {
		t.Fatal(err)
	}
	x.must(x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m0")))
	x.must(x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1")))
	follow(t, there)
	x.clock.Advance(DefaultTombstoneTTL + time.Hour)
	x.sweep(t.Context())
	again := dpsStart("flow-1")
	again.MessageID = "again"
	token := x.start(again).AccessToken
	err = verifyAt(there, token)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, verifyAt(there, old), CodeTokenExpired)
}

func TestRestoredStoreRefusesNoRenewal(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	renew := func() error {
		_, err := x.Renew(t.Context(), RenewRequest{
			RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
		})
		return err
	}
	lost := x.other(func(c *Config) { c.Store, c.Live = memoryStore(x), NewLive() })
	lost.c.Live.Restored(true)
	wantCode(t, verifyAt(lost, edr.AccessToken), CodeUnavailable)
	_, err := lost.Renew(t.Context(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeUnavailable)
	lost.c.Live.Restored(false)
	wantCode(t, verifyAt(lost, edr.AccessToken), CodeFlowUnknown)

	x.config.Live.Restored(true)
	wantCode(t, renew(), CodeUnavailable)
	err = x.verify(edr.AccessToken)
	if err != nil {
		t.Errorf("what the store knows is served: %v", err)
	}
	x.config.Live.Restored(false)
	err = renew()
	if err != nil {
		t.Error(err)
	}
}

func TestEndAgain(t *testing.T) {
	x := newFixture(t)
	live := x.config.Live
	live.begin(x.Service)
	defer live.end(x.Service)
	token := x.start(dpsStart("flow-1")).AccessToken
	for _, e := range []store.Entry{
		{Kind: flowKind, ID: "default/flow-1", Version: 7, Event: "TERMINATED"},
		{Kind: flowKind, ID: "default/flow-1", Version: 7, Event: "TERMINATED"}, // again
		{Kind: flowKind, ID: "default/lost", Version: 3, Event: "COMPLETED"},
		{Kind: "other", ID: "default/flow-2", Event: "TERMINATED"},
	} {
		err := live.EndAgain(t.Context(), e)
		if err != nil {
			t.Fatal(e, err)
		}
	}
	var unserved *UnservedError
	err := live.EndAgain(t.Context(), store.Entry{Kind: flowKind, ID: "another/flow-1", Event: "COMPLETED"})
	if !errors.As(err, &unserved) || unserved.Participant != "another" {
		t.Errorf("%v, of a participant that is not served", err)
	}
	wantCode(t, x.verify(token), CodeFlowEnded)
	f, err := x.Flow(t.Context(), "lost")
	if err != nil || f.State != Completed || !f.Tombstone() {
		t.Errorf("%+v, %v: a flow that the store has lost has a tombstone", f, err)
	}
	if n := x.observer.count(EventRepeatedEnd); n != 2 {
		t.Errorf("%d endings repeated, want 2", n)
	}
}

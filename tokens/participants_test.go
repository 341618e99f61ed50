package tokens

import (
	"context"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

// Participants over one store have flows of the same id, with the same terms, of the same consumer. Whatever else two of
// them have in common, nothing that one issued is good at another.
func TestNothingOfOneParticipantIsGoodAtAnother(t *testing.T) {
	x := newFixture(t)
	key := x.config.Keys
	type tenant struct {
		*Service
		did string
		edr *EDR
	}
	tenants := map[string]*tenant{
		"one":                  {Service: x.Service, did: providerDID},
		"with keys of its own": {did: "did:web:own.example", Service: x.other(func(c *Config) { c.Participant, c.DID, c.Keys = "own", "did:web:own.example", newRing(t, newKey(t)) })},
		"with the keys of one": {did: "did:web:keys.example", Service: x.other(func(c *Config) { c.Participant, c.DID, c.Keys = "keys", "did:web:keys.example", key })},
		"with the DID of one":  {did: providerDID, Service: x.other(func(c *Config) { c.Participant, c.Keys = "did", newRing(t, newKey(t)) })},
	}
	for name, p := range tenants {
		edr, err := p.Start(context.Background(), controlPlane, dpsStart("flow-1"))
		if err != nil || edr.Repeated {
			t.Fatalf("%s: %v, %+v", name, err, edr)
		}
		p.edr = edr
	}
	renew := func(at, refresh, access *tenant, audience string) error {
		_, err := at.Renew(context.Background(), RenewRequest{
			RefreshToken: refresh.edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(audience, access.edr.AccessToken.Reveal(), x.clock.Now()),
		})
		return err
	}
	for name, mine := range tenants {
		for other, theirs := range tenants {
			_, err := theirs.Verify(context.Background(), mine.edr.AccessToken.Reveal(), atEndpoint, anySite)
			if (err == nil) != (mine == theirs) || err != nil && CodeOf(err) != CodeTokenSignature && CodeOf(err) != CodeTokenIssuer {
				t.Errorf("access token of %q at %q: %v", name, other, err)
			}
			if mine == theirs {
				continue
			}
			if err := renew(theirs, mine, mine, theirs.did); CodeOf(err) != CodeProofToken {
				t.Errorf("both tokens of %q at %q: %v", name, other, err)
			}
			if err := renew(theirs, mine, theirs, theirs.did); CodeOf(err) != CodeRefreshInvalid {
				t.Errorf("refresh token of %q at %q: %v", name, other, err)
			}
			if err := renew(theirs, theirs, mine, theirs.did); CodeOf(err) != CodeProofToken {
				t.Errorf("proof about a token of %q at %q: %v", name, other, err)
			}
			if err := renew(theirs, theirs, theirs, mine.did); mine.did != theirs.did && CodeOf(err) != CodeProofAudience {
				t.Errorf("proof for %q at %q: %v", name, other, err)
			}
		}
		err := renew(mine, mine, mine, mine.did)
		if err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What is sealed for a flow of one participant cannot be read as that of another's flow, even with the same keys.
func TestSealedForOneParticipant(t *testing.T) {
	x := newFixture(t)
	x.start(classicStart("flow-1"))
	f, err := x.Flow(context.Background(), "flow-1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.config.Keys.source(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Participant = "second"
	_, err = x.config.Keys.source(f)
	wantCode(t, err, CodeUnavailable)
}

// A control plane of one participant sees and ends nothing of another's, even if both have the same name.
func TestEndingsStayWithTheirParticipant(t *testing.T) {
	x := newFixture(t)
	second := x.other(func(c *Config) { c.Participant, c.DID = "second", "did:web:second.example" })
	ctx := context.Background()
	first := x.start(dpsStart("flow-1"))
	theirs, err := second.Start(ctx, controlPlane, dpsStart("flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	x.start(dpsStart("flow-2"))
	for _, op := range []func(context.Context, Caller, Message) (Ending, error){second.Suspend, second.Terminate} {
		ending, err := op(ctx, controlPlane, x.message("flow-2", "m-1"))
		if err != nil || ending.Outcome != Unknown {
			t.Errorf("%+v, %v", ending, err)
		}
	}
	_, err = second.Terminate(ctx, controlPlane, x.message("flow-1", "m-2"))
	if err != nil {
		t.Fatal(err)
	}
	err = x.verify(first.AccessToken)
	if err != nil {
		t.Errorf("flow of the same id: %v", err)
	}
	_, err = second.Verify(ctx, theirs.AccessToken.Reveal(), atEndpoint, anySite)
	wantCode(t, err, CodeFlowEnded)

	// The store fails, so that both endings wait. Each participant records its own.
	x.store.fail(nil, errBroken)
	for _, s := range []*Service{x.Service, second} {
		_, err := s.Terminate(ctx, controlPlane, x.message("flow-3", "m-3"))
		wantCode(t, err, CodeUnavailable)
	}
	x.store.fail(nil, nil)
	x.retryPins(ctx)
	flows, err := second.Flows(ctx, "", 0)
	if err != nil || len(flows) != 2 {
		t.Errorf("the second participant's: %v, %v", flows, err)
	}
	second.retryPins(ctx)
	for name, s := range map[string]*Service{"first": x.Service, "second": second} {
		f, err := s.Flow(ctx, "flow-3")
		if err != nil || f.State != Terminated {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// Control planes of one name register with their own participant.
func TestControlPlanesOfOneNameAreApart(t *testing.T) {
	x := newFixture(t)
	second := x.other(func(c *Config) { c.Participant, c.DID = "second", "did:web:second.example" })
	ctx := context.Background()
	err := x.PutControlPlane(ctx, controlPlane, ControlPlane{ID: "edc", Endpoint: "http://first.example"})
	if err != nil {
		t.Fatal(err)
	}
	known, err := second.DeleteControlPlane(ctx, controlPlane, "edc")
	if err != nil || known {
		t.Errorf("the first one's is known to the second: %v, %v", known, err)
	}
	registered, err := second.ControlPlane(ctx, string(controlPlane))
	if err != nil || registered.Endpoint != "" {
		t.Errorf("the second one's: %q, %v", registered.Endpoint, err)
	}
	registered, err = x.ControlPlane(ctx, string(controlPlane))
	if err != nil || registered.Endpoint != "http://first.example" {
		t.Errorf("the first one's: %q, %v", registered.Endpoint, err)
	}
}

// Each participant counts its own flows.
func TestCountsAreOfOneParticipant(t *testing.T) {
	x := newFixture(t)
	counted := &recorder{events: map[string]int{}, issued: map[string]int{}}
	second := x.other(func(c *Config) { c.Participant, c.DID, c.Observer = "second", "did:web:second.example", counted })
	x.start(dpsStart("flow-1"))
	x.start(dpsStart("flow-2"))
	_, err := second.Start(context.Background(), controlPlane, dpsStart("flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	x.count(context.Background())
	second.count(context.Background())
	if x.observer.flows.ByState[Started] != 2 || counted.flows.ByState[Started] != 1 {
		t.Errorf("%v and %v", x.observer.flows, counted.flows)
	}
}

// One of several services over a store sweeps it, and raises the alarm of a clock that was set.
func TestStoreIsTendedOnce(t *testing.T) {
	x := newFixture(t)
	swept := &sweptStore{Store: x.store}
	for tended, want := range map[bool]int{true: 0, false: 1} {
		s := x.other(func(c *Config) { c.Store, c.StoreIsTended = swept, tended })
		watch := newClockWatch(x.clock.Now, func() time.Duration { return 0 })
		x.clock.Advance(time.Hour)
		swept.sweeps, x.observer.events[EventClockJump] = 0, 0
		s.tend(context.Background(), watch)
		if swept.sweeps != want || x.observer.events[EventClockJump] != want {
			t.Errorf("tended by another: %v, swept %d times, %v", tended, swept.sweeps, x.observer.events)
		}
	}
}

type sweptStore struct {
	store.Store
	sweeps int
}

func (s *sweptStore) Sweep(ctx context.Context, now time.Time, keepLog time.Duration) (int, error) {
	s.sweeps++
	return s.Store.Sweep(ctx, now, keepLog)
}

package tokens

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// A process id may be used again when nobody can present a token of its first flow any more, and not before.
func TestOldTokenDoesNotOpenALaterFlowOfTheSameID(t *testing.T) {
	x := newFixture(t)
	lasting := dpsStart("flow-1")
	lasting.ProfileRenews, lasting.RenewalRequired = false, false
	old := x.start(lasting)
	x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m1")))

	another := dpsStart("flow-1")
	another.MessageID = "another"
	another.Terms = Terms{Counterparty: "did:web:another.example", Dataset: "asset-2", Agreement: "agreement-2"}
	x.clock.Advance(DefaultTombstoneTTL + time.Hour)
	x.sweep(context.Background())
	_, err := x.Start(context.Background(), controlPlane, another)
	wantCode(t, err, CodeState)

	// A store that has lost the tombstone all the same: the token names what it was issued for.
	emptied := x.other(func(c *Config) { c.Store, c.Live = memoryStore(x), NewLive() })
	_, err = emptied.Start(context.Background(), controlPlane, another)
	if err != nil {
		t.Fatal(err)
	}
	_, err = emptied.Verify(context.Background(), old.AccessToken.Reveal(), atEndpoint, anySite)
	wantCode(t, err, CodeFlowUnknown)
	_, err = emptied.Renew(context.Background(), RenewRequest{
		RefreshToken: old.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, old.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeProofTokenFlow)
}

func TestLaterFlowOfTheSameIDLives(t *testing.T) {
	x := newFixture(t)
	old := x.start(dpsStart("flow-1"))
	err := x.verify(old.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m1")))
	x.clock.Advance(DefaultTombstoneTTL + time.Hour)
	x.sweep(context.Background())
	another := dpsStart("flow-1")
	another.MessageID = "another"
	err = x.verify(x.start(another).AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, x.verify(old.AccessToken), CodeTokenExpired)
}

// other returns the second signature that can be made of an ECDSA signature.
func otherSignature(t *testing.T, token string) string {
	t.Helper()
	dot := strings.LastIndexByte(token, '.')
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	return token[:dot+1] + base64.RawURLEncoding.EncodeToString(signature)
}

func TestSecondSignatureOfAnAccessTokenIsRefused(t *testing.T) {
	x := newFixture(t)
	for range 20 { // half of all signatures have to be changed when they are made
		edr := x.start(dpsStart("flow-1"))
		err := x.verify(edr.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, x.verify(Secret(otherSignature(t, edr.AccessToken.Reveal()))), CodeTokenSignature)
	}
}

func TestSecondSignatureOfAProofIsTheSameProof(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	proof := x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
	r, err := x.Renew(context.Background(), RenewRequest{RefreshToken: edr.RefreshToken.Reveal(), Proof: proof})
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Renew(context.Background(), RenewRequest{RefreshToken: r.RefreshToken.Reveal(), Proof: otherSignature(t, proof)})
	wantCode(t, err, CodeProofReplayed)
}

// A wallet may have put a new key under the old name; if nobody can look, nobody can tell.
func TestWrongSignatureWhileTheHostIsAwayIsNotARefusal(t *testing.T) {
	x := newFixture(t)
	away := x.other(func(c *Config) { c.Resolver = cannotRefetch{x.resolver} })
	edr := x.start(dpsStart("flow-1"))
	x.wallet = testkit.NewWallet(consumerDID)
	_, err := away.Renew(context.Background(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeUnavailable)
}

type cannotRefetch struct{ *fakeResolver }

func (cannotRefetch) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("host is away")
}

// hookedStore lets a test act at a moment of its choice.
type hookedStore struct {
	store.Store
	afterGet    func()
	afterUpdate func(id string)
	inUpdate    func()
}

func memoryStore(x *fixture) store.Store { return newFixture(x.t).store }

func withHooks(t *testing.T) (*fixture, *hookedStore) {
	t.Helper()
	var h *hookedStore
	x := newFixture(t, func(c *Config) { h = &hookedStore{Store: c.Store}; c.Store = h })
	return x, h
}

func (h *hookedStore) Get(ctx context.Context, kind, id string) (store.Record, error) {
	r, err := h.Store.Get(ctx, kind, id)
	if act := h.afterGet; act != nil {
		h.afterGet = nil
		act()
	}
	return r, err
}

func (h *hookedStore) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	r, err := h.Store.Update(ctx, kind, id, func(old store.Record) (store.Edit, error) {
		e, err := edit(old)
		if act := h.inUpdate; act != nil {
			h.inUpdate = nil
			act()
		}
		return e, err
	})
	if act := h.afterUpdate; act != nil {
		h.afterUpdate = nil
		act(id)
	}
	return r, err
}

// A disk that takes its time must not keep access open.
func TestEndingTakesEffectBeforeItIsDurable(t *testing.T) {
	for name, end := range map[string]func(*Service, context.Context, Caller, Message) (Ending, error){
		"suspend": (*Service).Suspend, "terminate": (*Service).Terminate, "complete": (*Service).Complete,
	} {
		t.Run(name, func(t *testing.T) {
			x, h := withHooks(t)
			edr := x.start(dpsStart("flow-1"))
			err := x.verify(edr.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			var meanwhile error
			h.inUpdate = func() { meanwhile = x.verify(edr.AccessToken) }
			ending := x.must(end(x.Service, context.Background(), controlPlane, x.message("flow-1", "m1")))
			if ending.Outcome != Applied || meanwhile == nil || CodeOf(meanwhile) == CodeUnavailable {
				t.Fatalf("outcome %s, meanwhile %v", ending.Outcome, meanwhile)
			}
			if x.config.Live.pinned(flowKey("default", "flow-1")) != nil {
				t.Fatal("still held in memory")
			}
		})
	}
}

func TestEndingThatDoesNotApplyLeavesNothingInMemory(t *testing.T) {
	x, _ := withHooks(t)
	edr := x.start(dpsStart("flow-1"))
	foreign := x.other(func(c *Config) { c.ControlPlanes = []string{string(controlPlane), "other"} })
	x.must(foreign.Terminate(context.Background(), "other", x.message("flow-1", "m1")))
	x.must(x.Terminate(context.Background(), controlPlane, x.message("flow-2", "m1")))
	suspendResume(x)
	x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "suspend-1"))) // late repeat
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	for i := range x.config.Live.shards {
		if n := len(x.config.Live.shards[i].pins); n != 0 {
			t.Fatalf("%d endings held", n)
		}
	}
}

func TestEndingDuringTheFirstUseOfATokenHolds(t *testing.T) {
	x, h := withHooks(t)
	edr := x.start(dpsStart("flow-1"))
	h.afterGet = func() {
		x.store.fail(nil, errBroken)
		_, err := x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m1"))
		wantCode(t, err, CodeUnavailable)
	}
	_ = x.verify(edr.AccessToken) // decided at the same moment, either way
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
}

func TestResumeDuringTheFirstUseOfATokenHolds(t *testing.T) {
	x, h := withHooks(t)
	edr := x.start(dpsStart("flow-1"))
	x.store.fail(nil, errBroken)
	_, err := x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m1"))
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	h.afterGet = func() {
		_, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", "m2"))
		if err != nil {
			t.Error(err)
		}
	}
	_ = x.verify(edr.AccessToken) // decided at the same moment, either way
	err = x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
}

func TestFlowEndedInMemoryOnlyIsNotRenewedNorStarted(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.store.fail(nil, errBroken)
	_, err := x.Terminate(context.Background(), controlPlane, x.message("flow-1", "m1"))
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	_, err = x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeFlowEnded)
	_, err = x.Start(context.Background(), controlPlane, dpsStart("flow-1"))
	wantCode(t, err, CodeState)
	_, err = x.Resume(context.Background(), controlPlane, x.message("flow-1", "m2"))
	wantCode(t, err, CodeState)
}

func TestSuspensionTriedAgainDoesNotUndoAResume(t *testing.T) {
	x, h := withHooks(t)
	ctx := context.Background()
	for _, id := range []string{"a", "b"} {
		x.start(dpsStart(id))
	}
	x.store.fail(nil, errBroken)
	for _, id := range []string{"a", "b"} {
		_, err := x.Suspend(ctx, controlPlane, x.message(id, "suspend-"+id))
		wantCode(t, err, CodeUnavailable)
	}
	x.store.fail(nil, nil)
	resumed := ""
	h.afterUpdate = func(id string) { // one has been recorded, the other's turn comes
		resumed = map[string]string{flowKey("default", "a"): "b", flowKey("default", "b"): "a"}[id]
		_, err := x.Resume(ctx, controlPlane, x.message(resumed, "resume"))
		if err != nil {
			t.Error(err)
		}
	}
	x.retryPins(ctx)
	f, err := x.Flow(ctx, resumed)
	if err != nil || f.State != Started {
		t.Fatalf("%s is %s, %v", resumed, f.State, err)
	}
}

func TestNewerEndingIsKeptWhenAnOlderOneIsRecorded(t *testing.T) {
	x, h := withHooks(t)
	ctx := context.Background()
	x.start(dpsStart("flow-1"))
	x.store.fail(nil, errBroken)
	_, err := x.Suspend(ctx, controlPlane, x.message("flow-1", "m1"))
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	h.afterUpdate = func(string) {
		x.store.fail(nil, errBroken)
		_, err := x.Terminate(ctx, controlPlane, x.message("flow-1", "m2"))
		wantCode(t, err, CodeUnavailable)
		x.store.fail(nil, nil)
	}
	x.retryPins(ctx)
	if len(x.config.Live.waiting()) != 1 {
		t.Fatal("the terminate is lost")
	}
	x.retryPins(ctx)
	f, err := x.Flow(ctx, "flow-1")
	if err != nil || f.State != Terminated || len(x.config.Live.waiting()) != 0 {
		t.Fatalf("%s, %v", f.State, err)
	}
}

func TestUnreadableRecordDoesNotKeepBackOtherEndings(t *testing.T) {
	x := newFixture(t)
	ids := []string{"bad", "a", "b", "c", "d"}
	for _, id := range ids {
		x.start(dpsStart(id))
	}
	x.store.fail(nil, errBroken)
	for _, id := range ids {
		_, err := x.Terminate(context.Background(), controlPlane, x.message(id, "m"))
		wantCode(t, err, CodeUnavailable)
	}
	x.store.fail(nil, nil)
	_, err := x.store.Update(context.Background(), flowKind, flowKey("default", "bad"), func(store.Record) (store.Edit, error) {
		return store.Edit{Data: []byte("{")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x.retryPins(context.Background())
	if n := len(x.config.Live.waiting()); n != 1 {
		t.Fatalf("%d endings wait", n)
	}
}

// What other parties send must not be remembered with every token.
func TestRememberedTokenKeepsNoMetadata(t *testing.T) {
	x := newFixture(t)
	const flows, size = 50, 60_000
	issued := make([]string, flows)
	for i := range issued {
		request := dpsStart(fmt.Sprintf("flow-%d", i))
		request.Metadata = []byte(`{"x":"` + strings.Repeat("x", size) + `"}`)
		issued[i] = x.start(request).AccessToken.Reveal()
	}
	before := liveHeap()
	for _, token := range issued {
		_, err := x.Verify(context.Background(), token, atEndpoint, anySite)
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := (liveHeap() - before) / flows; got > size/2 {
		t.Errorf("a remembered token takes %d bytes", got)
	}
	runtime.KeepAlive(x)
}

// A record that cannot be read must not keep the count from the flows behind it: what they owe would never be delivered,
// and those that are never used would live for ever. Whoever decides by a complete list is told that it is none.
func TestUnreadableRecordDoesNotEndTheCount(t *testing.T) {
	var log bytes.Buffer
	x := newFixture(t, func(c *Config) {
		c.UnacknowledgedTTL = time.Hour
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	_, err := x.store.Create(context.Background(), store.Record{
		Kind: flowKind, ID: flowKey("default", "flow-0"), Labels: map[string]string{"participant": "default"}, Data: []byte(`{"state":1}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	x.start(dpsStart("flow-1"))
	x.start(dpsStart("flow-2"))
	x.must(x.Revoke(context.Background(), "flow-2", ""))
	x.clock.Advance(time.Hour)
	next := x.other(func(c *Config) { c.Live = NewLive() })
	if !next.count(context.Background()) {
		t.Error("the count did not come to its end")
	}
	if x.stateOf("flow-1") != Terminated {
		t.Errorf("the unused flow behind it is %s", x.stateOf("flow-1"))
	}
	if _, owed := next.DueReports(); owed[ReportCompleted] != 2 {
		t.Errorf("owed %v", owed)
	}
	if n := strings.Count(log.String(), "record=default/flow-0"); n != 1 {
		t.Errorf("named %d times: %s", n, log.String())
	}
	_, err = x.KeyUse(context.Background())
	wantCode(t, err, CodeUnavailable)
	_, err = x.Flows(context.Background(), "", 10)
	wantCode(t, err, CodeUnavailable)
}

// A suspension that comes after a resume is recorded, and that the store does not take, is not what the resume has lifted.
func TestSuspensionRightAfterAResumeHolds(t *testing.T) {
	x, h := withHooks(t)
	edr := x.start(dpsStart("flow-1"))
	x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m1")))
	h.afterUpdate = func(string) {
		x.store.fail(nil, errBroken)
		_, err := x.Suspend(context.Background(), controlPlane, x.message("flow-1", "m3"))
		wantCode(t, err, CodeUnavailable)
		x.store.fail(nil, nil)
	}
	_, err := x.Resume(context.Background(), controlPlane, x.message("flow-1", "m2"))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeFlowSuspended)
	x.retryPins(context.Background())
	if x.stateOf("flow-1") != Suspended {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

// A late repeat changes nothing, also not what another suspension has in effect that the store did not take.
func TestLateRepeatKeepsASuspensionThatIsNotRecorded(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	suspendResume(x)
	x.store.fail(nil, errBroken)
	_, err := x.Suspend(context.Background(), controlPlane, x.message("flow-1", "another"))
	wantCode(t, err, CodeUnavailable)
	x.store.fail(nil, nil)
	ending := x.must(x.Suspend(context.Background(), controlPlane, x.message("flow-1", "suspend-1")))
	if ending.Outcome != Already {
		t.Errorf("%s", ending.Outcome)
	}
	wantCode(t, x.verify(edr.AccessToken), CodeFlowSuspended)
	x.retryPins(context.Background())
	if x.stateOf("flow-1") != Suspended {
		t.Errorf("%s", x.stateOf("flow-1"))
	}
}

// TestDamagedRecordTellsNothing: a record that is not whole used to be read as a flow of no state, which is a final no, or
// as one whose refresh tokens are all wrong.
func TestDamagedRecordTellsNothing(t *testing.T) {
	for name, damage := range map[string]func(*Flow){
		"of another flow":        func(f *Flow) { f.ID = "flow-2" },
		"of another participant": func(f *Flow) { f.Participant = "somebody" },
		"without a state":        func(f *Flow) { f.State = "" },
		"of an unknown state":    func(f *Flow) { f.State = "RUNNING" },
		"without a dialect":      func(f *Flow) { f.Dialect = "" },
		"without a salt":         func(f *Flow) { f.Salt = nil },
		"with a short salt":      func(f *Flow) { f.Salt = f.Salt[:8] },
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			edr := x.start(dpsStart("flow-1"))
			x.rewrite("flow-1", damage)
			_, err := x.Verify(context.Background(), edr.AccessToken.Reveal(), atEndpoint, anySite)
			wantCode(t, err, CodeUnavailable)
			_, err = x.renewWith(edr.RefreshToken, edr.AccessToken)
			wantCode(t, err, CodeUnavailable)
		})
	}
}

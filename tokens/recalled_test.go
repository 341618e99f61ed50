package tokens

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/edrgate/edrgate/store"
)

// recallingStore remembers the records that a test tells it to, however old they become.
type recallingStore struct {
	*brittleStore
	seen map[string]store.Record
	gets atomic.Int64
}

// remembering makes a fixture over such a store.
func remembering(t *testing.T, change ...func(*Config)) (*fixture, *recallingStore) {
	t.Helper()
	var s *recallingStore
	x := newFixture(t, append(change, func(c *Config) {
		s = &recallingStore{brittleStore: c.Store.(*brittleStore), seen: map[string]store.Record{}}
		c.Store = s
	})...)
	return x, s
}

// remember keeps a flow's record as it is now.
func (r *recallingStore) remember(t *testing.T, id string) {
	t.Helper()
	record, err := r.brittleStore.Get(t.Context(), flowKind, flowKey("default", id))
	if err != nil {
		t.Fatal(err)
	}
	r.seen[record.ID] = record
}

func (r *recallingStore) Get(ctx context.Context, kind, id string) (store.Record, error) {
	r.gets.Add(1)
	return r.brittleStore.Get(ctx, kind, id)
}

func (r *recallingStore) Recall(_, id string) (store.Record, bool) {
	record, ok := r.seen[id]
	return record, ok
}

var errMoved = errors.New("not that record any more")

func (r *recallingStore) UpdateRecalled(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	old, ok := r.seen[id]
	if !ok {
		return r.Update(ctx, kind, id, edit)
	}
	e, err := edit(old)
	if err != nil {
		return r.Update(ctx, kind, id, edit)
	}
	written, err := r.Update(ctx, kind, id, func(now store.Record) (store.Edit, error) {
		if now.Version != old.Version || !bytes.Equal(now.Data, old.Data) {
			return store.Edit{}, errMoved
		}
		return e, nil
	})
	if errors.Is(err, errMoved) || errors.Is(err, store.ErrNotFound) {
		return r.Update(ctx, kind, id, edit)
	}
	return written, err
}

// A renewal by a remembered flow reads nothing.
func TestRenewalOfRememberedFlow(t *testing.T) {
	x, s := remembering(t)
	edr := x.start(dpsStart("flow-1"))
	s.remember(t, "flow-1")
	before := s.gets.Load()
	r := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	if r.Outcome != Rotated || s.gets.Load() != before {
		t.Errorf("outcome %s after %d readings, want %s after none", r.Outcome, s.gets.Load()-before, Rotated)
	}
	if got := x.generation("flow-1"); got != 2 {
		t.Errorf("generation %d, want 2", got)
	}
}

// What is remembered of a flow never decides: whatever has happened to it elsewhere is what counts.
func TestRenewalOfFlowRememberedOtherwise(t *testing.T) {
	type tried struct {
		*fixture
		edr *EDR
	}
	again := func(x tried, r StartRequest) {
		x.must(x.Terminate(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
		x.clock.Advance(2 * DefaultTombstoneTTL)
		_, err := x.store.Sweep(x.t.Context(), x.clock.Now(), 0)
		if err != nil {
			x.t.Fatal(err)
		}
		x.start(r)
	}
	tests := []struct {
		name   string
		before func(x tried) // what is remembered
		after  func(x tried) // what has happened since
		want   Code          // of a renewal with the first tokens; empty: it is answered
	}{
		{name: "ended", want: CodeFlowEnded, after: func(x tried) {
			x.must(x.Terminate(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
		}},
		{name: "suspended", want: CodeFlowSuspended, after: func(x tried) {
			x.must(x.Suspend(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
		}},
		{name: "resumed", before: func(x tried) {
			x.must(x.Suspend(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
		}, after: func(x tried) {
			_, err := x.Resume(x.t.Context(), controlPlane, x.message("flow-1", "m2"))
			if err != nil {
				x.t.Fatal(err)
			}
		}},
		{name: "renewed", after: func(x tried) { x.mustRenew(x.edr.RefreshToken, x.edr.AccessToken) }},
		{name: "ended, and its key cannot be had", want: CodeFlowEnded, after: func(x tried) {
			x.must(x.Terminate(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
			x.resolver.err = errBroken
		}},
		{name: "goes on, and its key cannot be had", want: CodeUnavailable, after: func(x tried) { x.resolver.err = errBroken }},
		{name: "another flow of the same id and terms", want: CodeRefreshInvalid, after: func(x tried) { again(x, dpsStart("flow-1")) }},
		{name: "another flow of the same id", want: CodeProofTokenFlow, after: func(x tried) {
			r := dpsStart("flow-1")
			r.Terms.Dataset = "asset-2"
			again(x, r)
		}},
		{name: "gone", want: CodeFlowEnded, after: func(x tried) {
			x.must(x.Terminate(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
			x.clock.Advance(2 * DefaultTombstoneTTL)
		}},
		{name: "refused by what is remembered, and the store is away", want: CodeUnavailable, before: func(x tried) {
			x.must(x.Suspend(x.t.Context(), controlPlane, x.message("flow-1", "m1")))
		}, after: func(x tried) { x.store.fail(errBroken, errBroken) }},
		{name: "the store is away", want: CodeUnavailable, after: func(x tried) { x.store.fail(errBroken, errBroken) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			x, s := remembering(t)
			try := tried{x, x.start(dpsStart("flow-1"))}
			if test.before != nil {
				test.before(try)
			}
			s.remember(t, "flow-1")
			test.after(try)
			r, err := x.renewWith(try.edr.RefreshToken, try.edr.AccessToken)
			if codeOf(err) != test.want {
				t.Fatalf("got error %v, want code %q", err, test.want)
			}
			if err != nil && test.want != CodeUnavailable && test.want != CodeProofTokenFlow {
				var e *Error
				if !errors.As(err, &e) || e.Dialect != DPS {
					t.Errorf("the refusal is in dialect %q", e.Dialect)
				}
			}
			if err == nil && r.Outcome != Rotated && r.Outcome != Replayed {
				t.Errorf("outcome %s", r.Outcome)
			}
		})
	}
}

// A token that is newer than what is remembered is not newer than the record: the store has lost nothing.
func TestRenewalNewerThanRemembered(t *testing.T) {
	x, s := remembering(t)
	first := x.start(dpsStart("flow-1"))
	s.remember(t, "flow-1")
	second := x.mustRenew(first.RefreshToken, first.AccessToken)
	third, err := x.renewWith(second.RefreshToken, second.AccessToken)
	if err != nil || third.Outcome != Rotated || x.generation("flow-1") != 3 {
		t.Errorf("got %+v, %v, generation %d; want a rotation to 3", third, err, x.generation("flow-1"))
	}
	if x.observer.count(EventRollForward) != 0 {
		t.Error("a lost write was reported")
	}
}

// A policy is asked about the flow as it is: its answer may end the flow.
func TestPolicyIsNotAskedAboutRememberedFlow(t *testing.T) {
	policy := &fakePolicy{permit: true}
	x, s := remembering(t, func(c *Config) { c.Policy, c.EndOnDeny = policy, true })
	edr := x.start(dpsStart("flow-1"))
	s.remember(t, "flow-1")
	x.must(x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1")))
	policy.now(denies)
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeFlowEnded)
	policy.wantAsked(t, PolicyStart)
}

// TestRecordedFlowIsHandedOutOnce: whoever gets it changes it, so a second try, and a record that was written since, are
// decoded anew.
func TestRecordedFlowIsHandedOutOnce(t *testing.T) {
	x := newFixture(t)
	x.start(dpsStart("flow-1"))
	record, err := x.c.Store.Get(t.Context(), flowKind, flowKey(x.c.Participant, "flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	f := must(decodeFlow(record))
	kept := recordedAs(record, f)
	f.State = Suspended // as it is in effect here
	first := must(kept.decode(record))
	first.Generation = 7
	if second := must(kept.decode(record)); first.State != Started || second.Generation != 1 {
		t.Errorf("first %s, second of generation %d", first.State, second.Generation)
	}
	kept = recordedAs(record, must(decodeFlow(record)))
	first.Agreement = "another"
	record.Data = must(first.encode())
	if written := must(kept.decode(record)); written.Agreement != "another" {
		t.Errorf("agreement %s", written.Agreement)
	}
}

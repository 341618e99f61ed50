package tokens

import (
	"context"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
)

// A control plane whose answer was lost repeats its message while the store is still away.
func TestRepeatOfAJournaledEndingIsAcknowledged(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.ControlPlanes = append(c.ControlPlanes, "another") })
	journal := new(fakeJournal)
	x.config.Live.KeepIn(journal)
	token := x.start(dpsStart("flow-1")).AccessToken
	x.store.fail(nil, errBroken)
	for _, step := range []struct {
		name string
		do   func() (Ending, error)
		want Outcome
	}{
		{"terminate", func() (Ending, error) {
			return x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1"))
		}, Journaled},
		{"again", func() (Ending, error) {
			return x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1"))
		}, Journaled},
		{"complete", func() (Ending, error) {
			return x.Complete(t.Context(), controlPlane, x.message("flow-1", "m2"))
		}, Journaled},
		{"suspend", func() (Ending, error) {
			return x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m3"))
		}, OutOfState},
	} {
		ending, err := step.do()
		if err != nil || ending.Outcome != step.want {
			t.Errorf("%s: %+v, %v, want %s", step.name, ending, err, step.want)
		}
	}
	_, err := x.Terminate(t.Context(), "another", x.message("flow-1", "m4"))
	wantCode(t, err, CodeUnavailable) // what waits is not its ending
	if len(journal.entries) != 1 {
		t.Errorf("%d entries in the journal, want 1", len(journal.entries))
	}
	if x.verify(token) == nil {
		t.Error("it is not in effect")
	}
}

// An ending that no journal took waits in memory; its repeat is acknowledged when the journal takes it.
func TestRepeatJournalsWhatWaitsInMemory(t *testing.T) {
	x := newFixture(t)
	journal := &fakeJournal{full: true}
	x.config.Live.KeepIn(journal)
	x.start(dpsStart("flow-1"))
	x.store.fail(nil, errBroken)
	terminate := func() (Ending, error) {
		return x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1"))
	}
	for range 2 {
		_, err := terminate()
		wantCode(t, err, CodeUnavailable)
	}
	journal.full = false
	ending, err := terminate()
	if err != nil || ending.Outcome != Journaled || journal.Empty() {
		t.Errorf("%+v, %v", ending, err)
	}
}

// uncommitted is a store whose updates get as far as their commit.
type uncommitted struct{ store.Store }

func (u uncommitted) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	old, err := u.Get(ctx, kind, id)
	if err != nil {
		return old, err
	}
	_, err = edit(old)
	if err != nil {
		return old, err
	}
	return old, errBroken
}

// A resume that the store does not take leaves the flow suspended, here and in the journal.
func TestResumeThatIsNotRecordedLiftsNothing(t *testing.T) {
	x := newFixture(t)
	journal := new(fakeJournal)
	x.config.Live.KeepIn(journal)
	token := x.start(dpsStart("flow-1")).AccessToken
	err := x.verify(token)
	if err != nil {
		t.Fatal(err)
	}
	whole := x.store.Store
	x.store.fail(nil, errBroken)
	x.must(x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m1")))
	x.store.fail(nil, nil)
	x.clock.Advance(time.Second)
	x.store.Store = uncommitted{whole}
	_, err = x.Resume(t.Context(), controlPlane, x.message("flow-1", "m2"))
	wantCode(t, err, CodeUnavailable)
	wantCode(t, x.verify(token), CodeFlowSuspended)
	if len(journal.entries) != 2 {
		t.Errorf("%d entries in the journal: the one that was there may have been discarded meanwhile", len(journal.entries))
	}
	x.store.Store = whole
	x.retryPins(t.Context())
	f, err := x.Flow(t.Context(), "flow-1")
	if err != nil || f.State != Suspended {
		t.Errorf("%+v, %v", f, err)
	}
	if !journal.Empty() {
		t.Error("the journal is not emptied")
	}
}

// The flow is suspended in the journal of a gateway that is cut off, and resumed at another one, to which it never was.
func TestJournaledSuspendIsOvertakenByAResumeOfAnOpenFlow(t *testing.T) {
	for name, start := range map[string]StartRequest{"dps": dpsStart("flow-1"), "classic": classicStart("flow-1")} {
		t.Run(name, func(t *testing.T) {
			x, there := gateways(t)
			journal := new(fakeJournal)
			x.config.Live.KeepIn(journal)
			there.c.Live.KeepIn(new(fakeJournal))
			token := x.start(start).AccessToken
			x.clock.Advance(time.Minute)
			x.store.fail(nil, errBroken)
			x.must(x.Suspend(t.Context(), controlPlane, x.message("flow-1", "")))
			x.store.fail(nil, nil)
			x.clock.Advance(100 * time.Millisecond)
			var err error
			if start.Dialect == Classic {
				_, err = there.Start(t.Context(), controlPlane, start)
			} else {
				_, err = there.Resume(t.Context(), controlPlane, x.message("flow-1", ""))
			}
			if err != nil {
				t.Fatal(err)
			}
			x.retryPins(t.Context())
			err = x.verify(token)
			if err != nil {
				t.Errorf("the resume is undone: %v", err)
			}
			if !journal.Empty() {
				t.Error("the suspend is still in the journal")
			}
		})
	}
}

// A suspension that waits does not hide that the flow was seen ended.
func TestEndedFlowIsNotReopenedByASuspension(t *testing.T) {
	x, there := gateways(t)
	token := x.start(dpsStart("flow-1")).AccessToken
	err := verifyAt(there, token)
	if err != nil {
		t.Fatal(err)
	}
	x.must(x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1")))
	follow(t, there)
	x.store.fail(nil, errBroken)
	_, _ = there.Suspend(t.Context(), controlPlane, x.message("flow-1", "m2"))
	wantCode(t, verifyAt(there, token), CodeFlowEnded)

	// Nor does it keep a later flow of the same id from being read.
	x.store.fail(nil, nil)
	x.clock.Advance(DefaultTombstoneTTL + time.Hour)
	x.sweep(t.Context())
	again := dpsStart("flow-1")
	again.MessageID = "again"
	later := x.start(again).AccessToken
	wantCode(t, verifyAt(there, later), CodeFlowSuspended)
}

// Before the first look at the log, and when the looks stay out, nobody knows whether the store was restored: what it does
// not know or refuses is no answer.
func TestStoreThatIsNotFollowedRefusesNothing(t *testing.T) {
	x := newFixture(t)
	known := x.start(dpsStart("known"))
	lost := x.start(dpsStart("lost"))
	restored := memoryStore(x)
	x.store.Store = restored
	x.config.Live.Fresh(time.Time{})
	for name, edr := range map[string]*EDR{"known": known, "lost": lost} {
		wantCode(t, x.verify(edr.AccessToken), CodeUnavailable)
		_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
		if CodeOf(err) != CodeUnavailable {
			t.Errorf("%s: renewal %v", name, err)
		}
	}
	x.config.Live.Fresh(x.clock.Now().Add(time.Minute))
	wantCode(t, x.verify(lost.AccessToken), CodeFlowUnknown)
}

// That the store was restored may be found out while a renewal waits for somebody.
func TestRestoreThatIsNoticedDuringARenewal(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.store.Store = noticing{x.store.Store, x.config.Live}
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeUnavailable)
}

// noticing is a store that turns out to be a restored one when it does not know a record that is to be changed.
type noticing struct {
	store.Store
	live *Live
}

func (n noticing) Update(context.Context, string, string, func(store.Record) (store.Edit, error)) (store.Record, error) {
	n.live.Restored(true)
	return store.Record{}, store.ErrNotFound
}

// A suspension that a restored store has lost is repeated, unless the flow was opened after it.
func TestSuspendAgain(t *testing.T) {
	x := newFixture(t)
	live := x.config.Live
	live.begin(x.Service)
	defer live.end(x.Service)
	lost, opened := x.start(dpsStart("lost")).AccessToken, x.start(dpsStart("opened")).AccessToken
	x.clock.Advance(time.Minute)
	at := x.clock.Now()
	x.clock.Advance(time.Minute)
	x.must(x.Suspend(t.Context(), controlPlane, x.message("opened", "m1")))
	_, err := x.Resume(t.Context(), controlPlane, x.message("opened", "m2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"lost", "opened", "unknown"} {
		err := live.EndAgain(t.Context(), store.Entry{Kind: flowKind, ID: flowKey("default", id), Version: 7, Event: string(Suspended), At: at})
		if err != nil {
			t.Fatal(id, err)
		}
	}
	wantCode(t, x.verify(lost), CodeFlowSuspended)
	err = x.verify(opened)
	if err != nil {
		t.Errorf("opened since: %v", err)
	}
	if n := x.observer.count(EventRepeatedEnd); n != 1 {
		t.Errorf("%d repeated, want 1", n)
	}
	// Its control plane resumes it.
	_, err = x.Resume(t.Context(), controlPlane, x.message("lost", "m3"))
	if err != nil {
		t.Error(err)
	}
}

// What waits for a participant that is not configured any more does not fill the journal.
func TestJournalKeepsOnlyWhatWaitsForAParticipantThatIsGone(t *testing.T) {
	x := newFixture(t)
	journal := new(fakeJournal)
	live := x.config.Live
	live.KeepIn(journal)
	gone := x.other(func(c *Config) { c.Participant = "gone" })
	live.begin(x.Service)
	defer live.end(x.Service)
	x.store.fail(errBroken, errBroken)
	for _, s := range []*Service{x.Service, gone} {
		for _, id := range []string{"flow-1", "flow-2"} {
			x.must(s.Terminate(t.Context(), controlPlane, x.message(id, "")))
		}
	}
	x.store.fail(nil, nil)
	x.retryPins(t.Context())
	if len(journal.entries) != 2 {
		t.Fatalf("%d entries in the journal, want 2", len(journal.entries))
	}
	x.retryPins(t.Context())
	after := x.other(func(c *Config) { c.Participant, c.Live = "gone", NewLive() })
	for _, entry := range journal.entries {
		err := after.c.Live.Recover(entry)
		if err != nil {
			t.Fatal(err)
		}
	}
	after.c.Live.KeepIn(journal)
	after.retryPins(t.Context())
	if !journal.Empty() {
		t.Error("the journal is not emptied when the participant is back")
	}
	for _, id := range []string{"flow-1", "flow-2"} {
		f, err := after.Flow(t.Context(), id)
		if err != nil || f.State != Terminated {
			t.Errorf("%s: %+v, %v", id, f, err)
		}
	}
}

// Whatever ends access can be in the journal, and a process that cannot read it would not start.
func TestEveryJournaledEndingIsRecovered(t *testing.T) {
	for _, op := range []operation{
		opSuspend, opTerminate, opComplete, opRevoke, opRevokeQuietly, opDenied,
		opRepeatedEnd, opRepeatedCompletion, opRepeatedSuspend,
	} {
		x := newFixture(t)
		journal := new(fakeJournal)
		x.config.Live.KeepIn(journal)
		x.store.fail(errBroken, errBroken)
		ending, err := x.end(t.Context(), controlPlane, x.message("flow-1", "m1"), op)
		if err != nil || ending.Outcome != Journaled {
			t.Fatalf("%+v: %+v, %v", op, ending, err)
		}
		live := NewLive()
		err = live.Recover(journal.entries[0])
		if err != nil {
			t.Errorf("%+v: %v", op, err)
			continue
		}
		p := live.pinned(flowKey("default", "flow-1"))
		if p == nil || p.op != op {
			t.Errorf("%+v came back as %+v", op, p)
		}
	}
}

// One record that cannot be read does not hold up the others in a restored store, and a later flow of the same id is not ended.
func TestEndAgainPassesOver(t *testing.T) {
	x := newFixture(t)
	live := x.config.Live
	live.begin(x.Service)
	defer live.end(x.Service)
	x.start(dpsStart("damaged"))
	_, err := x.store.Update(t.Context(), flowKind, flowKey("default", "damaged"), func(store.Record) (store.Edit, error) {
		return store.Edit{Data: []byte("{")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	later := x.start(dpsStart("later")).AccessToken
	for _, id := range []string{"damaged", "later"} {
		err = live.EndAgain(t.Context(), store.Entry{
			Kind: flowKind, ID: flowKey("default", id), Version: 7, Event: string(Terminated), At: x.clock.Now().Add(-time.Hour),
		})
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	err = x.verify(later)
	if err != nil {
		t.Error(err)
	}
}

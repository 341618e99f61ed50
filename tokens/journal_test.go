package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// fakeJournal is a Journal in memory.
type fakeJournal struct {
	mu      sync.Mutex
	entries []json.RawMessage
	made    uint64
	full    bool
}

func (j *fakeJournal) Append(entry json.RawMessage) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.full {
		return errors.New("no room")
	}
	j.entries = append(j.entries, entry)
	j.made++
	return nil
}

func (j *fakeJournal) Mark() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.made
}

func (j *fakeJournal) Discard(mark uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made == mark {
		j.entries = nil
	}
	return nil
}

func (j *fakeJournal) Keep(mark uint64, entries []json.RawMessage) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made == mark {
		j.entries = entries
		j.made++
	}
	return nil
}

func (j *fakeJournal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

func (j *fakeJournal) Empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries) == 0
}

// What the store does not take is acknowledged, in effect, and recorded by the process after a crash.
func TestJournaledEndingOutlivesTheProcess(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*Service, Message) (Ending, error)
		want State
	}{
		{"suspend", func(s *Service, m Message) (Ending, error) { return s.Suspend(context.Background(), controlPlane, m) }, Suspended},
		{"terminate", func(s *Service, m Message) (Ending, error) { return s.Terminate(context.Background(), controlPlane, m) }, Terminated},
		{"completed", func(s *Service, m Message) (Ending, error) { return s.Complete(context.Background(), controlPlane, m) }, Completed},
		{"revoke", func(s *Service, m Message) (Ending, error) { return s.Revoke(context.Background(), m.ProcessID, "") }, Terminated},
		{"revoke", func(s *Service, m Message) (Ending, error) {
			return s.RevokeQuietly(context.Background(), m.ProcessID, "")
		}, Terminated},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := newFixture(t)
			journal := new(fakeJournal)
			x.config.Live.KeepIn(journal)
			token := x.start(dpsStart("flow-1")).AccessToken
			err := x.verify(token)
			if err != nil {
				t.Fatal(err)
			}
			x.store.fail(errBroken, errBroken)
			ending, err := test.end(x.Service, x.message("flow-1", "m1"))
			if err != nil || ending.Outcome != Journaled {
				t.Fatalf("%+v, %v", ending, err)
			}
			if x.verify(token) == nil {
				t.Error("it is not in effect")
			}

			after := x.other(func(c *Config) { c.Live = NewLive() })
			for _, entry := range journal.entries {
				err := after.c.Live.Recover(entry)
				if err != nil {
					t.Fatal(err)
				}
			}
			after.c.Live.KeepIn(journal)
			if verifyAt(after, token) == nil {
				t.Error("it is not in effect after a restart, before the store has it")
			}
			x.store.fail(nil, errBroken)
			if verifyAt(after, token) == nil {
				t.Error("it is not in effect when the store can be read again")
			}
			after.retryPins(t.Context())
			if journal.Empty() {
				t.Error("the journal was emptied before the store had everything")
			}
			x.store.fail(nil, nil)
			after.retryPins(t.Context())
			if !journal.Empty() {
				t.Error("the journal is not emptied")
			}
			f, err := after.Flow(t.Context(), "flow-1")
			if err != nil || f.State != test.want {
				t.Errorf("%v, %v, want %s", f, err, test.want)
			}
		})
	}
}

// A classic start of a flow that another gateway has resumed is answered with its EDR: that must open something here.
func TestRepeatedStartKnowsOfAResumeElsewhere(t *testing.T) {
	x, there := gateways(t)
	token := x.start(classicStart("flow-1")).AccessToken
	x.must(x.Suspend(t.Context(), controlPlane, x.message("flow-1", "")))
	wantCode(t, x.verify(token), CodeFlowSuspended)
	_, err := there.Start(t.Context(), controlPlane, classicStart("flow-1"))
	if err != nil {
		t.Fatal(err)
	}
	again := x.start(classicStart("flow-1")) // the log has not been read here yet
	for _, token := range []Secret{token, again.AccessToken} {
		err := x.verify(token)
		if err != nil {
			t.Errorf("refused where the start was answered: %v", err)
		}
	}
}

// Other gateways that were cut off too serve what was ended here until the store has it, so it must not wait for its turn.
func TestReachedStoreGetsTheJournalAtOnce(t *testing.T) {
	for name, reach := range map[string]func(*Live){
		"refuse":             func(l *Live) { l.Fresh(time.Now().Add(time.Hour)) },
		"until_token_expiry": (*Live).FreshForEver,
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			x.config.Live.KeepIn(new(fakeJournal))
			x.config.Live.begin(x.Service)
			x.start(dpsStart("flow-1"))
			told := func() bool {
				select {
				case <-x.reached:
					return true
				default:
					return false
				}
			}
			reach(x.config.Live)
			if told() {
				t.Error("told with an empty journal")
			}
			x.store.fail(errBroken, errBroken)
			x.must(x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1")))
			x.config.Live.Fresh(time.Time{})
			if told() {
				t.Error("told that the store can be reached, and it cannot")
			}
			x.store.fail(nil, nil)
			reach(x.config.Live)
			reach(x.config.Live) // nobody waits for the service
			if !told() {
				t.Error("not told")
			}
		})
	}
}

func TestJournaledEndingAppliesToItsCallersFlowsOnly(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.ControlPlanes = append(c.ControlPlanes, "another") })
	journal := new(fakeJournal)
	x.config.Live.KeepIn(journal)
	token := x.start(dpsStart("flow-1")).AccessToken
	x.store.fail(nil, errBroken)
	_, _ = x.Terminate(t.Context(), "another", x.message("flow-1", "m1"))
	x.store.fail(nil, nil)
	after := x.other(func(c *Config) { c.Live = NewLive() })
	for _, entry := range journal.entries {
		err := after.c.Live.Recover(entry)
		if err != nil {
			t.Fatal(err)
		}
	}
	err := verifyAt(after, token)
	if err != nil {
		t.Errorf("in effect for a flow of another control plane: %v", err)
	}
	after.retryPins(t.Context())
	err = verifyAt(after, token)
	if err != nil {
		t.Errorf("recorded for a flow of another control plane: %v", err)
	}
}

// A suspend that waited in a journal while the flow was resumed elsewhere comes too late. An ending never does.
func TestJournaledSuspendIsOvertakenByAResume(t *testing.T) {
	x, there := gateways(t)
	journal := new(fakeJournal)
	x.config.Live.KeepIn(journal)
	token := x.start(dpsStart("flow-1")).AccessToken
	x.store.fail(nil, errBroken)
	ending, err := x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m1"))
	if err != nil || ending.Outcome != Journaled {
		t.Fatalf("%+v, %v", ending, err)
	}
	x.store.fail(nil, nil)
	x.clock.Advance(2 * time.Second)
	x.must(there.Suspend(t.Context(), controlPlane, x.message("flow-1", "m2")))
	_, err = there.Resume(t.Context(), controlPlane, x.message("flow-1", "m3"))
	if err != nil {
		t.Fatal(err)
	}
	x.retryPins(t.Context())
	follow(t, x.Service)
	err = x.verify(token)
	if err != nil {
		t.Errorf("the resume is undone: %v", err)
	}
	if !journal.Empty() {
		t.Error("the suspend is still in the journal")
	}
}

// What a suspension that waits here makes of a flow must not be resumed if another gateway has ended it meanwhile: it would
// open again, everywhere.
func TestResumeOfAHeldSuspendBringsNoEndedFlowBack(t *testing.T) {
	x, there := gateways(t)
	x.config.Live.KeepIn(&fakeJournal{})
	edr := x.start(dpsStart("flow-1"))
	unseen := x.mustRenew(edr.RefreshToken, edr.AccessToken).AccessToken
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	x.store.fail(errBroken, errBroken)
	ending := x.must(x.Suspend(t.Context(), controlPlane, x.message("flow-1", "m1")))
	if ending.Outcome != Journaled {
		t.Fatalf("outcome %s", ending.Outcome)
	}
	x.store.fail(nil, nil)
	x.must(there.Terminate(t.Context(), controlPlane, x.message("flow-1", "m2")))
	// The log has not been read here yet.
	_, err = x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeFlowEnded)
	wantCode(t, x.verify(unseen), CodeFlowEnded)
	_, err = x.Resume(t.Context(), controlPlane, x.message("flow-1", "m3"))
	wantCode(t, err, CodeState)
	follow(t, x.Service)
	wantCode(t, x.verify(edr.AccessToken), CodeFlowEnded)
	x.retryPins(t.Context())
	f, err := x.Flow(t.Context(), "flow-1")
	if err != nil || f.State != Terminated || len(x.config.Live.waiting()) != 0 {
		t.Errorf("the flow is %v, %v", f, err)
	}
}

func TestJournalThatTakesNothing(t *testing.T) {
	x := newFixture(t)
	x.config.Live.KeepIn(&fakeJournal{full: true})
	token := x.start(dpsStart("flow-1")).AccessToken
	x.store.fail(nil, errBroken)
	_, err := x.Terminate(t.Context(), controlPlane, x.message("flow-1", "m1"))
	wantCode(t, err, CodeUnavailable)
	if x.verify(token) == nil {
		t.Error("it is not in effect here")
	}
}

func FuzzRecover(f *testing.F) {
	f.Add([]byte(`{"participant":"default","caller":"cp","operation":"terminate","process":"flow-1","at":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"operation":"suspend"}`))
	f.Add([]byte(`[]`))
	clock := testkit.NewClock()
	f.Fuzz(func(t *testing.T, entry []byte) {
		live := NewLive()
		err := live.Recover(entry)
		if waiting := len(live.waiting()); err == nil && waiting != 1 || err != nil && waiting != 0 {
			t.Errorf("%d wait, error %v at %s", waiting, err, clock.Now())
		}
	})
}

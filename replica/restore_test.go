package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
)

// twins are a store and the backup or standby of it that has the same log up to now.
func (w *world) twins(events ...string) *memory.Store {
	w.t.Helper()
	twin := memory.New(w.clock.Now)
	for _, event := range events {
		id, state, _ := strings.Cut(event, " ")
		w.change(id, state)
		write(w.t, twin, id, state)
	}
	return twin
}

// A standby that takes over is behind by less than the time between two looks: nobody has seen what it lacks.
func TestLostWritesThatNobodySawAreNoticed(t *testing.T) {
	w, p := newWorld(t), newProcess()
	standby := w.twins("flow-1 SUSPENDED")
	f := w.follower(t.TempDir(), w.store, p)
	w.look(f)
	write(t, f.Watched(), "flow-2", "TERMINATED")
	f.c.Store = standby
	w.look(f)
	if !p.restored || p.reread != 1 || !slices.Equal(p.again, []string{"flow-2"}) {
		t.Fatalf("restored %v, reread %d, ended again %v", p.restored, p.reread, p.again)
	}
	w.look(f)
	if p.reread != 1 {
		t.Errorf("reread %d: once is enough", p.reread)
	}
}

// What this process writes and reads is no loss, in whatever order it learns of it.
func TestOwnWritesAreNoLoss(t *testing.T) {
	w, p := newWorld(t), newProcess()
	f := w.follower(t.TempDir(), w.store, p)
	s := f.Watched()
	write(t, s, "before", "TERMINATED") // before the first look, which begins behind it
	w.look(f)
	write(t, s, "flow-1", "SUSPENDED")
	w.look(f)
	_, err := s.Update(t.Context(), "flow", "flow-1", func(store.Record) (store.Edit, error) {
		return store.Edit{Event: "never"}, store.ErrKeep
	})
	if err != nil {
		t.Fatal(err)
	}
	// The log has it before the writer knows.
	f.c.Store = acknowledgedLate{w.store, func() { w.look(f) }}
	write(t, f.Watched(), "flow-1", "TERMINATED")
	f.c.Store = w.store
	w.look(f)
	// Of what was not acknowledged nobody knows.
	f.c.Store = unacknowledged{w.store}
	_, _ = f.Watched().Update(t.Context(), "flow", "flow-1", func(store.Record) (store.Edit, error) {
		return store.Edit{Event: "LOST"}, nil
	})
	f.c.Store = w.store
	w.look(f)
	if p.restored || p.reread != 0 || len(f.written.notes) != 0 {
		t.Errorf("restored %v, reread %d, %d waited for", p.restored, p.reread, len(f.written.notes))
	}
}

// acknowledgedLate is a store whose writes are seen before their writer knows.
type acknowledgedLate struct {
	store.Store
	look func()
}

func (a acknowledgedLate) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	r, err := a.Store.Update(ctx, kind, id, edit)
	a.look()
	return r, err
}

// unacknowledged is a store whose writes get lost on the way.
type unacknowledged struct{ store.Store }

func (u unacknowledged) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	old, err := u.Get(ctx, kind, id)
	if err == nil {
		_, err = edit(old)
	}
	return old, errors.Join(err, errors.New("no answer"))
}

// A gateway that has seen none of the lost entries has read records of that time all the same.
func TestRestoreNoticedElsewhereMeansReadingAgain(t *testing.T) {
	w, here, there := newWorld(t), newProcess(), newProcess()
	backup := w.twins("flow-1 SUSPENDED")
	f, g := w.follower(t.TempDir(), w.store, here), w.follower(t.TempDir(), w.store, there)
	w.look(f)
	w.look(g)
	w.change("flow-2", "TERMINATED")
	w.look(f)
	f.c.Store, g.c.Store = backup, backup
	w.look(f)
	w.look(g)
	if here.reread != 1 || there.reread != 1 || !there.restored {
		t.Errorf("reread %d and %d, restored there %v", here.reread, there.reread, there.restored)
	}
}

// The lost entry and the one in its place look the same but for their time.
func TestRestoredLogThatHasCaughtUp(t *testing.T) {
	w, p := newWorld(t), newProcess()
	backup := w.twins("flow-1 SUSPENDED")
	f := w.follower(t.TempDir(), w.store, p)
	w.change("flow-2", "TERMINATED")
	w.look(f)
	w.clock.Advance(time.Second)
	write(t, backup, "flow-2", "TERMINATED")
	f.c.Store = backup
	w.look(f)
	if !p.restored {
		t.Error("not noticed")
	}
}

// Another database answers for a while, and takes no writes: when the right one is back nothing waits for an operator.
func TestSuspicionThatWasNone(t *testing.T) {
	w, p := newWorld(t), newProcess()
	f := w.follower(t.TempDir(), w.store, p)
	w.change("flow-1", "SUSPENDED")
	w.look(f)
	f.c.Store = readOnly{memory.New(w.clock.Now)}
	if f.Look(t.Context()) == nil || !p.restored || !p.until.IsZero() {
		t.Fatalf("restored %v, fresh until %s", p.restored, p.until)
	}
	f.c.Store = w.store
	w.look(f)
	if p.restored || p.until.IsZero() || p.reread == 0 {
		t.Errorf("restored %v, fresh until %s, reread %d", p.restored, p.until, p.reread)
	}
}

type readOnly struct{ store.Store }

var errReadOnly = errors.New("read-only")

func (readOnly) Create(context.Context, store.Record) (store.Record, error) {
	return store.Record{}, errReadOnly
}

func (readOnly) Update(context.Context, string, string, func(store.Record) (store.Edit, error)) (store.Record, error) {
	return store.Record{}, errReadOnly
}

// A second restore, to a backup that was made while the first one waited for the operator, is told to all as well.
func TestRestoredTwice(t *testing.T) {
	w, here, there := newWorld(t), newProcess(), newProcess()
	f, g := w.follower(t.TempDir(), w.store, here), w.follower(t.TempDir(), w.store, there)
	backup := memory.New(w.clock.Now)
	for _, s := range []store.Store{w.store, backup} {
		_, err := markRestore(t.Context(), s, restorePending)
		if err != nil {
			t.Fatal(err)
		}
	}
	w.look(f)
	w.look(g)
	w.change("flow-1", "TERMINATED")
	w.look(f)
	f.c.Store, g.c.Store = backup, backup
	w.look(f)
	w.look(g)
	if there.reread != 1 {
		t.Errorf("reread %d elsewhere", there.reread)
	}
}

// A record that was suspended is closed again, one that was opened since is not.
func TestOnlyTheNewestChangeIsRepeated(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	p := newProcess()
	closing := func(c *Config) { c.Memory = closers{p} }
	f := w.follower(dir, w.store, p, closing)
	w.look(f)
	for range 3 {
		w.change("opened", "SUSPENDED")
		w.change("opened", "STARTED")
		w.change("closed", "SUSPENDED")
	}
	w.look(f)
	err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	f = w.follower(dir, memory.New(w.clock.Now), p, closing)
	w.look(f)
	if !slices.Equal(p.again, []string{"closed"}) {
		t.Errorf("repeated %v", p.again)
	}
}

type closers struct{ *process }

func (closers) Closes(e store.Entry) bool { return e.Event == "SUSPENDED" || e.Event == "TERMINATED" }

// What a crash of the machine leaves of the files does not keep the gateway from starting, nor takes what comes next.
func TestFilesAfterACrash(t *testing.T) {
	for name, left := range map[string]string{"empty": "", "zeros": "\x00\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWorld(t), t.TempDir()
			for file, text := range map[string]string{positionFile: left, endingsFile: `{"Kind":"flow","ID":"cut` + left} {
				err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)
				if err != nil {
					t.Fatal(err)
				}
			}
			f := w.follower(dir, w.store, newProcess())
			w.look(f)
			w.change("flow-1", "TERMINATED")
			w.look(f)
			err := f.Close()
			if err != nil {
				t.Fatal(err)
			}
			f = w.follower(dir, w.store, newProcess())
			if n := f.state.len(); n != 1 {
				t.Errorf("%d endings remembered", n)
			}
		})
	}
}

// A log that was empty when it was looked at, and has lost its first entries by age until the next look.
func TestTrimmedFromTheBeginning(t *testing.T) {
	w, p := newWorld(t), newProcess()
	f := w.follower(t.TempDir(), w.store, p)
	w.look(f)
	w.change("flow-1", "TERMINATED")
	w.clock.Advance(time.Hour)
	w.change("flow-2", "SUSPENDED")
	_, err := w.store.Sweep(t.Context(), w.clock.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.look(f)
	if p.reread != 1 {
		t.Errorf("reread %d", p.reread)
	}
}

// An operator accepts while this gateway still repeats endings: the entry of that is passed over.
func TestAcceptedMeanwhile(t *testing.T) {
	w, p := newWorld(t), newProcess()
	backup := w.twins("flow-1 SUSPENDED")
	f := w.follower(t.TempDir(), w.store, p)
	w.look(f)
	w.change("flow-2", "TERMINATED")
	w.look(f)
	f.c.Store = backup
	p.failing = errors.New("store in trouble")
	if f.Look(t.Context()) == nil {
		t.Fatal("fresh before the ending was repeated")
	}
	accepted, err := Accept(t.Context(), backup)
	if err != nil || !accepted {
		t.Fatal(accepted, err)
	}
	p.failing = nil
	w.look(f)
	if p.restored || len(p.again) != 1 {
		t.Errorf("restored %v, ended again %v", p.restored, p.again)
	}
}

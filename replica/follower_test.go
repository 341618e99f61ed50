package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
)

// process is one gateway that follows a store: what it was told, and what it ended again.
type process struct {
	mu       sync.Mutex
	states   map[string]string // by id, as told
	until    time.Time
	reread   int
	restored bool
	again    []string
	failing  error
	lags     []time.Duration
}

func newProcess() *process { return &process{states: map[string]string{}} }

func (p *process) Changed(e store.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states[e.ID] = e.Event
}

func (p *process) Fresh(until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = until
}

func (p *process) Reread() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reread++
	clear(p.states)
}

func (p *process) Restored(pending bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restored = pending
}

func (p *process) Closes(e store.Entry) bool { return e.Event == "TERMINATED" }

func (p *process) EndAgain(_ context.Context, e store.Entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing != nil {
		return p.failing
	}
	p.again = append(p.again, e.ID)
	return nil
}

func (p *process) state(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.states[id]
}

func (p *process) Lag(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lags = append(p.lags, took)
}

func (p *process) Staleness(time.Duration) {}
func (p *process) Rollback(bool)           {}
func (p *process) FollowError(string)      {}
func (p *process) Remembered(int)          {}

// world is a store with its writers.
type world struct {
	t     *testing.T
	clock *testkit.Clock
	store *memory.Store
}

func newWorld(t *testing.T) *world {
	clock := testkit.NewClock()
	return &world{t: t, clock: clock, store: memory.New(clock.Now)}
}

// change appends an entry to the log.
func (w *world) change(id, event string) {
	w.t.Helper()
	write(w.t, w.store, id, event)
}

func write(t *testing.T, s store.Store, id, event string) {
	t.Helper()
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: id})
	if err != nil && !errors.Is(err, store.ErrExists) {
		t.Fatal(err)
	}
	_, err = s.Update(t.Context(), "flow", id, func(store.Record) (store.Edit, error) { return store.Edit{Event: event}, nil })
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) follower(dir string, s store.Store, p *process, change ...func(*Config)) *Follower {
	w.t.Helper()
	c := Config{
		Store: s, Memory: p, Repeater: p, Observer: p, Dir: dir, Now: w.clock.Now,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, edit := range change {
		edit(&c)
	}
	f, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *world) look(f *Follower) {
	w.t.Helper()
	err := f.Look(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestFollowsTheLog(t *testing.T) {
	w, p := newWorld(t), newProcess()
	w.change("before", "SUSPENDED")
	f := w.follower(t.TempDir(), w.store, p)
	if !p.until.IsZero() {
		t.Error("fresh before the first look")
	}
	w.look(f)
	if want := w.clock.Now().Add(DefaultMaxStaleness); !p.until.Equal(want) {
		t.Errorf("fresh until %s, want %s", p.until, want)
	}
	if got := p.state("before"); got != "" {
		t.Errorf("told %q of what nobody remembers", got)
	}
	for i := range store.MaxPage + 5 {
		w.change(fmt.Sprint("flow-", i%7), "SUSPENDED")
	}
	w.change("flow-3", "TERMINATED")
	w.look(f)
	if got := p.state("flow-3"); got != "TERMINATED" {
		t.Errorf("told %q", got)
	}
	if p.reread != 0 || p.restored {
		t.Errorf("reread %d, restored %v", p.reread, p.restored)
	}
}

// The end of the log is found whatever its length and however much of it is trimmed.
func TestEndOfTheLog(t *testing.T) {
	for _, length := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 100} {
		for _, keep := range []int{length, 1} {
			w, p := newWorld(t), newProcess()
			for i := range length {
				if i == length-keep {
					w.clock.Advance(time.Hour)
				}
				w.change("flow", fmt.Sprint(i))
			}
			_, err := w.store.Sweep(t.Context(), w.clock.Now(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			f := w.follower(t.TempDir(), w.store, p)
			w.look(f)
			if got := f.state.last.Seq; got != uint64(length) {
				t.Errorf("log of %d, %d kept: begins at %d", length, keep, got)
			}
		}
	}
}

func TestTrimmedLogMeansReadingAgain(t *testing.T) {
	w, p := newWorld(t), newProcess()
	f := w.follower(t.TempDir(), w.store, p)
	w.change("flow-1", "SUSPENDED")
	w.look(f)
	w.change("flow-2", "TERMINATED")
	w.clock.Advance(time.Hour)
	w.change("flow-3", "SUSPENDED")
	_, err := w.store.Sweep(t.Context(), w.clock.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.look(f)
	if p.reread != 1 || p.state("flow-3") != "SUSPENDED" || p.restored {
		t.Errorf("reread %d, state %q, restored %v", p.reread, p.state("flow-3"), p.restored)
	}
	// Trimmed up to what was seen last is no gap.
	w.clock.Advance(time.Hour)
	w.change("flow-4", "SUSPENDED")
	_, err = w.store.Sweep(t.Context(), w.clock.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.look(f)
	if p.reread != 1 || p.state("flow-4") != "SUSPENDED" || p.restored {
		t.Errorf("reread %d, state %q, restored %v", p.reread, p.state("flow-4"), p.restored)
	}
}

// A process that comes back goes on where it was, and knows the endings that it has seen.
func TestComesBack(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	first := newProcess()
	f := w.follower(dir, w.store, first)
	w.look(f)
	w.change("flow-1", "TERMINATED")
	w.look(f)
	err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	w.change("flow-2", "TERMINATED")
	second := newProcess()
	f = w.follower(dir, w.store, second)
	w.look(f)
	var ended []string
	for _, e := range f.state.endings() {
		ended = append(ended, e.ID)
	}
	if !slices.Equal(ended, []string{"flow-1", "flow-2"}) {
		t.Errorf("remembers %v", ended)
	}
	if second.reread != 0 || second.restored {
		t.Errorf("reread %d, restored %v", second.reread, second.restored)
	}
}

func TestRestoredStoreIsNoticed(t *testing.T) {
	older := func(*testing.T, store.Store) {}
	for _, test := range []struct {
		name string
		then func(t *testing.T, s store.Store) // what happened in the restored store before the next look
	}{
		{"older", older},
		{"older, and written to", func(t *testing.T, s store.Store) { write(t, s, "flow-9", "SUSPENDED") }},
		{"older, and longer by now", func(t *testing.T, s store.Store) {
			for i := range 10 {
				write(t, s, fmt.Sprint("new-", i), "SUSPENDED")
			}
		}},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", test.name, restart), func(t *testing.T) {
				w, p, dir := newWorld(t), newProcess(), t.TempDir()
				backup := memory.New(w.clock.Now)
				write(t, backup, "flow-1", "SUSPENDED")
				w.change("flow-1", "SUSPENDED")
				f := w.follower(dir, w.store, p)
				w.look(f)
				w.change("flow-2", "TERMINATED")
				w.change("flow-3", "SUSPENDED")
				w.look(f)

				test.then(t, backup)
				if restart {
					err := f.Close()
					if err != nil {
						t.Fatal(err)
					}
					p = newProcess()
					f = w.follower(dir, backup, p)
				}
				f.c.Store = backup
				p.failing = errors.New("store in trouble")
				if f.Look(t.Context()) == nil || !p.restored || !p.until.IsZero() {
					t.Fatalf("restored %v, fresh until %s: nothing may be served before endings are repeated", p.restored, p.until)
				}
				p.failing = nil
				w.look(f)
				if !p.restored || p.reread != 1 || !slices.Equal(p.again, []string{"flow-2"}) || p.until.IsZero() {
					t.Fatalf("restored %v, reread %d, ended again %v, fresh until %s", p.restored, p.reread, p.again, p.until)
				}
				w.look(f) // once is enough
				if p.reread != 1 {
					t.Errorf("reread %d", p.reread)
				}

				other := newProcess()
				g := w.follower(t.TempDir(), backup, other)
				w.look(g)
				if !other.restored {
					t.Error("a gateway that starts later does not know")
				}
				accepted, err := Accept(t.Context(), backup)
				if err != nil || !accepted {
					t.Fatal(accepted, err)
				}
				w.look(f)
				w.look(g)
				if p.restored || other.restored {
					t.Error("accepted, and somebody does not know")
				}
				accepted, err = Accept(t.Context(), backup)
				if err != nil || accepted {
					t.Error("accepted twice", accepted, err)
				}
			})
		}
	}
}

func TestEndingsAreBounded(t *testing.T) {
	w, p, dir := newWorld(t), newProcess(), t.TempDir()
	f := w.follower(dir, w.store, p, func(c *Config) { c.Keep = time.Hour })
	w.look(f)
	for i := range 3000 {
		w.change(fmt.Sprint("flow-", i), "TERMINATED")
		if i%100 == 0 {
			w.clock.Advance(3 * time.Minute)
			w.look(f)
		}
	}
	w.look(f)
	if n := f.state.len(); n == 0 || n > 2100 || n != f.state.index.len() {
		t.Errorf("%d endings remembered, %d by record", n, f.state.index.len())
	}
	if f.state.lines > 2*f.state.len()+1024 {
		t.Errorf("%d lines for %d endings", f.state.lines, f.state.len())
	}
}

func TestDirectoryIsOneGatewaysOwn(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	w.follower(dir, w.store, newProcess())
	p := newProcess()
	_, err := New(Config{Store: w.store, Memory: p, Repeater: p, Observer: p, Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Fatal("two gateways share a directory")
	}
}

// The lag is that of the whole way: a write by this process, seen by its own look.
func TestCanary(t *testing.T) {
	w, p := newWorld(t), newProcess()
	f := w.follower(t.TempDir(), w.store, p)
	w.look(f)
	for range 2 {
		err := f.sendCanary(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(40 * time.Millisecond)
		w.look(f)
	}
	if !slices.Equal(p.lags, []time.Duration{40 * time.Millisecond, 40 * time.Millisecond}) {
		t.Errorf("lags %v", p.lags)
	}
	if p.state(f.own.id) != "" {
		t.Error("the memory is told of canaries")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	s := memory.New(time.Now)
	p := newProcess()
	f, err := New(Config{
		Store: s, Memory: p, Repeater: p, Observer: p, Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Poll: time.Millisecond, Canary: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	write(t, s, "flow-1", "SUSPENDED")
	testkit.Eventually(t, "a lag is measured", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.lags) > 0
	})
	cancel()
	running.Wait()
	err = f.Close()
	if err != nil {
		t.Error(err)
	}
}

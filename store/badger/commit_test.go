package badger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// recorder is an Observer that remembers.
type recorder struct {
	mu      sync.Mutex
	commits []int
	states  []Space
	failed  []string
}

func (r *recorder) Committed(writes int, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commits = append(r.commits, writes)
}

func (r *recorder) GuardChanged(s Space) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = append(r.states, s)
}

func (r *recorder) Failed(in string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, in)
}

// sums returns the number of transactions, and of writes in them, after the first skip.
func (r *recorder) sums(skip int) (int, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := 0
	for _, n := range r.commits[skip:] {
		writes += n
	}
	return len(r.commits) - skip, writes
}

func (r *recorder) saw(s Space) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.states) > 0 && r.states[len(r.states)-1] == s
}

func (r *recorder) sawFailure(in string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.failed {
		if f == in {
			return true
		}
	}
	return false
}

func create(t *testing.T, s *Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: id})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// leader is an update that holds up the committer until it is released.
type leader struct {
	release func()
	result  chan error
}

func hold(t *testing.T, s *Store, id string) leader {
	t.Helper()
	started := make(chan struct{})
	gate := make(chan struct{})
	l := leader{release: sync.OnceFunc(func() { close(gate) }), result: make(chan error, 1)}
	t.Cleanup(l.release)
	go func() {
		_, err := s.Update(context.Background(), "flow", id, func(store.Record) (store.Edit, error) {
			close(started)
			<-gate
			return store.Edit{Data: []byte("held")}, nil
		})
		l.result <- err
	}()
	<-started
	return l
}

func (l leader) finish(t *testing.T) {
	t.Helper()
	l.release()
	err := <-l.result
	if err != nil {
		t.Errorf("update that led: %v", err)
	}
}

// queued waits until n changes wait for the leader.
func queued(t *testing.T, s *Store, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d changes wait", n), func() bool {
		s.commits.mu.Lock()
		defer s.commits.mu.Unlock()
		return len(s.commits.queue) == n
	})
}

func TestWritersShareTransactions(t *testing.T) {
	seen := &recorder{}
	s := open(t, Options{Observer: seen})
	before, _ := seen.sums(0)
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			for j := range 20 {
				_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprintf("%d-%d", i, j)})
				if err != nil {
					t.Errorf("create: %v", err)
				}
			}
		})
	}
	group.Wait()
	commits, writes := seen.sums(before)
	if writes != 64*20 || commits >= writes/2 {
		t.Errorf("%d writes took %d transactions", writes, commits)
	}
}

// What waited for one transaction goes into the next, all of it, and sees what comes before it there.
func TestGroupSeesItself(t *testing.T) {
	seen := &recorder{}
	s := open(t, Options{Observer: seen})
	create(t, s, "a", "b")
	before, _ := seen.sums(0)
	l := hold(t, s, "a")
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			_, err := s.Update(t.Context(), "flow", "b", func(old store.Record) (store.Edit, error) {
				return store.Edit{Data: append([]byte("x"), old.Data...)}, nil
			})
			if err != nil {
				t.Errorf("update: %v", err)
			}
		})
	}
	queued(t, s, 10)
	l.finish(t)
	group.Wait()
	r, err := s.Get(t.Context(), "flow", "b")
	if err != nil || r.Version != 11 || len(r.Data) != 10 {
		t.Errorf("got %+v, %v; want version 11 with ten bytes", r, err)
	}
	commits, writes := seen.sums(before)
	if commits != 2 || writes != 11 {
		t.Errorf("%d writes took %d transactions, want 11 in 2", writes, commits)
	}
}

// More than one transaction can hold is spread over several.
func TestGroupTooLarge(t *testing.T) {
	seen := &recorder{}
	s := open(t, Options{Observer: seen})
	create(t, s, "a")
	before, _ := seen.sums(0)
	l := hold(t, s, "a")
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Data: make([]byte, store.MaxDataBytes)})
			if err != nil {
				t.Errorf("create: %v", err)
			}
		})
	}
	queued(t, s, 32)
	l.finish(t)
	group.Wait()
	commits, writes := seen.sums(before)
	least := int(32 * store.MaxDataBytes / s.db.MaxBatchSize())
	if writes != 33 || commits < 1+least {
		t.Errorf("%d writes took %d transactions, want 33 in at least %d", writes, commits, 1+least)
	}
}

// Whoever gives up while waiting is answered at once, and what it asked for does not happen.
func TestCancelledWhileQueued(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b", "c")
	l := hold(t, s, "a")
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		_, err := s.Update(ctx, "flow", "b", func(store.Record) (store.Edit, error) {
			return store.Edit{}, errors.New("edit of a caller who has gone was called")
		})
		gaveUp <- err
	}()
	queued(t, s, 1)
	stays := make(chan error, 1)
	go func() {
		_, err := s.Update(t.Context(), "flow", "c", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
		stays <- err
	}()
	queued(t, s, 2)

	cancel()
	err := <-gaveUp // while the leader is held
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
	l.finish(t)
	err = <-stays
	if err != nil {
		t.Errorf("the one that waited behind: %v", err)
	}
	r, err := s.Get(t.Context(), "flow", "b")
	if err != nil || r.Version != 1 {
		t.Errorf("record of the one that gave up: got %+v, %v", r, err)
	}
}

// If all who wait give up, the next caller leads again.
func TestAllGiveUp(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b")
	l := hold(t, s, "a")
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			_, err := s.Update(ctx, "flow", "b", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v", err)
			}
		})
	}
	queued(t, s, 5)
	cancel()
	group.Wait()
	l.finish(t)
	r, err := s.Update(t.Context(), "flow", "b", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
	if err != nil || r.Version != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A caller that was made leader and gives up before it leads hands leadership on.
func TestLeaderGivesUp(t *testing.T) {
	first := &change{wake: make(chan struct{}, 2), promoted: true}
	second := &change{wake: make(chan struct{}, 2)}
	c := &committer{leading: true, queue: []*change{first, second}}
	c.withdraw(first)
	if !second.promoted || len(second.wake) != 1 || !c.leading || len(c.queue) != 1 {
		t.Errorf("the next does not lead: %+v", c)
	}
	c.withdraw(second)
	if c.leading || len(c.queue) != 0 {
		t.Errorf("somebody is taken to lead: %+v", c)
	}
}

// What had no room in one transaction comes first in the next.
func TestPutBackKeepsOrder(t *testing.T) {
	changes := []*change{{}, {}, {}, {}}
	c := &committer{queue: slices.Clone(changes[:3])}
	g := c.take()
	c.queue = append(c.queue, changes[3])
	c.putBack(g, 1)
	if !slices.Equal(c.queue, changes[1:]) || len(g.changes) != 1 || changes[1].group != nil {
		t.Errorf("queue is %v, group %v", c.queue, g.changes)
	}
}

// A caller that gives up while its group is being edited returns only when its closure has run: the closure uses the
// caller's variables. The race detector finds it otherwise.
func TestCancelledWhileEdited(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b", "c")
	first := hold(t, s, "a")
	started := make(chan struct{})
	gate := make(chan struct{})
	second := make(chan error, 1)
	go func() {
		_, err := s.Update(t.Context(), "flow", "b", func(store.Record) (store.Edit, error) {
			close(started)
			<-gate
			return store.Edit{}, nil
		})
		second <- err
	}()
	queued(t, s, 1)
	ctx, cancel := context.WithCancel(t.Context())
	third := make(chan error, 1)
	go func() {
		edited := 0
		_, err := s.Update(ctx, "flow", "c", func(store.Record) (store.Edit, error) {
			edited++
			return store.Edit{}, nil
		})
		if edited != 1 {
			err = fmt.Errorf("edit ran %d times when update returned", edited)
		}
		third <- err
	}()
	queued(t, s, 2)
	first.finish(t)
	<-started // second leads, third is in its group
	cancel()
	select { // what must not happen is given a moment to happen
	case err := <-third:
		t.Errorf("update returned while its closure had still to run: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(gate)
	err := <-third
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	err = <-second
	if err != nil {
		t.Error(err)
	}
}

// A panic goes to the caller whose closure it was, not to the one that happened to lead, nor to the others.
func TestPanicOfFollower(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b", "c", "d")
	l := hold(t, s, "a")
	var group sync.WaitGroup
	for _, id := range []string{"b", "c", "d"} {
		group.Go(func() {
			defer func() {
				thrown := recover()
				if (thrown != nil) != (id == "c") {
					t.Errorf("update of %s threw %v", id, thrown)
				}
			}()
			_, err := s.Update(t.Context(), "flow", id, func(store.Record) (store.Edit, error) {
				if id == "c" {
					panic("by the test")
				}
				return store.Edit{Data: []byte("written")}, nil
			})
			if err != nil {
				t.Errorf("update of %s: %v", id, err)
			}
		})
	}
	queued(t, s, 3)
	l.finish(t)
	group.Wait()
	for id, want := range map[string]uint64{"b": 2, "c": 1, "d": 2} {
		r, err := s.Get(t.Context(), "flow", id)
		if err != nil || r.Version != want {
			t.Errorf("got %+v, %v; want version %d", r, err, want)
		}
	}
}

// A closure may end the goroutine that leads. Nobody is told that a write happened, and the store goes on.
func TestClosureEndsGoroutine(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b", "c")
	l := hold(t, s, "a")
	other := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.Update(t.Context(), "flow", "b", func(store.Record) (store.Edit, error) {
			runtime.Goexit()
			return store.Edit{}, nil
		})
	}()
	queued(t, s, 1)
	go func() {
		_, err := s.Update(t.Context(), "flow", "c", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
		other <- err
	}()
	queued(t, s, 2)
	l.finish(t)
	<-ended
	err := <-other
	if !errors.Is(err, errAborted) {
		t.Errorf("got error %v, want one that says it was given up", err)
	}
	for _, id := range []string{"b", "c"} {
		r, err := s.Update(t.Context(), "flow", id, func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
		if err != nil || r.Version != 2 {
			t.Errorf("afterwards: got %+v, %v", r, err)
		}
	}
}

// After a commit that may not be on the disk, nothing is written, and reads show what had been durable before.
func TestFailedCommit(t *testing.T) {
	seen := &recorder{}
	s := open(t, Options{Observer: seen})
	create(t, s, "a")
	s.wal.dir = filepath.Join(s.dir, "MANIFEST") // a file: looking for a log in it fails
	edit := func(store.Record) (store.Edit, error) { return store.Edit{Data: []byte("lost"), Event: "e"}, nil }
	for range 2 {
		_, err := s.Update(t.Context(), "flow", "a", edit)
		if !errors.Is(err, errFailed) {
			t.Errorf("update: got error %v", err)
		}
	}
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: "b"})
	if !errors.Is(err, errFailed) {
		t.Errorf("create: got error %v", err)
	}
	err = s.Health(t.Context())
	if !errors.Is(err, errFailed) || errors.Is(err, store.ErrFull) {
		t.Errorf("health: got error %v", err)
	}
	r, err := s.Get(t.Context(), "flow", "a")
	if err != nil || r.Version != 1 || len(r.Data) != 0 {
		t.Errorf("get: got %+v, %v; want what was durable", r, err)
	}
	entries, err := s.Tail(t.Context(), 0, 0)
	if err != nil || len(entries) != 0 {
		t.Errorf("tail: got %v, %v; want nothing", entries, err)
	}
	if !seen.sawFailure("commit") {
		t.Error("observer was not told")
	}
}

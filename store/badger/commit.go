package badger

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
)

// maxGroup is how many changes share one transaction at most.
const maxGroup = 512

// errAborted is the error of a group whose leader did not come to its end.
var errAborted = errors.New("write was given up: the goroutine that wrote it ended")

// committer turns waiting changes into transactions, one at a time. It has no goroutine of its own: a caller that finds
// nobody leading leads. It takes what is queued, commits it in its own goroutine, and hands leadership to the first
// change that was queued meanwhile. So a lone writer commits at once, without a timer and, where there are no others, without
// a goroutine switch, and under load each sync carries all that came in during the one before.
type committer struct {
	store *Store

	mu      sync.Mutex
	leading bool // somebody leads; if nobody does, no change waits
	queue   []*change
	lately  int // how many changes the groups of late had, at most; the leader's
}

// change is one caller's write.
type change struct {
	// apply reads from the batch and writes to it. It may run again if the batch it was in had no room for it.
	apply func(*batch) error
	// wake receives once when the change is answered, and once before if its caller is to lead.
	wake chan struct{}

	// Guarded by committer.mu.
	group    *group // nil while queued
	promoted bool   // its caller is to lead

	// Written by the leader before it is answered.
	err      error
	panicked *any // what a panicking closure threw
}

// group is the changes of one transaction.
type group struct {
	changes []*change
	edited  chan struct{} // closed when no closure of the group runs any more
	closed  bool          // edited is closed; the leader's
	err     error         // of the transaction; the leader's
}

// do runs apply in a transaction with others, and returns its error once that transaction is durable. If the context
// ends while the change is queued, it is dropped; if it ends later, do returns at once when apply has run, and the
// outcome is unknown.
//
// A panic of apply is thrown again here, in the goroutine of the caller whose closure it was.
func (c *committer) do(ctx context.Context, apply func(*batch) error) error {
	err := c.store.writable()
	if err != nil {
		return err
	}
	ch := &change{apply: apply, wake: make(chan struct{}, 2)}
	c.mu.Lock()
	c.queue = append(c.queue, ch)
	lead := !c.leading
	c.leading = true
	c.mu.Unlock()

	if !lead {
		select {
		case <-ch.wake:
			lead = ch.promoted
		case <-ctx.Done():
			c.withdraw(ch)
			return ctx.Err()
		}
	}
	if lead {
		c.lead()
	}
	if ch.panicked != nil {
		panic(*ch.panicked)
	}
	return ch.err
}

// withdraw takes ch out of the queue if it is there. Otherwise it waits until its closure has run, because the closure uses variables of
// the caller, which is about to return.
func (c *committer) withdraw(ch *change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ch.group != nil {
		g := ch.group
		c.mu.Unlock()
		<-g.edited
		c.mu.Lock()
		if ch.group == g {
			return
		}
	}
	at := slices.Index(c.queue, ch)
	c.queue = slices.Delete(c.queue, at, at+1)
	if ch.promoted {
		c.handOn()
	}
}

// lead commits one group and hands leadership on.
func (c *committer) lead() {
	g := c.take()
	// Deferred, so that nobody waits for ever: a closure may end this goroutine (runtime.Goexit, which testing's
	// FailNow is).
	defer c.finish(g)
	b := c.store.newBatch()
	defer b.discard()
	for i, ch := range g.changes {
		if !ch.run(b) {
			c.putBack(g, i)
			break
		}
	}
	g.close()
	g.err = b.commit()
}

// take makes a group of what is queued. If groups of late had more, the callers that the last one has answered may be about to
// come again, and would make a group of their own, with a sync of its own: they run first if they can. Nobody is waited for.
func (c *committer) take() *group {
	c.mu.Lock()
	if len(c.queue) < c.lately {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	n := min(len(c.queue), maxGroup)
	c.lately = max(n, c.lately*7/8)
	g := &group{changes: slices.Clone(c.queue[:n]), edited: make(chan struct{}), err: errAborted}
	c.queue = slices.Delete(c.queue, 0, n)
	for _, ch := range g.changes {
		ch.group = g
	}
	return g
}

// putBack returns the changes of g from i on to the front of the queue.
func (c *committer) putBack(g *group, i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range g.changes[i:] {
		ch.group = nil
	}
	c.queue = slices.Insert(c.queue, 0, g.changes[i:]...)
	g.changes = g.changes[:i]
}

// finish answers the changes of g and hands leadership on.
func (c *committer) finish(g *group) {
	g.close()
	for _, ch := range g.changes {
		// A change that wrote nothing is answered with the others: what it has seen may be theirs.
		if g.err != nil {
			ch.err = g.err
		}
		ch.wake <- struct{}{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handOn()
}

// handOn makes the first waiting caller the leader. The caller holds the lock.
func (c *committer) handOn() {
	if len(c.queue) == 0 {
		c.leading = false
		return
	}
	c.queue[0].promoted = true
	c.queue[0].wake <- struct{}{}
}

func (g *group) close() {
	if g.closed {
		return
	}
	g.closed = true
	close(g.edited)
}

// run applies ch to b. It reports false if b has no room for it.
func (ch *change) run(b *batch) bool {
	b.stage()
	ch.call(b)
	if ch.err != nil || ch.panicked != nil {
		return true
	}
	return b.keep()
}

// call calls apply and catches its panic: the goroutine, and the other changes of the group, are not its own.
func (ch *change) call(b *batch) {
	defer func() {
		thrown := recover()
		if thrown == nil {
			return
		}
		// The caller may have gone, and its own stack would not show the closure.
		b.store.log.Error("edit closure panicked", "panic", fmt.Sprint(thrown), "stack", string(debug.Stack()))
		ch.panicked = &thrown
	}()
	ch.err = ch.apply(b)
}

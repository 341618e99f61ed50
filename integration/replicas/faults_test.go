//go:build postgres

package replicas

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
)

// fault is something that goes wrong for a while.
type fault struct {
	name       string
	begin, end func() error
}

// faultsOf are what can happen to one gateway.
func faultsOf(g *cluster.Gateway) []fault {
	nothing := func() error { return nil }
	return []fault{
		{"kill -9", g.Kill, g.TryLaunch},
		{"SIGSTOP", g.Pause, g.Continue},
		{"cut", func() error { g.Link.Cut(); return nil }, g.Link.TryMend},
		{"swallow", g.Link.Swallow, func() error { g.Link.Release(context.Background()); return nil }},
		{"break", g.Link.Break, nothing},
		{"delay", func() error { return g.Link.Delay(300 * time.Millisecond) }, func() error { g.Link.Release(context.Background()); return nil }},
	}
}

// faultsOfAll are what can happen to the database.
func faultsOfAll() []fault {
	run := func() error { return server.Run(context.Background()) }
	return []fault{{"database restarted", server.Halt, run}, {"database killed", server.Kill, run}}
}

// fail does what the seed says, until ctx ends: to each gateway one thing after the other, and sometimes to the database.
func (w *world) fail(ctx context.Context, seed uint64) {
	var acting sync.WaitGroup
	for i, g := range w.Gateways {
		random := rand.New(rand.NewPCG(seed, 1000+uint64(i)))
		acting.Go(func() { w.failEvery(ctx, random, g.Name, faultsOf(g), 2500*time.Millisecond, 1200*time.Millisecond) })
	}
	random := rand.New(rand.NewPCG(seed, 2000))
	if random.IntN(2) == 0 {
		acting.Go(func() {
			w.failEvery(ctx, random, "all", faultsOfAll(), 3*time.Second, 500*time.Millisecond)
		})
	}
	acting.Wait()
}

// failEvery does one of the faults after the other: up to longest each, and up to pause between them.
func (w *world) failEvery(ctx context.Context, random *rand.Rand, name string, faults []fault, pause, longest time.Duration) {
	between := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	for {
		wait, f, lasts := upTo(random, pause), faults[random.IntN(len(faults))], upTo(random, longest)
		if !between(wait) {
			return
		}
		err := f.begin()
		between(lasts)
		err = errors.Join(err, f.end())
		w.mu.Lock()
		w.failed = append(w.failed, fmt.Sprintf("%s %s for %s", name, f.name, lasts.Round(time.Millisecond)))
		// A gateway that did not start, since the database was away, is no longer there.
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			w.complaints = append(w.complaints, fmt.Sprintf("%s %s: %v", name, f.name, err))
		}
		w.mu.Unlock()
	}
}

// heal waits until all gateways are ready. What was done to them has been undone.
func (w *world) heal() {
	w.t.Helper()
	for _, g := range w.Gateways {
		g.Revive()
	}
}

func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}

package badger

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Badger writes through memory maps over files with holes. On a full disk such a write is not an error but SIGBUS, which
// no Go program survives: all of the gateway would die, and die again at each start. So the store stops before.
const (
	// floorBytes is what Badger may need without asking: the rest of its write-ahead log, and tables of what is
	// in full memtables. Below it nothing is written.
	floorBytes = maxMemTableBytes + fullBytes
	// criticalBytes is where the reserve is given up: one memtable above the floor.
	criticalBytes = floorBytes + maxMemTableBytes
)

// Space is what the free-space guard lets through, from all to nothing.
type Space int

const (
	SpaceOK      Space = iota // everything
	SpaceLow                  // endings of access, and sweeps
	SpaceReserve              // endings of access; the reserve has been given up for them
	SpaceNone                 // nothing
)

// String is the state's name in logs and metrics.
func (s Space) String() string {
	switch s {
	case SpaceOK:
		return "ok"
	case SpaceLow:
		return "low"
	case SpaceReserve:
		return "reserve"
	case SpaceNone:
		return "none"
	}
	return fmt.Sprintf("Space(%d)", int(s))
}

// reserveRetries is after how many looks the guard tries again to write a reserve that could not be written.
const reserveRetries = 60

// guard watches the free space of the store's directory. It is off if the operating system cannot be asked.
type guard struct {
	dir       string
	freeBytes func(string) (uint64, error)
	minFree   uint64
	every     time.Duration
	observer  Observer
	log       *slog.Logger

	mu      sync.Mutex
	reserve reserve
	state   Space
	lost    bool // the last measurement failed

	quit chan struct{}
	done chan struct{}
}

func newGuard(o Options) *guard {
	return &guard{
		dir: o.Dir, freeBytes: o.FreeBytes, minFree: o.MinFreeBytes, every: o.checkEvery,
		observer: o.Observer, log: o.Logger, reserve: newReserve(o.Dir, o.ReserveBytes),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// beforeOpen returns an error if Badger cannot be opened safely: it writes while it opens. The reserve is given up for
// that as well, so that a gateway can start on a full disk and take the endings.
func (g *guard) beforeOpen() error {
	if g.freeBytes == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	free, err := g.measure()
	if err != nil {
		return fmt.Errorf("open store %s: measure free space: %w", g.dir, err)
	}
	if free < floorBytes {
		return fmt.Errorf("open store %s: only %d bytes are free on its file system and at least %d are needed; free some space", g.dir, free, uint64(floorBytes))
	}
	g.state = g.judge(free)
	return nil
}

// start reports the first state, writes the reserve and begins to watch.
func (g *guard) start() {
	g.observer.GuardChanged(g.space())
	if g.freeBytes == nil {
		close(g.done)
		return
	}
	if g.space() != SpaceOK {
		g.log.Warn("store is short of space", "dir", g.dir, "state", g.space().String(), "min_free_bytes", g.minFree)
	}
	g.reserve.clean()
	g.restore()
	go g.watch()
}

func (g *guard) stop() {
	close(g.quit)
	<-g.done
}

func (g *guard) watch() {
	defer close(g.done)
	ticker := time.NewTicker(g.every)
	defer ticker.Stop()
	wait := 0
	for {
		select {
		case <-g.quit:
			return
		case <-ticker.C:
		}
		g.check()
		if wait > 0 {
			wait--
			continue
		}
		if !g.restore() {
			wait = reserveRetries
		}
	}
}

// space returns the state as last measured.
func (g *guard) space() Space {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// check measures now and returns the new state. If space cannot be measured the state stays what it was.
func (g *guard) check() Space {
	if g.freeBytes == nil {
		return SpaceOK
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	free, err := g.measure()
	if err != nil {
		if !g.lost {
			g.log.Error("cannot measure the store's free space", "dir", g.dir, "error", err)
		}
		g.lost = true
		g.observer.Failed("space")
		return g.state
	}
	g.lost = false
	state := g.judge(free)
	if state != g.state {
		g.state = state
		g.log.Warn("store's free space changed", "dir", g.dir, "state", state.String(), "free_bytes", free, "min_free_bytes", g.minFree)
		g.observer.GuardChanged(state)
	}
	return state
}

// measure returns the free space, after giving up the reserve if there is too little. The caller holds the lock.
func (g *guard) measure() (uint64, error) {
	free, err := g.freeBytes(g.dir)
	if err != nil || free >= criticalBytes || !g.reserve.held {
		return free, err
	}
	err = g.reserve.giveUp()
	if err != nil {
		g.observer.Failed("reserve")
		g.log.Error("cannot give up the store's reserve", "dir", g.dir, "error", err)
		return free, nil
	}
	g.log.Warn("gave up the store's reserve", "dir", g.dir, "free_bytes", free, "reserve_bytes", g.reserve.size)
	return g.freeBytes(g.dir)
}

// judge returns the state for an amount of free space. A missing reserve counts as space that is taken already:
// otherwise writing it would at once lead back to the state before. The caller holds the lock.
func (g *guard) judge(free uint64) Space {
	available := free
	if !g.reserve.held {
		available -= min(free, uint64(g.reserve.size))
	}
	switch {
	case free < floorBytes:
		return SpaceNone
	case available < criticalBytes:
		return SpaceReserve
	case available < g.minFree:
		return SpaceLow
	}
	return SpaceOK
}

// restore writes the reserve if it is missing and there is room. It reports false if it could not be written. Only the
// goroutine that watches calls it, and Open.
func (g *guard) restore() bool {
	g.mu.Lock()
	needed := g.state == SpaceOK && !g.reserve.held && g.reserve.size > 0
	g.mu.Unlock()
	if !needed {
		return true
	}
	// Written without the lock: writers must not wait for it.
	err := g.reserve.write(func() bool {
		free, err := g.freeBytes(g.dir)
		return err == nil && free >= g.minFree
	})
	if err != nil {
		g.observer.Failed("reserve")
		g.log.Error("cannot write the store's reserve", "dir", g.dir, "error", err)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reserve.held = true
	return true
}

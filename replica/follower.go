package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edrgate/edrgate/store"
)

// The defaults of a Config.
const (
	DefaultPoll         = 100 * time.Millisecond
	DefaultMaxStaleness = 10 * time.Second
	DefaultKeep         = 30 * 24 * time.Hour
)

// Memory is what a process remembers of the records of a store. Its methods must not block.
type Memory interface {
	// Changed tells of one entry of the log. Entries come in the order of the log, but may come twice.
	Changed(e store.Entry)

	// Fresh says that everything committed before now - staleness is known, until then; the zero time: not any more.
	Fresh(until time.Time)

	// Reread says that what is remembered of any record may be wrong, so that it must be read again.
	Reread()

	// Restored says whether the store has lost writes and no operator has accepted that yet.
	Restored(pending bool)

	// Closes reports whether a record opens nothing after an entry of the log: it was ended or suspended.
	Closes(e store.Entry) bool
}

// Repeater ends or suspends a record once more, in a store that has lost that it was.
type Repeater interface {
	// EndAgain may be called by several goroutines at once.
	EndAgain(ctx context.Context, e store.Entry) error
}

// Observer is told how a follower fares, for metrics. Its methods must not block.
type Observer interface {
	Lag(took time.Duration)    // from the moment that this process began to write an entry until its own tail had it
	Staleness(d time.Duration) // how old the newest complete look at the log is
	Rollback(pending bool)     // as Memory.Restored
	FollowError(in string)     // "tail", "canary", "state" or "restore"
	Remembered(endings int)    // endings that would be repeated in a restored store
}

// Config is what a Follower needs. Fields without a stated default are required.
type Config struct {
	Store    store.Store
	Memory   Memory
	Repeater Repeater
	Dir      string // local directory of this gateway alone, that outlives the process

	Poll         time.Duration // between two looks at the log; default 100 ms
	MaxStaleness time.Duration // how long what was seen stays fresh; default 10 s
	Keep         time.Duration // how long endings are remembered; default 30 d
	Canary       time.Duration // between two entries that measure the lag; 0: none

	Observer Observer
	Logger   *slog.Logger
	Now      func() time.Time // default: time.Now. Its monotonic reading is what staleness is measured with.
}

// Follower follows the log of one store for one process.
type Follower struct {
	c     Config
	state *state
	began atomic.Pointer[time.Time] // of the newest complete look
	own   canary

	looked   chan struct{} // closed when the first look has ended
	written  written
	suspects bool   // lost writes were noticed, and what follows from that is not done yet
	marked   uint64 // version of the mark of a restored store that this process has written last
}

// New opens the local state of a follower, and tells the memory what is known from there. Until the first look at the
// log has succeeded, nothing is fresh. Close gives the state back.
func New(c Config) (*Follower, error) {
	if c.Store == nil || c.Memory == nil || c.Repeater == nil || c.Observer == nil || c.Logger == nil || c.Dir == "" {
		return nil, errors.New("store, memory, repeater, observer, logger and directory are needed")
	}
	setDefault(&c.Poll, DefaultPoll)
	setDefault(&c.MaxStaleness, DefaultMaxStaleness)
	setDefault(&c.Keep, DefaultKeep)
	if c.Poll < time.Millisecond || c.MaxStaleness < c.Poll || c.Keep < time.Minute || c.Canary < 0 {
		return nil, errors.New("times of following the log are out of range")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s, err := openState(c.Dir)
	if err != nil {
		return nil, err
	}
	c.Memory.Fresh(time.Time{})
	return &Follower{c: c, state: s, own: newCanary(), looked: make(chan struct{}), written: written{notes: map[writtenKey]*note{}}}, nil
}

func setDefault(field *time.Duration, value time.Duration) {
	if *field == 0 {
		*field = value
	}
}

// Close writes the local state and gives it back. Run must have returned.
func (f *Follower) Close() error { return f.state.close() }

// tailTimeout bounds one question to the store beside the store's own limit.
const tailTimeout = 2 * time.Second

// Run follows the log until ctx ends. It returns when everything that it started has ended.
func (f *Follower) Run(ctx context.Context) {
	canaries := make(chan struct{})
	go func() {
		defer close(canaries)
		f.sendCanaries(ctx)
	}()
	defer func() { <-canaries }()
	next := time.NewTimer(0)
	defer next.Stop()
	trouble := false
	first := sync.OnceFunc(func() { close(f.looked) })
	for {
		select {
		case <-ctx.Done():
			f.save()
			return
		case <-next.C:
		}
		err := f.Look(ctx)
		first()
		if err != nil && ctx.Err() == nil {
			f.c.Observer.FollowError("tail")
			if !trouble {
				f.c.Logger.Warn("cannot follow the store's changes", "error", err)
			}
		}
		if err == nil && trouble {
			f.c.Logger.Info("the store's changes are followed again")
		}
		trouble = err != nil
		f.report()
		next.Reset(f.c.Poll)
	}
}

// Looked is closed when Run's first look has ended, whether or not it succeeded.
func (f *Follower) Looked() <-chan struct{} { return f.looked }

// report tells the age of the newest complete look.
func (f *Follower) report() {
	began := f.began.Load()
	if began != nil {
		f.c.Observer.Staleness(f.c.Now().Sub(*began))
	}
}

// Look reads the log to its end, once. Everything committed before it was called is known when it returns nil.
func (f *Follower) Look(ctx context.Context) error {
	began := f.c.Now()
	err := f.begin(ctx)
	if err != nil {
		return err
	}
	due := f.written.due()
	for {
		err := f.readAll(ctx)
		if err != nil {
			return err
		}
		if !f.written.misses(due) {
			break
		}
		err = f.restored(ctx)
		if err != nil {
			return err
		}
	}
	err = f.relax(ctx)
	if err != nil {
		return err
	}
	f.c.Memory.Fresh(began.Add(f.c.MaxStaleness))
	f.began.Store(&began)
	f.save()
	return nil
}

// readAll reads the log from the position to its end.
func (f *Follower) readAll(ctx context.Context) error {
	for {
		more, err := f.read(ctx)
		if err != nil || !more {
			return err
		}
	}
}

// begin finds out where to begin, on the first look: where the process before has stopped, else at the end of the log.
// Nothing is remembered of records yet, so older entries are of no interest.
func (f *Follower) begin(ctx context.Context) error {
	if f.state.begun {
		return nil
	}
	if !f.state.known {
		last, err := f.end(ctx)
		if err != nil {
			return err
		}
		f.state.at(last)
		f.written.clear()
	}
	pending, err := f.pending(ctx)
	if err != nil {
		return err
	}
	f.hold(pending)
	f.state.begun = true
	return nil
}

// read takes one page of the log, and reports whether there is another. The page begins with the entry that was seen last:
// that it is still the same one shows that the store has not lost any.
func (f *Follower) read(ctx context.Context) (bool, error) {
	last := f.state.last
	from := last.Seq
	if from > 0 {
		from--
	}
	entries, err := f.tail(ctx, from, 0)
	trimmed := errors.Is(err, store.ErrTrimmed)
	if err != nil && !trimmed {
		return false, err
	}
	full := len(entries) == store.MaxPage
	switch {
	case last.Seq == 0:
		if trimmed {
			f.passOver()
		}
	case len(entries) > 0 && entries[0].Seq == last.Seq && same(entries[0], last):
		entries = entries[1:]
	case trimmed && len(entries) > 0 && entries[0].Seq > last.Seq:
		if entries[0].Seq > last.Seq+1 {
			f.passOver()
		}
	default:
		return true, f.restored(ctx)
	}
	for _, e := range entries {
		f.take(e)
	}
	return full, nil
}

// passOver goes on where entries are missing that nobody keeps any more.
func (f *Follower) passOver() {
	f.written.clear()
	f.c.Memory.Reread()
}

// tail reads the log with a bounded wait. With store.ErrTrimmed the entries are valid.
func (f *Follower) tail(ctx context.Context, after uint64, limit int) ([]store.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, tailTimeout)
	defer cancel()
	entries, err := f.c.Store.Tail(ctx, after, limit)
	if err != nil && !errors.Is(err, store.ErrTrimmed) {
		return nil, fmt.Errorf("reading the log of state changes: %w", err)
	}
	return entries, err
}

// take hands on one entry.
func (f *Follower) take(e store.Entry) {
	f.state.at(e)
	f.written.see(e)
	switch e.Kind {
	case restoreKind:
		if e.Event == restorePending && e.Version != f.marked {
			// Another gateway has noticed it. States that were read here directly, and not in the log, may be of lost writes: they
			// have versions that the store will give again.
			f.c.Memory.Reread()
		}
		f.hold(e.Event == restorePending)
	case canaryKind:
		f.seen(e)
	default:
		f.c.Memory.Changed(e)
		f.keep(e)
	}
}

// keep remembers what must be repeated in a restored store, and forgets it when the record is open again.
func (f *Follower) keep(e store.Entry) {
	if f.c.Memory.Closes(e) {
		f.state.remember(e, f.c.Now().Add(-f.c.Keep))
		return
	}
	f.state.forget(e)
}

// end returns the newest entry of the log; the zero entry if there is none. The contract of the log has no question for
// it, so it is searched for: reading all of a long log would keep the first request waiting.
func (f *Follower) end(ctx context.Context) (store.Entry, error) {
	behind := func(seq uint64) (bool, error) {
		entries, err := f.tail(ctx, seq, 1)
		if err != nil && !errors.Is(err, store.ErrTrimmed) {
			return false, err
		}
		return len(entries) > 0, nil
	}
	below, above := uint64(0), uint64(1) // the newest is above below, and not above above
	for {
		more, err := behind(above)
		if err != nil {
			return store.Entry{}, err
		}
		if !more {
			break
		}
		below, above = above, above*2
	}
	for below < above {
		middle := below + (above-below)/2
		more, err := behind(middle)
		if err != nil {
			return store.Entry{}, err
		}
		if more {
			below = middle + 1
		} else {
			above = middle
		}
	}
	if below == 0 {
		return store.Entry{}, nil
	}
	entries, err := f.tail(ctx, below-1, 1)
	if err != nil && !errors.Is(err, store.ErrTrimmed) {
		return store.Entry{}, err
	}
	if len(entries) == 0 {
		return store.Entry{}, errors.New("the log of state changes has become shorter")
	}
	return entries[0], nil
}

// save writes down how far the log was read. What fails is tried again with the next look.
func (f *Follower) save() {
	err := f.state.save(f.c.Now())
	if err != nil {
		f.c.Observer.FollowError("state")
		f.c.Logger.Warn("cannot write the local state of this gateway", "error", err)
	}
	f.c.Observer.Remembered(f.state.len())
}

// same reports whether two entries of the same sequence are one.
func same(a, b store.Entry) bool {
	return a.Seq == b.Seq && a.Kind == b.Kind && a.ID == b.ID && a.Version == b.Version && a.Event == b.Event && a.At.Equal(b.At)
}

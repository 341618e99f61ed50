// Package badger is the embedded store: one directory, one process, no server.
//
// It is Badger with four things around it. A group committer puts many compare-and-swaps into one synced transaction,
// since Badger syncs once for each transaction (commit.go). A guard watches the free space, since Badger writes through
// memory maps and dies of SIGBUS, with the whole process, on a full disk (guard.go). Reads run at the last version known
// to be durable and never wait for a sync (snapshot.go). Calls are counted, since Badger's iterators panic on a closed
// database (store/calls).
//
// A write is answered after it is on the disk. When the disk refuses a commit, what is on it is unknown: the store then
// refuses every later write until it is opened again, and serves reads of what had been durable before.
package badger

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"
	badgeroptions "github.com/dgraph-io/badger/v4/options"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/calls"
)

// Sizes of the engine, measured for a process that shares its machine with others: bounded memory and disk, at 1 KiB
// records and a million of them (docs/decisions: embedded store).
const (
	newTables      = 2 // of level 0, before they are compacted: a read looks into each
	tableBytes     = 4 << 20
	valueLogBytes  = 16 << 20 // stays empty: see valueThreshold
	compactors     = 2
	valueThreshold = 1 << 20 // above any record: values in the value log would lose writes whose sync failed
)

// Options configure a store. Dir is required.
type Options struct {
	// Dir is the directory of the store. It is created if it does not exist. Only one process can have it open.
	Dir string

	// Clock tells the time for expiry and for the log. Default: time.Now.
	Clock func() time.Time

	// Logger receives what an operator must know. Default: nothing is logged.
	Logger *slog.Logger

	// MinFreeBytes is the free space, besides the reserve, below which only writes that end somebody's access are let
	// through. Default: 1 GiB. Values below 64 MiB are raised to that.
	MinFreeBytes uint64

	// ReserveBytes is the size of a file that is given up when the disk is nearly full, so that there is room for such
	// writes. Default: 64 MiB. Negative: no reserve.
	ReserveBytes int64

	// FreeBytes returns the space that this process may still use on the file system of a directory. Default: what
	// the operating system says; where it cannot be asked there is no guard.
	FreeBytes func(dir string) (uint64, error)

	// Observer is told what happens, for metrics. Default: nobody.
	Observer Observer

	checkEvery time.Duration // how often the guard looks; default 1 s
	closeWait  time.Duration // how long Close waits for running calls; default 10 s
}

// Observer receives measurements. Its methods are called while writers wait: they must not block.
type Observer interface {
	// Committed reports a transaction that has become durable: how many writes shared it, and how long it took from
	// its first edit to its sync.
	Committed(writes int, took time.Duration)
	// GuardChanged reports what the free-space guard lets through from now on. It is called once by Open as well.
	GuardChanged(s Space)
	// Failed reports an error of the engine or the disk, in "commit", "read", "space" or "reserve".
	Failed(in string)
}

// Store is a store.Store in a directory.
type Store struct {
	dir      string
	clock    func() time.Time
	log      *slog.Logger
	observer Observer

	closeWait time.Duration

	db        *badgerdb.DB
	calls     *calls.Calls
	snapshots snapshots
	commits   committer
	writes    recentWrites
	guard     *guard
	wal       walDirectory

	failed  atomic.Pointer[error] // why no more writes are taken
	release sync.Once
}

// Open opens the store in o.Dir, and creates it if there is none. It fails if another process has it open, if a newer
// version wrote it, if its files are damaged, and if the disk is too full to open it without risking the process.
func Open(o Options) (*Store, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	err = os.MkdirAll(o.Dir, 0o700)
	if err != nil {
		return nil, fmt.Errorf("create store directory: %w", err)
	}
	g := newGuard(o)
	err = g.beforeOpen()
	if err != nil {
		return nil, err
	}
	room := 0
	err = whileClosed(o.Dir, func(certain bool) error {
		if certain {
			err := removeEmptyLogs(o.Dir)
			if err != nil {
				return err
			}
		}
		var err error
		room, err = checkFiles(o.Dir)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.Dir, err)
	}
	db, err := badgerdb.OpenManaged(engineOptions(o.Dir, memTableFor(room), o.Logger))
	if err != nil {
		return nil, openError(o.Dir, err)
	}

	s := &Store{dir: o.Dir, clock: o.Clock, log: o.Logger, observer: o.Observer, closeWait: o.closeWait, db: db, calls: calls.New(), guard: g}
	s.commits.store = s
	s.snapshots.start(db)
	err = s.prepare()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", o.Dir, err), db.Close())
	}
	g.start()
	return s, nil
}

// prepare checks and completes an opened database.
func (s *Store) prepare() error {
	err := s.wal.start(s.dir)
	if err != nil {
		return err
	}
	return s.checkFormat()
}

// Close implements store.Store. It waits at most 10 s for running calls; if some are still running then (a disk that
// does not answer), it returns an error and leaves the database open, because an iterator on a closed one panics. Close
// may then be called again.
func (s *Store) Close() error {
	s.calls.Close()
	timeout := time.NewTimer(s.closeWait)
	defer timeout.Stop()
	select {
	case <-s.calls.Idle():
	case <-timeout.C:
		return fmt.Errorf("close store %s: calls are still running after %s", s.dir, s.closeWait)
	}
	var err error
	s.release.Do(func() {
		s.guard.stop()
		err = s.db.Close()
	})
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

func (o Options) complete() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("open store: no directory given")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.FreeBytes == nil {
		o.FreeBytes = freeBytes
	}
	switch {
	case o.ReserveBytes == 0:
		o.ReserveBytes = 64 << 20
	case o.ReserveBytes < 0:
		o.ReserveBytes = 0
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = max(1<<30, 2*(maxMemTableBytes+valueLogBytes))
	}
	o.MinFreeBytes = max(o.MinFreeBytes, criticalBytes)
	if o.checkEvery == 0 {
		o.checkEvery = time.Second
	}
	if o.closeWait == 0 {
		o.closeWait = 10 * time.Second
	}
	return o, nil
}

// engineOptions are Badger's for this use. Conflict detection is off since there is one committer, compression since
// tokens do not compress and it costs more memory than it saves disk, caches since tables that are neither compressed nor
// encrypted are read from their memory maps (table.go, block), metrics since Badger's are global.
func engineOptions(dir string, memTable int64, log *slog.Logger) badgerdb.Options {
	return badgerdb.DefaultOptions(dir).
		WithSyncWrites(true).
		WithDetectConflicts(false).
		WithCompression(badgeroptions.None).
		WithMemTableSize(memTable).
		WithNumMemtables(int(fullBytes / memTable)).
		WithNumLevelZeroTables(newTables).
		WithBaseTableSize(tableBytes).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithNumCompactors(compactors).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(valueLogBytes).
		WithMetricsEnabled(false).
		WithLogger(engineLog{log})
}

// openError says what an operator can do about err. Badger has no error value for a locked directory, only this text,
// the same on every platform.
var errOpenElsewhere = errors.New("another process has it open; a store directory belongs to one running gateway")

func openError(dir string, err error) error {
	if strings.Contains(err.Error(), "Another process is using this Badger database") {
		return fmt.Errorf("open store %s: %w: %w", dir, errOpenElsewhere, err)
	}
	return fmt.Errorf("open store %s: %w", dir, err)
}

type nobody struct{}

func (nobody) Committed(int, time.Duration) {}
func (nobody) GuardChanged(Space)           {}
func (nobody) Failed(string)                {}

var _ store.Store = (*Store)(nil)

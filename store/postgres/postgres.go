// Package postgres keeps records in a PostgreSQL database that several gateways share.
//
// A record is one row, and each write is one statement that is a transaction of its own: a compare-and-swap on the row's
// version and the number that the last write drew, and, if there is an event, the log entry. So nothing is kept in a
// session, and PgBouncer may stand between in any mode. No index covers what an update usually changes, so that PostgreSQL can put the new version
// of a row beside the old one without touching an index (a HOT update).
//
// The schema is made by Migrate, by a role that owns it. The role of a running gateway has no right to change it.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/calls"
)

const (
	// DefaultTimeout is how long one call may take: waiting for a connection, connecting, and the statements.
	DefaultTimeout = 2 * time.Second

	// DefaultMaxConnections is how many connections one gateway has open at most.
	DefaultMaxConnections = 16

	// stopWait is how long a statement that is given up may still take to be stopped by the server. A call takes this
	// much longer than its timeout at most.
	stopWait = 250 * time.Millisecond

	// closeWait is how long Close waits for running calls.
	closeWait = 10 * time.Second

	// reportEvery is how often the observer is told of the connections.
	reportEvery = 5 * time.Second
)

// Options configure a store. DSN is required.
type Options struct {
	// DSN says where the database is and how to get there.
	DSN *DSN

	// Password returns the password for a new connection, if it is not part of the DSN. It is asked for each, so that a
	// password that was changed is used without a restart. Default: that of the DSN.
	Password func() (string, error)

	// Schema is the schema with the tables. Default: DefaultSchema.
	Schema string

	// MaxConnections is how many connections there are at most. Default: DefaultMaxConnections.
	MaxConnections int

	// Timeout is how long one call may take. Default: DefaultTimeout.
	Timeout time.Duration

	// RecallBytes is how much memory may be used for records that were seen (see store.Recaller). Default:
	// DefaultRecallBytes.
	RecallBytes int

	// MayBeAway has Open succeed although the database cannot be reached: every call fails until it can and has this version's
	// schema. Default: false.
	MayBeAway bool

	// Clock tells the time for expiry and for the log. Default: time.Now.
	Clock func() time.Time

	// Logger receives what an operator must know. Default: nothing is logged.
	Logger *slog.Logger

	// Observer is told what happens, for metrics. Default: nobody.
	Observer Observer
}

// Observer receives measurements. Its methods must not block.
type Observer interface {
	// Called reports a call that reached for the database: "create", "get", "update", "list", "sweep", "tail" or
	// "health", and how long it took.
	Called(operation string, took time.Duration)
	// Committed reports a write that has become durable, and how long it took.
	Committed(writes int, took time.Duration)
	// Failed reports an error of the database, or on the way to it, in "commit" or "read"; a connection that could not
	// be had is "connect", a disk that the database says is full is "space".
	Failed(in string)
	// Connections reports how many connections are in use, idle, and allowed at most.
	Connections(used, idle, limit int)
}

// Store is a store.Store in a database.
type Store struct {
	pool     *pgxpool.Pool
	sql      statements
	timeout  time.Duration
	clock    func() time.Time
	log      *slog.Logger
	observer Observer
	calls    *calls.Calls
	turns    turns
	groups   groups
	memory   *memory
	full     atomic.Bool // the database has said that its disk is full, and has taken no write since
	schema   schemaCheck

	stop    context.CancelFunc // ends the report of connections
	reports sync.WaitGroup
	release sync.Once
}

// Open connects to the database and checks its schema. It fails if the database cannot be reached or is a standby, unless
// Options say that it may be away, and if its schema is missing, older or newer than this version's: the error says what
// to run.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	pool, err := newPool(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.DSN, err)
	}
	s := newStore(pool, o)
	checking, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	err = s.schema.passed(checking)
	if err == nil {
		err = s.Health(checking)
	}
	if err != nil && o.MayBeAway && isAway(err) {
		s.log.Warn("the database cannot be used: nothing is served until it can", "store", o.DSN.String(), "error", err)
		err = nil
	}
	if err != nil && !errors.Is(err, store.ErrFull) {
		pool.Close()
		return nil, fmt.Errorf("open store %s: %w", o.DSN, err)
	}
	reporting, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.reports.Go(func() { s.report(reporting) })
	return s, nil
}

func newStore(pool *pgxpool.Pool, o Options) *Store {
	return &Store{
		pool: pool, sql: statementsFor(o.Schema), timeout: o.Timeout, clock: o.Clock, log: o.Logger, observer: o.Observer,
		calls: calls.New(), turns: newTurns(), memory: newMemory(o.RecallBytes),
		schema: schemaCheck{
			look: func(ctx context.Context) error { return checkSchema(ctx, pool, o.Schema) },
			turn: make(chan struct{}, 1), log: o.Logger,
		},
	}
}

// Close implements store.Store. It waits at most 10 s for running calls; each of them ends by its timeout.
func (s *Store) Close() error {
	s.calls.Close()
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	select {
	case <-s.calls.Idle():
	case <-timeout.C:
		return fmt.Errorf("close store: calls are still running after %s", closeWait)
	}
	s.release.Do(func() {
		s.stop()
		s.reports.Wait()
		s.groups.ended.Wait()
		s.pool.Close()
	})
	return nil
}

// report tells the observer of the connections until the context ends.
func (s *Store) report(ctx context.Context) {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		now := s.pool.Stat()
		s.observer.Connections(int(now.AcquiredConns()), int(now.IdleConns()), int(now.MaxConns()))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (o Options) complete() (Options, error) {
	if o.DSN == nil {
		return o, errors.New("open store: no database given")
	}
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	err := CheckSchemaName(o.Schema)
	if err != nil {
		return o, err
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.RecallBytes == 0 {
		o.RecallBytes = DefaultRecallBytes
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
	return o, nil
}

// newPool makes the connections. It opens none yet.
func newPool(ctx context.Context, o Options) (*pgxpool.Pool, error) {
	c := o.DSN.pool.Copy()
	c.MaxConns = int32(o.MaxConnections)
	c.MaxConnIdleTime = 5 * time.Minute
	c.MaxConnLifetime = 30 * time.Minute // so that connections find a database that has moved
	c.MaxConnLifetimeJitter = 5 * time.Minute
	c.PingTimeout = o.Timeout / 2
	c.ConnConfig.ConnectTimeout = o.Timeout
	if o.Password != nil {
		c.BeforeConnect = func(_ context.Context, next *pgx.ConnConfig) error {
			password, err := o.Password()
			next.Password = password
			return err
		}
	}
	forPoolers(c.ConnConfig)
	return pgxpool.NewWithConfig(context.WithoutCancel(ctx), c)
}

// forPoolers has a connection keep nothing in its session, so that a pooler may give each transaction another one:
// statements have no name on the server, and their descriptions, which the client keeps, are asked for in one turn. A
// statement that is given up is stopped at the server, so that it does not hold its locks.
func forPoolers(c *pgx.ConnConfig) {
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	c.StatementCacheCapacity = 0
	c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: stopWait}
	}
}

type nobody struct{}

func (nobody) Called(string, time.Duration) {}
func (nobody) Committed(int, time.Duration) {}
func (nobody) Failed(string)                {}
func (nobody) Connections(int, int, int)    {}

var _ store.Store = (*Store)(nil)

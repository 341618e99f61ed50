//go:build postgres

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// shortTimeout is for tests in which it runs out.
const shortTimeout = 300 * time.Millisecond

// wantCannotTell checks that an error says neither yes nor no.
func wantCannotTell(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want one", what)
		return
	}
	for _, no := range []error{store.ErrNotFound, store.ErrExists, store.ErrFull, store.ErrClosed, store.ErrInvalid, store.ErrTrimmed} {
		if errors.Is(err, no) {
			t.Errorf("%s: got error %v, want that it cannot tell", what, err)
		}
	}
	for _, secret := range []string{ownerPassword, runtimePassword, pgtest.Password} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error has a password in it: %v", what, err)
		}
	}
}

// everything calls each method once.
func everything(s *Store) map[string]error {
	ctx := context.Background()
	errs := map[string]error{}
	_, errs["create"] = s.Create(ctx, store.Record{Kind: "flow", ID: "new"})
	_, errs["get"] = s.Get(ctx, "flow", "a")
	_, errs["update"] = s.Update(ctx, "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{Event: "e"}, nil })
	_, errs["list"] = s.List(ctx, store.Query{Kind: "flow"})
	_, errs["sweep"] = s.Sweep(ctx, time.Now(), 0)
	return errs
}

func mustCreate(t testing.TB, s *Store, id string) {
	t.Helper()
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: id, Data: []byte("0")})
	if err != nil {
		t.Fatal(err)
	}
}

// A database that does not answer: each call ends, cannot tell, and leaves nothing behind at the server.
func TestStuck(t *testing.T) {
	schema := newSchema(t)
	mustCreate(t, open(t, Options{Schema: schema}), "a")
	seen := &recorder{}
	s := open(t, Options{Schema: schema, Timeout: shortTimeout, MaxConnections: 2, Observer: seen})
	conn, err := pgx.Connect(t.Context(), ownerDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), "LOCK TABLE "+schema+".record IN ACCESS EXCLUSIVE MODE")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 { // more than there are connections
		group.Go(func() {
			for name, err := range everything(s) {
				wantCannotTell(t, name, err)
			}
		})
	}
	group.Wait()
	if !seen.failedIn("read") || !seen.failedIn("commit") {
		t.Errorf("failures were reported in %v", seen.failures())
	}
	testkit.Eventually(t, "the server has stopped what was given up", func() bool {
		var waiting int
		err := tx.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE usename = 'edrgate' AND wait_event_type = 'Lock'").Scan(&waiting)
		return err == nil && waiting == 0
	})
	err = tx.Rollback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the store works again", func() bool {
		_, err := s.Get(context.Background(), "flow", "a")
		return err == nil
	})
}

// A caller that goes away costs no connection, and its write has a known outcome.
func TestCallerGoesAway(t *testing.T) {
	seen := &recorder{}
	s := open(t, Options{Observer: seen})
	mustCreate(t, s, "a")
	before := s.pool.Stat().NewConnsCount()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Update(ctx, "flow", "a", func(store.Record) (store.Edit, error) {
		cancel()
		return store.Edit{Data: []byte("1")}, nil
	})
	if err != nil || r.Version != 2 {
		t.Errorf("got %+v, %v; want the update done", r, err)
	}
	if s.pool.Stat().NewConnsCount() != before {
		t.Error("a connection was given up")
	}
}

// A server that dies loses nothing it has acknowledged, and the store goes on with it when it is back.
func TestServerKilled(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema, Timeout: 2 * time.Second})
	acknowledged := make([]atomic.Int64, 8)
	for i := range acknowledged {
		mustCreate(t, s, fmt.Sprint(i))
	}
	stop := atomic.Bool{}
	var group sync.WaitGroup
	for i := range acknowledged {
		group.Go(func() {
			for !stop.Load() {
				r, err := s.Update(context.Background(), "flow", fmt.Sprint(i), func(store.Record) (store.Edit, error) {
					return store.Edit{Event: "e"}, nil
				})
				if err == nil {
					acknowledged[i].Store(int64(r.Version))
				} else {
					wantCannotTell(t, "update", err)
				}
			}
		})
	}
	for range 3 {
		reached := acknowledged[0].Load()
		testkit.Eventually(t, "updates run", func() bool { return acknowledged[0].Load() > reached+5 })
		err := server.Kill()
		if err != nil {
			t.Fatal(err)
		}
		for name, err := range everything(s) {
			wantCannotTell(t, name, err)
		}
		wantCannotTell(t, "health", s.Health(t.Context()))
		err = server.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
	}
	reached := acknowledged[0].Load()
	testkit.Eventually(t, "updates run again", func() bool { return acknowledged[0].Load() > reached })
	stop.Store(true)
	group.Wait()

	fresh := open(t, Options{Schema: schema})
	changes := uint64(0)
	for i := range acknowledged {
		r, err := fresh.Get(t.Context(), "flow", fmt.Sprint(i))
		if err != nil || int64(r.Version) < acknowledged[i].Load() {
			t.Errorf("record %d has version %d, %v; version %d was acknowledged", i, r.Version, err, acknowledged[i].Load())
		}
		changes += r.Version - 1
	}
	after := uint64(0)
	for {
		entries, err := fresh.Tail(t.Context(), after, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if e.Seq != after+1 {
				t.Fatalf("entry %d comes after %d", e.Seq, after)
			}
			after = e.Seq
		}
	}
	if after != changes {
		t.Errorf("the log has %d entries for %d changes", after, changes)
	}
}

// A standby shows the past, in which a flow that was ended may still live: it is never believed.
func TestStandby(t *testing.T) {
	schema := newSchema(t)
	primary := open(t, Options{Schema: schema})
	mustCreate(t, primary, "a")
	err := server.Halt()
	if err != nil {
		t.Fatal(err)
	}
	standby, err := server.Standby(context.Background())
	err = errors.Join(err, server.Run(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := standby.Stop()
		if err != nil {
			t.Error(err)
		}
	})
	dsn := standby.DSN("edrgate", runtimePassword, "edrgate")
	_, err = Open(t.Context(), Options{DSN: parse(t, dsn), Schema: schema})
	wantCannotTell(t, "open", err)

	// A pooler may change over to it behind the back of a connection that was checked.
	unchecked := parse(t, dsn)
	unchecked.pool.ConnConfig.ValidateConnect = nil
	_, err = Open(t.Context(), Options{DSN: unchecked, Schema: schema})
	if !errors.Is(err, errStandby) {
		t.Errorf("open: got error %v, want %v", err, errStandby)
	}
	o, err := Options{DSN: unchecked, Schema: schema}.complete()
	if err != nil {
		t.Fatal(err)
	}
	pool, err := newPool(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	moved := newStore(pool, o)
	errs := everything(moved)
	for _, name := range []string{"get", "list", "update"} {
		if !errors.Is(errs[name], errStandby) {
			t.Errorf("%s: got error %v, want %v", name, errs[name], errStandby)
		}
	}
	for name, err := range errs {
		wantCannotTell(t, name, err)
	}
	_, err = moved.Tail(t.Context(), 0, 0)
	if !errors.Is(err, errStandby) {
		t.Errorf("tail: got error %v, want %v", err, errStandby)
	}
}

// A disk that is full: the server says so and rolls back. Endings are refused too, and taken again as soon as it has room.
func TestDiskFull(t *testing.T) {
	schema := newSchema(t)
	seen := &recorder{}
	s := open(t, Options{Schema: schema, Observer: seen})
	mustCreate(t, s, "a")
	mustExecute(t, ownerDSN(),
		"CREATE FUNCTION "+schema+".refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$",
		"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON "+schema+".record EXECUTE FUNCTION "+schema+".refuse()")
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: "b"})
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("create: got error %v, want %v", err, store.ErrFull)
	}
	update := func() error {
		_, err := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
			return store.Edit{Event: "ended", Ending: true}, nil
		})
		return err
	}
	err = update()
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("update: got error %v, want %v", err, store.ErrFull)
	}
	err = s.Health(t.Context())
	if !errors.Is(err, store.ErrFull) || !seen.failedIn("space") {
		t.Errorf("health: got error %v, failures %v; want %v", err, seen.failures(), store.ErrFull)
	}
	mustExecute(t, ownerDSN(), "DROP TRIGGER refuse ON "+schema+".record")
	err = errors.Join(update(), s.Health(t.Context()))
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
	r, err := s.Get(t.Context(), "flow", "a")
	if err != nil || r.Version != 2 {
		t.Errorf("got %+v, %v; want only the last update", r, err)
	}
}

// Open says where it could not get, and no password.
func TestOpenFails(t *testing.T) {
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // lets one connect and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	port, err := pgtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	for name, dsn := range map[string]string{
		"nobody there":          fmt.Sprintf("postgres://edrgate:%s@127.0.0.1:%d/edrgate?sslmode=disable", runtimePassword, port),
		"no answer":             fmt.Sprintf("postgres://edrgate:%s@%s/edrgate?sslmode=disable", runtimePassword, deaf.Addr()),
		"wrong password":        server.DSN("edrgate", ownerPassword, "edrgate"),
		"no such role":          server.DSN("nobody", runtimePassword, "edrgate"),
		"no database":           server.DSN("edrgate", runtimePassword, "elsewhere"),
		"another's certificate": fmt.Sprintf("postgres://edrgate:%s@%s/edrgate?sslmode=verify-full", runtimePassword, server.Address()),
	} {
		t.Run(name, func(t *testing.T) {
			d := parse(t, dsn)
			_, err := Open(t.Context(), Options{DSN: d, Timeout: shortTimeout})
			wantCannotTell(t, "open", err)
			if err != nil && !strings.Contains(err.Error(), "open store "+d.String()) {
				t.Errorf("the error does not name the database: %v", err)
			}
		})
	}
}

// A password that was changed is used for the next connection.
func TestPasswordChanges(t *testing.T) {
	mustExecute(t, server.SocketDSN(pgtest.Admin, "edrgate"), "CREATE ROLE rotated LOGIN PASSWORD 'first-canary'")
	schema := newSchema(t)
	_, err := migrateAs(t, ownerDSN(), schema, "rotated")
	if err != nil {
		t.Fatal(err)
	}
	password := atomic.Value{}
	password.Store("first-canary")
	s := open(t, Options{
		DSN: parse(t, server.DSN("rotated", "", "edrgate")), Schema: schema,
		Password: func() (string, error) { return password.Load().(string), nil },
	})
	mustCreate(t, s, "a")
	password.Store("second-canary")
	mustExecute(t, server.SocketDSN(pgtest.Admin, "edrgate"), "ALTER ROLE rotated PASSWORD 'second-canary'",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")
	testkit.Eventually(t, "the new password is used", func() bool {
		_, err := s.Get(context.Background(), "flow", "a")
		return err == nil
	})
}

// A commit that waits for a synchronous standby which is away is stopped as done, but only here: its outcome is unknown.
func TestSynchronousStandbyAway(t *testing.T) {
	s := open(t, Options{Timeout: shortTimeout})
	mustCreate(t, s, "a")
	admin := server.SocketDSN(pgtest.Admin, "postgres")
	mustExecute(t, admin, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	t.Cleanup(func() {
		err := execute(context.Background(), admin, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
		if err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, "the server waits for its standby", func() bool {
		_, err := s.Update(context.Background(), "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
		if err != nil {
			wantCannotTell(t, "update", err)
		}
		return err != nil
	})
	_, err := s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) {
		return store.Edit{Event: "ended", Ending: true}, nil
	})
	wantCannotTell(t, "update", err)
	_, err = s.Create(t.Context(), store.Record{Kind: "flow", ID: "b"})
	wantCannotTell(t, "create", err)
}

// A gateway may be started before its database: what is opened then serves nothing until the database is there and has the
// right schema.
func TestOpenWhileAway(t *testing.T) {
	schema := newSchema(t)
	other := newSchema(t)
	mustExecute(t, ownerDSN(), "INSERT INTO "+other+".schema_version (version) VALUES (9999)")
	err := server.Halt()
	if err != nil {
		t.Fatal(err)
	}
	running := false
	t.Cleanup(func() {
		if running {
			return
		}
		err := server.Run(context.Background())
		if err != nil {
			t.Error(err)
		}
	})
	_, err = Open(t.Context(), Options{DSN: parse(t, runtimeDSN()), Schema: schema, Timeout: 2 * time.Second})
	wantCannotTell(t, "open that may not be away", err)
	s := open(t, Options{Schema: schema, MayBeAway: true, Timeout: 2 * time.Second})
	newer := open(t, Options{Schema: other, MayBeAway: true, Timeout: 2 * time.Second})
	for name, err := range everything(s) {
		wantCannotTell(t, name, err)
	}
	wantCannotTell(t, "health", s.Health(t.Context()))
	err = server.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	running = true
	testkit.Eventually(t, "the store works", func() bool { return s.Health(context.Background()) == nil })
	mustCreate(t, s, "a")
	for name, err := range everything(newer) {
		wantCannotTell(t, name, err)
		if !strings.Contains(err.Error(), "newer version of the gateway") {
			t.Errorf("%s: got error %v, want what is wrong", name, err)
		}
	}
}

// What only an operator can mend is refused at once, also by a gateway whose database may be away.
func TestOpenRefusesWhatIsWrong(t *testing.T) {
	for name, o := range map[string]Options{
		"schema":   {DSN: parse(t, runtimeDSN()), Schema: "nowhere"},
		"password": {DSN: parse(t, server.DSN("edrgate", ownerPassword, "edrgate")), Schema: newSchema(t)},
		"database": {DSN: parse(t, server.DSN("edrgate", runtimePassword, "elsewhere")), Schema: newSchema(t)},
	} {
		o.MayBeAway = true
		s, err := Open(t.Context(), o)
		if err == nil {
			t.Errorf("%s: opened: %v", name, s.Close())
		}
	}
}

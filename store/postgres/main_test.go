//go:build postgres

package postgres

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// server is what all tests share. Each has a schema of its own.
var server *pgtest.Server

const (
	ownerPassword   = "owner-canary-51b2"
	runtimePassword = "runtime-canary-93ce"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runWithServer(m))
}

func runWithServer(m *testing.M) int {
	ctx := context.Background()
	var err error
	server, err = pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		err := server.Stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	// As docs/postgresql.md has it.
	err = execute(ctx, server.SocketDSN(pgtest.Admin, "postgres"),
		"CREATE ROLE edrgate_owner LOGIN PASSWORD '"+ownerPassword+"'",
		"CREATE ROLE edrgate LOGIN PASSWORD '"+runtimePassword+"'",
		"CREATE DATABASE edrgate OWNER edrgate_owner")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// execute says each statement in a transaction of its own.
func execute(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		_, err = conn.Exec(ctx, sql)
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func mustExecute(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	err := execute(t.Context(), dsn, statements...)
	if err != nil {
		t.Fatal(err)
	}
}

func ownerDSN() string   { return server.DSN("edrgate_owner", ownerPassword, "edrgate") }
func runtimeDSN() string { return server.DSN("edrgate", runtimePassword, "edrgate") }

func parse(t testing.TB, dsn string) *DSN {
	t.Helper()
	d, err := ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var schemas atomic.Int64

// newSchema makes a schema as an operator does, and returns its name.
func newSchema(t testing.TB) string {
	t.Helper()
	schema := fmt.Sprintf("s%d", schemas.Add(1))
	_, err := Migrate(t.Context(), parse(t, ownerDSN()), schema, "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// open opens a store as the runtime role.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.DSN == nil {
		o.DSN = parse(t, runtimeDSN())
	}
	if o.Schema == "" {
		o.Schema = newSchema(t)
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second // a busy machine is not what these tests are about
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := s.Close()
		if err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

//go:build postgres

package postgres

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

func migrateAs(t *testing.T, dsn, schema string, roles ...string) (Migrated, error) {
	t.Helper()
	return Migrate(t.Context(), parse(t, dsn), schema, roles...)
}

func TestMigrate(t *testing.T) {
	latest := len(migrations)
	for _, want := range []Migrated{{0, latest}, {latest, latest}} {
		got, err := migrateAs(t, ownerDSN(), "migrated", "edrgate")
		if err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	s := open(t, Options{Schema: "migrated"})
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	if err != nil {
		t.Error(err)
	}
}

// Gateways that are rolled out with the command before them start it many times at once.
func TestMigrateConcurrent(t *testing.T) {
	var group sync.WaitGroup
	var mu sync.Mutex
	first := 0
	for range 12 {
		group.Go(func() {
			done, err := Migrate(t.Context(), parse(t, ownerDSN()), "hurried", "edrgate")
			if err != nil {
				t.Errorf("migrate: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if done.From == 0 {
				first++
			}
		})
	}
	group.Wait()
	if first != 1 {
		t.Errorf("%d of them made the schema", first)
	}
	open(t, Options{Schema: "hurried"})
}

// A step that fails leaves nothing of itself or of those before it.
func TestMigrateIsWhole(t *testing.T) {
	steps := migrations
	t.Cleanup(func() { migrations = steps })
	migrations = append(steps[:len(steps):len(steps)], "CREATE TABLE half (); SELECT 1/0;")
	_, err := migrateAs(t, ownerDSN(), "broken")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("to version %d", len(migrations))) {
		t.Errorf("got error %v, want one that names the step", err)
	}
	migrations = steps
	done, err := migrateAs(t, ownerDSN(), "broken")
	if err != nil || done.From != 0 {
		t.Errorf("after it: got %+v, %v; want all steps", done, err)
	}
}

// The schema may be made by somebody else for an owner who may make none.
func TestMigrateGivenSchema(t *testing.T) {
	admin := server.SocketDSN(pgtest.Admin, "edrgate")
	mustExecute(t, admin, "CREATE ROLE tenant LOGIN PASSWORD 'tenant-canary'", "CREATE SCHEMA given AUTHORIZATION tenant")
	_, err := migrateAs(t, server.DSN("tenant", "tenant-canary", "edrgate"), "given", "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	open(t, Options{Schema: "given"})
}

func TestOpenChecksSchema(t *testing.T) {
	tests := []struct {
		name    string
		prepare []string // by the owner, in an up-to-date schema
		want    string
	}{
		{"missing", []string{"DROP SCHEMA {schema} CASCADE"}, "run `caddy edr migrate-schema`"},
		{"without tables", []string{"DROP TABLE {schema}.schema_version"}, "run `caddy edr migrate-schema`"},
		{"older", []string{"DELETE FROM {schema}.schema_version"}, "has version 0, and this gateway needs"},
		{"newer", []string{"INSERT INTO {schema}.schema_version (version) VALUES (9999)"}, "newer version of the gateway: it has version 9999"},
		{"no rights", []string{"REVOKE ALL ON SCHEMA {schema} FROM edrgate"}, "run `caddy edr migrate-schema --grant edrgate`"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			schema := newSchema(t)
			for _, sql := range test.prepare {
				mustExecute(t, ownerDSN(), strings.ReplaceAll(sql, "{schema}", schema))
			}
			s, err := Open(t.Context(), Options{DSN: parse(t, runtimeDSN()), Schema: schema})
			if err == nil {
				t.Fatal("opened:", s.Close())
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
	schema := newSchema(t)
	mustExecute(t, ownerDSN(), "INSERT INTO "+schema+".schema_version (version) VALUES (9999)")
	_, err := migrateAs(t, ownerDSN(), schema)
	if err == nil || !strings.Contains(err.Error(), "newer version of the gateway") {
		t.Errorf("migrate: got error %v, want a refusal", err)
	}
}

// A gateway's role changes records and nothing else. That it can do all that a gateway does, TestConformance shows.
func TestRuntimeRoleHasNoDDL(t *testing.T) {
	schema := newSchema(t)
	conn, err := pgx.Connect(t.Context(), runtimeDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range []string{
		"CREATE TABLE {schema}.x ()",
		"CREATE SCHEMA x",
		"CREATE TABLE public.x ()",
		"CREATE INDEX x ON {schema}.record (version)",
		"ALTER TABLE {schema}.record ADD COLUMN x integer",
		"DROP TABLE {schema}.record",
		"DROP SCHEMA {schema} CASCADE",
		"TRUNCATE {schema}.record",
		"TRUNCATE {schema}.log_entry",
		"UPDATE {schema}.log_entry SET event = ''",
		"UPDATE {schema}.record_label SET id = ''",
		"INSERT INTO {schema}.log_position (one, last, trimmed) VALUES (true, 0, 0)",
		"DELETE FROM {schema}.log_position",
		"INSERT INTO {schema}.schema_version (version) VALUES (2)",
		"UPDATE {schema}.schema_version SET version = 2",
		"DELETE FROM {schema}.schema_version",
		"CREATE ROLE x",
	} {
		sql = strings.ReplaceAll(sql, "{schema}", schema)
		_, err = conn.Exec(t.Context(), sql)
		var said *pgconn.PgError
		if !errors.As(err, &said) || said.Code != insufficientPrivilege {
			t.Errorf("%s: got %v, want that the role may not", sql, err)
		}
	}
	// A grant by a role that may not is a warning (SQL GRANT, "no privileges were granted"), so what counts is its effect.
	_, err = conn.Exec(t.Context(), "GRANT SELECT ON "+schema+".record TO PUBLIC")
	var given bool
	if err == nil {
		err = conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_class, aclexplode(relacl) a
			WHERE pg_class.oid = $1::regclass AND a.grantee = 0)`, schema+".record").Scan(&given)
	}
	if err != nil || given {
		t.Errorf("the runtime role has given its rights on: %v, %v", given, err)
	}
	_, err = migrateAs(t, runtimeDSN(), "runtimes")
	if err == nil {
		t.Error("the runtime role has made a schema")
	}
}

// What the page tells an operator to write is what the tests run with.
func TestGrantsInTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(Grants(DefaultSchema, "edrgate")) {
		if !strings.Contains(string(page), strings.ReplaceAll(line, `"`, "")) {
			t.Errorf("docs/postgresql.md lacks %s", line)
		}
	}
}

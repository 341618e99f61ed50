package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestPostgresStoreSettings(t *testing.T) {
	const canary = "canary/8d:1f@x"
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	whole := filepath.Join(dir, "dsn")
	for path, content := range map[string]string{
		file:  canary + "\n",
		whole: "postgres://edr:canary-8d1f@db/edr?sslmode=verify-full\n",
	} {
		err := os.WriteFile(path, []byte(content), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PGPASSWORD", "")
	t.Setenv("PGSSLMODE", "")
	t.Setenv("EDR_TEST_PASSWORD", "canary-8d1f")
	const good = "postgres://edr@db:5433/edr?sslmode=verify-full"
	tests := []struct {
		name  string
		store PostgresStore
		key   string // of the store; empty: refused
		says  string
	}{
		{"defaults", PostgresStore{DSN: good}, "db:5433/edr edrgate", ""},
		{"schema", PostgresStore{DSN: good, Schema: "tenant_a", MaxConnections: 4}, "db:5433/edr tenant_a", ""},
		{"password", PostgresStore{DSN: good, Password: "{file." + file + "}"}, "db:5433/edr edrgate", ""},
		{"password in the dsn", PostgresStore{DSN: "postgres://edr:{env.EDR_TEST_PASSWORD}@db/edr?sslmode=verify-full"}, "db:5432/edr edrgate", ""},
		{"all of the dsn", PostgresStore{DSN: "{file." + whole + "}"}, "db:5432/edr edrgate", ""},
		{"no dsn", PostgresStore{}, "", "dsn is missing"},
		{"literal password", PostgresStore{Password: "canary-8d1f", DSN: good}, "", "password must be a placeholder"},
		{"half a placeholder", PostgresStore{Password: "canary-8d1f{env.EDR_TEST_PASSWORD}", DSN: good}, "", "password must be a placeholder"},
		{"unknown placeholder", PostgresStore{Password: "{env.EDR_TEST_NOTHING}", DSN: good}, "", "password: "},
		{"no such file", PostgresStore{Password: "{file./nowhere/x}", DSN: good}, "", "cannot open the file"},
		{"literal in the url", PostgresStore{DSN: "postgres://edr:canary-8d1f@db/edr?sslmode=verify-full"}, "", "dsn has a password in it"},
		{"literal, escaped", PostgresStore{DSN: "postgres://edr:canary%2F8d%3A1f%40x@db/edr?sslmode=verify-full"}, "", "dsn has a password in it"},
		{"literal in words", PostgresStore{DSN: "host=db user=edr dbname=edr password = 'canary-8d1f' sslmode=verify-full"}, "", "dsn has a password in it"},
		{"literal in the query", PostgresStore{DSN: good + "&password=canary-8d1f"}, "", "dsn has a password in it"},
		{"no sslmode", PostgresStore{DSN: "postgres://edr@db/edr"}, "", "name an sslmode"},
		{"schema name", PostgresStore{DSN: good, Schema: "A-B"}, "", `schema "A-B"`},
		{"connections", PostgresStore{DSN: good, MaxConnections: 1001}, "", "max_connections"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.store.Provision(caddy.Context{})
			if test.key == "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("got error %v, want %q", err, test.says)
				}
				if strings.Contains(err.Error(), "canary") {
					t.Errorf("the error has the password in it: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.store.StoreKey() != test.key || strings.Contains(test.store.StoreKey()+test.store.StoreOptions(), canary) {
				t.Errorf("key %q, options %q; want key %q", test.store.StoreKey(), test.store.StoreOptions(), test.key)
			}
		})
	}
	// It is read anew each time.
	password, err := databasePassword("{file." + file + "}")
	if err != nil || password != canary {
		t.Errorf("got password %q, %v", password, err)
	}
}

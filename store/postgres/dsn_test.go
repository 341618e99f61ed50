package postgres

import (
	"fmt"
	"strings"
	"testing"
)

const dsnCanary = "canary-4c2e"

func TestParseDSN(t *testing.T) {
	tests := []struct {
		name, dsn string
		want      string // what it prints; empty: refused
		says      string // part of the error
	}{
		{"url", "postgres://edrgate:" + dsnCanary + "@db.internal:5433/edr?sslmode=verify-full", "db.internal:5433/edr", ""},
		{"words", "host=db.internal user=edrgate password=" + dsnCanary + " dbname=edr sslmode=require", "db.internal:5432/edr", ""},
		{"several hosts", "postgres://edrgate@a,b:6000/edr?sslmode=verify-full&target_session_attrs=read-write", "a:5432,b:6000/edr", ""},
		{"socket", "host=/run/postgresql user=edrgate dbname=edr", "/run/postgresql/edr", ""},
		{"plain", "postgres://edrgate@127.0.0.1/edr?sslmode=disable", "127.0.0.1:5432/edr", ""},
		{"no sslmode", "postgres://edrgate:" + dsnCanary + "@db.internal/edr", "", "name an sslmode"},
		{"prefer", "postgres://edrgate:" + dsnCanary + "@db.internal/edr?sslmode=prefer", "", "name an sslmode"},
		{"allow", "postgres://edrgate:" + dsnCanary + "@db.internal/edr?sslmode=allow", "", "name an sslmode"},
		{"no authority", "postgres://edrgate:" + dsnCanary + "@db.internal/edr?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", "", "dsn: cannot open /nowhere/ca.pem: no such file"},
		{"state of a session", "postgres://edrgate:" + dsnCanary + "@db.internal/edr?sslmode=verify-full&search_path=x", "", "not a connection string that can be used"},
		{"size of a pool", "postgres://edrgate:" + dsnCanary + "@db.internal/edr?sslmode=verify-full&pool_max_conns=9", "", "not a connection string that can be used"},
		{"port", "postgres://edrgate:" + dsnCanary + "@db.internal:x/edr?sslmode=verify-full", "", "not a connection string that can be used"},
		{"unescaped", "postgres://edrgate:" + dsnCanary + "/" + dsnCanary + "@db.internal:5432/edr?sslmode=verify-full", "", "not a connection string that can be used"},
		{"mode", "postgres://edrgate:" + dsnCanary + "@db.internal/edr?sslmode=" + dsnCanary, "", "not a connection string that can be used"},
		{"nonsense", dsnCanary, "", "not a connection string that can be used"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"PGSSLMODE", "PGHOST", "PGPASSWORD", "PGSSLROOTCERT"} {
				t.Setenv(name, "")
			}
			d, err := ParseDSN(test.dsn)
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got error %v, want %q", err, test.says)
				}
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), dsnCanary) {
					t.Errorf("the error has the password in it: %#v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			printed := fmt.Sprintf("%v %+v %#v %s", d, d, d, d)
			if d.String() != test.want || strings.Contains(printed, dsnCanary) {
				t.Errorf("it prints as %q, want %q", printed, test.want)
			}
		})
	}
}

func TestCheckSchemaName(t *testing.T) {
	for name, good := range map[string]bool{
		"edrgate": true, "_x1": true, strings.Repeat("a", 63): true,
		"": false, "1a": false, "A": false, "a-b": false, `a"; DROP TABLE x; --`: false, strings.Repeat("a", 64): false, "a\n": false,
	} {
		err := CheckSchemaName(name)
		if (err == nil) != good {
			t.Errorf("%q: got error %v", name, err)
		}
	}
}

//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// recorder is an Observer that remembers.
type recorder struct {
	mu     sync.Mutex
	called []string
	failed []string
	groups []int // writes of each commit
	limit  int
}

func (r *recorder) Called(operation string, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.called = append(r.called, operation)
}

func (r *recorder) Committed(writes int, _ time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = append(r.groups, writes)
}

// commits returns how many writes each commit had.
func (r *recorder) commits() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.groups)
}

// reset forgets the commits so far.
func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups = nil
}

func (r *recorder) Failed(in string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, in)
}

func (r *recorder) Connections(_, _, limit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = limit
}

func (r *recorder) failures() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failed)
}

func (r *recorder) failedIn(in string) bool { return slices.Contains(r.failures(), in) }

// Renewals change no index (HOT updates), so that the tables do not grow with them.
func TestUpdatesAreHot(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema})
	for i := range 20 {
		_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Labels: map[string]string{"participant": "p"}, Data: make([]byte, 700)})
		if err != nil {
			t.Fatal(err)
		}
	}
	const updates = 400
	for i := range updates {
		_, err := s.Update(t.Context(), "flow", fmt.Sprint(i%20), func(old store.Record) (store.Edit, error) {
			return store.Edit{Data: old.Data}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	conn, err := pgx.Connect(t.Context(), ownerDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var all, hot int
	testkit.Eventually(t, "the statistics are there", func() bool {
		err := conn.QueryRow(context.Background(), "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'record'", schema).Scan(&all, &hot)
		return err == nil && all == updates
	})
	// Some have to move to another page, when the 20 records of one do not fit beside their successors.
	if hot < updates*8/10 {
		t.Errorf("%d of %d updates were HOT", hot, all)
	}
}

// Each statement that runs often finds its rows by an index.
func TestPlans(t *testing.T) {
	schema := newSchema(t)
	sql := statementsFor(schema)
	conn, err := pgx.Connect(t.Context(), ownerDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	mustExecute(t, ownerDSN(),
		"INSERT INTO "+schema+".record SELECT 'flow', convert_to(i::text, 'UTF8'), 1, 1, ARRAY['k', 'v']::bytea[], CASE WHEN i % 100 = 0 THEN i END, 'data' FROM generate_series(1, 20000) i",
		"INSERT INTO "+schema+".record_label "+digestsOf(schema+".record"),
		"INSERT INTO "+schema+".log_entry SELECT i, 'flow', 'a', 1, 'e', i FROM generate_series(1, 20000) i",
		"ANALYZE")
	never := seconds(time.Time{})
	now := seconds(time.Unix(1, 0))
	flow, id := []byte("flow"), []byte("17")
	tests := map[string][]any{
		sql.get:       {flow, id},
		sql.list:      {flow, id, now, 100},
		sql.listLabel: {flow, id, now, 100, []byte("k"), []byte("v")},
		sql.tail:      {int64(19990), 100},
		sql.update:    {flow, id, int64(1), int64(1), int64(2), never, []byte("x")},
		sql.report:    {flow, id, int64(1), int64(1), int64(2), never, []byte("x"), []byte("e"), now},
		sql.remove:    {flow, id, int64(1), int64(1), now},
		sql.sweep:     {now, 10},
		sql.trim:      {now, 10},
	}
	for text, args := range tests {
		rows, err := conn.Query(t.Context(), "EXPLAIN "+text, append([]any{pgx.QueryExecModeDescribeExec}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, line := range lines {
			for _, table := range []string{"record", "record_label", "log_entry"} {
				if strings.Contains(line, "Seq Scan on "+table+" ") || strings.HasSuffix(line, "Seq Scan on "+table) {
					t.Errorf("%s\nreads all of %s:\n%s", text, table, strings.Join(lines, "\n"))
				}
			}
		}
	}
}

// The observer is told of calls, writes and connections.
func TestObserver(t *testing.T) {
	seen := &recorder{}
	s := open(t, Options{Observer: seen, MaxConnections: 3})
	mustCreate(t, s, "a")
	_, err := s.Tail(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	everything(s)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, operation := range []string{"create", "get", "update", "list", "sweep", "tail", "health"} {
		if !slices.Contains(seen.called, operation) {
			t.Errorf("no call of %s was reported: %v", operation, seen.called)
		}
	}
	if len(seen.groups) != 3 || len(seen.failed) != 0 || seen.limit != 3 {
		t.Errorf("%d writes, failures %v, %d connections; want 3, none, 3", len(seen.groups), seen.failed, seen.limit)
	}
}

// Connections are encrypted, and those of a store say who they are.
func TestConnectionsAreEncrypted(t *testing.T) {
	s := open(t, Options{})
	var encrypted bool
	var name string
	err := s.pool.QueryRow(t.Context(), "SELECT ssl, application_name FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE pid = pg_backend_pid()").Scan(&encrypted, &name)
	if err != nil || !encrypted || name != "edrgate" {
		t.Errorf("encrypted is %v, the name %q, %v", encrypted, name, err)
	}
}

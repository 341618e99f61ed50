//go:build postgres

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
)

// wantWritten returns a write of each record, as it is now.
func wantWritten(t *testing.T, s *Store, ids ...string) []*wanted {
	t.Helper()
	group := make([]*wanted, len(ids))
	for i, id := range ids {
		old, err := s.read(t.Context(), "flow", id)
		if err != nil || old == nil {
			t.Fatalf("record %s: %v, %v", id, old, err)
		}
		birth, err := newBirth()
		if err != nil {
			t.Fatal(err)
		}
		group[i] = &wanted{old: *old, edit: store.Edit{Data: []byte("new")}, birth: birth, done: make(chan struct{})}
	}
	return group
}

// Of a group, what is not as it was, and what somebody else is changing, is left alone and holds up nothing.
func TestGroupDecidesEach(t *testing.T) {
	schema := newSchema(t)
	seen := &recorder{}
	s := open(t, Options{Schema: schema, Observer: seen})
	ids := []string{"changed", "free", "gone", "locked", "reborn", "\xff/'\x01"}
	for _, id := range ids {
		mustCreate(t, s, id)
	}
	group := wantWritten(t, s, ids...)
	_, err := s.Update(t.Context(), "flow", "changed", func(store.Record) (store.Edit, error) { return store.Edit{Data: []byte("other")}, nil })
	if err != nil {
		t.Fatal(err)
	}
	mustExecute(t, ownerDSN(), "DELETE FROM "+schema+".record WHERE id = 'gone'", "UPDATE "+schema+".record SET birth = birth # 1 WHERE id = 'reborn'")
	conn, err := pgx.Connect(t.Context(), ownerDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), "UPDATE "+schema+".record SET data = 'x' WHERE id = 'locked'")
	if err != nil {
		t.Fatal(err)
	}
	seen.reset()
	err = s.writeTogether(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	err = tx.Rollback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range group {
		want := ids[i] == "free" || i == len(ids)-1
		if w.swapped != want || w.err != nil {
			t.Errorf("%q: swapped %t, %v", ids[i], w.swapped, w.err)
		}
		r, err := s.read(t.Context(), "flow", ids[i])
		if err != nil {
			t.Fatal(err)
		}
		if r != nil && (string(r.Data) == "new") != want {
			t.Errorf("%q has %q", ids[i], r.Data)
		}
		if want && (r.Version != 2 || r.birth != w.birth) {
			t.Errorf("%q: %+v, want version 2 and birth %d", ids[i], r, w.birth)
		}
	}
	if got := seen.commits(); !slices.Equal(got, []int{2}) {
		t.Errorf("commits of %v writes were reported", got)
	}
}

// Two gateways write the same records in groups: each record has one successor at a time, and nobody waits for anybody for ever.
func TestGroupsOfTwoGateways(t *testing.T) {
	schema := newSchema(t)
	gateways := []*Store{open(t, Options{Schema: schema}), open(t, Options{Schema: schema})}
	const records, each = 16, 20
	for i := range records {
		mustCreate(t, gateways[0], fmt.Sprint(i))
	}
	before := [2]int64{gateways[0].pool.Stat().AcquireCount(), gateways[1].pool.Stat().AcquireCount()}
	var group sync.WaitGroup
	for _, s := range gateways {
		for i := range records {
			group.Go(func() {
				for range each {
					_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), func(old store.Record) (store.Edit, error) {
						return store.Edit{Data: append([]byte("+"), old.Data...)}, nil
					})
					if err != nil {
						t.Errorf("record %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	group.Wait()
	for i := range records {
		r, err := gateways[0].Get(t.Context(), "flow", fmt.Sprint(i))
		if err != nil || len(r.Data) != 1+2*each || r.Version != 1+2*each {
			t.Errorf("record %d: version %d, %d bytes, %v; want %d updates", i, r.Version, len(r.Data), err, 2*each)
		}
	}
	for i, s := range gateways {
		t.Logf("gateway %d: %d updates in %d statements", i, records*each, s.pool.Stat().AcquireCount()-before[i])
	}
}

// Writes that come while others are under way share one statement.
func TestWritesShareAStatement(t *testing.T) {
	schema := newSchema(t)
	seen := &recorder{}
	s := open(t, Options{Schema: schema, Observer: seen})
	const records = maxGroups + 8
	for i := range records {
		mustCreate(t, s, fmt.Sprint(i))
		_, err := s.Get(t.Context(), "flow", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
	}
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
	seen.reset()
	var group sync.WaitGroup
	write := func(i int) {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), func(store.Record) (store.Edit, error) {
				return store.Edit{Data: []byte("new")}, nil
			})
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	waiting := func() int {
		s.groups.mu.Lock()
		defer s.groups.mu.Unlock()
		return len(s.groups.waiting)
	}
	for i := range maxGroups {
		write(i)
		testkit.Eventually(t, "it is under way", func() bool { return s.pool.Stat().AcquiredConns() == int32(i)+1 && waiting() == 0 })
	}
	for i := maxGroups; i < records; i++ {
		write(i)
	}
	testkit.Eventually(t, "the others wait", func() bool { return waiting() == records-maxGroups })
	err = tx.Rollback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	group.Wait()
	got := seen.commits()
	slices.Sort(got)
	if want := append(slices.Repeat([]int{1}, maxGroups), records-maxGroups); !slices.Equal(got, want) {
		t.Errorf("commits of %v writes, want %v", got, want)
	}
}

// A write that the server refuses spoils nothing but itself.
func TestRefusedWriteOfAGroup(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema})
	for _, id := range []string{"a", "b", "c"} {
		mustCreate(t, s, id)
	}
	mustExecute(t, ownerDSN(),
		"CREATE FUNCTION "+schema+".refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22000'; END $$",
		"CREATE TRIGGER refuse BEFORE UPDATE ON "+schema+".record FOR EACH ROW WHEN (OLD.id = 'b') EXECUTE FUNCTION "+schema+".refuse()")
	group := wantWritten(t, s, "a", "b", "c")
	s.writeGroup(t.Context(), group)
	for i, w := range group {
		if refused := i == 1; (w.err != nil) != refused || w.swapped == refused {
			t.Errorf("record %d: swapped %t, %v", i, w.swapped, w.err)
		}
	}
}

// A database that does not answer holds nobody longer than a call may take, and the store can be closed.
func TestGroupInTrouble(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema, Timeout: shortTimeout})
	const records = 3 * maxGroups
	for i := range records {
		mustCreate(t, s, fmt.Sprint(i))
		_, err := s.Get(t.Context(), "flow", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
	}
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
	for i := range records {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), func(store.Record) (store.Edit, error) {
				return store.Edit{Data: []byte("new")}, nil
			})
			wantCannotTell(t, fmt.Sprint(i), err)
			if err != nil && !errors.Is(err, errTimeout) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	group.Wait()
	err = tx.Rollback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "records are written again", func() bool {
		_, err := s.UpdateRecalled(context.Background(), "flow", "0", func(store.Record) (store.Edit, error) {
			return store.Edit{Data: []byte("new")}, nil
		})
		return err == nil
	})
}

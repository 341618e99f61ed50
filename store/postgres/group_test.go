//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// seed makes records that the store remembers.
func seed(t *testing.T, s *Store, records int) {
	t.Helper()
	for i := range records {
		mustCreate(t, s, fmt.Sprint(i))
		_, err := s.Get(t.Context(), "flow", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func toNew(store.Record) (store.Edit, error) { return store.Edit{Data: []byte("new")}, nil }

// holding says a statement in a transaction that stays open until release.
func holding(t *testing.T, sql string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), ownerDSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), sql)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		err := tx.Rollback(context.Background())
		if err != nil {
			t.Error(err)
		}
	}
}

func (g *groups) count() (waiting, running int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting), g.running
}

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
	release := holding(t, "UPDATE "+schema+".record SET data = 'x' WHERE id = 'locked'")
	seen.reset()
	s.writeGroup(group)
	release()
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

// A record may be in a group twice, if the first who wanted it written has given up: one of the writes wins.
func TestRecordTwiceInAGroup(t *testing.T) {
	s := open(t, Options{})
	mustCreate(t, s, "a")
	mustCreate(t, s, "b")
	group := wantWritten(t, s, "a", "b", "a", "a")
	for i, w := range group {
		w.edit.Data = []byte(fmt.Sprint(i))
	}
	s.writeGroup(group)
	r, err := s.read(t.Context(), "flow", "a")
	if err != nil {
		t.Fatal(err)
	}
	won := 0
	for i, w := range group {
		if w.err != nil {
			t.Errorf("%d: %v", i, w.err)
		}
		if w.swapped && w.old.ID == "a" {
			won++
			if string(r.Data) != fmt.Sprint(i) || r.birth != w.birth || r.Version != 2 {
				t.Errorf("%d has won, but the record is %+v", i, r)
			}
		}
	}
	if won != 1 || !group[1].swapped {
		t.Errorf("%d writes of the record have won, the other one's: %t", won, group[1].swapped)
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
}

// Writes that come while others are under way share one statement.
func TestWritesShareAStatement(t *testing.T) {
	schema := newSchema(t)
	seen := &recorder{}
	s := open(t, Options{Schema: schema, Observer: seen})
	const busy = maxAlone + 1
	const records = busy + 8
	seed(t, s, records)
	release := holding(t, "LOCK TABLE "+schema+".record IN ACCESS EXCLUSIVE MODE")
	seen.reset()
	var group sync.WaitGroup
	write := func(i int) {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), toNew)
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	waits := func(n int) bool {
		waiting, _ := s.groups.count()
		return waiting == n
	}
	for i := range busy {
		write(i)
		testkit.Eventually(t, "it is under way", func() bool { return s.pool.Stat().AcquiredConns() == int32(i)+1 && waits(0) })
	}
	for i := busy; i < records; i++ {
		write(i)
	}
	testkit.Eventually(t, "the others wait", func() bool { return waits(records - busy) })
	release()
	group.Wait()
	got := seen.commits()
	slices.Sort(got)
	if want := append(slices.Repeat([]int{1}, busy), records-busy); !slices.Equal(got, want) {
		t.Errorf("commits of %v writes, want %v", got, want)
	}
}

// When there is enough for a full group, it does not wait for the one that is under way.
func TestSecondGroup(t *testing.T) {
	schema := newSchema(t)
	seen := &recorder{}
	s := open(t, Options{Schema: schema, Observer: seen})
	const busy = maxAlone + 1
	const records = busy + maxGroupWrites + 1
	seed(t, s, records)
	release := holding(t, "LOCK TABLE "+schema+".record IN ACCESS EXCLUSIVE MODE")
	seen.reset()
	var group sync.WaitGroup
	for i := range records {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), toNew)
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
		if i < busy {
			testkit.Eventually(t, "it is under way", func() bool { return s.pool.Stat().AcquiredConns() == int32(i)+1 })
		}
	}
	testkit.Eventually(t, "a second group is under way", func() bool {
		_, running := s.groups.count()
		return running > 1 && s.pool.Stat().AcquiredConns() > busy
	})
	release()
	group.Wait()
	if got := slices.Max(seen.commits()); got != maxGroupWrites {
		t.Errorf("the largest group had %d writes", got)
	}
}

// A group that hangs, since its connection is dead, holds up nobody else for long.
func TestHangingGroup(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema})
	const records = maxAlone + 3
	seed(t, s, records)
	mustExecute(t, ownerDSN(),
		"CREATE FUNCTION "+schema+".hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock_shared(4711); RETURN NEW; END $$",
		fmt.Sprintf("CREATE TRIGGER hang BEFORE UPDATE ON %s.record FOR EACH ROW WHEN (convert_from(OLD.id, 'UTF8')::int <= %d) EXECUTE FUNCTION %s.hang()", schema, maxAlone, schema))
	release := holding(t, "SELECT pg_advisory_xact_lock(4711)")
	var group sync.WaitGroup
	write := func(i int) {
		_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), toNew)
		if err != nil {
			t.Errorf("record %d: %v", i, err)
		}
	}
	for i := range maxAlone + 1 { // the last in a group
		group.Go(func() { write(i) })
		testkit.Eventually(t, "it hangs", func() bool { return s.pool.Stat().AcquiredConns() == int32(i)+1 })
	}
	for i := maxAlone + 1; i < records; i++ {
		write(i)
	}
	if hanging := s.pool.Stat().AcquiredConns(); hanging != maxAlone+1 {
		t.Errorf("%d writes hang now", hanging)
	}
	release()
	group.Wait()
}

// What is written is what the caller gave, also if it has given up and uses its bytes for something else.
func TestDataOfACallerThatGaveUp(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema, MaxConnections: 1})
	const records = maxAlone + 1
	seed(t, s, records)
	release := holding(t, "LOCK TABLE "+schema+".record IN ACCESS EXCLUSIVE MODE")
	var group sync.WaitGroup
	for i := range maxAlone {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), toNew)
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	testkit.Eventually(t, "they are under way", func() bool { return s.groups.alone.Load() == maxAlone })
	ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
	defer cancel()
	data := []byte("right")
	_, err := s.UpdateRecalled(ctx, "flow", fmt.Sprint(maxAlone), func(store.Record) (store.Edit, error) { return store.Edit{Data: data}, nil })
	wantCannotTell(t, "the write that waits for the connection", err)
	copy(data, "wrong")
	release()
	group.Wait()
	testkit.Eventually(t, "its group is written", func() bool {
		_, running := s.groups.count()
		return running == 0
	})
	r, err := s.Get(t.Context(), "flow", fmt.Sprint(maxAlone))
	if err != nil || string(r.Data) != "right" {
		t.Errorf("got %q, %v", r.Data, err)
	}
}

// Rows that somebody holds hold up their own writes and no others.
func TestLockedRowsHoldUpNoOthers(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema})
	const locked = maxAlone + 2 // more than may wait for a lock
	seed(t, s, locked+1)
	release := holding(t, fmt.Sprintf("SELECT 1 FROM %s.record WHERE id <> '%d' FOR UPDATE", schema, locked))
	var group sync.WaitGroup
	for i := range locked {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), toNew)
			if err != nil {
				t.Errorf("record %d: %v", i, err)
			}
		})
	}
	testkit.Eventually(t, "they wait for the lock", func() bool { return s.pool.Stat().AcquiredConns() == locked })
	_, err := s.UpdateRecalled(t.Context(), "flow", fmt.Sprint(locked), toNew)
	if err != nil {
		t.Errorf("a free record: %v", err)
	}
	if held := s.pool.Stat().AcquiredConns(); held != locked {
		t.Errorf("%d writes wait for the lock now, want %d", held, locked)
	}
	release()
	group.Wait()
}

// A write that the server refuses spoils nothing but itself.
func TestRefusedWriteOfAGroup(t *testing.T) {
	schema := newSchema(t)
	s := open(t, Options{Schema: schema})
	ids := []string{"a", "b", "c"}
	for _, id := range ids {
		mustCreate(t, s, id)
	}
	mustExecute(t, ownerDSN(),
		"CREATE FUNCTION "+schema+".refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22000'; END $$",
		"CREATE TRIGGER refuse BEFORE UPDATE ON "+schema+".record FOR EACH ROW WHEN (OLD.id = 'b') EXECUTE FUNCTION "+schema+".refuse()")
	group := wantWritten(t, s, ids...)
	s.writeGroup(group)
	for i, w := range group { // each caller decides again, by itself
		if w.swapped || w.err != nil {
			t.Errorf("record %d: swapped %t, %v", i, w.swapped, w.err)
		}
	}
	for _, id := range ids {
		_, err := s.UpdateRecalled(t.Context(), "flow", id, toNew)
		if (err != nil) != (id == "b") {
			t.Errorf("record %s: %v", id, err)
		}
	}
}

// A pooler reports a lost server as the server's error, also after the commit: nobody is told that nothing was written.
func TestGroupWhoseServerIsLost(t *testing.T) {
	schema := newSchema(t)
	pooler, err := pgtest.StartPooler(t.Context(), server, "edrgate", runtimePassword, "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := pooler.Stop()
		if err != nil {
			t.Error(err)
		}
	})
	seen := &recorder{}
	s := open(t, Options{Schema: schema, DSN: parse(t, pooler.DSN("edrgate", "edrgate")), Observer: seen})
	mustCreate(t, s, "a")
	mustCreate(t, s, "b")
	seen.reset()
	group := wantWritten(t, s, "a", "b")
	admin := server.SocketDSN(pgtest.Admin, "postgres")
	t.Cleanup(func() {
		err := execute(context.Background(), admin, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
		if err != nil {
			t.Error(err)
		}
	})
	mustExecute(t, admin, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
	testkit.Eventually(t, "the setting is in effect", func() bool {
		return execute(t.Context(), admin, "SELECT 1 / (current_setting('synchronous_standby_names') = 'nobody')::int") == nil
	})
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.writeGroup(group)
	}()
	testkit.Eventually(t, "it waits for the standby", func() bool {
		return execute(t.Context(), admin, "SELECT 1 / count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == nil
	})
	mustExecute(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	<-written
	for _, w := range group {
		if w.swapped || w.err == nil {
			t.Errorf("%s: swapped %t, %v; want that nobody can tell", w.old.ID, w.swapped, w.err)
		}
	}
	if got := seen.commits(); len(got) != 0 {
		t.Errorf("commits of %v writes were reported", got)
	}
}

// A database that does not answer holds nobody longer than a call may take. What was not sent by then never is.
func TestGroupInTrouble(t *testing.T) {
	schema := newSchema(t)
	patient := open(t, Options{Schema: schema})
	s := open(t, Options{Schema: schema, Timeout: shortTimeout})
	const records = maxAlone + maxGroups*maxGroupWrites + 40
	seed(t, patient, records)
	for i := range records {
		r, err := patient.read(t.Context(), "flow", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		s.remember(r.Record, r.birth)
	}
	release := holding(t, "LOCK TABLE "+schema+".record IN ACCESS EXCLUSIVE MODE")
	var group sync.WaitGroup
	for i := range records {
		group.Go(func() {
			_, err := s.UpdateRecalled(context.Background(), "flow", fmt.Sprint(i), toNew)
			wantCannotTell(t, fmt.Sprint(i), err)
		})
	}
	group.Wait()
	waiting, _ := s.groups.count()
	if waiting != 0 {
		t.Errorf("%d writes of nobody wait", waiting)
	}
	release()
	testkit.Eventually(t, "no group is under way", func() bool {
		_, running := s.groups.count()
		return running == 0
	})
	for i := range records {
		r, err := patient.Get(t.Context(), "flow", fmt.Sprint(i))
		if err != nil {
			t.Errorf("record %d: %q, %v", i, r.Data, err)
		}
	}
	testkit.Eventually(t, "records are written again", func() bool {
		_, err := s.UpdateRecalled(context.Background(), "flow", "0", toNew)
		return err == nil
	})
}

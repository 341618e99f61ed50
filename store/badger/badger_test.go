package badger

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/storetest"
)

// smallReserve keeps tests from writing 64 MiB for each store.
const smallReserve = 64 << 10

func open(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = smallReserve
	}
	if o.FreeBytes == nil {
		o.FreeBytes = func(string) (uint64, error) { return 1 << 40, nil }
	}
	s, err := Open(o)
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

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, clock func() time.Time) store.Store {
		return open(t, Options{Clock: clock})
	})
}

func TestDurability(t *testing.T) {
	storetest.RunDurable(t, func(t *testing.T, clock func() time.Time) (store.Store, func(*testing.T) store.Store) {
		dir := t.TempDir()
		return open(t, Options{Dir: dir, Clock: clock}), func(t *testing.T) store.Store {
			return open(t, Options{Dir: dir, Clock: clock})
		}
	})
}

// A process that is killed leaves its files as they are. So a copy of the files, taken while the store is open, must
// open with all that had been acknowledged when the copy began.
func TestKilled(t *testing.T) {
	s := open(t, Options{})
	for round := range 3 {
		var group sync.WaitGroup
		for i := range 64 {
			group.Go(func() {
				_, err := s.Create(t.Context(), store.Record{
					Kind: "flow", ID: fmt.Sprintf("%d-%d", round, i), Labels: map[string]string{"round": fmt.Sprint(round)}, Data: make([]byte, 2000),
				})
				if err != nil {
					t.Errorf("create: %v", err)
				}
			})
		}
		group.Wait()

		dir := t.TempDir()
		copyFiles(t, s.dir, dir)
		copied := open(t, Options{Dir: dir})
		for r := range round + 1 {
			page, err := copied.List(t.Context(), store.Query{Kind: "flow", Label: "round", Value: fmt.Sprint(r)})
			if err != nil || len(page) != 64 {
				t.Errorf("round %d: copy has %d records of round %d, %v; want 64", round, len(page), r, err)
			}
		}
	}
}

func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		err = copyFile(filepath.Join(from, file.Name()), filepath.Join(to, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func TestOpenLocked(t *testing.T) {
	s := open(t, Options{})
	_, err := Open(Options{Dir: s.dir, ReserveBytes: smallReserve})
	if err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("got error %v, want one that says who has the directory", err)
	}
	_, err = s.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	if err != nil {
		t.Errorf("the store that has the directory was disturbed: %v", err)
	}
}

func TestOpenWithoutDirectory(t *testing.T) {
	_, err := Open(Options{})
	if err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("got error %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	err = os.WriteFile(file, nil, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(Options{Dir: filepath.Join(file, "store")})
	if err == nil || !strings.Contains(err.Error(), "create store directory") {
		t.Errorf("got error %v", err)
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		name string
		put  map[string][]byte
		want string // part of the error; empty: opens
	}{
		{"new", nil, ""},
		{"this version", map[string][]byte{string(formatKey): encodeFormat(format)}, ""},
		{"newer version", map[string][]byte{string(formatKey): encodeFormat(format + 1)}, "newer version: its format is 2"},
		{"damaged", map[string][]byte{string(formatKey): {0, 0, 0, 1}}, "damaged"},
		{"another program", map[string][]byte{"some key": []byte("some value")}, "another program"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, test.put)
			s, err := Open(Options{Dir: dir, ReserveBytes: smallReserve})
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got error %v, want %q", err, test.want)
				}
				// The refusal has let go of the directory.
				put(t, dir, map[string][]byte{"k": nil})
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			err = s.Close()
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// put writes to the engine behind the store's back.
func put(t *testing.T, dir string, entries map[string][]byte) {
	t.Helper()
	db, err := badgerdb.OpenManaged(engineOptions(dir, memTableBytes, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	txn := db.NewTransactionAt(db.MaxVersion(), true)
	for key, value := range entries {
		err = errors.Join(err, txn.Set([]byte(key), value))
	}
	err = errors.Join(err, txn.CommitAt(db.MaxVersion()+1, nil), db.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// A damaged record is "cannot tell" for whoever asks for it, and no trouble for the others.
func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	clock := func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	s := open(t, Options{Dir: dir, Clock: clock})
	expires := clock().Add(time.Minute)
	for _, id := range []string{"a", "b"} {
		_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: id, Expires: expires, Data: []byte(id)})
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.Get(t.Context(), "flow", "b")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Close()
	if err != nil {
		t.Fatal(err)
	}
	// A whole record, but of another id.
	put(t, dir, map[string][]byte{string(recordKey("flow", "a")): encodeRecord(b)})

	s = open(t, Options{Dir: dir, Clock: clock})
	_, err = s.Get(t.Context(), "flow", "a")
	if !errors.Is(err, errCorrupt) {
		t.Errorf("get: got error %v, want one of damage", err)
	}
	_, err = s.Update(t.Context(), "flow", "a", func(store.Record) (store.Edit, error) { return store.Edit{}, nil })
	if !errors.Is(err, errCorrupt) {
		t.Errorf("update: got error %v, want one of damage", err)
	}
	_, err = s.Create(t.Context(), store.Record{Kind: "flow", ID: "a"})
	if !errors.Is(err, errCorrupt) {
		t.Errorf("create: got error %v, want one of damage", err)
	}
	_, err = s.List(t.Context(), store.Query{Kind: "flow"})
	if !errors.Is(err, errCorrupt) {
		t.Errorf("list: got error %v, want one of damage", err)
	}
	n, err := s.Sweep(t.Context(), expires.Add(time.Minute), 0)
	if err != nil || n != 1 {
		t.Errorf("sweep removed %d, %v; want the other record", n, err)
	}
}

// What was begun by a new write-ahead log has its directory synced before it is acknowledged.
func TestNewLogIsSynced(t *testing.T) {
	s := open(t, Options{})
	before := s.wal.next
	for i := range 100 {
		_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Data: make([]byte, store.MaxDataBytes)})
		if err != nil {
			t.Fatal(err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(s.dir, "*.mem"))
	if err != nil {
		t.Fatal(err)
	}
	newest := fmt.Sprintf("%05d.mem", s.wal.next-1)
	if s.wal.next <= before || filepath.Base(logs[len(logs)-1]) != newest {
		t.Errorf("newest log known is %s (%d before), there are %q", newest, before-1, logs)
	}
}

// Badger would put larger values into its value log, which loses writes whose sync failed.
func TestValuesStayInline(t *testing.T) {
	s := open(t, Options{})
	labels := make(map[string]string)
	for i := range store.MaxLabels {
		labels[fmt.Sprintf("%d%s", i, strings.Repeat("n", store.MaxLabelBytes-1))] = strings.Repeat("v", store.MaxLabelBytes)
	}
	largest := encodeRecord(store.Record{Labels: labels, Data: make([]byte, store.MaxDataBytes)})
	if int64(len(largest)) >= s.db.Opts().ValueThreshold {
		t.Errorf("largest record has %d bytes, values are inline below %d", len(largest), s.db.Opts().ValueThreshold)
	}
}

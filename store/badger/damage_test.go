package badger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/store"
)

// A byte that is wrong somewhere in a table or a log: the store does not open, or nothing is missing but the last
// transaction, which a power cut may take as well.
func TestDamagedFiles(t *testing.T) {
	const records = 12
	s := open(t, Options{})
	create := func(i int) {
		t.Helper()
		_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Labels: map[string]string{"l": "v"}, Data: bytes.Repeat([]byte{byte(i + 1)}, 100)})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range records / 2 {
		create(i)
	}
	dir := s.dir
	err := s.Close() // makes a table of them
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir})
	for i := range records / 2 {
		create(records/2 + i)
	}
	whole := t.TempDir()
	copyFiles(t, dir, whole) // as a process leaves them that is killed
	_, err = checkFiles(whole)
	if err != nil {
		t.Fatalf("whole files are refused: %v", err)
	}

	kinds := map[string]int{}
	for _, pattern := range []string{"*" + tableSuffix, "*" + walSuffix} {
		files, err := filepath.Glob(filepath.Join(whole, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%d files %s: %v", len(files), pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			held := len(bytes.TrimRight(data, "\x00"))
			for at := 0; at < held; at += max(1, held/11) {
				kinds[tryDamage(t, whole, filepath.Base(file), at, records)]++
			}
		}
	}
	if kinds["refused"] == 0 || kinds["opened"] == 0 {
		t.Errorf("outcomes: %v", kinds)
	}
}

// tryDamage turns a byte over in a copy of a directory and opens it.
func tryDamage(t *testing.T, whole, file string, at, records int) string {
	t.Helper()
	dir := t.TempDir()
	copyFiles(t, whole, dir)
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err == nil {
		data[at] ^= 0x5a
		err = os.WriteFile(filepath.Join(dir, file), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Dir: dir, ReserveBytes: smallReserve})
	if err != nil {
		if strings.Contains(err.Error(), "another process") {
			t.Errorf("%s at %d: %v", file, at, err)
		}
		return "refused"
	}
	defer s.Close()
	for i := range records - 1 {
		record, err := s.Get(t.Context(), "flow", fmt.Sprint(i))
		if errors.Is(err, store.ErrNotFound) || err == nil && !bytes.Equal(record.Data, bytes.Repeat([]byte{byte(i + 1)}, 100)) {
			t.Errorf("%s, byte %d: record %d of %d is another one than was acknowledged: %v", file, at, i, records, err)
		}
	}
	return "opened"
}

// TestKilledWhileATableWasWritten: a table that was half written was taken for a damaged one, and the store did not open any more.
func TestKilledWhileATableWasWritten(t *testing.T) {
	dir, tables := storeWithTable(t)
	data, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "000777"+tableSuffix)
	err = os.WriteFile(half, append(data[:len(data)/2], make([]byte, len(data)-len(data)/2)...), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Dir: dir})
	_, err = s.Get(t.Context(), "flow", "a")
	if err != nil {
		t.Error(err)
	}
	_, err = os.Stat(half)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half table is still there: %v", err)
	}
}

// TestKilledWhileALogWasMade: a log without a byte, which a process had just made, or emptied to delete it, kept the store from opening.
func TestKilledWhileALogWasMade(t *testing.T) {
	dir, _ := storeWithTable(t)
	for _, name := range []string{"00002.mem", "00777.mem", "000777.vlog"} {
		err := os.WriteFile(filepath.Join(dir, name), nil, 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{Dir: dir})
	_, err := s.Get(t.Context(), "flow", "a")
	if err != nil {
		t.Error(err)
	}
}

// TestKilledWhileALogWasKept: an iterator keeps its log, the one after it is gone, and the first transaction of the third is torn.
func TestKilledWhileALogWasKept(t *testing.T) {
	data := logOfThree(t)
	var ends []int // of the transactions
	for i := logHeaderBytes; ; {
		e, ok := readLogEntry(data[i:])
		if !ok {
			break
		}
		i += e.length
		if e.meta&metaInTxn == 0 {
			ends = append(ends, i)
		}
	}
	if len(ends) < 3 {
		t.Fatalf("transactions end at %v", ends)
	}
	kept, torn := data[:ends[len(ends)-3]], bytes.Clone(data[:logHeaderBytes])
	torn = append(torn, make([]byte, 10)...)
	torn = append(torn, data[ends[len(ends)-2]+10:]...)
	for third, refused := range map[string]bool{"00003.mem": false, "00002.mem": true} {
		dir := t.TempDir()
		err := errors.Join(os.WriteFile(filepath.Join(dir, "00001.mem"), kept, 0o600), os.WriteFile(filepath.Join(dir, third), torn, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		_, err = checkFiles(dir)
		if (err != nil) != refused {
			t.Errorf("%s: %v", third, err)
		}
	}
}

// storeWithTable returns the directory of a closed store that has one flow, "a", in one table.
func storeWithTable(t *testing.T) (dir string, tables []string) {
	t.Helper()
	s := open(t, Options{})
	_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: "a", Data: []byte("data")})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Close()
	if err != nil {
		t.Fatal(err)
	}
	tables, err = filepath.Glob(filepath.Join(s.dir, "*"+tableSuffix))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables %v: %v", tables, err)
	}
	return s.dir, tables
}

// A log is cut at each of its bytes, as a power cut may leave it: it opens, and has all that was whole.
func TestTornLogOpens(t *testing.T) {
	data := logOfThree(t)
	for cut := logHeaderBytes; cut < len(data); cut++ {
		_, at, err := checkLog(bytes.Clone(data[:cut]), 0, true)
		if err != nil {
			t.Fatalf("cut at byte %d: damage at %d: %v", cut, at, err)
		}
	}
	// The beginning of the last transaction is missing, what comes after it is there.
	begins, i := 0, logHeaderBytes
	for e, ok := readLogEntry(data[i:]); ok; e, ok = readLogEntry(data[i:]) {
		i += e.length
		if e.meta&metaInTxn == 0 && i < len(data) {
			begins = i
		}
	}
	if begins == 0 {
		t.Fatal("no transaction was found")
	}
	torn := bytes.Clone(data)
	clear(torn[begins : begins+10])
	_, at, err := checkLog(torn, 0, true)
	if err != nil {
		t.Errorf("torn: damage at %d: %v", at, err)
	}
	// The same with one before it is damage, and so it is if another log follows.
	damaged := bytes.Clone(data)
	clear(damaged[logHeaderBytes : logHeaderBytes+10])
	for name, c := range map[string]struct {
		data   []byte
		newest bool
	}{"an earlier transaction": {damaged, true}, "another log follows": {torn, false}} {
		_, _, err = checkLog(c.data, 0, c.newest)
		if err == nil {
			t.Errorf("%s: no damage is found", name)
		}
	}
}

// logOfThree returns the log of a store that has made three flows, without the zeros behind it.
func logOfThree(t *testing.T) []byte {
	t.Helper()
	s := open(t, Options{})
	for i := range 3 {
		_, err := s.Create(t.Context(), store.Record{Kind: "flow", ID: fmt.Sprint(i), Labels: map[string]string{"l": "v"}, Data: []byte("data")})
		if err != nil {
			t.Fatal(err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(s.dir, "*"+walSuffix))
	if err != nil || len(logs) != 1 {
		t.Fatalf("%v, %v", logs, err)
	}
	data, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimRight(data, "\x00")
}

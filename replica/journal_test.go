package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func openJournal(t *testing.T, dir string) (*Journal, []string) {
	t.Helper()
	var entries []string
	j, err := OpenJournal(dir, func(e json.RawMessage) error {
		entries = append(entries, string(e))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return j, entries
}

func appendTo(t *testing.T, j *Journal, entries ...string) {
	t.Helper()
	for _, e := range entries {
		err := j.Append(json.RawMessage(e))
		if err != nil {
			t.Fatal(err)
		}
	}
}

func closeJournal(t *testing.T, j *Journal) {
	t.Helper()
	err := j.Close()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJournalOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	j, entries := openJournal(t, dir)
	if len(entries) != 0 || !j.Empty() {
		t.Fatal(entries)
	}
	appendTo(t, j, `{"a":1}`, `{"b":2}`)
	closeJournal(t, j)
	j, entries = openJournal(t, dir)
	if !slices.Equal(entries, []string{`{"a":1}`, `{"b":2}`}) || j.Empty() {
		t.Fatal(entries)
	}
	appendTo(t, j, `{"c":3}`)
	early := j.Mark()
	appendTo(t, j, `{"d":4}`)
	err := j.Discard(early)
	if err != nil || j.Empty() {
		t.Fatal("discarded what came after the mark", err)
	}
	err = j.Discard(j.Mark())
	if err != nil || !j.Empty() {
		t.Fatal("not discarded", err)
	}
	// What was there before must not come back behind a shorter entry.
	appendTo(t, j, `{"e":5}`)
	closeJournal(t, j)
	j, entries = openJournal(t, dir)
	if !slices.Equal(entries, []string{`{"e":5}`}) {
		t.Fatal(entries)
	}
	closeJournal(t, j)
}

func TestJournalIsFull(t *testing.T) {
	j, _ := openJournal(t, t.TempDir())
	defer closeJournal(t, j)
	entry := `"` + strings.Repeat("x", maxJournalEntry-2) + `"`
	for {
		err := j.Append(json.RawMessage(entry))
		if errors.Is(err, ErrJournalFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(j.file.Name())
	if err != nil || info.Size() != journalBytes {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if j.Append(json.RawMessage(entry+" ")) == nil || j.Append(nil) == nil {
		t.Error("took an entry of a wrong size")
	}
}

// Every byte of the last entry torn: what is before it is read, and it is not.
func TestTornJournalEntry(t *testing.T) {
	dir := t.TempDir()
	j, _ := openJournal(t, dir)
	appendTo(t, j, `{"first":1}`)
	from := j.end
	appendTo(t, j, `{"second":2}`)
	to := j.end
	closeJournal(t, j)
	path := filepath.Join(dir, journalFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := from; at < to; at++ {
		torn := slices.Clone(whole)
		torn[at] ^= 0x41
		err := os.WriteFile(path, torn, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		j, entries := openJournal(t, dir)
		closeJournal(t, j)
		if !slices.Equal(entries, []string{`{"first":1}`}) {
			t.Fatalf("byte %d: %v", at, entries)
		}
	}
}

// A crash while the file is made leaves a shorter one; nothing was acknowledged by then.
func TestJournalCutShort(t *testing.T) {
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, journalFile), make([]byte, 1000), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	j, entries := openJournal(t, dir)
	if len(entries) != 0 {
		t.Fatal(entries)
	}
	appendTo(t, j, `{"a":1}`)
	closeJournal(t, j)
}

func TestJournalIsOneGatewaysOwn(t *testing.T) {
	dir := t.TempDir()
	j, _ := openJournal(t, dir)
	defer closeJournal(t, j)
	_, err := OpenJournal(dir, func(json.RawMessage) error { return nil })
	if err == nil {
		t.Fatal("two processes share a journal")
	}
}

func TestUnreadableEntryIsAnError(t *testing.T) {
	dir := t.TempDir()
	j, _ := openJournal(t, dir)
	appendTo(t, j, `{"a":1}`)
	closeJournal(t, j)
	_, err := OpenJournal(dir, func(json.RawMessage) error { return fmt.Errorf("unknown operation") })
	if err == nil {
		t.Fatal("an entry that cannot be read was passed over")
	}
	j, entries := openJournal(t, dir) // and it is still there
	closeJournal(t, j)
	if len(entries) != 1 {
		t.Fatal(entries)
	}
}

// Keep replaces the content in one step, and only that which the mark names.
func TestJournalKeep(t *testing.T) {
	dir := t.TempDir()
	j, _ := openJournal(t, dir)
	appendTo(t, j, `"a"`, `"b"`, `"c"`)
	mark := j.Mark()
	appendTo(t, j, `"d"`)
	err := j.Keep(mark, nil)
	if err != nil || j.Len() != 4 {
		t.Fatalf("%v, %d entries: one came since", err, j.Len())
	}
	err = j.Keep(j.Mark(), []json.RawMessage{[]byte(`"b"`), []byte(`"d"`)})
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, j, `"e"`)
	closeJournal(t, j)
	j, entries := openJournal(t, dir)
	defer closeJournal(t, j)
	if !slices.Equal(entries, []string{`"b"`, `"d"`, `"e"`}) || j.Len() != 3 {
		t.Errorf("%v, %d entries", entries, j.Len())
	}
	err = j.Keep(j.Mark(), make([]json.RawMessage, journalBytes/journalHead))
	if !errors.Is(err, ErrJournalFull) {
		t.Errorf("%v, want %v", err, ErrJournalFull)
	}
	err = j.Discard(j.Mark())
	if err != nil || !j.Empty() || j.Len() != 0 {
		t.Errorf("%v, %d entries", err, j.Len())
	}
}

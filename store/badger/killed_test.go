package badger

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/store"
)

// The environment of a process that writes until it is killed: the directory of its store, and as JSON how far its writers are.
const (
	writingIn = "EDRGATE_TEST_WRITING_IN"
	writtenAs = "EDRGATE_TEST_WRITTEN"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(writingIn)
	if dir == "" {
		os.Exit(m.Run())
	}
	go func() { // the test has ended, however it did
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	fmt.Println(writeUntilKilled(dir, os.Getenv(writtenAs)))
	os.Exit(1)
}

// TestKilledWhileWriting kills a process again and again while its writers fill memtables, and tables are written and compacted.
// Each next one opens the store and finds all that had been acknowledged. KILLS says how often; `make soak` has 100.
func TestKilledWhileWriting(t *testing.T) {
	const writers, acknowledgements = 8, 150
	lives := 8
	if set := os.Getenv("KILLS"); set != "" {
		var err error
		lives, err = strconv.Atoi(set)
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	written := make([]uint64, writers)
	for life := range lives {
		state, err := json.Marshal(written)
		if err != nil {
			t.Fatal(err)
		}
		writing := exec.Command(os.Args[0])
		writing.Env = append(os.Environ(), writingIn+"="+dir, writtenAs+"="+string(state))
		writing.Stderr = os.Stderr
		input, err := writing.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer input.Close()
		output, err := writing.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		err = writing.Start()
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 0; lines.Scan(); n++ {
			var writer int
			var at uint64
			_, err = fmt.Sscanf(lines.Text(), "%d %d", &writer, &at)
			if err != nil {
				t.Fatalf("life %d: %s", life, lines.Text())
			}
			written[writer] = at
			if n == acknowledgements+7*life {
				err = writing.Process.Kill()
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		err = writing.Wait()
		if writing.ProcessState.Exited() {
			t.Fatalf("life %d: the process has ended by itself: %v", life, err)
		}
	}
}

// writeUntilKilled opens a store, compares it with what had been acknowledged, and has each writer count up in a record of its
// own, a line on standard output for each write. It returns what went wrong.
func writeUntilKilled(dir, acknowledged string) error {
	const recordBytes = 100 << 10 // some 80 fill a memtable
	var written []uint64
	err := json.Unmarshal([]byte(acknowledged), &written)
	if err != nil {
		return err
	}
	space := func(string) (uint64, error) { return 1 << 40, nil }
	s, err := Open(Options{Dir: dir, ReserveBytes: -1, FreeBytes: space})
	if err != nil {
		return err
	}
	ctx := context.Background()
	failed := make(chan error)
	var line sync.Mutex
	for writer, last := range written {
		id := fmt.Sprint(writer)
		r, err := s.Get(ctx, "flow", id)
		if errors.Is(err, store.ErrNotFound) && last == 0 {
			r, err = s.Create(ctx, store.Record{Kind: "flow", ID: id, Data: make([]byte, recordBytes)})
		}
		if err != nil {
			return fmt.Errorf("writer %d: %w", writer, err)
		}
		if at := binary.BigEndian.Uint64(r.Data); at < last || len(r.Data) != recordBytes {
			return fmt.Errorf("writer %d is at %d of %d bytes, and %d was acknowledged", writer, at, len(r.Data), last)
		}
		go func() {
			for {
				r, err := s.Update(ctx, "flow", id, func(old store.Record) (store.Edit, error) {
					next := append([]byte(nil), old.Data...)
					binary.BigEndian.PutUint64(next, binary.BigEndian.Uint64(next)+1)
					return store.Edit{Data: next}, nil
				})
				if err != nil {
					failed <- err
					return
				}
				line.Lock()
				_, err = fmt.Println(writer, binary.BigEndian.Uint64(r.Data))
				line.Unlock()
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

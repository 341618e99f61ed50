package badger

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	badgerdb "github.com/dgraph-io/badger/v4"
)

// A process with larger memtables was killed: its log fits into none of ours, and Badger would end this process.
func TestLogsOfLargerMemtablesOpen(t *testing.T) {
	for name, c := range map[string]struct{ entries, valueBytes int }{
		"records": {14_500, 1 << 10},
		"labels":  {190_000, 0}, // each takes more of a memtable than of a log
	} {
		t.Run(name, func(t *testing.T) {
			before, killed := t.TempDir(), t.TempDir()
			err := open(t, Options{Dir: before}).Close()
			if err != nil {
				t.Fatal(err)
			}
			db, err := badgerdb.OpenManaged(engineOptions(before, maxMemTableBytes, slog.New(slog.DiscardHandler)))
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < c.entries; {
				txn := db.NewTransactionAt(db.MaxVersion(), true)
				for range 500 {
					err = errors.Join(err, txn.Set(fmt.Appendf(nil, "%040d", i), make([]byte, c.valueBytes)))
					i++
				}
				err = errors.Join(err, txn.CommitAt(db.MaxVersion()+1, nil))
				if err != nil {
					t.Fatal(err)
				}
			}
			copyFiles(t, before, killed)
			err = db.Close()
			if err != nil {
				t.Fatal(err)
			}
			logs, err := filepath.Glob(filepath.Join(killed, "*"+walSuffix))
			if err != nil || len(logs) != 1 {
				t.Fatalf("%v: %v, want one", err, logs)
			}

			s := open(t, Options{Dir: killed})
			read := s.db.NewTransactionAt(s.db.MaxVersion(), false)
			defer read.Discard()
			for i := range c.entries {
				_, err = read.Get(fmt.Appendf(nil, "%040d", i))
				if err != nil {
					t.Fatalf("entry %d: %v", i, err)
				}
			}
			if size := s.db.Opts().MemTableSize; size != maxMemTableBytes {
				t.Errorf("memtables of %d bytes", size)
			}
		})
	}
}

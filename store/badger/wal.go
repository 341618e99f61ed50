package badger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// walDirectory makes the names of Badger's write-ahead logs durable. Badger syncs what it writes to a log, but when it
// begins a new one it does not sync the directory, and a file whose name is lost in a power failure is lost with all that
// was acknowledged (fsync(2), on directory entries). Logs are numbered one by one, and one transaction begins at most one.
type walDirectory struct {
	dir  string
	next int // number of the log that does not exist yet
}

const walSuffix = ".mem"

// start syncs the directory and finds the newest log.
func (w *walDirectory) start(dir string) error {
	w.dir = dir
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read store directory: %w", err)
	}
	for _, file := range files {
		number, isLog := strings.CutSuffix(file.Name(), walSuffix)
		if !isLog {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("read store directory: file %q: %w", file.Name(), err)
		}
		w.next = max(w.next, n+1)
	}
	return syncDirectory(dir)
}

// settle syncs the directory if a log was begun since the last call. It is called after each commit, before the commit
// is acknowledged.
func (w *walDirectory) settle() error {
	_, err := os.Lstat(filepath.Join(w.dir, fmt.Sprintf("%05d%s", w.next, walSuffix)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a new write-ahead log: %w", err)
	}
	err = syncDirectory(w.dir)
	if err != nil {
		return err
	}
	w.next++
	return nil
}

func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory cannot be synced there; NTFS journals its entries
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync store directory: %w", err)
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return fmt.Errorf("sync store directory: %w", err)
	}
	return nil
}

package replica

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/edrgate/edrgate/store"
)

// The files of a follower's directory.
const (
	lockFile     = "lock"
	positionFile = "position.json" // the entry of the log that was seen last
	endingsFile  = "endings.jsonl" // the endings that are remembered, one a line, oldest first
)

// maxEndings bounds the endings that are remembered, in memory and in the file.
const maxEndings = 1 << 16

// saveEvery is how often the position is written. A position that is a little old is no harm: entries may be taken twice.
const saveEvery = time.Second

// state is what a follower knows of the log, in memory and in files. It belongs to one goroutine; only its files outlive
// the process. They are not forced to the disk: what a crash of the machine takes from them matters only if the store
// loses writes in the same moment.
type state struct {
	dir  string
	lock *flock.Flock

	known bool        // there is a position, from the files or from the log
	begun bool        // the first look was made
	last  store.Entry // the newest entry seen; the zero entry before the first of a log
	saved store.Entry // as in the file
	at0   time.Time   // when the position was last written

	remembered []store.Entry // endings, oldest first, also those that a newer one of the same record has replaced
	index      *endingIndex  // the newest of each record
	file       *os.File      // appended to
	lines      int           // of the file
}

// openState reads the files of dir and keeps others from using it.
func openState(dir string) (*state, error) {
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		return nil, fmt.Errorf("directory of the local state: %w", err)
	}
	s := &state{dir: dir, lock: flock.New(filepath.Join(dir, lockFile)), index: newEndingIndex()}
	ok, err := s.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking the local state: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("directory %s is used by another gateway: each needs its own", dir)
	}
	err = errors.Join(s.readPosition(), s.readEndings())
	if err == nil {
		s.file, err = os.OpenFile(filepath.Join(dir, endingsFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	}
	if err == nil {
		_, err = s.file.WriteString("\n") // what a crash has cut short must not take the next line with it
	}
	if err != nil {
		return nil, errors.Join(err, s.lock.Unlock())
	}
	return s, nil
}

func (s *state) readPosition() error {
	data, err := os.ReadFile(filepath.Join(s.dir, positionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the local state: %w", err)
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return nil // what some file systems leave of a file that was new when the machine crashed
	}
	var last store.Entry
	err = json.Unmarshal(data, &last)
	if err != nil {
		return fmt.Errorf("%s is damaged; remove it, and this gateway cannot tell whether the store was restored meanwhile: %w",
			filepath.Join(s.dir, positionFile), err)
	}
	s.last, s.saved, s.known = last, last, true
	return nil
}

// readEndings reads what is remembered. A line that a crash has cut short ends it.
func (s *state) readEndings() error {
	file, err := os.Open(filepath.Join(s.dir, endingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the local state: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<10)
	for lines.Scan() {
		s.lines++
		var e store.Entry
		switch {
		case json.Unmarshal(bytes.Trim(lines.Bytes(), "\x00"), &e) != nil || e.Kind == "" || e.ID == "":
		case e.Event == "":
			s.index.drop(recordOf(e))
		default:
			s.add(e)
		}
	}
	s.trim(time.Time{})
	return lines.Err()
}

// at notes an entry as the newest seen.
func (s *state) at(e store.Entry) { s.last, s.known = e, true }

// remember keeps an ending, and forgets those before since.
func (s *state) remember(e store.Entry, since time.Time) {
	if old, ok := s.index.get(recordOf(e)); ok && same(old, e) {
		return // seen again after a restart
	}
	s.add(e)
	s.trim(since)
	s.append(e)
}

// forget drops what is remembered of a record.
func (s *state) forget(e store.Entry) {
	_, known := s.index.get(recordOf(e))
	if !known {
		return
	}
	s.index.drop(recordOf(e))
	e.Event = ""
	s.append(e)
}

// append writes a line. One without an event says that what stands before of its record is forgotten.
func (s *state) append(e store.Entry) {
	line, err := json.Marshal(e)
	if err != nil {
		return // an entry of plain fields
	}
	_, err = s.file.Write(append(line, '\n'))
	if err == nil {
		s.lines++
	}
}

func (s *state) add(e store.Entry) {
	s.remembered = append(s.remembered, e)
	s.index.put(recordOf(e), e)
	if len(s.remembered) > 2*max(s.index.len(), 1024) {
		s.remembered = s.endings()
	}
}

// trim forgets what is too much or before since.
func (s *state) trim(since time.Time) {
	n := 0
	for n < len(s.remembered) && (s.index.len() > maxEndings || s.remembered[n].At.Before(since)) {
		old := s.remembered[n]
		if newest, ok := s.index.get(recordOf(old)); ok && same(newest, old) {
			s.index.drop(recordOf(old))
		}
		n++
	}
	s.remembered = s.remembered[n:]
}

// endings returns what is remembered, oldest first: of each record the newest.
func (s *state) endings() []store.Entry {
	var list []store.Entry
	for _, e := range s.remembered {
		if newest, ok := s.index.get(recordOf(e)); ok && same(newest, e) {
			list = append(list, e)
		}
	}
	return list
}

func (s *state) len() int { return s.index.len() }

func recordOf(e store.Entry) string { return e.Kind + "\x00" + e.ID }

// save writes the position if it has moved and was not written lately, and makes the file of endings anew if it has grown
// to twice of what it holds.
func (s *state) save(now time.Time) error {
	if !s.known || same(s.saved, s.last) || now.Sub(s.at0).Abs() < saveEvery {
		return nil
	}
	s.at0 = now
	return s.write()
}

func (s *state) write() error {
	data, err := json.Marshal(s.last)
	if err != nil {
		return err
	}
	err = replace(filepath.Join(s.dir, positionFile), data)
	if err != nil {
		return err
	}
	s.saved = s.last
	if s.lines > 2*max(len(s.remembered), 1024) {
		return s.compact()
	}
	return nil
}

// compact makes the file of endings anew.
func (s *state) compact() error {
	var all bytes.Buffer
	out := json.NewEncoder(&all)
	s.remembered = s.endings()
	for _, e := range s.remembered {
		err := out.Encode(e)
		if err != nil {
			return err
		}
	}
	path := filepath.Join(s.dir, endingsFile)
	err := replace(path, all.Bytes())
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	old := s.file
	s.file, s.lines = file, len(s.remembered)
	return old.Close()
}

// replace writes a file in one step.
func replace(path string, data []byte) error {
	err := os.WriteFile(path+".new", data, 0o600)
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// close writes the position and gives the directory back.
func (s *state) close() error {
	var err error
	if s.known && !same(s.saved, s.last) {
		err = s.write()
	}
	return errors.Join(err, s.file.Close(), s.lock.Unlock())
}

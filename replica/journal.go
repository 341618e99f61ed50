package replica

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"
)

// journalBytes is the size of the journal's file. It is written out in full when the file is made, so that an append needs
// no space of the disk: some tens of thousands of endings.
const journalBytes = 8 << 20

// maxJournalEntry bounds one entry, far above what an ending needs.
const maxJournalEntry = 16 << 10

const (
	journalFile     = "endings.journal"
	journalNewFile  = "endings.journal.new"
	journalLockFile = "journal.lock"
)

// ErrJournalFull is returned by Append when the file has no room for the entry.
var ErrJournalFull = errors.New("the journal of endings is full")

// Journal keeps what could not be written to the store, in one file of a fixed size. An entry is durable when Append
// returns. The file holds entries one behind the other, each with its length and a checksum, up to the first that does
// not verify: what a crash has cut short was never acknowledged. All methods may be called by many goroutines at once.
type Journal struct {
	dir  string
	lock *flock.Flock

	mu   sync.Mutex
	file *os.File
	end  int64  // where the next entry goes
	held int    // entries before it
	made uint64 // changes of end so far
}

// OpenJournal opens the journal in dir, made if there is none, and calls read with each entry that was not discarded.
func OpenJournal(dir string, read func(entry json.RawMessage) error) (*Journal, error) {
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		return nil, fmt.Errorf("directory of the journal: %w", err)
	}
	lock := flock.New(filepath.Join(dir, journalLockFile))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking the journal: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("directory %s is used by another gateway: each needs its own", dir)
	}
	j := &Journal{dir: dir, lock: lock}
	err = j.open(filepath.Join(dir, journalFile), read)
	if err != nil {
		if j.file != nil {
			err = errors.Join(err, j.file.Close())
		}
		return nil, errors.Join(err, lock.Unlock())
	}
	return j, nil
}

func (j *Journal) open(path string, read func(json.RawMessage) error) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() < journalBytes {
		err = extendJournal(path)
		if err == nil {
			err = syncDir(j.dir) // or the file itself could be gone after a crash, with what was acknowledged
		}
	}
	if err != nil {
		return fmt.Errorf("journal of endings: %w", err)
	}
	j.file, err = os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("journal of endings: %w", err)
	}
	for {
		entry, ok, err := j.entry(j.end)
		if err != nil {
			return fmt.Errorf("reading the journal of endings: %w", err)
		}
		if !ok {
			return nil
		}
		err = read(entry)
		if err != nil {
			return fmt.Errorf("journal of endings: %w", err)
		}
		j.end += journalHead + int64(len(entry))
		j.held++
	}
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// extendJournal writes zeros up to the file's full size: it makes the file, or goes on where a crash has stopped that.
func extendJournal(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Write(make([]byte, journalBytes-size))
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// journalHead is the length of what stands before an entry: its length and its CRC-32C.
const journalHead = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry reads the entry at an offset; ok is false if there is none.
func (j *Journal) entry(at int64) (json.RawMessage, bool, error) {
	var head [journalHead]byte
	if at+journalHead > journalBytes {
		return nil, false, nil
	}
	_, err := j.file.ReadAt(head[:], at)
	if err != nil {
		return nil, false, err
	}
	length := int64(binary.BigEndian.Uint32(head[:4]))
	if length == 0 || length > maxJournalEntry || at+journalHead+length > journalBytes {
		return nil, false, nil
	}
	entry := make([]byte, length)
	_, err = j.file.ReadAt(entry, at+journalHead)
	if err != nil {
		return nil, false, err
	}
	if crc32.Checksum(entry, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return nil, false, nil
	}
	return entry, true, nil
}

// Append writes one entry and returns when it is on the disk.
func (j *Journal) Append(entry json.RawMessage) error {
	if len(entry) == 0 || len(entry) > maxJournalEntry {
		return fmt.Errorf("an entry of the journal has 1 to %d bytes", maxJournalEntry)
	}
	// The head of the entry behind is written as zero, or what an earlier use of the file has left there could be read.
	block := append(framed(entry), make([]byte, journalHead)...)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.end+int64(len(block)) > journalBytes {
		return ErrJournalFull
	}
	_, err := j.file.WriteAt(block, j.end)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the journal of endings: %w", err)
	}
	j.end += journalHead + int64(len(entry))
	j.held++
	j.made++
	return nil
}

// framed is an entry as it stands in the file.
func framed(entry json.RawMessage) []byte {
	block := make([]byte, journalHead, journalHead+len(entry)+journalHead)
	binary.BigEndian.PutUint32(block, uint32(len(entry)))
	binary.BigEndian.PutUint32(block[4:], crc32.Checksum(entry, castagnoli))
	return append(block, entry...)
}

// Len returns how many entries the journal holds.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.held
}

// Mark names the present content of the journal, for Discard and Keep.
func (j *Journal) Mark() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.made
}

// Discard empties the journal, if nothing was appended since the mark: everything in it has got to the store.
func (j *Journal) Discard(mark uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made != mark || j.end == 0 {
		return nil
	}
	_, err := j.file.WriteAt(make([]byte, journalHead), 0)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("emptying the journal of endings: %w", err)
	}
	j.end, j.held = 0, 0
	j.made++
	return nil
}

// Keep replaces what the journal holds by these entries, if nothing was appended since the mark: the others have got to the
// store. It is done in one step, in a new file that takes the old one's place.
func (j *Journal) Keep(mark uint64, entries []json.RawMessage) error {
	var all []byte
	for _, entry := range entries {
		all = append(all, framed(entry)...)
	}
	if len(all)+journalHead > journalBytes {
		return ErrJournalFull
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made != mark {
		return nil
	}
	file, err := j.replace(all)
	if err != nil {
		return fmt.Errorf("writing the journal of endings anew: %w", err)
	}
	old := j.file
	j.file, j.end, j.held = file, int64(len(all)), len(entries)
	j.made++
	return old.Close()
}

// replace makes a new file in the place of the old one, and returns it open.
func (j *Journal) replace(content []byte) (*os.File, error) {
	path := filepath.Join(j.dir, journalNewFile)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(append(content, make([]byte, journalBytes-len(content))...))
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(path, filepath.Join(j.dir, journalFile))
	}
	if err == nil {
		err = syncDir(j.dir)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Empty reports whether nothing waits in the journal.
func (j *Journal) Empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end == 0
}

// Close gives the file back.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.file.Close(), j.lock.Unlock())
}

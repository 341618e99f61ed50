package badger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	badgeroptions "github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sync/errgroup"
)

const (
	tableSuffix    = ".sst"
	valueLogSuffix = ".vlog"
)

// removeEmptyLogs removes files that Badger does not open, "Create a new file" being its error: those that a process had just made or
// was about to delete when it was killed.
func removeEmptyLogs(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if ext := filepath.Ext(f.Name()); ext != walSuffix && ext != valueLogSuffix {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return err
		}
		if info.Size() == 0 {
			err = os.Remove(filepath.Join(dir, f.Name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFiles refuses a directory whose tables or write-ahead logs are damaged, before the engine opens it. Badger passes
// over damage in silence: it leaves out a table whose index does not match its checksum, takes a key for missing whose block
// cannot be read, and takes the first entry of a log that cannot be read for the log's end. Flows would then be unknown
// that live, and open that had ended. It returns how many bytes of a memtable the log that needs the most of it needs: Badger
// reads each back into one.
func checkFiles(dir string) (int, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	listed, err := listedTables(dir, files)
	if err != nil {
		return 0, err
	}
	var logs []string // in their order: numbers of five digits, then longer ones
	var tables errgroup.Group
	tables.SetLimit(runtime.GOMAXPROCS(0)) // a million flows are a gigabyte, and nothing is served meanwhile
	for _, f := range files {
		switch filepath.Ext(f.Name()) {
		case tableSuffix:
			id, ok := table.ParseFileID(f.Name())
			if !ok || !listed(id) {
				continue
			}
			tables.Go(func() error {
				err := checkTable(filepath.Join(dir, f.Name()), id)
				if err != nil {
					return fmt.Errorf("table %s is damaged: %w", f.Name(), err)
				}
				return nil
			})
		case walSuffix:
			logs = append(logs, f.Name())
		}
	}
	err = tables.Wait()
	if err != nil {
		return 0, err
	}
	slices.SortFunc(logs, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	last, room := uint64(0), 0 // last is the version of the last transaction
	for i, name := range logs {
		if i > 0 && numberOf(name) != numberOf(logs[i-1])+1 {
			last = 0 // one between was deleted: an iterator had kept the one before
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0, err
		}
		log, at, err := checkLog(data, last, i == len(logs)-1)
		if err != nil {
			return 0, fmt.Errorf("write-ahead log %s is damaged at byte %d: %w", name, at, err)
		}
		last, room = log.last, max(room, log.room)
	}
	return room, nil
}

// numberOf returns the number of a log, -1 if it has none.
func numberOf(log string) int {
	n, err := strconv.Atoi(strings.TrimSuffix(log, walSuffix))
	if err != nil {
		return -1
	}
	return n
}

// checkTable compares the checksums of a table's index and of all its blocks.
func checkTable(path string, id uint64) (err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	defer func() { // Badger's parser relies on lengths that it has read
		if fault := recover(); fault != nil {
			err = fmt.Errorf("it cannot be read: %v", fault)
		}
	}()
	t, err := table.OpenInMemoryTable(data, id, &table.Options{ChkMode: badgeroptions.NoVerification, Compression: badgeroptions.None})
	if err != nil {
		return err
	}
	return t.VerifyChecksum()
}

// Layout of Badger's write-ahead log (memtable.go, value.go, structs.go): a header, then entries of a header, key, value and
// CRC-32C. Each transaction's entries carry its version and are followed by one that names it.
const (
	logHeaderBytes = 20
	versionBytes   = 8 // at the end of a key
	metaInTxn      = 1 << 6
	metaEndOfTxn   = 1 << 7
)

// logEntry is an entry of a write-ahead log that is whole.
type logEntry struct {
	meta    byte
	version uint64
	length  int
}

// readLogEntry reads the entry that data begins with, if it is a whole one.
func readLogEntry(data []byte) (logEntry, bool) {
	if len(data) < 2 {
		return logEntry{}, false
	}
	n := 2 // meta and user meta
	var fields [3]uint64
	for i := range fields { // lengths of key and value, expiry
		value, read := binary.Uvarint(data[n:])
		if read <= 0 {
			return logEntry{}, false
		}
		fields[i] = value
		n += read
	}
	keyBytes, valueBytes := fields[0], fields[1]
	room := uint64(len(data) - n)
	if keyBytes < versionBytes || keyBytes > math.MaxUint16+1 || valueBytes > room || keyBytes+valueBytes+crc32.Size > room {
		return logEntry{}, false
	}
	end := n + int(keyBytes+valueBytes)
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return logEntry{}, false
	}
	key, value := data[n:n+int(keyBytes)], data[n+int(keyBytes):end]
	e := logEntry{meta: data[0], length: end + crc32.Size, version: math.MaxUint64 - binary.BigEndian.Uint64(key[len(key)-versionBytes:])}
	if e.meta&metaEndOfTxn != 0 {
		var err error
		e.version, err = strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return logEntry{}, false
		}
	}
	return e, true
}

// checkedLog is what a log was found to hold.
type checkedLog struct {
	last uint64 // version of the last transaction
	room int    // bytes of a memtable that its entries take at most
}

// checkLog returns what a log holds, or where it is damaged. before is the last transaction of the log before, 0 if it is not
// known.
//
// A power cut may leave one transaction torn, since each is synced before the next begins. So what cannot be read is damage if
// another log follows, or if whole entries of later transactions do. Damage in the very last transaction looks like a power
// cut, and is taken for one.
func checkLog(data []byte, before uint64, newest bool) (log checkedLog, at int, err error) {
	data = bytes.TrimRight(data, "\x00") // logs are preallocated; the CRC of a last entry may end in zeros
	data = append(data, make([]byte, crc32.Size)...)
	log.last = before
	if len(data) < logHeaderBytes {
		return log, 0, nil
	}
	end, inTxn := logHeaderBytes, uint64(0) // end is that of the last whole transaction
	for i := logHeaderBytes; ; {
		e, ok := readLogEntry(data[i:])
		if !ok || inTxn != 0 && e.version != inTxn {
			break
		}
		i += e.length
		if e.meta&metaEndOfTxn == 0 { // which is in the log only
			log.room += e.length + nodeBytes
		}
		inTxn = 0
		if e.meta&metaInTxn != 0 {
			inTxn = e.version
			continue
		}
		end, log.last = i, e.version
	}
	rest := data[end:]
	if len(bytes.Trim(rest, "\x00")) == 0 {
		return log, 0, nil
	}
	if !newest {
		return log, end, errors.New("it does not end with a whole transaction, though another log follows")
	}
	after := uint64(0) // version of a transaction of which something is whole
	for i := 0; i < len(rest); {
		e, ok := readLogEntry(rest[i:])
		if !ok {
			i++
			continue
		}
		if log.last != 0 && e.version > log.last+1 || after != 0 && e.version != after {
			return log, end, fmt.Errorf("transaction %d follows it", e.version)
		}
		after = e.version
		i += e.length
	}
	return log, 0, nil
}

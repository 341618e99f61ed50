package badger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	badgerdb "github.com/dgraph-io/badger/v4"
)

// listedTables returns which tables the manifest lists. Badger deletes the others when it opens: a process that was killed while
// it wrote a table had not listed it yet, and what was to be in it is still in a log or in the tables before. So a manifest that
// is damaged must not be opened with.
func listedTables(dir string, files []fs.DirEntry) (func(id uint64) bool, error) {
	file, err := os.Open(filepath.Join(dir, badgerdb.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		for _, f := range files {
			if filepath.Ext(f.Name()) == tableSuffix {
				return nil, fmt.Errorf("%s is missing, which lists %s: it would be deleted", badgerdb.ManifestFilename, f.Name())
			}
		}
		return func(uint64) bool { return false }, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	manifest, end, err := badgerdb.ReplayManifestFile(file, 0, badgerdb.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", badgerdb.ManifestFilename, err)
	}
	rest, err := io.ReadAll(io.NewSectionReader(file, end, 1<<30))
	if err != nil {
		return nil, err
	}
	if holdsManifestEntry(rest) {
		return nil, fmt.Errorf("%s is damaged at byte %d: more entries follow", badgerdb.ManifestFilename, end)
	}
	return func(id uint64) bool {
		_, ok := manifest.Tables[id]
		return ok
	}, nil
}

// holdsManifestEntry reports whether a whole entry is somewhere in what Badger did not read of a manifest: length, CRC-32C and
// content (manifest.go). A power cut leaves a piece of the last one only.
func holdsManifestEntry(rest []byte) bool {
	const header = 8
	for i := 0; i+header < len(rest); i++ {
		length := uint64(binary.BigEndian.Uint32(rest[i:]))
		content := rest[i+header:]
		if length == 0 || length > uint64(len(content)) {
			continue
		}
		if crc32.Checksum(content[:length], castagnoli) == binary.BigEndian.Uint32(rest[i+4:]) {
			return true
		}
	}
	return false
}

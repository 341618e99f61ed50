package badger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	badgerdb "github.com/dgraph-io/badger/v4"
)

// format is the version of the layout in keys.go and encoding.go.
const format = 1

// checkFormat refuses a directory that this version cannot read, and marks a new one.
func (s *Store) checkFormat() error {
	found := uint32(0)
	empty := false
	err := s.view(func(txn *badgerdb.Txn) error {
		body, ok, err := read(txn, formatKey)
		if err != nil {
			return fmt.Errorf("read store format: %w", err)
		}
		if !ok {
			empty = isEmpty(txn)
			return nil
		}
		found, err = decodeFormat(body)
		return err
	})
	if err != nil {
		return err
	}
	if found > format {
		return fmt.Errorf("written by a newer version: its format is %d, this version reads up to %d", found, format)
	}
	if found != 0 {
		return nil
	}
	if !empty {
		return errors.New("a Badger database of another program")
	}
	return s.commits.do(context.Background(), func(b *batch) error {
		b.set(formatKey, encodeFormat(format))
		return nil
	})
}

func encodeFormat(f uint32) []byte {
	return seal(formatKey, binary.BigEndian.AppendUint32(nil, f))
}

func decodeFormat(sealed []byte) (uint32, error) {
	body, err := unseal(formatKey, sealed)
	if err != nil {
		return 0, fmt.Errorf("read store format: %w", err)
	}
	if len(body) != 4 || binary.BigEndian.Uint32(body) == 0 {
		return 0, fmt.Errorf("read store format: %w: %x", errCorrupt, body)
	}
	return binary.BigEndian.Uint32(body), nil
}

func isEmpty(txn *badgerdb.Txn) bool {
	it := txn.NewIterator(badgerdb.IteratorOptions{})
	defer it.Close()
	it.Rewind()
	return !it.Valid()
}

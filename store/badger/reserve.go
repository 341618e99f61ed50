package badger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// reserveChunk is how much of the reserve is written between two looks at the free space.
const reserveChunk = 4 << 20

// errNoRoom is the error of a reserve for which space ran short while it was written.
var errNoRoom = errors.New("not enough space")

// reserve is a file that takes up space until it is needed.
type reserve struct {
	path string
	size int64
	held bool // the file is there, in its full size
}

func newReserve(dir string, size int64) reserve {
	r := reserve{path: filepath.Join(dir, "reserve"), size: size}
	info, err := os.Stat(r.path)
	r.held = err == nil && size > 0 && info.Size() == size
	return r
}

// giveUp frees the space. The file stays, empty: making it shorter needs no space of its own on any file system.
func (r *reserve) giveUp() error {
	err := os.Truncate(r.path, 0)
	if err != nil {
		return err
	}
	r.held = false
	return nil
}

// clean removes what a process that was killed left of a reserve that it was writing. If it cannot, the next write says
// so.
func (r *reserve) clean() {
	_ = os.Remove(r.part())
}

func (r *reserve) part() string { return r.path + ".part" }

// write makes the file as long as there is room. Its content cannot be compressed, since a file system that compresses
// would otherwise not set the space aside, and it is written under another name first, so that a file of this name and
// size is always a whole one.
func (r *reserve) write(room func() bool) error {
	err := fill(r.part(), r.size, room)
	if err != nil {
		removal := os.Remove(r.part())
		if removal != nil && !errors.Is(removal, fs.ErrNotExist) {
			return errors.Join(err, removal)
		}
		return err
	}
	err = os.Rename(r.part(), r.path)
	if err != nil {
		return fmt.Errorf("write reserve: %w", err)
	}
	return nil
}

func fill(path string, size int64, room func() bool) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write reserve: %w", err)
	}
	noise := rand.NewChaCha8([32]byte{})
	for written := int64(0); written < size; {
		if !room() {
			return errors.Join(fmt.Errorf("write reserve: %w", errNoRoom), f.Close())
		}
		n, err := io.CopyN(f, noise, min(size-written, reserveChunk))
		if err != nil {
			return errors.Join(fmt.Errorf("write reserve: %w", err), f.Close())
		}
		written += n
	}
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write reserve: %w", err)
	}
	return nil
}

package badger

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFreeBytes(t *testing.T) {
	free, err := freeBytes(t.TempDir())
	if err != nil || free == 0 {
		t.Errorf("got %d, %v", free, err)
	}
	_, err = freeBytes(filepath.Join(t.TempDir(), "none"))
	if err == nil {
		t.Error("no error for a directory that is not there")
	}
}

// A file with holes would hold no space.
func TestReserveHasNoHoles(t *testing.T) {
	dir := t.TempDir()
	r := newReserve(dir, smallReserve)
	err := r.write(func() bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	err = unix.Stat(filepath.Join(dir, "reserve"), &st)
	if err != nil || st.Blocks*512 < smallReserve {
		t.Errorf("reserve of %d bytes takes up %d, %v", int64(smallReserve), st.Blocks*512, err)
	}
}

package badger

import "golang.org/x/sys/unix"

// freeBytes returns what an unprivileged process may still use. Linux counts blocks in units of the fragment size, which
// on some FUSE file systems is much smaller than the preferred block size (statfs(2)).
var freeBytes = func(dir string) (uint64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if err != nil {
		return 0, err
	}
	unit := uint64(st.Frsize)
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	return st.Bavail * unit, nil
}

//go:build darwin || freebsd

package badger

import "golang.org/x/sys/unix"

// freeBytes returns what an unprivileged process may still use. FreeBSD reports less than nothing when only the
// superuser's share is left.
var freeBytes = func(dir string) (uint64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if err != nil {
		return 0, err
	}
	if int64(st.Bavail) <= 0 {
		return 0, nil
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil
}

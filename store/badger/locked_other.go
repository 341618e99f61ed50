//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package badger

// whileClosed calls f. Here nobody can tell whether a process has the engine open before it is opened.
func whileClosed(_ string, f func() error) error { return f() }

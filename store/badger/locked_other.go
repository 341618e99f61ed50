//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package badger

// isLocked reports whether a process has the engine open. Here nobody can tell.
func isLocked(string) bool { return false }

//go:build !linux && !darwin && !freebsd

package badger

// freeBytes is nil where the free space cannot be asked for: there is no guard then.
var freeBytes func(dir string) (uint64, error)

//go:build !windows && !plan9 && !js && !wasip1 && !aix

package badger

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// whileClosed calls f while no process has the engine open, and none can open it: Badger holds a lock on the directory itself. f is
// told whether that is certain.
func whileClosed(dir string, f func(certain bool) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // ends our lock
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errOpenElsewhere
	}
	if err != nil {
		return fmt.Errorf("lock directory: %w", err)
	}
	return f(true)
}

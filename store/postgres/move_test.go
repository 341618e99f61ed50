//go:build postgres

package postgres

import (
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/store/storetest"
)

// What moves to PostgreSQL, and back, keeps its meaning.
func TestMove(t *testing.T) {
	database := func(t *testing.T, clock func() time.Time) store.Mover { return open(t, Options{Clock: clock}) }
	directory := func(t *testing.T, clock func() time.Time) store.Mover {
		s, err := badger.Open(badger.Options{
			Dir: t.TempDir(), Clock: clock, ReserveBytes: -1, FreeBytes: func(string) (uint64, error) { return 1 << 40, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("ToPostgreSQL", func(t *testing.T) { storetest.RunMove(t, directory, database) })
	t.Run("FromPostgreSQL", func(t *testing.T) { storetest.RunMove(t, database, directory) })
}

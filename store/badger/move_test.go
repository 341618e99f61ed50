package badger

import (
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/storetest"
)

func TestMove(t *testing.T) {
	mover := func(t *testing.T, clock func() time.Time) store.Mover { return open(t, Options{Clock: clock}) }
	storetest.RunMove(t, mover, mover)
}

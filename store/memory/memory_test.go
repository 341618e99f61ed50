package memory_test

import (
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(_ *testing.T, clock func() time.Time) store.Store {
		return memory.New(clock)
	})
}

//go:build postgres

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
	"github.com/edrgate/edrgate/store/storetest"
)

// Every test of the contract runs as the runtime role, over TLS.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, clock func() time.Time) store.Store {
		return open(t, Options{Clock: clock})
	})
}

func TestDurability(t *testing.T) {
	storetest.RunDurable(t, func(t *testing.T, clock func() time.Time) (store.Store, func(*testing.T) store.Store) {
		schema := newSchema(t)
		return open(t, Options{Schema: schema, Clock: clock}), func(t *testing.T) store.Store {
			return open(t, Options{Schema: schema, Clock: clock})
		}
	})
}

// The same through PgBouncer, which gives each transaction another connection: nothing is kept in a session.
func TestConformanceThroughPooler(t *testing.T) {
	pooler, err := pgtest.StartPooler(context.Background(), server, "edrgate", runtimePassword, "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := pooler.Stop()
		if err != nil {
			t.Error(err)
		}
	})
	storetest.Run(t, func(t *testing.T, clock func() time.Time) store.Store {
		return open(t, Options{DSN: parse(t, pooler.DSN("edrgate", "edrgate")), Clock: clock})
	})
}

func TestShared(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T, clock func() time.Time) (store.Store, store.Store) {
		schema := newSchema(t)
		return open(t, Options{Schema: schema, Clock: clock}), open(t, Options{Schema: schema, Clock: clock})
	})
}

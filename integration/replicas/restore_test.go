//go:build postgres

package replicas

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/internal/testkit"
)

// TestRestoredDatabase: the database is restored from an older dump, under gateways that run and while they are stopped.
// They notice; what had ended since the dump stays so; renewals wait until an operator says that the lost writes are lost,
// and then go on from where the consumers are.
func TestRestoredDatabase(t *testing.T) {
	t.Run("under running gateways", func(t *testing.T) { restoredDatabase(t, false) })
	t.Run("while they are stopped", func(t *testing.T) { restoredDatabase(t, true) })
}

func restoredDatabase(t *testing.T, stopped bool) {
	c := cluster.New(t, server, cluster.Options{})
	wallet := c.DIDs.Wallet("consumer")
	a, b := c.Gateways[0], c.Gateways[1]
	kept, over, young := cluster.NewFlow(wallet, false), cluster.NewFlow(wallet, true), cluster.NewFlow(wallet, false)
	held, gone := started(t, a, kept), started(t, b, over)
	terminated(t, a, cluster.NewFlow(wallet, false)) // so that the dump has a log
	dump := c.Dump()

	for range 3 {
		held = renewed(t, b, kept, held)
	}
	terminated(t, a, over)
	lost := started(t, a, young)
	for _, g := range c.Gateways {
		testkit.Eventually(t, "all have seen the end", func() bool { return g.Metric("edrgate_store_endings_remembered") == 1 })
		wantData(t, g, held.Access, http.StatusOK)
	}
	if stopped {
		for _, g := range c.Gateways {
			err := g.Stop()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	c.Restore(dump)
	if stopped {
		for _, g := range c.Gateways {
			g.Launch()
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	for _, g := range c.Gateways {
		watching.Go(func() {
			for ctx.Err() == nil {
				answer, err := g.Data(ctx, gone.Access)
				if err == nil && answer.Status == http.StatusOK {
					t.Errorf("%s serves a flow that had ended", g.Name)
					return
				}
			}
		})
	}
	for _, g := range c.Gateways {
		g.AwaitReady()
		testkit.Eventually(t, "the restore is noticed", func() bool { return g.Metric("edrgate_store_rollback") == 1 })
		testkit.Eventually(t, "what had ended is ended again", func() bool {
			answer, err := g.Data(timeout(t), gone.Access)
			return err == nil && answer.Status == refused(over)
		})
		testkit.Eventually(t, "what is known is served", func() bool {
			answer, err := g.Data(timeout(t), held.Access)
			return err == nil && answer.Status == http.StatusOK
		})
		_, answer, err := g.Renew(timeout(t), kept, held)
		if !isLater(answer, err) {
			t.Errorf("renewal before accept-restore at %s: %v, %v", g.Name, answer, err)
		}
		answer, err = g.Data(timeout(t), lost.Access)
		if !isLater(answer, err) && !(answer.Status == http.StatusOK && !stopped) { // it may be remembered
			t.Errorf("data of a flow that was lost, at %s: %v, %v", g.Name, answer, err)
		}
	}

	said, err := b.Edr("accept-restore")
	if err != nil || !strings.Contains(said, "Accepted. Renewals go on.") {
		t.Fatalf("accept-restore: %v: %s", err, said)
	}
	for _, g := range c.Gateways {
		testkit.Eventually(t, "all know that it is accepted", func() bool { return g.Metric("edrgate_store_rollback") == 0 })
		held = renewed(t, g, kept, held) // the first of them is newer than the record
		wantData(t, g, held.Access, http.StatusOK)
		_, answer, err := g.Renew(timeout(t), over, gone)
		if err != nil || answer.Status != http.StatusUnauthorized { // as Tractus-X says it
			t.Errorf("renewal of an ended flow at %s: %v, %v", g.Name, answer, err)
		}
	}
	cancel()
	watching.Wait()
	forward := 0.0
	for _, g := range c.Gateways {
		forward += g.Metric("edrgate_events_total", `event="rollforward"`)
	}
	if forward != 1 {
		t.Errorf("%v renewals were newer than the record, want the first", forward)
	}
	said, err = a.Edr("accept-restore")
	if err != nil || !strings.Contains(said, "Nothing to accept") {
		t.Errorf("a second accept-restore: %v: %s", err, said)
	}
}

package integration

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// TestKilledDuringRenewals: each consumer goes on with the token that it holds, whatever the process did not get to.
func TestKilledDuringRenewals(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			const flows, renewalsEach, killAfter = 20, 10, 100 // renewals
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			parties := make([]*party, flows)
			for i := range parties {
				parties[i] = newParty(g, p, hosts, fmt.Sprintf("consumer-%d", i), "weather")
			}

			var done atomic.Int32
			enough := make(chan struct{})
			refused := make([]error, flows)
			var wait sync.WaitGroup
			for i, c := range parties {
				wait.Go(func() {
					for range renewalsEach {
						answer, err := renewalOf(g, c.wallet, c.edr).trySend(g, g.client)
						if err != nil {
							return // the process is gone, and the consumer does not know what became of it
						}
						if answer.status == http.StatusOK {
							c.edr, err = c.edr.renewedBy(g, answer)
						}
						if err != nil || answer.status != http.StatusOK {
							refused[i] = failure{answer, err}
							return
						}
						if done.Add(1) == killAfter {
							close(enough)
						}
					}
				})
			}
			<-enough
			g.kill()
			wait.Wait()
			for _, err := range refused {
				if err != nil {
					t.Fatal(err)
				}
			}

			g.start()
			for _, c := range parties {
				wantData(t, g, "/", c.edr.access, "data of weather")
				c.edr = renew(g, c.wallet, c.edr)
				c.edr = renew(g, c.wallet, c.edr)
				wantData(t, g, "/", c.edr.access, "data of weather")
			}
			lost := g.scrape().value("edrgate_events_total", "event", "rollforward")
			if lost != 0 {
				t.Errorf("%v renewals were answered before they were durable", lost)
			}
		})
	}
}

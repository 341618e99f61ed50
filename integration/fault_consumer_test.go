package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestFaultRenewalSentFiveTimes: EDC's HTTP client sends the identical request up to five times.
func TestFaultRenewalSentFiveTimes(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			const times = 5
			weather := newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			before := g.scrape().value("edrgate_store_commits_total")
			r := renewalOf(g, c.wallet, c.edr)
			successors := map[string]bool{}
			for range times {
				renewed, err := c.edr.renewedBy(g, r.send(g).want(t, http.StatusOK))
				if err != nil {
					t.Fatal(err)
				}
				successors[renewed.refresh] = true
				wantData(t, g, "/", renewed.access, "data of weather")
			}
			if len(successors) != 1 || successors[c.edr.refresh] {
				t.Errorf("%d requests got %d refresh tokens", times, len(successors))
			}
			m := g.scrape()
			m.wantCount(g, 1, "edrgate_renewals_total", "result", "rotated")
			m.wantCount(g, times-1, "edrgate_renewals_total", "result", "replayed")
			// The renewal, and that the flow is used.
			if commits := m.value("edrgate_store_commits_total") - before; commits > 2 {
				t.Errorf("%d equal renewals made %v writes", times, commits)
			}
		})
	}
}

// TestFaultTwoWorkersOfOneConsumer hold different generations and renew in turn. The one that was overtaken is answered
// until the successor was used; after that its token is refused, which costs it nothing but a look at the shared EDR.
func TestFaultTwoWorkersOfOneConsumer(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	for _, p := range planes {
		c := newParty(g, p, newDIDHost(t), "consumer", "weather")
		old := renew(g, c.wallet, c.edr) // not of the first generation, which is good for life with Data Plane Signaling
		for range 3 {
			ahead := renew(g, c.wallet, old)
			behind := renew(g, c.wallet, old)
			if behind.refresh != ahead.refresh {
				t.Fatalf("%s: two workers with one refresh token got different ones", p.name())
			}
			next := renew(g, c.wallet, ahead)
			wantRenewalRefused(t, renewalOf(g, c.wallet, old).send(g), "with a refresh token whose successor was used")
			wantData(t, g, "/", old.access, "data of weather") // the flow lives
			old = next
		}
		wantData(t, g, "/", old.access, "data of weather")
	}
}

// TestFaultConsumersClockIsWrong: half a minute is nothing, ten minutes are refused by a text that says so.
func TestFaultConsumersClockIsWrong(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	for _, p := range planes {
		c := newParty(g, p, newDIDHost(t), "consumer", "weather")
		with := func(off time.Duration) renewal {
			r := renewalOf(g, c.wallet, c.edr)
			r.proof = "Bearer " + c.wallet.Proof(g.did, c.edr.access, time.Now().Add(off))
			return r
		}
		for _, off := range []time.Duration{30 * time.Second, -30 * time.Second} {
			renewed, err := c.edr.renewedBy(g, with(off).send(g).want(t, http.StatusOK))
			if err != nil {
				t.Fatal(err)
			}
			c.edr = renewed
		}
		for off, says := range map[time.Duration]string{10 * time.Minute: "fresh", -10 * time.Minute: "expired"} {
			answer := with(off).send(g)
			wantRenewalRefused(t, answer, "by a clock that is off by "+off.String())
			if !strings.Contains(answer.body, says) {
				t.Errorf("%s: a clock that is off by %s is not told so: %s", p.name(), off, answer.body)
			}
		}
		renew(g, c.wallet, c.edr)
	}
	testkit.Eventually(t, "the operator reads how much it is", func() bool {
		return strings.Contains(read(t, g.errorLog()), "in the future") && strings.Contains(read(t, g.errorLog()), "expired 5m")
	})
}

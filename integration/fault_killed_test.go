package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// The tests named TestFault are those of docs/faults.md that need no database.

// TestFaultKilledBeforeTheCommit: the process dies while a renewal waits for the consumer's DID document. Nothing has
// changed, and the same request, sent again, rotates.
func TestFaultKilledBeforeTheCommit(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, hosts, "consumer", "weather")
			release := hosts.hold()
			defer release()
			r := renewalOf(g, c.wallet, c.edr)
			unanswered := make(chan error, 1)
			go func() {
				_, err := r.trySend(g, g.client)
				unanswered <- err
			}()
			testkit.Eventually(t, "the gateway asks for the document", func() bool { return hosts.fetches() > 0 })
			g.kill()
			release()
			if <-unanswered == nil {
				t.Fatal("the renewal was answered")
			}

			g.start()
			if shown := showFlow(g, c.terms.flow); shown.Generation != 1 {
				t.Fatalf("the flow is at generation %d, want 1", shown.Generation)
			}
			wantOneSuccessor(t, g, c, r)
			wantData(t, g, "/", c.edr.access, "data of weather")
		})
	}
}

// TestFaultKilledBeforeTheAnswer: the rotation is durable, the consumer has not got the answer. It gets the same
// successor from the next process.
func TestFaultKilledBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			weather := newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			line := newSilentLine(t, g.public)
			client := &http.Client{Timeout: patience, Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, line.address())
				},
			}}
			r := renewalOf(g, c.wallet, c.edr)
			unanswered := make(chan error, 1)
			go func() {
				_, err := r.trySend(g, client)
				unanswered <- err
			}()
			lost, err := c.edr.renewedBy(g, line.swallowed(t).want(t, http.StatusOK))
			if err != nil {
				t.Fatal(err)
			}
			g.kill()
			line.cut()
			if <-unanswered == nil {
				t.Fatal("an answer came through the line")
			}

			g.start()
			renewed := wantOneSuccessor(t, g, c, r)
			if renewed.refresh != lost.refresh {
				t.Error("the answer that was lost had another successor")
			}
			wantData(t, g, "/", lost.access, "data of weather")
			renew(g, c.wallet, lost)
		})
	}
}

// wantOneSuccessor sends a renewal of the flow's first generation to its byte again, and once more with a new proof.
func wantOneSuccessor(t *testing.T, g *gateway, c *party, r renewal) edr {
	t.Helper()
	renewed, err := c.edr.renewedBy(g, r.send(g).want(t, http.StatusOK))
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.edr.renewedBy(g, renewalOf(g, c.wallet, c.edr).send(g).want(t, http.StatusOK))
	if err != nil {
		t.Fatal(err)
	}
	if renewed.refresh == c.edr.refresh || renewed.refresh != again.refresh {
		t.Error("the refresh token has not one successor")
	}
	if shown := showFlow(g, c.terms.flow); shown.Generation != 2 {
		t.Errorf("the flow is at generation %d, want 2", shown.Generation)
	}
	return renewed
}

// killsVariable says how often TestFaultKilledAgainAndAgain kills the process. `make soak` has 100.
const killsVariable = "KILLS"

// TestFaultKilledAgainAndAgain: no generation that was acknowledged is lost, no end that was acknowledged is undone, and
// the store opens each time.
func TestFaultKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	kills := 8
	if set := os.Getenv(killsVariable); set != "" {
		var err error
		kills, err = strconv.Atoi(set)
		if err != nil {
			t.Fatal(err)
		}
	}
	const flows, renewals = 10, 30 // before each kill
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := startGateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
	parties := make([]*party, flows)
	for i := range parties {
		parties[i] = newParty(g, planes[i%len(planes)], hosts, fmt.Sprintf("consumer-%d", i), "weather")
	}
	var ended []*party
	for kill := range kills {
		doomed := newParty(g, planes[kill%len(planes)], hosts, fmt.Sprintf("doomed-%d", kill), "weather")
		ended = append(ended, doomed)
		wrong := renewUntilKilled(t, g, parties, renewals, func() {
			planes[kill%len(planes)].terminate(g, doomed.terms.flow).want(t, planes[kill%len(planes)].done())
		})
		for _, err := range wrong {
			t.Fatalf("before kill %d: %v", kill+1, err)
		}
		g.start()
		for i, c := range parties {
			wantData(t, g, "/", c.edr.access, "data of weather")
			c.edr = renew(g, c.wallet, c.edr)
			if t.Failed() {
				t.Fatalf("consumer %d after kill %d", i, kill+1)
			}
		}
		for i, c := range ended {
			wantRefusal(t, g.get("/", c.edr.access), "terminated", planes[i%len(planes)].refused(), "")
		}
		if lost := g.scrape().value("edrgate_events_total", "event", "rollforward"); lost != 0 {
			t.Fatalf("kill %d: %v renewals were answered before they were durable", kill+1, lost)
		}
	}
	t.Logf("the process was killed %d times", kills)
}

// renewUntilKilled renews for all parties at once, acts when some renewals are done, and kills the process right after
// that. It returns what was answered and must not have been.
func renewUntilKilled(t *testing.T, g *gateway, parties []*party, after int32, act func()) []error {
	t.Helper()
	var done atomic.Int32
	var killed atomic.Bool
	enough := make(chan struct{})
	wrong := make(chan error, len(parties))
	var wait sync.WaitGroup
	for _, c := range parties {
		wait.Go(func() {
			for !killed.Load() {
				answer, err := renewalOf(g, c.wallet, c.edr).trySend(g, g.client)
				if err != nil && done.Load() >= after {
					return // the process is gone, and the consumer does not know what became of it
				}
				if err == nil && answer.status == http.StatusOK {
					c.edr, err = c.edr.renewedBy(g, answer)
				}
				if err != nil || answer.status != http.StatusOK {
					wrong <- failure{answer, err}
					return
				}
				if done.Add(1) == after {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
		act()
	case err := <-wrong:
		wrong <- err
	}
	killed.Store(true)
	g.kill()
	wait.Wait()
	close(wrong)
	var all []error
	for err := range wrong {
		all = append(all, err)
	}
	return all
}

// TestFaultStoppedDuringARenewal: what has come in is carried out and answered before the process ends.
func TestFaultStoppedDuringARenewal(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, hosts, "consumer", "weather")
			release := hosts.hold()
			defer release()
			r := renewalOf(g, c.wallet, c.edr)
			type result struct {
				answer reply
				err    error
			}
			answered := make(chan result, 1)
			go func() {
				answer, err := r.trySend(g, g.client)
				answered <- result{answer, err}
			}()
			testkit.Eventually(t, "the gateway asks for the document", func() bool { return hosts.fetches() > 0 })
			err := g.process.Process.Signal(syscall.SIGTERM)
			if err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "nobody is let in any more", func() bool { return !answers(g.public) })
			release()
			got := <-answered
			if got.err != nil {
				t.Fatal(got.err)
			}
			renewed, err := c.edr.renewedBy(g, got.answer.want(t, http.StatusOK))
			if err != nil {
				t.Fatal(err)
			}
			err = g.awaitExit(syscall.SIGTERM)
			if err != nil {
				t.Fatalf("the process ended with %v", err)
			}
			g.start()
			wantData(t, g, "/", renewed.access, "data of weather")
			renew(g, c.wallet, renewed)
			if lost := g.scrape().value("edrgate_events_total", "event", "rollforward"); lost != 0 {
				t.Error("the renewal was answered before it was durable")
			}
		})
	}
}

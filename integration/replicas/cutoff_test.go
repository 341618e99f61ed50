//go:build postgres

package replicas

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/replica"
)

// TestCutOff: no gateway reaches the database. Nobody is told no for what is fine; endings are taken and hold where they
// were asked for; data is served until max_staleness and then waits. Back, all goes on without anybody's doing, and what has
// ended is ended everywhere. With SOAK it is 30 s at the default max_staleness.
func TestCutOff(t *testing.T) {
	staleness, lasts := shortStaleness, 3*shortStaleness
	if os.Getenv("SOAK") != "" {
		staleness, lasts = replica.DefaultMaxStaleness, 30*time.Second
	}
	c := cluster.New(t, server, cluster.Options{MaxStaleness: staleness})
	wallet := c.DIDs.Wallet("consumer")
	type party struct {
		*cluster.Flow
		tokens cluster.Tokens
	}
	newParty := func(i int) party {
		p := party{Flow: cluster.NewFlow(wallet, i%2 == 1)}
		p.tokens = started(t, c.Gateways[i%len(c.Gateways)], p.Flow)
		for _, g := range c.Gateways {
			wantData(t, g, p.tokens.Access, http.StatusOK)
		}
		return p
	}
	var kept, ending []party // of the latter, each gateway is to end the one with its number
	for i := range 4 {
		kept = append(kept, newParty(i))
	}
	for i := range c.Gateways {
		ending = append(ending, newParty(i))
	}

	c.Gateways[0].Link.Cut()
	c.Gateways[1].Link.Cut()
	err := c.Gateways[2].Link.Swallow()
	if err != nil {
		t.Fatal(err)
	}
	cut := time.Now()

	served, waited := make([]int, len(c.Gateways)), make([]int, len(c.Gateways))
	var asking sync.WaitGroup
	for i, g := range c.Gateways {
		asking.Go(func() {
			for n := 0; time.Since(cut) < lasts; n++ {
				p := kept[n%len(kept)]
				sent := time.Since(cut)
				answer, err := g.Data(timeout(t), p.tokens.Access)
				switch {
				case err == nil && answer.Status == http.StatusOK && sent < staleness:
					served[i]++
				case isLater(answer, err):
					waited[i]++
				default:
					t.Errorf("data at %s, %s after the cut: %v, %v", g.Name, sent, answer, err)
					return
				}
			}
		})
		asking.Go(func() {
			for n := 0; time.Since(cut) < lasts; n++ {
				problem := storeless(t, g, kept[n%len(kept)].Flow, kept[n%len(kept)].tokens, wallet)
				if problem != "" {
					t.Errorf("at %s: %s", g.Name, problem)
					return
				}
			}
		})
		asking.Go(func() {
			answer, err := g.Terminate(timeout(t), ending[i].Flow)
			if err != nil || answer.Status != ended(ending[i].Flow) {
				t.Errorf("terminate at %s: %v, %v", g.Name, answer, err)
			}
			for time.Since(cut) < lasts {
				answer, err := g.Data(timeout(t), ending[i].tokens.Access)
				if err != nil || answer.Status != refused(ending[i].Flow) {
					t.Errorf("data of an ended flow where it was ended, %s: %v, %v", g.Name, answer, err)
					return
				}
			}
		})
	}
	asking.Wait()
	if slices.Contains(served, 0) || slices.Contains(waited, 0) {
		t.Errorf("served %v, and told to come later %v", served, waited)
	}

	c.Gateways[0].Link.Mend()
	c.Gateways[1].Link.Mend()
	c.Gateways[2].Link.Release(t.Context())
	everywhere := func(p party) bool {
		for _, g := range c.Gateways {
			answer, err := g.Data(timeout(t), p.tokens.Access)
			if err != nil || answer.Status != refused(p.Flow) {
				return false
			}
		}
		return true
	}
	mended := time.Now()
	for _, p := range ending {
		testkit.Eventually(t, "what was ended is ended everywhere", func() bool { return everywhere(p) })
	}
	t.Logf("%s after the cut of %s what was ended meanwhile was ended everywhere; each gateway served %v times and then said %v times to come later",
		time.Since(mended).Round(time.Millisecond), lasts, served, waited)
	for i, p := range kept {
		for _, g := range c.Gateways {
			testkit.Eventually(t, "a flow is served again", func() bool {
				answer, err := g.Data(timeout(t), p.tokens.Access)
				if !isLater(answer, err) && answer.Status != http.StatusOK {
					t.Fatalf("data after the cut: %v, %v", answer, err)
				}
				return answer.Status == http.StatusOK
			})
		}
		renewed(t, c.Gateways[(i+1)%len(c.Gateways)], p.Flow, p.tokens)
	}
	for _, g := range c.Gateways {
		if !everywhere(ending[0]) {
			t.Error("an ended flow came back")
		}
		if g.Metric("edrgate_events_total", `event="journaled"`) != 1 {
			t.Errorf("%s had not one ending in its journal", g.Name)
		}
	}
}

// isLater reports whether an answer is "cannot tell", with the time to come again.
func isLater(answer cluster.Reply, err error) bool {
	return err == nil && answer.Status == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") != ""
}

// storeless asks for what cannot be done without the store, and returns what was not answered with "later".
func storeless(t *testing.T, g *cluster.Gateway, f *cluster.Flow, tokens cluster.Tokens, wallet *testkit.Wallet) string {
	for name, ask := range map[string]func(context.Context) (cluster.Reply, error){
		"renewal": func(ctx context.Context) (cluster.Reply, error) {
			_, answer, err := g.Renew(ctx, f, tokens)
			return answer, err
		},
		"start": func(ctx context.Context) (cluster.Reply, error) {
			_, answer, err := g.StartFlow(ctx, cluster.NewFlow(wallet, f.Classic))
			return answer, err
		},
		"resume": func(ctx context.Context) (cluster.Reply, error) {
			_, answer, err := g.Resume(ctx, f)
			return answer, err
		},
	} {
		answer, err := ask(timeout(t))
		if !isLater(answer, err) {
			return fmt.Sprintf("%s: %v, %v", name, answer, err)
		}
	}
	return ""
}

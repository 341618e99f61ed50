//go:build postgres

package replicas

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
)

// requestTimeout is how long a client waits, as EDC's does.
const requestTimeout = 30 * time.Second

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	t.Cleanup(cancel)
	return ctx
}

// started returns a flow that was started at a gateway, with its tokens.
func started(t testing.TB, g *cluster.Gateway, f *cluster.Flow) cluster.Tokens {
	t.Helper()
	tokens, answer, err := g.StartFlow(timeout(t), f)
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("start at %s: %v, %v", g.Name, answer, err)
	}
	return tokens
}

func renewed(t testing.TB, g *cluster.Gateway, f *cluster.Flow, held cluster.Tokens) cluster.Tokens {
	t.Helper()
	tokens, answer, err := g.Renew(timeout(t), f, held)
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("renewal at %s: %v, %v", g.Name, answer, err)
	}
	return tokens
}

func wantData(t testing.TB, g *cluster.Gateway, access string, status int) cluster.Reply {
	t.Helper()
	answer, err := g.Data(timeout(t), access)
	if err != nil || answer.Status != status || status == http.StatusOK && answer.Body != cluster.Payload {
		t.Fatalf("data at %s: %v, %v; want %d", g.Name, answer, err, status)
	}
	return answer
}

func terminated(t testing.TB, g *cluster.Gateway, f *cluster.Flow) {
	t.Helper()
	answer, err := g.Terminate(timeout(t), f)
	if err != nil || answer.Status != ended(f) {
		t.Fatalf("terminate at %s: %v, %v", g.Name, answer, err)
	}
}

// ended is the status of an ending that was taken.
func ended(f *cluster.Flow) int {
	if f.Classic {
		return http.StatusNoContent
	}
	return http.StatusOK
}

// refused is the status of a data request whose flow has ended.
func refused(f *cluster.Flow) int {
	if f.Classic {
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// TestParallelRenewalsAtAllReplicas: an EDC client sends a renewal again up to five times, and a load balancer gives each
// to another gateway. A 4xx for one of them would end the transfer.
func TestParallelRenewalsAtAllReplicas(t *testing.T) {
	const parallel = 64
	c := cluster.New(t, server, cluster.Options{})
	for _, classic := range []bool{false, true} {
		f := cluster.NewFlow(c.DIDs.Wallet("consumer"), classic)
		first := started(t, c.Gateways[0], f)
		var wait sync.WaitGroup
		successors := make([]cluster.Tokens, parallel)
		failures := make([]string, parallel)
		for i := range parallel {
			g := c.Gateways[i%len(c.Gateways)]
			wait.Go(func() {
				tokens, answer, err := g.Renew(timeout(t), f, first)
				if err != nil || answer.Status != http.StatusOK {
					failures[i] = g.Name + ": " + answer.String()
				}
				successors[i] = tokens
			})
		}
		wait.Wait()
		for i, s := range successors {
			if failures[i] != "" {
				t.Fatal(failures[i])
			}
			if s.Refresh != successors[0].Refresh || s.Refresh == first.Refresh {
				t.Fatal("one refresh token has two successors")
			}
			wantData(t, c.Gateways[(i+1)%len(c.Gateways)], s.Access, http.StatusOK)
		}
		next := renewed(t, c.Gateways[1], f, successors[0])
		if again := renewed(t, c.Gateways[2], f, successors[1]); again.Refresh != next.Refresh {
			t.Error("the successor has two successors")
		}
		terminated(t, c.Gateways[2], f)
		for _, g := range c.Gateways {
			c.Eventually("the end is known at "+g.Name, func() bool {
				answer, err := g.Data(timeout(t), next.Access)
				return err == nil && answer.Status == refused(f)
			})
		}
	}
	rotated := 0.0
	for _, g := range c.Gateways {
		rotated += g.Metric("edrgate_renewals_total", `result="rotated"`)
	}
	if rotated != 4 {
		t.Errorf("%v renewals were rotations, want 2 of each flow", rotated)
	}
}

//go:build postgres

package faults

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
)

// requestTimeout is how long a client waits, as EDC's does.
const requestTimeout = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), requestTimeout)
	t.Cleanup(cancel)
	return ctx
}

// newServer starts a database server of the test's own, since it will not survive.
func newServer(t *testing.T) *pgtest.Server {
	t.Helper()
	server, err := cluster.StartServer(context.Background())
	return stopped(t, server, err)
}

// newFollower starts a standby that takes over later.
func newFollower(t *testing.T, primary *pgtest.Server) *pgtest.Server {
	t.Helper()
	server, err := primary.Follower(context.Background())
	return stopped(t, server, err)
}

// stopped sees to it that a server ends with the test.
func stopped(t *testing.T, server *pgtest.Server, err error) *pgtest.Server {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := server.Stop()
		if err != nil {
			t.Error(err)
		}
	})
	return server
}

// takeOver promotes a standby, to which all gateways' lines lead from then on.
func takeOver(t *testing.T, c *cluster.Cluster, standby *pgtest.Server) {
	t.Helper()
	err := standby.Promote(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c.Server = standby
	for _, g := range c.Gateways {
		err = g.Link.Lead(standby.Address())
		if err != nil {
			t.Fatal(err)
		}
	}
}

// transfer is a flow with what its consumer holds.
type transfer struct {
	*cluster.Flow
	tokens cluster.Tokens
}

// begin starts a flow at a gateway.
func begin(t *testing.T, c *cluster.Cluster, g *cluster.Gateway, classic bool) *transfer {
	t.Helper()
	f := cluster.NewFlow(c.DIDs.Wallet("consumer"), classic)
	tokens, answer, err := g.StartFlow(within(t), f)
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("start at %s: %v, %v", g.Name, answer, err)
	}
	return &transfer{f, tokens}
}

// renew renews at a gateway, which has to.
func (f *transfer) renew(t *testing.T, g *cluster.Gateway) {
	t.Helper()
	tokens, answer, err := g.Renew(within(t), f.Flow, f.tokens)
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("renewal at %s: %v, %v", g.Name, answer, err)
	}
	f.tokens = tokens
}

// wantComeAgain checks that a renewal is told to come again, and nothing else.
func (f *transfer) wantComeAgain(t *testing.T, g *cluster.Gateway) {
	t.Helper()
	_, answer, err := g.Renew(within(t), f.Flow, f.tokens)
	if err != nil || answer.Status != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
		t.Errorf("renewal at %s: %v, %v; want 503 with Retry-After", g.Name, answer, err)
	}
}

// end terminates the flow.
func (f *transfer) end(t *testing.T, g *cluster.Gateway) {
	t.Helper()
	want := http.StatusOK
	if f.Classic {
		want = http.StatusNoContent
	}
	answer, err := g.Terminate(within(t), f.Flow)
	if err != nil || answer.Status != want {
		t.Fatalf("terminate at %s: %v, %v", g.Name, answer, err)
	}
}

// refused is the status of a data request whose flow has ended.
func (f *transfer) refused() int {
	if f.Classic {
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// status is that of a data request.
func (f *transfer) status(t *testing.T, g *cluster.Gateway) int {
	t.Helper()
	answer, err := g.Data(within(t), f.tokens.Access)
	if err != nil {
		t.Fatalf("data at %s: %v", g.Name, err)
	}
	return answer.Status
}

func (f *transfer) wantStatus(t *testing.T, g *cluster.Gateway, want int) {
	t.Helper()
	if got := f.status(t, g); got != want {
		t.Errorf("data at %s: status %d, want %d", g.Name, got, want)
	}
}

// customers renew flows at all gateways in turn until they are told to stop, and keep what they were answered.
type customers struct {
	stop  context.CancelFunc
	works sync.WaitGroup

	mu      sync.Mutex
	renewed int
	wrong   []string
}

// renewing lets each flow be renewed again and again. Answers but 200 and 503 are wrong. What the consumer does not learn it
// asks for again with what it holds.
func renewing(t *testing.T, c *cluster.Cluster, flows []*transfer) *customers {
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	all := &customers{stop: stop}
	for i, f := range flows {
		all.works.Go(func() {
			for turn := i; ctx.Err() == nil; turn++ {
				g := c.Gateways[turn%len(c.Gateways)]
				tokens, answer, err := g.Renew(ctx, f.Flow, f.tokens)
				if err != nil {
					continue // ctx has ended, or so has the connection
				}
				all.mu.Lock()
				switch answer.Status {
				case http.StatusOK:
					f.tokens = tokens
					all.renewed++
				case http.StatusServiceUnavailable:
				default:
					all.wrong = append(all.wrong, fmt.Sprintf("renewal at %s: %v", g.Name, answer))
				}
				all.mu.Unlock()
			}
		})
	}
	return all
}

// soFar is how many renewals have succeeded.
func (c *customers) soFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

// done ends the renewals and reports what was wrong.
func (c *customers) done(t *testing.T) {
	t.Helper()
	c.stop()
	c.works.Wait()
	for _, wrong := range c.wrong {
		t.Error(wrong)
	}
}

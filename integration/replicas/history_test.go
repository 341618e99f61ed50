//go:build postgres

package replicas

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/integration/history"
	"github.com/edrgate/edrgate/internal/testkit"
)

const (
	shortStaleness = 2 * time.Second // max_staleness of these tests
	historyLength  = 3 * time.Second // of what the clients do in one history
	historyFlows   = 6
	historyClients = 9
	historyTimeout = 3 * time.Second // of a request
	decideWithin   = time.Minute
)

// seeds are what the histories are made from: SEED, or as many as SEEDS says.
func seeds(t *testing.T) []uint64 {
	t.Helper()
	number := func(name string, standard uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return standard
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	only := number("SEED", 0)
	if only != 0 {
		return []uint64{only}
	}
	var all []uint64
	for seed := range number("SEEDS", 10) {
		all = append(all, seed+1)
	}
	return all
}

// TestHistories: clients renew, suspend, resume, terminate and request data at three gateways, which are killed, stopped
// and cut off meanwhile, as is the database. What went through the store is linearizable for each flow, with one successor
// of each refresh token. Data is another matter: a gateway may serve what was open within max_staleness before, and never
// what it has seen end itself. Afterwards all is as it should be without anybody's doing.
//
// The seed decides what the clients ask for and what fails when. What is under way then is up to the machine.
func TestHistories(t *testing.T) {
	c := cluster.New(t, server, cluster.Options{MaxStaleness: shortStaleness})
	tried, undecided := seeds(t), 0
	for _, seed := range tried {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			w := newWorld(t, c)
			var failing sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			h, err := history.Workload{
				Seed: seed, Nodes: w.nodes(), Flows: historyFlows, Clients: historyClients, For: historyLength, Think: 40 * time.Millisecond,
				Timeout: historyTimeout, Classic: isClassic,
				Begin: func() { failing.Go(func() { w.fail(ctx, seed) }) },
			}.Run(t.Context())
			cancel()
			failing.Wait()
			w.heal()
			if err != nil {
				t.Fatal(err)
			}
			operations := w.markLate(h)
			t.Logf("seed %d: %s; %s", seed, counts(operations), strings.Join(w.failed, ", "))
			err = history.Check(operations, decideWithin)
			switch {
			case errors.Is(err, history.ErrUndecided):
				undecided++
				t.Log(err)
			case err != nil:
				t.Error(err)
			}
			err = history.Served(operations, shortStaleness)
			if err != nil {
				t.Error(err)
			}
			w.settles(operations)
			for _, complaint := range w.complaints {
				t.Error(complaint)
			}
		})
	}
	// Undecided is neither right nor wrong: the search for an order grows with the operations whose outcome is not known. One
	// schedule of a hundred was seen to be so within a minute; if many are, the test shows nothing.
	if undecided*10 > len(tried) {
		t.Errorf("%d of %d histories are not decided", undecided, len(tried))
	}
}

func isClassic(flow int) bool { return flow%2 == 1 }

func counts(operations []history.Operation) string {
	var texts []string
	for _, kind := range []history.Kind{history.Renew, history.Suspend, history.Resume, history.Terminate, history.Data} {
		texts = append(texts, fmt.Sprintf("%s %d/%d/%d", kind, history.Count(operations, kind, history.Done),
			history.Count(operations, kind, history.Refused), history.Count(operations, kind, history.Unknown)))
	}
	late := 0
	for _, o := range operations {
		if o.Late {
			late++
		}
	}
	return fmt.Sprintf("done/refused/unknown: %s; %d late", strings.Join(texts, ", "), late)
}

// world is one history: flows of its own at a cluster.
type world struct {
	*cluster.Cluster
	t     *testing.T
	flows []*cluster.Flow

	failed []string // what was done to the cluster

	mu         sync.Mutex
	complaints []string
}

func newWorld(t *testing.T, c *cluster.Cluster) *world {
	w := &world{Cluster: c, t: t}
	wallet := c.DIDs.Wallet("consumer")
	for f := range historyFlows {
		w.flows = append(w.flows, cluster.NewFlow(wallet, isClassic(f)))
	}
	return w
}

func (w *world) nodes() []history.Node {
	var all []history.Node
	for _, g := range w.Gateways {
		all = append(all, &node{world: w, g: g})
	}
	return all
}

// node is a gateway as a history sees it.
type node struct {
	*world
	g *cluster.Gateway
}

// answer tells what a client knows.
func (n *node) answer(reply cluster.Reply, tokens cluster.Tokens, err error) history.Answer {
	switch {
	case reply.Status == http.StatusServiceUnavailable && err == nil && reply.Header.Get("Retry-After") == "":
		n.complain("503 without Retry-After: " + reply.Body)
		fallthrough
	case err != nil || reply.Status >= http.StatusInternalServerError:
		return history.Answer{Outcome: history.Unknown}
	case reply.Status >= http.StatusBadRequest:
		return history.Answer{Outcome: history.Refused, Reason: reply.String()}
	}
	return history.Answer{Outcome: history.Done, Tokens: history.Tokens(tokens)}
}

func (n *node) complain(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.complaints = append(n.complaints, n.g.Name+": "+text)
}

func (n *node) Start(ctx context.Context, flow int) history.Answer {
	tokens, reply, err := n.g.StartFlow(ctx, n.flows[flow])
	return n.answer(reply, tokens, err)
}

func (n *node) Renew(ctx context.Context, flow int, held history.Tokens) history.Answer {
	tokens, reply, err := n.g.Renew(ctx, n.flows[flow], cluster.Tokens(held))
	return n.answer(reply, tokens, err)
}

func (n *node) Suspend(ctx context.Context, flow int) history.Answer {
	reply, err := n.g.Suspend(ctx, n.flows[flow])
	return n.answer(reply, cluster.Tokens{}, err)
}

func (n *node) Resume(ctx context.Context, flow int) history.Answer {
	tokens, reply, err := n.g.Resume(ctx, n.flows[flow])
	return n.answer(reply, tokens, err)
}

func (n *node) Terminate(ctx context.Context, flow int) history.Answer {
	reply, err := n.g.Terminate(ctx, n.flows[flow])
	return n.answer(reply, cluster.Tokens{}, err)
}

func (n *node) Data(ctx context.Context, flow int, access string) history.Answer {
	reply, err := n.g.Data(ctx, access)
	a := n.answer(reply, cluster.Tokens{}, err)
	switch {
	case a.Outcome == history.Done && reply.Body != cluster.Payload:
		return history.Answer{Outcome: history.Refused, Reason: "another answer than the backend's"}
	case strings.Contains(a.Reason, `"code":"flow_suspended"`):
		a.Reason = history.IsSuspended
	case strings.Contains(a.Reason, "AccessTokenData with ID") && reply.Status == refused(n.flows[flow]): // as EDC says it
		a.Reason = history.HasEnded
	}
	return a
}

// markLate marks what was acknowledged from a journal: the log of the gateway tells.
func (w *world) markLate(h *history.History) []history.Operation {
	operations := h.Operations()
	for at, g := range w.Gateways {
		lines := bufio.NewScanner(strings.NewReader(g.Log()))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct {
				Time            float64 `json:"ts"`
				Message         string  `json:"msg"`
				Flow, Operation string
			}
			if json.Unmarshal(lines.Bytes(), &line) != nil || !strings.HasPrefix(line.Message, "flow ended here and in the journal") {
				continue
			}
			when := time.UnixMicro(int64(line.Time * 1e6)).Sub(h.Began)
			for i, o := range operations {
				const apart = 10 * time.Millisecond // of two clocks
				if o.Node == at && w.flows[o.Flow].ID == line.Flow && string(o.Kind) == line.Operation && o.Call-apart <= when && when <= o.Return+apart {
					operations[i].Late = true
				}
			}
		}
		if lines.Err() != nil {
			w.t.Fatal(lines.Err())
		}
	}
	return operations
}

// settles checks that all gateways come to the same: what was acknowledged as ended is refused for ever, and the rest can
// be resumed and is served.
func (w *world) settles(operations []history.Operation) {
	w.t.Helper()
	newest := make([]string, len(w.flows))
	over := make([]bool, len(w.flows))
	maybe := make([]bool, len(w.flows))
	for _, o := range operations {
		if o.Answer.Tokens.Access != "" {
			newest[o.Flow] = o.Answer.Tokens.Access
		}
		over[o.Flow] = over[o.Flow] || o.Kind == history.Terminate && o.Answer.Outcome == history.Done
		maybe[o.Flow] = maybe[o.Flow] || o.Kind == history.Terminate
	}
	for i, f := range w.flows {
		var last string
		everywhere := func(status int) bool {
			for _, g := range w.Gateways {
				answer, err := g.Data(timeout(w.t), newest[i])
				if err != nil || answer.Status != status {
					last = fmt.Sprintf("flow %s: %s says %v, %v", f.ID, g.Name, answer, err)
					return false
				}
			}
			return true
		}
		w.t.Cleanup(func() {
			if w.t.Failed() && last != "" {
				w.t.Logf("%s\n%s", last, w.logOf(f))
			}
		})
		if over[i] {
			testkit.Eventually(w.t, "an ended flow is refused everywhere", func() bool { return everywhere(refused(f)) })
			continue
		}
		testkit.Eventually(w.t, "a flow goes on everywhere", func() bool {
			_, answer, err := w.Gateways[i%len(w.Gateways)].Resume(timeout(w.t), f)
			if err == nil && answer.Status == http.StatusConflict && maybe[i] {
				return everywhere(refused(f)) // an ending that was not acknowledged has taken effect
			}
			return err == nil && answer.Status == http.StatusOK && everywhere(http.StatusOK)
		})
	}
}

// logOf is what the gateways have logged about a flow.
func (w *world) logOf(f *cluster.Flow) string {
	var lines []string
	for _, g := range w.Gateways {
		for line := range strings.Lines(g.Log()) {
			if strings.Contains(line, f.ID) {
				lines = append(lines, g.Name+": "+line)
			}
		}
	}
	return strings.Join(lines, "")
}

package history

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Node is a gateway as control planes and consumers see it. Flows have numbers.
type Node interface {
	Start(ctx context.Context, flow int) Answer
	Renew(ctx context.Context, flow int, held Tokens) Answer
	Suspend(ctx context.Context, flow int) Answer
	Resume(ctx context.Context, flow int) Answer
	Terminate(ctx context.Context, flow int) Answer
	Data(ctx context.Context, flow int, access string) Answer
}

// Workload is what clients do. The same seed has each client ask for the same in the same order; what they present depends
// on what they were told.
type Workload struct {
	Seed    uint64
	Nodes   []Node
	Flows   int
	Clients int
	For     time.Duration
	Think   time.Duration       // longest pause of a client between two requests
	Timeout time.Duration       // of a request
	Classic func(flow int) bool // default: none
	Begin   func()              // called when the flows are started; default: nothing
}

// Run starts the flows, one after the other, and lets the clients work. The error is that of a start.
func (w Workload) Run(ctx context.Context) (*History, error) {
	h := &History{Began: time.Now()}
	known := make([]*knowledge, w.Flows)
	for f := range known {
		known[f] = new(knowledge)
		node := f % len(w.Nodes)
		answer := h.Record(w.operation(0, node, f, Start), func() Answer { return w.Nodes[node].Start(ctx, f) })
		if answer.Outcome != Done {
			return nil, errors.New("a flow was not started: " + answer.Reason)
		}
		known[f].learn(answer.Tokens)
	}
	if w.Begin != nil {
		w.Begin()
	}
	ctx, cancel := context.WithTimeout(ctx, w.For)
	defer cancel()
	var working sync.WaitGroup
	for client := range w.Clients {
		working.Go(func() {
			random := rand.New(rand.NewPCG(w.Seed, uint64(client)))
			for ctx.Err() == nil {
				w.ask(h, client, random, known)
				time.Sleep(time.Duration(random.Int64N(int64(w.Think) + 1)))
			}
		})
	}
	working.Wait()
	return h, nil
}

func (w Workload) operation(client, node, f int, kind Kind) Operation {
	return Operation{Client: client, Node: node, Flow: f, Kind: kind, Classic: w.Classic != nil && w.Classic(f)}
}

// ask makes one request. It ends by its own timeout and not with the workload: what is asked for is to be answered.
func (w Workload) ask(h *History, client int, random *rand.Rand, known []*knowledge) {
	ctx, cancel := context.WithTimeout(context.Background(), w.Timeout)
	defer cancel()
	at, f, dice, age := random.IntN(len(w.Nodes)), random.IntN(w.Flows), random.IntN(1000), random.IntN(10)
	node, held := w.Nodes[at], known[f]
	switch {
	case dice < 400:
		access := held.old(age).Access
		h.Record(w.operation(client, at, f, Data), func() Answer { return node.Data(ctx, f, access) })
	case dice < 750:
		tokens := held.old(age)
		o := w.operation(client, at, f, Renew)
		o.Presented = tokens.Refresh
		held.learn(h.Record(o, func() Answer { return node.Renew(ctx, f, tokens) }).Tokens)
	case dice < 850:
		h.Record(w.operation(client, at, f, Suspend), func() Answer { return node.Suspend(ctx, f) })
	case dice < 995:
		h.Record(w.operation(client, at, f, Resume), func() Answer { return node.Resume(ctx, f) })
	default:
		h.Record(w.operation(client, at, f, Terminate), func() Answer { return node.Terminate(ctx, f) })
	}
}

// knowledge is what the consumers of a flow have been told: several replicas of one consumer, that share it late.
type knowledge struct {
	mu   sync.Mutex
	told []Tokens // one for each refresh token, oldest first
}

func (k *knowledge) learn(t Tokens) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.Refresh != "" && !slices.ContainsFunc(k.told, func(o Tokens) bool { return o.Refresh == t.Refresh }) {
		k.told = append(k.told, t)
	}
}

// old returns mostly the newest tokens, sometimes those before, seldom the first.
func (k *knowledge) old(age int) Tokens {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case age < 6:
		age = 0
	case age < 8:
		age = 1
	case age < 9:
		age = 2
	default:
		age = len(k.told) - 1
	}
	return k.told[max(0, len(k.told)-1-age)]
}

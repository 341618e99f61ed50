package history_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/history"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/replica"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

const (
	providerDID  = "did:web:provider.example"
	consumerDID  = "did:web:consumer.example"
	controlPlane = tokens.Caller("cp")
	maxStaleness = 300 * time.Millisecond
)

// planted is a store with a bug that a history must show.
type planted struct {
	store.Store
	noCompare bool // writes whatever was written meanwhile
	noResume  bool // a resume gets no entry in the log
}

func (p *planted) Update(ctx context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	plain := func(old store.Record) (store.Edit, error) {
		e, err := edit(old)
		if p.noResume && e.Event == string(tokens.Started) {
			e.Event = ""
		}
		return e, err
	}
	if !p.noCompare {
		return p.Store.Update(ctx, kind, id, plain)
	}
	old, err := p.Get(ctx, kind, id)
	if err != nil {
		return store.Record{}, err
	}
	e, err := plain(old)
	if errors.Is(err, store.ErrKeep) {
		return old, nil
	}
	if err != nil {
		return store.Record{}, err
	}
	runtime.Gosched()
	return p.Store.Update(ctx, kind, id, func(store.Record) (store.Edit, error) { return e, nil })
}

// node is a gateway without its sockets: the services and the follower of a process.
type node struct {
	service *tokens.Service
	wallet  *testkit.Wallet
	run     string // tells the flows of one history from those of another
	message *atomic.Int64
}

func (n *node) id(flow int) string { return fmt.Sprintf("flow-%s-%d", n.run, flow) }

func (n *node) next(flow int) tokens.Message {
	return tokens.Message{ProcessID: n.id(flow), MessageID: fmt.Sprintf("m%d", n.message.Add(1)), Dialect: tokens.DPS}
}

func answerOf(err error) history.Answer {
	switch {
	case err == nil:
		return history.Answer{Outcome: history.Done}
	case tokens.CodeOf(err) == tokens.CodeUnavailable:
		return history.Answer{Outcome: history.Unknown}
	case tokens.CodeOf(err) == tokens.CodeFlowEnded:
		return history.Answer{Outcome: history.Refused, Reason: history.HasEnded}
	case tokens.CodeOf(err) == tokens.CodeFlowSuspended:
		return history.Answer{Outcome: history.Refused, Reason: history.IsSuspended}
	}
	return history.Answer{Outcome: history.Refused, Reason: err.Error()}
}

func edrOf(edr *tokens.EDR, err error) history.Answer {
	a := answerOf(err)
	if err == nil {
		a.Tokens = history.Tokens{Access: edr.AccessToken.Reveal(), Refresh: edr.RefreshToken.Reveal()}
	}
	return a
}

func (n *node) Start(ctx context.Context, flow int) history.Answer {
	return edrOf(n.service.Start(ctx, controlPlane, tokens.StartRequest{
		Dialect: tokens.DPS, MessageID: "start-" + n.id(flow), ProcessID: n.id(flow), ProfileRenews: true,
		Profile: "https://w3id.org/dspace-sig/profile/http-pull",
		Terms:   tokens.Terms{Counterparty: consumerDID, Dataset: "asset-1", Agreement: "agreement-1"},
	}))
}

func (n *node) Renew(ctx context.Context, _ int, held history.Tokens) history.Answer {
	r, err := n.service.Renew(ctx, tokens.RenewRequest{RefreshToken: held.Refresh, Proof: n.wallet.Proof(providerDID, held.Access, time.Now())})
	a := answerOf(err)
	if err == nil {
		a.Tokens = history.Tokens{Access: r.AccessToken.Reveal(), Refresh: r.RefreshToken.Reveal()}
	}
	return a
}

func (n *node) Suspend(ctx context.Context, flow int) history.Answer {
	ending, err := n.service.Suspend(ctx, controlPlane, n.next(flow))
	if err == nil && ending.Outcome == tokens.OutOfState {
		return history.Answer{Outcome: history.Refused, Reason: history.HasEnded}
	}
	return answerOf(err)
}

func (n *node) Resume(ctx context.Context, flow int) history.Answer {
	return edrOf(n.service.Resume(ctx, controlPlane, n.next(flow)))
}

func (n *node) Terminate(ctx context.Context, flow int) history.Answer {
	_, err := n.service.Terminate(ctx, controlPlane, n.next(flow))
	return answerOf(err)
}

func (n *node) Data(ctx context.Context, _ int, access string) history.Answer {
	_, err := n.service.Verify(ctx, access, tokens.Request{Host: "data.provider.example", Path: "/x"}, &tokens.Site{AnyDataset: true})
	return answerOf(err)
}

type oneDID struct{ key crypto.PublicKey }

func (r oneDID) ResolveKey(context.Context, string, string) (crypto.PublicKey, error) {
	return r.key, nil
}

func (r oneDID) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return r.key, nil
}

type nobody struct{}

func (nobody) Lag(time.Duration)       {}
func (nobody) Staleness(time.Duration) {}
func (nobody) Rollback(bool)           {}
func (nobody) FollowError(string)      {}
func (nobody) Remembered(int)          {}

// nodes are three gateways over a store.
func nodes(t *testing.T, shared store.Store, run string) []history.Node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: key, State: tokens.KeyActive, Name: "active"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	wallet, messages := testkit.NewWallet(consumerDID), new(atomic.Int64)
	var all []history.Node
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()} // taken away after what follows
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for _, dir := range dirs {
		live := tokens.NewLive()
		service, err := tokens.New(tokens.Config{
			Participant: "default", DID: providerDID, Keys: ring, Store: shared, Live: live, Resolver: oneDID{wallet.Key.Public()},
			ControlPlanes: []string{string(controlPlane)}, PublicURL: "https://data.provider.example",
		})
		if err != nil {
			t.Fatal(err)
		}
		follower, err := replica.New(replica.Config{
			Store: shared, Memory: live, Repeater: live, Dir: dir, Poll: 20 * time.Millisecond, MaxStaleness: maxStaleness,
			Observer: nobody{}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		err = follower.Look(ctx)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { service.Run(ctx) })
		running.Go(func() {
			follower.Run(ctx)
			err := follower.Close()
			if err != nil {
				t.Error(err)
			}
		})
		all = append(all, &node{service: service, wallet: wallet, run: run, message: messages})
	}
	return all
}

// found says what the checks find in a history over a store.
func found(t *testing.T, shared store.Store, seed uint64, flows int) error {
	t.Helper()
	h, err := history.Workload{
		Seed: seed, Nodes: nodes(t, shared, fmt.Sprint(seed)), Flows: flows, Clients: 9, For: 1500 * time.Millisecond, Think: 20 * time.Millisecond,
		Timeout: 10 * time.Second,
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	operations := h.Operations()
	if history.Count(operations, history.Renew, history.Done) == 0 || history.Count(operations, history.Data, history.Done) == 0 {
		t.Fatal("nothing happened")
	}
	return errors.Join(history.Check(operations, time.Minute), history.Served(operations, maxStaleness))
}

// TestPlantedBugsAreFound: the checks that find nothing over PostgreSQL find what is known to be wrong, and nothing where
// nothing is.
func TestPlantedBugsAreFound(t *testing.T) {
	t.Parallel()
	for name, bug := range map[string]planted{
		"none":                    {},
		"no compare-and-swap":     {noCompare: true},
		"a resume not in the log": {noResume: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seeds := uint64(20) // a bug need not show at once
			flows := 4          // so that writes of one meet
			if bug.noResume {
				flows = 60 // so that a gateway hears of one by the log, and not by its own renewals
			}
			if bug == (planted{}) {
				seeds = 2
			}
			var err error
			for seed := uint64(1); seed <= seeds && err == nil; seed++ {
				shared := bug
				shared.Store = memory.New(nil)
				err = found(t, &shared, seed, flows)
			}
			if bug == (planted{}) && err != nil {
				t.Error(err)
			}
			if bug != (planted{}) && err == nil {
				t.Errorf("not found in %d histories", seeds)
			}
			t.Logf("found: %.400v", err)
		})
	}
}

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/tokens"
)

const (
	dataset      = "asset-1"
	controlPlane = "default" // the name of the only one in a configuration that names none

	// sampled is how many EDRs are kept, of flows all over the store.
	sampled = 1000

	// writers are how many starts or rewrites go on at once; the store puts them into few commits.
	writers = 512
)

// flowStore is a store full of started flows, as signaling leaves them.
type flowStore struct {
	dir     string
	public  string // host:port of the gateway that will have it
	signer  *rig.Signer
	flows   int
	wallets []*testkit.Wallet // of the consumers; none: the flows are of one whose DID nobody resolves

	edrs []flowEDR
}

type flowEDR struct {
	wallet *testkit.Wallet
	rig.EDR
}

// unresolved is the resolver of a service that starts flows and renews none.
type unresolved struct{}

var errUnresolved = errors.New("no DID is resolved here")

func (unresolved) ResolveKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errUnresolved
}

func (unresolved) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errUnresolved
}

// generate starts the flows through the service that the gateway has, without the messages around it.
func (s *flowStore) generate(ctx context.Context, progress func(string, ...any)) (err error) {
	disk, err := badger.Open(badger.Options{Dir: s.dir, ReserveBytes: -1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	service, err := s.service(disk)
	if err != nil {
		return err
	}
	every := max(1, s.flows/sampled)
	s.edrs = make([]flowEDR, (s.flows+every-1)/every)
	return inParallel(ctx, s.flows, func(i int) error {
		if i%10_000 == 0 {
			progress("%d flows: %d started", s.flows, i)
		}
		var wallet *testkit.Wallet
		consumer := "did:web:consumer.example"
		if len(s.wallets) > 0 {
			wallet = s.wallets[i%len(s.wallets)]
			consumer = wallet.DID
		}
		id := flowID(i)
		edr, err := service.Start(ctx, controlPlane, tokens.StartRequest{
			Dialect: tokens.Classic, ProcessID: id, Profile: "HttpData-PULL", ProfileRenews: true, BPN: "BPNL0000CONSUMER",
			Terms: tokens.Terms{Counterparty: consumer, Dataset: dataset, Agreement: "agreement-" + id, Source: &tokens.Source{
				Type: "HttpData", Properties: map[string]string{"baseUrl": "http://127.0.0.1:9/base", "proxyPath": "true", "header:X-Api-Key": id},
			}},
		})
		if err != nil {
			return err
		}
		if i%every == 0 {
			s.edrs[i/every] = flowEDR{wallet, rig.EDR{Access: edr.AccessToken.Reveal(), Refresh: edr.RefreshToken.Reveal()}}
		}
		return nil
	})
}

// flowID is as long as those of control planes.
func flowID(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

func (s *flowStore) service(over store.Store) (*tokens.Service, error) {
	key, err := s.signer.PEM()
	if err != nil {
		return nil, err
	}
	signer, err := tokens.ParseKey(key)
	if err != nil {
		return nil, err
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: signer, State: tokens.KeyActive, Name: "bench"}}, nil, nil)
	if err != nil {
		return nil, err
	}
	return tokens.New(tokens.Config{
		Participant: "default", DID: rig.ProviderDID, Keys: ring, Store: over, Live: tokens.NewLive(), Resolver: unresolved{},
		ControlPlanes: []string{controlPlane}, PublicURL: "http://" + s.public, TokenTTL: 24 * time.Hour,
	})
}

// rotate rewrites every record some times, in an order of its own each time, as renewals do. It returns how many were rewritten
// a second, and the bytes of the live records.
func (s *flowStore) rotate(ctx context.Context, times int, progress func(string, ...any)) (perSecond float64, live int64, err error) {
	disk, err := badger.Open(badger.Options{Dir: s.dir, ReserveBytes: -1})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	var bytes atomic.Int64
	start := time.Now()
	for turn := range times {
		progress("%d flows: rotation %d of %d", s.flows, turn+1, times)
		bytes.Store(0)
		order := rand.Perm(s.flows)
		err = inParallel(ctx, s.flows, func(i int) error {
			_, err := disk.Update(ctx, "flow", "default/"+flowID(order[i]), func(old store.Record) (store.Edit, error) {
				bytes.Add(int64(len(old.ID) + len(old.Data)))
				return store.Edit{Data: old.Data, Expires: old.Expires}, nil
			})
			return err
		})
		if err != nil {
			return 0, 0, err
		}
	}
	return float64(times*s.flows) / time.Since(start).Seconds(), bytes.Load(), nil
}

// inParallel calls f for 0 to n-1, many at a time, until one fails.
func inParallel(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				err := f(i)
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

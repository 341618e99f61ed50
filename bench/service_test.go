package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	badgerdb "github.com/dgraph-io/badger/v4"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

const (
	provider = "did:web:provider.example"
	consumer = "did:web:consumer.example"
)

var (
	here = tokens.Request{Host: "data.example", Path: "/public/x"}
	site = &tokens.Site{AnyDataset: true}
)

// knownKey is a resolver that has the consumer's key at hand, as a warm cache of DID documents has.
type knownKey struct{ key crypto.PublicKey }

func (k knownKey) ResolveKey(context.Context, string, string) (crypto.PublicKey, error) {
	return k.key, nil
}

func (k knownKey) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return k.key, nil
}

func newKey(b *testing.B) *ecdsa.PrivateKey {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	return key
}

func newService(b *testing.B, s store.Store, wallet *testkit.Wallet) *tokens.Service {
	b.Helper()
	return newServiceWith(b, s, wallet, newKey(b))
}

func newServiceWith(b *testing.B, s store.Store, wallet *testkit.Wallet, key *ecdsa.PrivateKey) *tokens.Service {
	b.Helper()
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: key, State: tokens.KeyActive, Name: "bench"}}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	service, err := tokens.New(tokens.Config{
		Participant: "default", DID: provider, Keys: ring, Store: s, Live: tokens.NewLive(),
		Resolver: knownKey{wallet.Key.Public()}, ControlPlanes: []string{"cp"}, PublicURL: "https://data.example/public",
	})
	if err != nil {
		b.Fatal(err)
	}
	return service
}

func startFlow(b *testing.B, s *tokens.Service, id string) *tokens.EDR {
	b.Helper()
	edr, err := s.Start(context.Background(), "cp", request(id))
	if err != nil {
		b.Fatal(err)
	}
	return edr
}

func request(id string) tokens.StartRequest {
	return tokens.StartRequest{
		Dialect: tokens.DPS, MessageID: id, ProcessID: id, ProfileRenews: true, Profile: "http-pull",
		Terms: tokens.Terms{Counterparty: consumer, Dataset: "asset-1", Agreement: "agreement-1"},
	}
}

// BenchmarkVerify measures the gate's part of a data request: with a token seen before, with one never seen that this gateway
// has signed, and with one that another gateway has signed with the same key.
func BenchmarkVerify(b *testing.B) {
	records, wallet, key := memory.New(time.Now), testkit.NewWallet(consumer), newKey(b)
	service, other := newServiceWith(b, records, wallet, key), newServiceWith(b, records, wallet, key)
	ctx := context.Background()
	b.Run("remembered", func(b *testing.B) {
		token := startFlow(b, service, "flow").AccessToken.Reveal()
		b.ReportAllocs()
		for b.Loop() {
			_, err := service.Verify(ctx, token, here, site)
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, signer := range map[string]*tokens.Service{"new": service, "signed elsewhere": other} {
		b.Run(name, func(b *testing.B) {
			fresh := make([]string, b.N)
			for i := range fresh {
				fresh[i] = startFlow(b, signer, "flow").AccessToken.Reveal() // a repeat signs another token
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				_, err := service.Verify(ctx, fresh[i], here, site)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMint measures what a repeated start costs: a read, and a signature.
func BenchmarkMint(b *testing.B) {
	service := newService(b, memory.New(time.Now), testkit.NewWallet(consumer))
	startFlow(b, service, "flow")
	b.ReportAllocs()
	for b.Loop() {
		startFlow(b, service, "flow")
	}
}

// BenchmarkRenew measures whole renewals: one signature verified, one compare-and-swap on the disk, one signature made.
// By the store, and by Badger alone with a synced transaction for each. Compare only results of one run.
//
//	go test -run '^$' -bench Renew -benchtime 3s ./bench
func BenchmarkRenew(b *testing.B) {
	for _, writers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("store/writers=%d", writers), func(b *testing.B) {
			s, err := badger.Open(badger.Options{Dir: b.TempDir(), ReserveBytes: -1})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { closing(b, s.Close()) })
			renew(b, writers, s)
		})
		b.Run(fmt.Sprintf("badger/writers=%d", writers), func(b *testing.B) {
			db := openPlain(b)
			renew(b, writers, plain{db: db})
		})
	}
}

// renew runs b.N renewals, each writer its own flow. The proofs are signed beforehand: that is the consumer's work.
func renew(b *testing.B, writers int, s store.Store) {
	b.Helper()
	wallet := testkit.NewWallet(consumer)
	service := newService(b, s, wallet)
	next := atomic.Int64{}
	type holder struct {
		refresh string
		proofs  []string
	}
	holders := make([]holder, writers)
	var group sync.WaitGroup
	for i := range holders {
		edr := startFlow(b, service, fmt.Sprintf("flow-%d", i))
		holders[i].refresh = edr.RefreshToken.Reveal()
		for range b.N/writers + 1 {
			holders[i].proofs = append(holders[i].proofs, wallet.Proof(provider, edr.AccessToken.Reveal(), time.Now()))
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range holders {
		group.Go(func() {
			for _, proof := range holders[i].proofs {
				if next.Add(1) > int64(b.N) {
					return
				}
				r, err := service.Renew(context.Background(), tokens.RenewRequest{RefreshToken: holders[i].refresh, Proof: proof})
				if err != nil {
					b.Errorf("renew: %v", err)
					return
				}
				holders[i].refresh = r.RefreshToken.Reveal()
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// plain is Badger as it comes, one synced transaction for each write: what the store is measured against.
type plain struct {
	store.Store
	db *badgerdb.DB
}

func (p plain) Create(_ context.Context, r store.Record) (store.Record, error) {
	r.Version = 1
	return r, p.db.Update(func(txn *badgerdb.Txn) error { return txn.Set([]byte(r.ID), r.Data) })
}

func (p plain) Get(_ context.Context, kind, id string) (store.Record, error) {
	r := store.Record{Kind: kind, ID: id, Version: 1}
	err := p.db.View(func(txn *badgerdb.Txn) error {
		item, err := txn.Get([]byte(id))
		if err != nil {
			return err
		}
		r.Data, err = item.ValueCopy(nil)
		return err
	})
	return r, err
}

func (p plain) Update(_ context.Context, kind, id string, edit func(store.Record) (store.Edit, error)) (store.Record, error) {
	r := store.Record{Kind: kind, ID: id, Version: 1}
	for {
		err := p.db.Update(func(txn *badgerdb.Txn) error {
			item, err := txn.Get([]byte(id))
			if err != nil {
				return err
			}
			r.Data, err = item.ValueCopy(nil)
			if err != nil {
				return err
			}
			e, err := edit(r)
			if err != nil {
				return err
			}
			r.Data = e.Data
			return txn.Set([]byte(id), e.Data)
		})
		if !errors.Is(err, badgerdb.ErrConflict) {
			return r, err
		}
	}
}

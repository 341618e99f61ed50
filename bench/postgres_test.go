//go:build postgres

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store"
	"github.com/edrgate/edrgate/store/postgres"
	"github.com/edrgate/edrgate/store/postgres/pgtest"
	"github.com/edrgate/edrgate/tokens"
)

const (
	databaseTurns       = 8 // each way is measured so many times, by turns, since the machine is not always as fast
	databaseConnections = postgres.DefaultMaxConnections
	databasePassword    = "bench"
)

// BenchmarkRenewOverPostgres measures whole renewals over PostgreSQL, and beside them what the database does by itself: one
// compare-and-swap of as many bytes, by as many workers over as many connections, with the version known beforehand. bare
// speaks to the server as the store does, so that a pooler may stand between; prepared keeps statements in the session,
// which is pgx's default. cpu-us/renewal is of this process, without the database.
//
//	go test -tags postgres -run '^$' -bench OverPostgres -benchtime 4000x ./bench
func BenchmarkRenewOverPostgres(b *testing.B) {
	server, err := pgtest.Start(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closing(b, server.Stop()) })
	admin, err := pgx.Connect(b.Context(), server.SocketDSN(pgtest.Admin, "postgres"))
	if err != nil {
		b.Fatal(err)
	}
	for _, sql := range []string{
		"CREATE ROLE owner LOGIN PASSWORD '" + databasePassword + "'", "CREATE ROLE edrgate LOGIN PASSWORD '" + databasePassword + "'",
		"CREATE DATABASE edrgate OWNER owner",
	} {
		_, err = admin.Exec(b.Context(), sql)
		if err != nil {
			b.Fatal(err)
		}
	}
	closing(b, admin.Close(b.Context()))
	owner, err := postgres.ParseDSN(server.DSN("owner", databasePassword, "edrgate"))
	if err != nil {
		b.Fatal(err)
	}
	_, err = postgres.Migrate(b.Context(), owner, postgres.DefaultSchema, "edrgate")
	if err != nil {
		b.Fatal(err)
	}
	dsn := server.DSN("edrgate", databasePassword, "edrgate")
	for _, workers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) { renewBesideBare(b, dsn, workers) })
	}
}

func renewBesideBare(b *testing.B, dsn string, workers int) {
	b.Helper()
	parsed, err := postgres.ParseDSN(dsn)
	if err != nil {
		b.Fatal(err)
	}
	s, err := postgres.Open(b.Context(), postgres.Options{DSN: parsed, Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { closing(b, s.Close()) }()
	each := max(1, b.N/workers/databaseTurns) // operations of a worker in one turn
	const warmUp = 8                          // a record grows by the proofs it remembers, eight at most
	renewals := newRenewals(b, s, workers, warmUp+each*databaseTurns)
	turn(b, workers, warmUp, renewals.renew)
	size := renewals.bytes(b, s)
	bare := newSwaps(b, s, dsn, pgx.QueryExecModeCacheDescribe, workers, size)
	prepared := newSwaps(b, s, dsn, pgx.QueryExecModeCacheStatement, workers, size)
	defer bare.pool.Close()
	defer prepared.pool.Close()

	var renewed, swapped, swappedPrepared time.Duration
	var cpu time.Duration
	for _, warm := range []func(int) error{bare.swap, prepared.swap} {
		turn(b, workers, warmUp, warm)
	}
	b.ResetTimer()
	for range databaseTurns {
		before := processorTime(b)
		renewed += turn(b, workers, each, renewals.renew)
		cpu += processorTime(b) - before
		swapped += turn(b, workers, each, bare.swap)
		swappedPrepared += turn(b, workers, each, prepared.swap)
	}
	done := float64(workers * each * databaseTurns)
	b.ReportMetric(done/renewed.Seconds(), "renewals/s")
	b.ReportMetric(done/swapped.Seconds(), "bare/s")
	b.ReportMetric(done/swappedPrepared.Seconds(), "prepared/s")
	b.ReportMetric(swapped.Seconds()/renewed.Seconds(), "renewals/bare")
	b.ReportMetric(swappedPrepared.Seconds()/renewed.Seconds(), "renewals/prepared")
	b.ReportMetric(float64(cpu.Microseconds())/done, "cpu-us/renewal")
	b.ReportMetric(0, "ns/op")
}

// turn has each worker do so many operations, and returns how long all took.
func turn(b *testing.B, workers, each int, do func(worker int) error) time.Duration {
	b.Helper()
	began := time.Now()
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for range each {
				err := do(i)
				if err != nil {
					b.Errorf("worker %d: %v", i, err)
					return
				}
			}
		})
	}
	group.Wait()
	return time.Since(began)
}

// renewals are flows, one for each worker, with the proofs of their consumers, signed beforehand.
type renewals struct {
	service *tokens.Service
	holders []holder
}

type holder struct {
	flow    string
	refresh string
	proofs  []string
}

func newRenewals(b *testing.B, s store.Store, workers, each int) *renewals {
	b.Helper()
	wallet := testkit.NewWallet(consumer)
	r := &renewals{service: newService(b, s, wallet), holders: make([]holder, workers)}
	for i := range r.holders {
		h := &r.holders[i]
		h.flow = fmt.Sprintf("flow-%d-%d", time.Now().UnixNano(), i)
		edr := startFlow(b, r.service, h.flow)
		h.refresh = edr.RefreshToken.Reveal()
		_, err := r.service.Verify(b.Context(), edr.AccessToken.Reveal(), here, site) // consumers renew what they have used
		if err != nil {
			b.Fatal(err)
		}
		for range each {
			h.proofs = append(h.proofs, wallet.Proof(provider, edr.AccessToken.Reveal(), time.Now()))
		}
	}
	return r
}

func (r *renewals) renew(worker int) error {
	h := &r.holders[worker]
	renewed, err := r.service.Renew(context.Background(), tokens.RenewRequest{RefreshToken: h.refresh, Proof: h.proofs[0]})
	if err != nil {
		return err
	}
	h.refresh, h.proofs = renewed.RefreshToken.Reveal(), h.proofs[1:]
	return nil
}

// bytes is how large the record of a flow is.
func (r *renewals) bytes(b *testing.B, s store.Store) int {
	b.Helper()
	record, err := s.Get(b.Context(), "flow", "default/"+r.holders[0].flow)
	if err != nil {
		b.Fatal(err)
	}
	return len(record.Data)
}

// swaps are bare compare-and-swaps, each worker's on a record of its own.
type swaps struct {
	pool     *pgxpool.Pool
	ids      [][]byte
	versions []int64
	data     []byte
}

var errLost = errors.New("a compare-and-swap was lost")

func newSwaps(b *testing.B, s store.Store, dsn string, mode pgx.QueryExecMode, workers, size int) *swaps {
	b.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = databaseConnections
	config.ConnConfig.DefaultQueryExecMode = mode
	x := &swaps{versions: make([]int64, workers), data: bytes.Repeat([]byte("x"), size)}
	x.pool, err = pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		b.Fatal(err)
	}
	for i := range workers {
		id := fmt.Sprintf("bare-%d-%d", time.Now().UnixNano(), i)
		_, err = s.Create(b.Context(), store.Record{Kind: "flow", ID: id, Labels: map[string]string{"participant": "p"}, Data: x.data})
		if err != nil {
			b.Fatal(err)
		}
		x.ids, x.versions[i] = append(x.ids, []byte(id)), 1
	}
	return x
}

const bareSwap = "UPDATE edrgate.record SET version = version + 1, data = $4 WHERE kind = $1 AND id = $2 AND version = $3"

func (x *swaps) swap(worker int) error {
	tag, err := x.pool.Exec(context.Background(), bareSwap, []byte("flow"), x.ids[worker], x.versions[worker], x.data)
	if err == nil && tag.RowsAffected() != 1 {
		err = errLost
	}
	x.versions[worker]++
	return err
}

// processorTime is what this process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

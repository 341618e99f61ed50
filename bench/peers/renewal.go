package main

import (
	"context"
	"fmt"

	"github.com/edrgate/edrgate/bench/rig"
	"github.com/edrgate/edrgate/internal/testkit"
)

const (
	renewingFlows = 200
	renewals      = 20 // of each flow, in a round
	consumers     = 20 // DIDs, each with its key and its share of the flows
)

// What the Tractus-X data plane 0.12.1 was measured at with 200 flows renewed in parallel: between 470 and 730 renewals a
// second on two cores. Its p99 was 2 to 2.7 s.
const (
	tractusXPerSecond = 730.0
	tractusXSlowest   = 2000.0 // ms
)

// renewal is the table of renewals.
func (b *benchmark) renewal(ctx context.Context) (*rig.Table, error) {
	err := b.pin(true)
	if err != nil {
		return nil, err
	}
	documents, wallets, err := rig.HostWallets(consumers)
	if err != nil {
		return nil, err
	}
	defer documents.Close()
	g, err := rig.NewGateway(ctx, rig.GatewayConfig{
		Name: "renewal", Binary: b.binary, Dir: b.subdirectory("renewal"), CPUs: bothCPUs, Signer: b.signer,
		Site: "edr_refresh\n\t" + authSite + rig.ReverseProxy(b.backend.small),
	})
	if err != nil {
		return nil, err
	}
	defer g.Process.Stop()

	// Consumers renew tokens that they have used: then the gateway knows them. Those of the second row were never used.
	used := &side{name: "EDRgate, tokens used before", process: g.Process, address: g.Public, samples: map[string][]float64{}}
	unused := &side{name: "EDRgate, tokens never used", process: g.Process, address: g.Public, samples: map[string][]float64{}}
	flows := map[*side][]*rig.Renewing{}
	for _, s := range []*side{used, unused} {
		flows[s], err = b.renewingFlows(ctx, g, wallets, s == used)
		if err != nil {
			return nil, err
		}
	}
	var syncs []float64
	rounds := max(1, b.rounds/3)
	for i := range rounds + 1 { // the first one fetches the DID documents, and does not count
		b.progress("renewal: round %d of %d", i, rounds)
		rate, err := rig.SyncRate(b.dir)
		if err != nil {
			return nil, err
		}
		syncs = append(syncs, rate)
		for _, s := range []*side{used, unused} {
			err = b.renewalRound(ctx, s, flows[s])
			if err != nil {
				return nil, err
			}
			if i == 0 {
				clear(s.samples)
			}
		}
	}
	rate, worst := rig.SpreadOf(used.samples[perSecond]), rig.SpreadOf(used.samples[slowest])
	return &rig.Table{
		Title:    fmt.Sprintf("Renewals: %d flows of %d consumers, all renewed in parallel over HTTP, %d rounds of %d renewals", renewingFlows, consumers, rounds, renewingFlows*renewals),
		Machine:  "gateway, consumers and DID host share all cores",
		Measures: []string{perSecond, median, slowest, cpu, resident},
		Chart:    perSecond,
		Rows:     rowsOf([]*side{used, unused}),
		Ratios: []rig.Ratio{
			rig.Judged(rig.Ratio{What: "tokens used before ÷ Tractus-X 0.12.1 at its best (730): req/s", Must: 4, Goal: 5, Spread: divided(rate, tractusXPerSecond)}),
			rig.Judged(rig.Ratio{What: "tokens used before ÷ Tractus-X 0.12.1 at its best (2 s): p99 ms", Must: 1.0 / 5, Goal: 1.0 / 10, AtMost: true, Spread: divided(worst, tractusXSlowest)}),
		},
		Notes: []string{
			"Tractus-X was measured on another day, on two cores: 470 to 730 renewals a second, p99 2 to 2.7 s.",
			fmt.Sprintf("The disk made %s small writes a second durable before the rounds.", rig.SpreadOf(syncs)),
		},
	}, nil
}

// renewingFlows starts flows, and uses the token of each if that is wanted.
func (b *benchmark) renewingFlows(ctx context.Context, g *rig.Gateway, wallets []*testkit.Wallet, use bool) ([]*rig.Renewing, error) {
	flows := make([]*rig.Renewing, renewingFlows)
	requests := make([][]byte, renewingFlows)
	err := inParallel(renewingFlows, 16, func(i int) error {
		wallet := wallets[i%len(wallets)]
		edr, err := g.StartFlow(ctx, rig.Flow{
			ID: fmt.Sprintf("flow-%t-%d", use, i), Consumer: wallet.DID, Dataset: dataset, Backend: "http://" + b.backend.small,
		})
		if err != nil {
			return err
		}
		if edr.Refresh == "" {
			return fmt.Errorf("the EDR of flow %d cannot be renewed", i)
		}
		flows[i], requests[i] = rig.NewRenewing(wallet, edr), get(g.Public, "/", "Bearer "+edr.Access)
		return nil
	})
	if err != nil || !use {
		return flows, err
	}
	l := &load{address: g.Public, connections: 4, requests: &rotation{all: requests}, duration: b.duration}
	for sent := 0; sent < 2*renewingFlows; {
		seen, err := l.run(ctx)
		if err != nil {
			return nil, err
		}
		sent += seen.count
	}
	return flows, nil
}

// bothCPUs are the cores of a gateway that is measured with both.
const bothCPUs = "0,1"

func divided(s rig.Spread, by float64) rig.Spread {
	return rig.Spread{Median: s.Median / by, Min: s.Min / by, Max: s.Max / by}
}

// renewalRound renews each flow some times, all flows in parallel.
func (b *benchmark) renewalRound(ctx context.Context, s *side, flows []*rig.Renewing) error {
	for _, f := range flows {
		f.Prepare(renewals)
	}
	before, err := s.process.CPU()
	if err != nil {
		return err
	}
	elapsed, latencies, err := rig.Renew(ctx, "http://"+s.address+"/token", flows)
	if err != nil {
		return err
	}
	after, err := s.process.CPU()
	if err != nil {
		return err
	}
	memory, err := s.process.Memory()
	if err != nil {
		return err
	}
	seen := &observed{count: len(latencies), elapsed: elapsed, latencies: latencies}
	for measure, value := range map[string]float64{
		perSecond: seen.rate(),
		median:    seen.percentile(0.50),
		slowest:   seen.percentile(0.99),
		cpu:       float64((after - before).Microseconds()) / float64(seen.count),
		resident:  float64(memory.Resident) / mebibyte,
	} {
		s.samples[measure] = append(s.samples[measure], value)
	}
	return nil
}

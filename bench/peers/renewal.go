package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

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

// renewing is one flow whose consumer renews its tokens over and over, each time with the refresh token that it got last.
// Proofs are signed beforehand, for that is the consumer's work.
type renewing struct {
	wallet  *testkit.Wallet
	access  string
	refresh string
	proofs  []string
}

// renewal is the table of renewals.
func (b *benchmark) renewal(ctx context.Context) (*table, error) {
	err := b.pin(true)
	if err != nil {
		return nil, err
	}
	documents, wallets, err := hostWallets(consumers)
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

	flows := make([]*renewing, renewingFlows)
	err = inParallel(renewingFlows, 16, func(i int) error {
		wallet := wallets[i%len(wallets)]
		edr, err := g.StartFlow(ctx, rig.Flow{ID: fmt.Sprintf("flow-%d", i), Consumer: wallet.DID, Dataset: dataset, Backend: "http://" + b.backend.small})
		if err != nil {
			return err
		}
		if edr.Refresh == "" {
			return fmt.Errorf("the EDR of flow %d cannot be renewed", i)
		}
		flows[i] = &renewing{wallet: wallet, access: edr.Access, refresh: edr.Refresh}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s := &side{name: "EDRgate, 200 in parallel", process: g.Process, address: g.Public, samples: map[string][]float64{}}
	var syncs []float64
	rounds := max(1, b.rounds/2)
	for i := range rounds + 1 { // the first one fetches the DID documents, and does not count
		b.progress("renewal: round %d of %d", i, rounds)
		rate, err := rig.SyncRate(b.dir)
		if err != nil {
			return nil, err
		}
		err = b.renewalRound(ctx, s, flows)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			clear(s.samples)
			continue
		}
		syncs = append(syncs, rate)
	}
	rate, worst := rig.SpreadOf(s.samples[perSecond]), rig.SpreadOf(s.samples[slowest])
	return &table{
		Title:    fmt.Sprintf("Renewals: %d flows of %d consumers, all renewed in parallel over HTTP, %d rounds of %d renewals", renewingFlows, consumers, rounds, renewingFlows*renewals),
		Machine:  "gateway, consumers and DID host share all cores",
		Measures: []string{perSecond, median, slowest, cpu, resident},
		Chart:    perSecond,
		Rows:     rowsOf([]*side{s}),
		Ratios: []ratio{
			judged(ratio{What: "÷ Tractus-X 0.12.1 at its best (730): req/s", Must: 4, Goal: 5, Spread: divided(rate, tractusXPerSecond)}),
			judged(ratio{What: "÷ Tractus-X 0.12.1 at its best (2 s): p99 ms", Must: 1.0 / 5, Goal: 1.0 / 10, AtMost: true, Spread: divided(worst, tractusXSlowest)}),
		},
		Notes: []string{
			"Tractus-X was measured on another day, on two cores: 470 to 730 renewals a second, p99 2 to 2.7 s.",
			fmt.Sprintf("The disk made %s small writes a second durable before the rounds.", spreadText(rig.SpreadOf(syncs))),
		},
	}, nil
}

// bothCPUs are the cores of a gateway that is measured with both.
const bothCPUs = "0,1"

func divided(s rig.Spread, by float64) rig.Spread {
	return rig.Spread{Median: s.Median / by, Min: s.Min / by, Max: s.Max / by}
}

// renewalRound renews each flow some times, all flows in parallel.
func (b *benchmark) renewalRound(ctx context.Context, s *side, flows []*renewing) error {
	for _, f := range flows {
		f.proofs = f.proofs[:0]
		for range renewals {
			f.proofs = append(f.proofs, f.wallet.Proof(rig.ProviderDID, f.access, time.Now()))
		}
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: len(flows)}}
	defer client.CloseIdleConnections()
	before, err := s.process.CPU()
	if err != nil {
		return err
	}
	latencies := make([][]time.Duration, len(flows))
	failed := make(chan error, len(flows))
	start := time.Now()
	var wait sync.WaitGroup
	for i, f := range flows {
		wait.Go(func() {
			var err error
			latencies[i], err = f.renew(ctx, client, "http://"+s.address+"/token")
			if err != nil {
				failed <- err
			}
		})
	}
	wait.Wait()
	seen := &observed{elapsed: time.Since(start), latencies: slices.Concat(latencies...)}
	if len(failed) > 0 {
		return <-failed
	}
	after, err := s.process.CPU()
	if err != nil {
		return err
	}
	memory, err := s.process.Memory()
	if err != nil {
		return err
	}
	slices.Sort(seen.latencies)
	seen.count = len(seen.latencies)
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

// renew sends a renewal for each proof (RFC 6749 §6), and returns how long each took.
func (f *renewing) renew(ctx context.Context, client *http.Client, endpoint string) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, len(f.proofs))
	for _, proof := range f.proofs {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.refresh}}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "Bearer "+proof)
		start := time.Now()
		response, err := client.Do(request)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(response.Body)
		latencies = append(latencies, time.Since(start))
		_ = response.Body.Close()
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("renewal: %s: %s", response.Status, body)
		}
		var renewed struct {
			Refresh string `json:"refresh_token"`
		}
		err = json.Unmarshal(body, &renewed)
		if err != nil {
			return nil, err
		}
		f.refresh = renewed.Refresh
	}
	return latencies, nil
}

// hostWallets returns wallets whose DID documents (did:web) a server of this process has.
func hostWallets(n int) (*http.Server, []*testkit.Wallet, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	wallets := make([]*testkit.Wallet, n)
	mux := http.NewServeMux()
	for i := range wallets {
		name := fmt.Sprintf("consumer-%d", i)
		wallets[i] = testkit.NewWallet("did:web:localhost%3A" + port + ":" + name)
		document := wallets[i].Document()
		mux.HandleFunc("GET /"+name+"/did.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/did+json")
			_, _ = w.Write(document)
		})
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server, wallets, nil
}

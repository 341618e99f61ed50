package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

const (
	dataset     = "asset-1"
	consumerDID = "did:web:consumer.example"
	connections = 32
	manyTokens  = 2000
)

// What stands in for the two ways to proxy.
const (
	authSite = `edr_auth {
		dataset ` + dataset + `
		ignore_source_address
	}
	`
	proxySite = `edr_proxy {
		backends %s
	}`
)

// bare starts Caddy as it comes.
func (b *benchmark) bare(ctx context.Context, name, backend string) (*rig.Gateway, error) {
	return rig.NewGateway(ctx, rig.GatewayConfig{
		Name: name, Binary: b.binary, Dir: b.subdirectory(name), CPUs: b.proxyCPUs, Bare: true, Site: rig.ReverseProxy(backend),
	})
}

// auth starts the gateway with edr_auth before Caddy's proxy.
func (b *benchmark) auth(ctx context.Context, name, backend string) (*rig.Gateway, error) {
	return b.gateway(ctx, name, authSite+rig.ReverseProxy(backend))
}

// proxy starts the gateway with edr_proxy, which sends to the backend that a flow was started with.
func (b *benchmark) proxy(ctx context.Context, name, backend string) (*rig.Gateway, error) {
	return b.gateway(ctx, name, fmt.Sprintf(proxySite, backend))
}

func (b *benchmark) gateway(ctx context.Context, name, site string) (*rig.Gateway, error) {
	return rig.NewGateway(ctx, rig.GatewayConfig{
		Name: name, Binary: b.binary, Dir: b.subdirectory(name), CPUs: b.proxyCPUs, Site: "edr_refresh\n\t" + site, Signer: b.signer,
	})
}

// tokensOf starts flows, and returns what tokens of each are made like.
func (b *benchmark) tokensOf(ctx context.Context, g *rig.Gateway, backend string, flows int) ([]*rig.Token, error) {
	kinds := make([]*rig.Token, flows)
	err := inParallel(flows, 16, func(i int) error {
		edr, err := g.StartFlow(ctx, b.flow(i, backend))
		if err != nil {
			return err
		}
		kind, err := rig.LikeToken(edr.Access)
		if err != nil {
			return err
		}
		// As long as the run may take.
		kinds[i] = kind.With(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
		return nil
	})
	return kinds, err
}

// inParallel calls f for 0 to n-1, and returns the first error.
func inParallel(n, workers int, f func(i int) error) error {
	var wait sync.WaitGroup
	numbers := make(chan int)
	failed := make(chan error, workers)
	for range workers {
		wait.Go(func() {
			for i := range numbers {
				err := f(i)
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var err error
	for i := 0; i < n && err == nil; i++ {
		select {
		case numbers <- i:
		case err = <-failed:
		}
	}
	close(numbers)
	wait.Wait()
	if err == nil && len(failed) > 0 {
		err = <-failed
	}
	return err
}

// asking returns the side of a proxy that is asked with the same token, or none, again and again.
func (b *benchmark) asking(name string, process *rig.Process, address string, kinds []*rig.Token, tokens int) (*side, error) {
	all := [][]byte{get(address, "/", "")}
	if tokens > 0 {
		var err error
		all, err = bearing(address, "/", b.signer, kinds, tokens)
		if err != nil {
			return nil, err
		}
	}
	return &side{name: name, process: process, address: address, connections: connections, supply: always(all...), tokens: tokens}, nil
}

// askingAnew returns the side of a proxy that has never seen a token that comes.
func (b *benchmark) askingAnew(name string, process *rig.Process, address string, kinds []*rig.Token) *side {
	return &side{
		name: name, process: process, address: address, connections: connections,
		supply: fresh(address, "/", b.signer, kinds),
	}
}

// askingIssued returns the side of a gateway that has signed each token itself, as it does at a renewal: flows are started
// again, which signs another token for them.
func (b *benchmark) askingIssued(ctx context.Context, name string, g *rig.Gateway) *side {
	return &side{
		name: name, process: g.Process, address: g.Public, connections: connections,
		supply: func(n int) (requests, error) {
			all := make([][]byte, n)
			err := inParallel(n, 16, func(i int) error {
				edr, err := g.StartFlow(ctx, b.flow(i%manyTokens, b.backend.small))
				if err == nil {
					all[i] = get(g.Public, "/", "Bearer "+edr.Access)
				}
				return err
			})
			return &once{all: all}, err
		},
	}
}

// flow is one of those that tokens are for.
func (b *benchmark) flow(i int, backend string) rig.Flow {
	return rig.Flow{ID: fmt.Sprintf("flow-%d", i), Consumer: consumerDID, Dataset: dataset, Backend: "http://" + backend}
}

// data is the table of data requests: what the gateway adds to Caddy.
func (b *benchmark) data(ctx context.Context) (*rig.Table, error) {
	err := b.pin(false)
	if err != nil {
		return nil, err
	}
	var running []*rig.Gateway
	defer func() {
		for _, g := range running {
			g.Process.Stop()
		}
	}()
	start := func(how func(context.Context, string, string) (*rig.Gateway, error), name string) (*rig.Gateway, error) {
		g, err := how(ctx, name, b.backend.small)
		if err == nil {
			running = append(running, g)
		}
		return g, err
	}
	plain, err := start(b.bare, "caddy")
	if err != nil {
		return nil, err
	}
	twin, err := start(b.bare, "caddy-again")
	if err != nil {
		return nil, err
	}
	auth, err := start(b.auth, "edr_auth")
	if err != nil {
		return nil, err
	}
	proxy, err := start(b.proxy, "edr_proxy")
	if err != nil {
		return nil, err
	}
	newcomer, err := start(b.auth, "edr_auth-new") // which remembers tokens that nobody comes with again
	if err != nil {
		return nil, err
	}
	authTokens, err := b.tokensOf(ctx, auth, b.backend.small, manyTokens)
	if err != nil {
		return nil, err
	}
	proxyTokens, err := b.tokensOf(ctx, proxy, b.backend.small, manyTokens)
	if err != nil {
		return nil, err
	}

	newTokens, err := b.tokensOf(ctx, newcomer, b.backend.small, manyTokens)
	if err != nil {
		return nil, err
	}

	var sides []*side
	add := func(name string, process *rig.Process, address string, kinds []*rig.Token, tokens int) (*side, error) {
		s, err := b.asking(name, process, address, kinds, tokens)
		sides = append(sides, s)
		return s, err
	}
	var none, bareSide, again, same, many, own, ownMany *side
	for _, wanted := range []struct {
		to      **side
		name    string
		process *rig.Process
		address string
		kinds   []*rig.Token
		tokens  int
	}{
		{&none, "no proxy", b.backend.process, b.backend.small, nil, 0},
		{&bareSide, "bare Caddy", plain.Process, plain.Public, nil, 0},
		{&again, "bare Caddy again", twin.Process, twin.Public, nil, 0},
		{&same, "edr_auth, same token", auth.Process, auth.Public, authTokens, 1},
		{&many, "edr_auth, 2,000 tokens", auth.Process, auth.Public, authTokens, manyTokens},
		{&own, "edr_proxy, same token", proxy.Process, proxy.Public, proxyTokens, 1},
		{&ownMany, "edr_proxy, 2,000 tokens", proxy.Process, proxy.Public, proxyTokens, manyTokens},
	} {
		*wanted.to, err = add(wanted.name, wanted.process, wanted.address, wanted.kinds, wanted.tokens)
		if err != nil {
			return nil, err
		}
	}
	issued := b.askingIssued(ctx, "edr_auth, every token new", newcomer)
	anew := b.askingAnew("edr_auth, every token new and signed elsewhere", newcomer.Process, newcomer.Public, newTokens)
	sides = append(sides, issued, anew)
	none.apart = true
	err = b.alternate(ctx, "data", b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	return &rig.Table{
		Title:    fmt.Sprintf("Data requests: %d connections, 1 KiB, %d rounds of %s each", connections, b.rounds, b.duration),
		Measures: requestMeasures, Chart: perSecond,
		Rows: rowsOf(sides),
		Ratios: []rig.Ratio{
			atLeast(0.90, 0.95, perSecond, same, bareSide),
			added(10, 5, cpu, same, bareSide),
			atLeast(0.85, 0.95, perSecond, own, bareSide),
			added(0, 0, cpu, own, bareSide),
			atLeast(0.90, 0.95, perSecond, many, bareSide),
			atLeast(0.85, 0.95, perSecond, ownMany, bareSide),
			atLeast(0.45, 0.55, perSecond, issued, bareSide),
			atLeast(0.45, 0.55, perSecond, anew, bareSide),
			control(perSecond, again, bareSide),
			control(cpu, again, bareSide),
		},
	}, nil
}

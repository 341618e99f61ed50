package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

const (
	slowReaders = 12
	slowBytes   = 100_000 // a second, of each
	slowBody    = 1 << 30 // more than a run reads
)

// slow is the table of small requests beside slow downloads. Each gateway is asked with and without readers; nothing should
// change. The readers and the small requests share one gateway and one token.
func (b *benchmark) slow(ctx context.Context) (*rig.Table, error) {
	err := b.pin(false)
	if err != nil {
		return nil, err
	}
	// The backend of both is the one of net/http, which has large answers: 1 KiB is one of its sizes.
	plain, err := b.bare(ctx, "slow-caddy", b.backend.large)
	if err != nil {
		return nil, err
	}
	defer plain.Process.Stop()
	auth, err := b.auth(ctx, "slow-edr_auth", b.backend.large)
	if err != nil {
		return nil, err
	}
	defer auth.Process.Stop()
	proxy, err := b.proxy(ctx, "slow-edr_proxy", b.backend.large)
	if err != nil {
		return nil, err
	}
	defer proxy.Process.Stop()

	type target struct {
		name          string
		gateway       *rig.Gateway
		authorization string
	}
	targets := []target{{"bare Caddy", plain, ""}}
	for _, of := range []target{{"edr_auth", auth, ""}, {"edr_proxy", proxy, ""}} {
		kinds, err := b.tokensOf(ctx, of.gateway, b.backend.large, 1)
		if err != nil {
			return nil, err
		}
		token, err := b.signer.Sign(kinds[0])
		if err != nil {
			return nil, err
		}
		of.authorization = "Bearer " + token
		targets = append(targets, of)
	}

	var sides []*side
	var alone, beside []*side
	for _, at := range targets {
		address := at.gateway.Public
		for _, readers := range []int{0, slowReaders} {
			name := at.name + ", alone"
			if readers > 0 {
				name = fmt.Sprintf("%s, beside %d slow readers", at.name, readers)
			}
			s := &side{
				name: name, process: at.gateway.Process, address: address, connections: 8,
				supply: always(get(address, fmt.Sprintf("/%d", smallBody), at.authorization)),
			}
			if readers == 0 {
				alone = append(alone, s)
			} else {
				request := get(address, fmt.Sprintf("/%d", slowBody), at.authorization)
				s.beside = func(ctx context.Context) (func() error, error) { return readSlowly(ctx, address, request, readers) }
				beside = append(beside, s)
			}
			sides = append(sides, s)
		}
	}
	err = b.alternate(ctx, "slow", b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var ratios []rig.Ratio
	for i := range targets {
		for _, measure := range []string{perSecond, median, slowest} {
			r := atLeast(0, 0, measure, beside[i], alone[i])
			ratios = append(ratios, r)
		}
	}
	return &rig.Table{
		Title: fmt.Sprintf("Slow readers: GETs of 1 KiB over 8 connections, alone and beside %d downloads at %d kB/s each, %d rounds of %s",
			slowReaders, slowBytes/1000, b.rounds, b.duration),
		Measures: requestMeasures, Chart: perSecond, Rows: rowsOf(sides), Ratios: ratios,
		Notes: []string{"A ratio of about 1 is no change. What the readers themselves cost is in it: " +
			fmt.Sprintf("%d kB a second in all.", slowReaders*slowBytes/1000)},
	}, nil
}

// readSlowly starts downloads that are read at a steady pace. The function it returns ends them, and returns an error if one of
// them stopped before.
func readSlowly(ctx context.Context, address string, request []byte, readers int) (func() error, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	failed := make(chan error, readers)
	end := func() error {
		cancel()
		wait.Wait()
		if len(failed) > 0 {
			return fmt.Errorf("a slow reader: %w", <-failed)
		}
		return nil
	}
	for range readers {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			// A small buffer, so that the pace reaches the gateway.
			err = conn.(*net.TCPConn).SetReadBuffer(16 << 10)
		}
		if err == nil {
			_, err = conn.Write(request)
		}
		if err != nil {
			_ = end()
			return nil, err
		}
		wait.Go(func() {
			defer conn.Close()
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				err := conn.SetReadDeadline(time.Now().Add(requestTimeout))
				if err == nil {
					_, err = io.CopyN(io.Discard, conn, slowBytes/10)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	// The first bytes of each fill all buffers on the way at full speed. That is not what is measured.
	select {
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
	}
	return end, nil
}

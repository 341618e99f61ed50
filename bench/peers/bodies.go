package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

const bodySize = 1 << 30

// bodies is the table of large bodies: how much memory one takes on its way.
func (b *benchmark) bodies(ctx context.Context) (*rig.Table, error) {
	err := b.pin(false)
	if err != nil {
		return nil, err
	}
	const (
		idle  = "idle RSS MiB"
		above = "above it, at most MiB"
		speed = "MiB/s"
	)
	t := &rig.Table{
		Title:    "Bodies of 1 GiB: resident memory while one passes, above that of the idle gateway",
		Measures: []string{idle, above, speed, cpuSeconds}, Chart: above,
	}
	for _, of := range []struct {
		name  string
		start func(context.Context, string, string) (*rig.Gateway, error)
		bare  bool
	}{{"bare Caddy", b.bare, true}, {"edr_auth", b.auth, false}, {"edr_proxy", b.proxy, false}} {
		g, err := of.start(ctx, "bodies-"+of.name, b.backend.large)
		if err != nil {
			return nil, err
		}
		defer g.Process.Stop()
		token := ""
		if !of.bare {
			kinds, err := b.tokensOf(ctx, g, b.backend.large, 1)
			if err != nil {
				return nil, err
			}
			token, err = b.signer.Sign(kinds[0])
			if err != nil {
				return nil, err
			}
		}
		for _, direction := range []string{"down", "up"} {
			b.progress("bodies: %s, %s", of.name, direction)
			before, err := g.Process.Memory()
			if err != nil {
				return nil, err
			}
			used, err := g.Process.CPU()
			if err != nil {
				return nil, err
			}
			start := time.Now()
			most, err := watched(ctx, g.Process, func() error { return transfer(ctx, direction, g.Public, token) })
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", of.name, direction, err)
			}
			took := time.Since(start)
			usedAfter, err := g.Process.CPU()
			if err != nil {
				return nil, err
			}
			over := float64(most-before.Resident) / mebibyte
			values := map[string]rig.Spread{}
			for measure, value := range map[string]float64{
				idle: float64(before.Resident) / mebibyte, above: over,
				speed: bodySize / mebibyte / took.Seconds(), cpuSeconds: (usedAfter - used).Seconds(),
			} {
				values[measure] = rig.SpreadOf([]float64{value})
			}
			name := of.name + ", " + direction
			t.Rows = append(t.Rows, rig.Row{Name: name, Values: values})
			if !of.bare {
				t.Ratios = append(t.Ratios, rig.Judged(rig.Ratio{What: name + ": MiB above idle", Must: 32, Goal: 32, AtMost: true, Spread: values[above]}))
			}
		}
	}
	return t, nil
}

const cpuSeconds = "CPU s/GiB"

// watched runs f, and returns the most memory that the process had in the meantime.
func watched(ctx context.Context, p *rig.Process, f func() error) (int64, error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var most int64
	for {
		select {
		case err := <-done:
			return most, err
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		now, err := p.Memory()
		if err != nil {
			return 0, err
		}
		most = max(most, now.Resident)
	}
}

// transfer sends or gets one large body.
func transfer(ctx context.Context, direction, address, token string) error {
	method, path := http.MethodGet, fmt.Sprintf("/%d", bodySize)
	var body io.Reader
	if direction == "up" {
		method, path, body = http.MethodPost, "/", io.LimitReader(endless{}, bodySize)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, body)
	if err != nil {
		return err
	}
	if body != nil {
		request.ContentLength = bodySize
		request.Header.Set("Content-Type", "application/octet-stream")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", response.Status)
	}
	if direction == "up" {
		var arrived int64
		_, err = fmt.Fscan(response.Body, &arrived)
		if err == nil && arrived != bodySize {
			err = fmt.Errorf("%d bytes arrived", arrived)
		}
		return err
	}
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && n != bodySize {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

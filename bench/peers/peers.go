package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/edrgate/edrgate/bench/rig"
)

// peer is another gateway that checks tokens.
type peer struct {
	name    string
	process *rig.Process
	address string

	must, goal float64 // how many times its requests the gateway serves with the same token
}

// peers is the table of other gateways that check tokens. One that cannot be had on this machine is left out, and said so.
func (b *benchmark) peers(ctx context.Context) (*rig.Table, error) {
	from, err := startIssuer(b.signer)
	if err != nil {
		return nil, err
	}
	defer from.close()
	var found []*peer
	var notes []string
	defer func() {
		for _, p := range found {
			p.process.Stop()
		}
	}()
	// Before pinning: what is built may use all there is.
	for _, start := range []func(context.Context, *issuer) (*peer, error){b.startApache, b.startCaddyJWT, b.startOAuth2Proxy} {
		p, err := start(ctx, from)
		var left missing
		if errors.As(err, &left) {
			notes = append(notes, "Left out: "+string(left))
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	err = b.pin(false)
	if err != nil {
		return nil, err
	}
	auth, err := b.auth(ctx, "peers-edr_auth", b.backend.small)
	if err != nil {
		return nil, err
	}
	defer auth.Process.Stop()
	kinds, err := b.tokensOf(ctx, auth, b.backend.small, manyTokens)
	if err != nil {
		return nil, err
	}
	own, err := b.asking("edr_auth, same token", auth.Process, auth.Public, kinds, 1)
	if err != nil {
		return nil, err
	}
	ownAnew := b.askingAnew("edr_auth, every token new and signed elsewhere", auth.Process, auth.Public, kinds)
	sides := []*side{own, ownAnew}
	theirs := make([]*side, len(found))
	theirsAnew := make([]*side, len(found))
	for i, p := range found {
		like := []*rig.Token{from.like(kinds[0])}
		theirs[i], err = b.asking(p.name+", same token", p.process, p.address, like, 1)
		if err != nil {
			return nil, err
		}
		theirsAnew[i] = b.askingAnew(p.name+", every token new", p.process, p.address, like)
		sides = append(sides, theirs[i], theirsAnew[i])
	}
	err = b.alternate(ctx, "peers", b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var ratios []rig.Ratio
	for i, p := range found {
		ratios = append(ratios,
			atLeast(p.must, p.goal, perSecond, own, theirs[i]),
			atLeast(0, 0, perSecond, ownAnew, theirsAnew[i]),
			atMost(0, 0, cpu, own, theirs[i]))
	}
	return &rig.Table{
		Title:    fmt.Sprintf("Other gateways that check tokens: %d connections, 1 KiB, %d rounds of %s each", connections, b.rounds, b.duration),
		Measures: requestMeasures, Chart: perSecond, Rows: rowsOf(sides), Ratios: ratios, Notes: notes,
	}, nil
}

// writeConfig writes a file with {name} replaced by values.
func writeConfig(file, template string, values map[string]string) error {
	pairs := make([]string, 0, 2*len(values))
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", value)
	}
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.NewReplacer(pairs...).Replace(template)), 0o600)
}

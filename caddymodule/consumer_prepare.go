package caddymodule

import (
	"errors"
	"fmt"
	"slices"

	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/tokens"
)

const asyncPrepareOption = "async_prepare"

// newAsyncPrepare returns what finds the datasets of async_prepare, which are written as those of a route; nil: there are none.
//
// A prepare that nobody could be told the end of is refused here. The address that a prepare names is not enough: it counts
// only on the server that the operator named.
func (p *participant) newAsyncPrepare() (*routing.Table, error) {
	if len(p.Consumer.AsyncPrepare) == 0 {
		return nil, nil
	}
	datasets := slices.Compact(slices.Sorted(slices.Values(p.Consumer.AsyncPrepare))) // repeated blocks add to one another
	for _, plane := range p.ControlPlanes {
		if p.calls[plane.Name] == nil {
			return nil, fmt.Errorf("%s needs a callback of every control plane, since that is where it is told that a transfer is prepared: control_plane %s has none",
				asyncPrepareOption, plane.Name)
		}
	}
	table, err := routing.NewTable([]routing.Route{{Name: asyncPrepareOption, Match: routing.Match{Datasets: datasets}}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asyncPrepareOption, errors.Unwrap(err)) // without the name of a route
	}
	return table, nil
}

// preparesLater reports whether the transfers of a dataset are prepared asynchronously.
func (p *participant) preparesLater(dataset string) bool {
	if p.consuming == nil || p.consuming.asyncPrepare == nil {
		return false
	}
	found, err := p.consuming.asyncPrepare.Route(routing.FactsOfStart(&tokens.StartRequest{Terms: tokens.Terms{Dataset: dataset}}))
	return err == nil && found != ""
}

package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/internal/dial"
)

// Whom connections are made to: the label "to" of what was denied.
const (
	dialBackend      = "backend"       // of edr_proxy, with their authorization servers
	dialDID          = "did"           // hosts of DIDs
	dialPolicy       = "policy"        // the policy server
	dialControlPlane = "control_plane" // control planes, with their authorization servers
	dialKeySet       = "key_set"       // of authorization servers that let control planes in
	dialProvider     = "provider"      // whose data a participant uses, with what signs proofs for it
)

type dialKey struct {
	to     string
	reason dial.Reason
}

// resolveDials makes a series of each thing that can be denied, so that the first one shows as an increase.
func (o *observer) resolveDials() {
	o.dials = counters[dialKey]{known: map[dialKey]prometheus.Counter{}, other: o.collectors.dials.WithLabelValues(otherLabel, otherLabel)}
	for _, to := range []string{dialBackend, dialDID, dialPolicy, dialControlPlane, dialKeySet, dialProvider} {
		for _, reason := range dial.Reasons() {
			o.dials.known[dialKey{to, reason}] = o.collectors.dials.WithLabelValues(to, string(reason))
		}
	}
}

// deniedTo counts connections that are refused when they are about to be made: somebody had the gateway look up a name
// that leads where it must not go.
func (o *observer) deniedTo(to string) func(reason string) {
	return func(reason string) { o.dials.inc(dialKey{to, dial.Reason(reason)}) }
}

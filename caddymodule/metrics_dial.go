package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/internal/dial"
)

type dialKey struct{ connection, reason string }

func (c *collectors) dialsDenied() counters[dialKey] {
	denied := counters[dialKey]{known: map[dialKey]prometheus.Counter{}, other: c.dialDenied.WithLabelValues(otherLabel, otherLabel)}
	for _, connection := range connections {
		for _, reason := range names(dial.Reasons()) {
			denied.known[dialKey{connection, reason}] = c.dialDenied.WithLabelValues(connection, reason)
		}
	}
	return denied
}

// DialDenied implements dialObserver.
func (o *observer) DialDenied(connection, reason string) {
	o.dialDenied.inc(dialKey{connection, reason})
}

// Interface guard
var _ dialObserver = (*observer)(nil)

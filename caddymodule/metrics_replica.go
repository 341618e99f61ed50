package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/replica"
)

// replicaMetrics are those of a gateway that shares its store with others.
type replicaMetrics struct {
	lag        prometheus.Histogram
	staleness  prometheus.Gauge
	rollback   prometheus.Gauge
	remembered prometheus.Gauge
	errors     *prometheus.CounterVec
	byPlace    counters[string]
}

func newReplicaMetrics() *replicaMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: metricsNamespace, Name: name, Help: help})
	}
	m := &replicaMetrics{
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: metricsNamespace, Name: "revocation_lag_seconds",
			Help:    "Time from the beginning of a write to the store until this gateway saw it in the log of state changes, as the others do.",
			Buckets: stageBuckets,
		}),
		staleness:  gauge("store_staleness_seconds", "Age of the newest complete look at the log of state changes."),
		rollback:   gauge("store_rollback", "1 while the store has lost writes and no operator has accepted that: renewals wait."),
		remembered: gauge("store_endings_remembered", "Endings that would be repeated in a restored store."),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsNamespace, Name: "follow_errors_total", Help: "Errors in keeping in step with the other gateways.",
		}, []string{"in"}),
	}
	m.byPlace = countersOf(m.errors, "tail", "canary", "state", "restore")
	return m
}

func (m *replicaMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.lag, m.staleness, m.rollback, m.remembered, m.errors}
}

// Lag implements replica.Observer.
func (o *observer) Lag(took time.Duration) { o.collectors.replica.lag.Observe(took.Seconds()) }

// Staleness implements replica.Observer.
func (o *observer) Staleness(d time.Duration) { o.collectors.replica.staleness.Set(d.Seconds()) }

// Rollback implements replica.Observer.
func (o *observer) Rollback(pending bool) {
	value := 0.0
	if pending {
		value = 1
	}
	o.collectors.replica.rollback.Set(value)
}

// FollowError implements replica.Observer.
func (o *observer) FollowError(in string) { o.collectors.replica.byPlace.inc(in) }

// Remembered implements replica.Observer.
func (o *observer) Remembered(endings int) { o.collectors.replica.remembered.Set(float64(endings)) }

var _ replica.Observer = (*observer)(nil)

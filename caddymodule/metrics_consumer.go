package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/consumer"
)

// consumerMetrics are the metrics of participants that use data of others.
type consumerMetrics struct {
	renewals    *prometheus.CounterVec
	renewalTime prometheus.Histogram
	events      *prometheus.CounterVec
	edrs        *prometheus.GaugeVec
}

func newConsumerMetrics() *consumerMetrics {
	const subsystem = "consumer"
	return &consumerMetrics{
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsNamespace, Subsystem: subsystem, Name: "renewals_total",
			Help: "Renewals of other companies' tokens by result: renewed, or why not.",
		}, []string{participantLabel, "result"}),
		renewalTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: metricsNamespace, Subsystem: subsystem, Name: "renewal_duration_seconds",
			Help: "How long renewals of other companies' tokens took.", Buckets: stageBuckets,
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsNamespace, Subsystem: subsystem, Name: "events_total",
			Help: "Things that happened to EDRs of other companies.",
		}, []string{participantLabel, "event"}),
		edrs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Subsystem: subsystem, Name: "edrs",
			Help: "EDRs of other companies by state, from a slow count. Over replicas take the maximum, not the sum.",
		}, []string{participantLabel, "state"}),
	}
}

func (m *consumerMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.renewals, m.renewalTime, m.events, m.edrs}
}

// The closed sets of label values.
var (
	edrCodes = []consumer.Code{
		consumer.CodeInvalid, consumer.CodeUnknown, consumer.CodeConflict, consumer.CodeSuspended, consumer.CodeEnded,
		consumer.CodeInsecure, consumer.CodeAudience, consumer.CodeForeignToken, consumer.CodeCounterparty,
		consumer.CodeNotRenewable, consumer.CodeRefused, consumer.CodeUnavailable,
	}
	edrEvents = []string{
		consumer.EventUnknownCounterparty, consumer.EventAudience, consumer.EventForeignToken, consumer.EventConflict,
		consumer.EventRetried, consumer.EventWaited, consumer.EventRejected, consumer.EventReplayed, consumer.EventNotReplayed,
	}
	edrStates = []consumer.State{consumer.Preparing, consumer.Prepared, consumer.Started, consumer.Suspended, consumer.Refused}
)

// consumerObserver turns what package consumer reports of one participant into metrics.
type consumerObserver struct {
	renewals    counters[string]
	renewalTime prometheus.Observer
	events      counters[string]
	edrs        *prometheus.GaugeVec
}

func (m *consumerMetrics) observer(its prometheus.Labels) *consumerObserver {
	o := &consumerObserver{
		renewals:    countersOf(m.renewals.MustCurryWith(its), append(names(edrCodes), consumer.ResultRenewed)...),
		renewalTime: m.renewalTime,
		events:      countersOf(m.events.MustCurryWith(its), edrEvents...),
		edrs:        m.edrs.MustCurryWith(its),
	}
	o.EDRs(nil) // a series is there from the start
	return o
}

// Event implements consumer.Observer.
func (o *consumerObserver) Event(name string) { o.events.inc(name) }

// Renewal implements consumer.Observer.
func (o *consumerObserver) Renewal(result string, took time.Duration) {
	o.renewals.inc(result)
	o.renewalTime.Observe(took.Seconds())
}

// EDRs sets the number of EDRs by state.
func (o *consumerObserver) EDRs(count map[consumer.State]int) {
	for _, state := range edrStates {
		o.edrs.WithLabelValues(string(state)).Set(float64(count[state]))
	}
}

// Interface guard
var _ consumer.Observer = (*consumerObserver)(nil)

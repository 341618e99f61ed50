package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/policy"
	"github.com/edrgate/edrgate/tokens"
)

// policyMetrics are the metrics of the policy, with their children resolved.
type policyMetrics struct {
	decisions *prometheus.CounterVec
	took      prometheus.Histogram
	breaker   *prometheus.GaugeVec
	unchecked *prometheus.GaugeVec // of participants

	counted map[policyKey]prometheus.Counter
	other   prometheus.Counter
	states  map[string]prometheus.Gauge
}

type policyKey struct {
	occasion tokens.PolicyOccasion
	result   policy.Result
}

func newPolicyMetrics() *policyMetrics {
	m := &policyMetrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsNamespace, Name: "policy_decisions_total", Help: "Questions to the policy by occasion and result.",
		}, []string{"occasion", "result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: metricsNamespace, Name: "policy_duration_seconds",
			Help: "How long questions to the policy took that were not answered from the cache.", Buckets: stageBuckets,
		}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Name: "policy_breaker_state",
			Help: "State of the circuit breaker before the policy: 1 for the one that holds.",
		}, []string{"state"}),
		unchecked: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Name: "flows_unchecked",
			Help: "Flows that open nothing since the policy could not tell about their start. Over replicas take the maximum.",
		}, []string{participantLabel}),
		counted: map[policyKey]prometheus.Counter{},
		states:  map[string]prometheus.Gauge{},
	}
	for _, occasion := range tokens.PolicyOccasions() {
		for _, result := range policy.Results() {
			m.counted[policyKey{occasion, result}] = m.decisions.WithLabelValues(string(occasion), string(result))
		}
	}
	m.other = m.decisions.WithLabelValues(otherLabel, otherLabel)
	for _, state := range policy.BreakerStates() {
		m.states[state] = m.breaker.WithLabelValues(state)
	}
	return m
}

func (m *policyMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.decisions, m.took, m.breaker, m.unchecked}
}

// PolicyDecided implements PolicyObserver.
func (o *observer) PolicyDecided(occasion tokens.PolicyOccasion, result policy.Result, took time.Duration) {
	m := o.collectors.policy
	counter, known := m.counted[policyKey{occasion, result}]
	if !known {
		counter = m.other
	}
	counter.Inc()
	if result != policy.Cached {
		m.took.Observe(took.Seconds())
	}
}

// PolicyBreaker implements PolicyObserver.
func (o *observer) PolicyBreaker(now string) {
	for state, gauge := range o.collectors.policy.states {
		value := 0.0
		if state == now {
			value = 1
		}
		gauge.Set(value)
	}
}

// PolicyDialDenied implements PolicyObserver.
func (o *observer) PolicyDialDenied(reason string) { o.DialDenied(connectionPolicy, reason) }

// Interface guard
var _ PolicyObserver = (*observer)(nil)

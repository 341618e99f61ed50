package caddymodule

import (
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/did"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/tokens"
)

// The collectors live as long as the process, so that a reload neither resets nor duplicates them; each config's
// registry gets the same ones (two handlers that each register their own would panic). Labels take values of closed
// sets only, never ids of flows, datasets, agreements or DIDs. The participant is that of the configuration.
//
// Gauges of flows come from a slow count that each gateway makes of the whole store: over replicas take the maximum,
// not the sum.
const metricsNamespace = "edrgate"

// otherLabel stands for a value outside the set that was known when this was written.
const otherLabel = "other"

// participantLabel is the label of what belongs to one participant.
const participantLabel = "participant"

// Stages take from microseconds (a cached look-up) to seconds (a DID host).
var stageBuckets = []float64{
	.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
}

// collectors are all metrics of the process.
type collectors struct {
	issued       *prometheus.CounterVec
	renewals     *prometheus.CounterVec
	requests     *prometheus.CounterVec
	backends     *prometheus.CounterVec
	signaling    *prometheus.CounterVec
	signalTime   *prometheus.HistogramVec
	events       *prometheus.CounterVec
	stages       *prometheus.HistogramVec
	flows        *prometheus.GaugeVec
	orphaned     *prometheus.GaugeVec
	expiring     *prometheus.GaugeVec
	commits      prometheus.Counter
	commitSize   prometheus.Histogram
	commitTime   prometheus.Histogram
	storeErrors  *prometheus.CounterVec
	storeCalls   *prometheus.HistogramVec
	connections  *prometheus.GaugeVec
	space        *prometheus.GaugeVec
	callbacks    *prometheus.CounterVec
	owed         *prometheus.GaugeVec
	looks        *prometheus.CounterVec
	missing      *prometheus.GaugeVec
	didFetches   *prometheus.CounterVec
	didFetchTime prometheus.Histogram
	dialDenied   *prometheus.CounterVec
	policy       *policyMetrics
	consumer     *consumerMetrics
	replica      *replicaMetrics
	build        *prometheus.GaugeVec
}

func newCollectors() *collectors {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: metricsNamespace, Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: metricsNamespace, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: metricsNamespace, Name: name, Help: help, Buckets: buckets})
	}
	histograms := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: metricsNamespace, Name: name, Help: help, Buckets: stageBuckets}, labels)
	}
	return &collectors{
		issued:     counter("tokens_issued_total", "Access tokens issued. life is short where renewal can be expected, long otherwise.", participantLabel, "reason", "life"),
		renewals:   counter("renewals_total", "Renewals by result: an outcome, or why it was refused.", participantLabel, "result"),
		requests:   counter("data_requests_total", "Data requests by verdict and reason.", participantLabel, "handler", "verdict", "reason"),
		backends:   counter("backend_answers_total", "Answers of the backends of edr_proxy.", participantLabel, "result"),
		signaling:  counter("signaling_requests_total", "Signaling messages by dialect, operation and outcome.", participantLabel, "dialect", "operation", "outcome"),
		events:     counter("events_total", "Things that an operator should look at.", participantLabel, "event"),
		signalTime: histograms("signaling_duration_seconds", "How long answering a signaling message took.", "operation"),
		stages:     histograms("stage_duration_seconds", "How long one stage of an operation took.", "operation", "stage"),
		orphaned:   gauge("flows_orphaned", "Flows of control planes that are not configured. Over replicas take the maximum.", participantLabel),
		expiring:   gauge("flows_expiring", "Flows whose last access token cannot be renewed and expires within 30 days. Over replicas take the maximum.", participantLabel),
		flows:      gauge("flows", "Flows by state, from a slow count. Over replicas take the maximum, not the sum.", participantLabel, "state"),
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: metricsNamespace, Name: "store_commits_total", Help: "Durable commits of the store.",
		}),
		commitSize:   histogram("store_commit_writes", "Writes that shared one commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}),
		commitTime:   histogram("store_commit_duration_seconds", "Time from the first edit of a commit until it was durable.", stageBuckets),
		storeErrors:  counter("store_errors_total", "Errors of the store's engine or disk.", "in"),
		storeCalls:   histograms("store_call_duration_seconds", "How long a call of a store in a database took.", "operation"),
		connections:  gauge("store_connections", "Connections of this gateway to its database: in use, idle, and at most.", "state"),
		space:        gauge("store_space_state", "State of the free-space guard: 1 for the one that holds.", "state"),
		callbacks:    counter("callbacks_total", "Attempts to tell a control plane that the gateway ended a flow by itself, that one has started, or that a transfer is prepared or completed.", participantLabel, "event", "result"),
		owed:         gauge("callbacks_owed", "What a control plane has still to be told, by event. Over replicas take the maximum.", participantLabel, "event"),
		looks:        counter("registrations_total", "Looks at the gateway's registrations at control planes.", participantLabel, "result"),
		missing:      gauge("registrations_missing", "Registrations at control planes that are not known to stand.", participantLabel),
		didFetches:   counter("did_fetches_total", "Fetches of DID documents by result.", "result"),
		didFetchTime: histogram("did_fetch_duration_seconds", "How long fetches of DID documents took.", stageBuckets),
		dialDenied:   counter("dial_denied_total", "Addresses that were not connected, by kind of connection and reason.", "connection", "reason"),
		policy:       newPolicyMetrics(),
		consumer:     newConsumerMetrics(),
		replica:      newReplicaMetrics(),
		build:        gauge("build_info", "Always 1. The labels say what runs.", "version", "go_version"),
	}
}

func (c *collectors) all() []prometheus.Collector {
	return append(slices.Concat(c.policy.all(), c.consumer.all(), c.replica.all()),
		c.issued, c.renewals, c.requests, c.backends, c.signaling, c.signalTime, c.events, c.stages, c.flows, c.orphaned, c.expiring, c.commits,
		c.commitSize, c.commitTime, c.storeErrors, c.storeCalls, c.connections, c.space, c.callbacks, c.owed, c.looks, c.missing, c.didFetches, c.didFetchTime, c.dialDenied, c.build,
	)
}

// registerMetrics puts the collectors into a config's registry.
func registerMetrics(registry prometheus.Registerer) error {
	for _, c := range processObserver().collectors.all() {
		err := registry.Register(c)
		var already prometheus.AlreadyRegisteredError
		if errors.As(err, &already) && already.ExistingCollector == c {
			continue // a second time in one config
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// processObserver returns the one observer of the process.
var processObserver = sync.OnceValue(func() *observer { return newObserver(newCollectors()) })

// counters are the children of a vector, resolved once: looking one up by labels takes a lock and builds a hash.
type counters[K comparable] struct {
	known map[K]prometheus.Counter
	other prometheus.Counter
}

func (c counters[K]) inc(key K) {
	counter, ok := c.known[key]
	if !ok {
		counter = c.other
	}
	counter.Inc()
}

func countersOf(vec *prometheus.CounterVec, values ...string) counters[string] {
	c := counters[string]{known: map[string]prometheus.Counter{}, other: vec.WithLabelValues(otherLabel)}
	for _, value := range values {
		c.known[value] = vec.WithLabelValues(value)
	}
	return c
}

type stageKey struct{ operation, stage string }

// observer turns what belongs to no participant into metrics. It is safe for concurrent use and never blocks.
type observer struct {
	collectors *collectors

	storeErrors counters[string]
	storeCalls  map[string]prometheus.Observer
	otherCall   prometheus.Observer
	didFetches  counters[string]
	dialDenied  counters[dialKey]
	stages      map[stageKey]prometheus.Observer
	otherStage  prometheus.Observer
	spaces      map[badger.Space]prometheus.Gauge

	mu           sync.Mutex
	participants map[string]*participantObserver // of the configs that run
}

func newObserver(c *collectors) *observer {
	o := &observer{
		collectors:   c,
		storeErrors:  countersOf(c.storeErrors, "commit", "read", "space", "reserve", "connect"),
		storeCalls:   map[string]prometheus.Observer{},
		otherCall:    c.storeCalls.WithLabelValues(otherLabel),
		didFetches:   countersOf(c.didFetches, did.FetchResults()...),
		stages:       map[stageKey]prometheus.Observer{},
		spaces:       map[badger.Space]prometheus.Gauge{},
		participants: map[string]*participantObserver{},
	}
	for _, operation := range []string{"create", "get", "update", "list", "sweep", "tail", "health"} {
		o.storeCalls[operation] = c.storeCalls.WithLabelValues(operation)
	}
	o.Connections(0, 0, 0)
	o.resolveStages()
	o.dialDenied = c.dialsDenied()
	for _, space := range []badger.Space{badger.SpaceOK, badger.SpaceLow, badger.SpaceReserve, badger.SpaceNone} {
		o.spaces[space] = c.space.WithLabelValues(space.String())
	}
	c.build.WithLabelValues(version(), runtime.Version()).Set(1)
	return o
}

func (o *observer) resolveStages() {
	for _, operation := range []string{"start", "verify", "renew"} {
		for _, stage := range []string{"did", "policy", "store", "sign", "total"} {
			o.stages[stageKey{operation, stage}] = o.collectors.stages.WithLabelValues(operation, stage)
		}
	}
	o.otherStage = o.collectors.stages.WithLabelValues(otherLabel, otherLabel)
}

// Stage implements tokens.Observer.
func (o *observer) Stage(operation, stage string, took time.Duration) {
	observed, ok := o.stages[stageKey{operation, stage}]
	if !ok {
		observed = o.otherStage
	}
	observed.Observe(took.Seconds())
}

// undecidedRenewals counts the requests to edr_refresh of which nobody can tell which participant they are for.
func (o *observer) undecidedRenewals() prometheus.Counter {
	return o.collectors.renewals.WithLabelValues("", string(tokens.CodeUnavailable))
}

// Committed implements StoreObserver.
func (o *observer) Committed(writes int, took time.Duration) {
	o.collectors.commits.Inc()
	o.collectors.commitSize.Observe(float64(writes))
	o.collectors.commitTime.Observe(took.Seconds())
}

// Fetched implements did.Observer.
func (o *observer) Fetched(result string, took time.Duration) {
	o.didFetches.inc(result)
	o.collectors.didFetchTime.Observe(took.Seconds())
}

// GuardChanged implements StoreObserver.
func (o *observer) GuardChanged(now badger.Space) {
	for space, gauge := range o.spaces {
		value := 0.0
		if space == now {
			value = 1
		}
		gauge.Set(value)
	}
}

// Failed implements StoreObserver.
func (o *observer) Failed(in string) { o.storeErrors.inc(in) }

// Called implements StoreObserver.
func (o *observer) Called(operation string, took time.Duration) {
	observed, ok := o.storeCalls[operation]
	if !ok {
		observed = o.otherCall
	}
	observed.Observe(took.Seconds())
}

// Connections implements StoreObserver.
func (o *observer) Connections(used, idle, limit int) {
	for state, n := range map[string]int{"used": used, "idle": idle, "limit": limit} {
		o.collectors.connections.WithLabelValues(state).Set(float64(n))
	}
}

// version is that of this module in the running binary.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, module := range info.Deps {
		if module.Path == modulePath {
			return module.Version
		}
	}
	if info.Main.Path == modulePath {
		return orDefault(info.Main.Version, "unknown")
	}
	return "unknown"
}

const modulePath = "github.com/edrgate/edrgate"

// Interface guards
var (
	_ StoreObserver = (*observer)(nil)
	_ did.Observer  = (*observer)(nil)
)

package caddymodule

import (
	"errors"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/did"
	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/tokens"
)

// The collectors live as long as the process, so that a reload neither resets nor duplicates them; each config's
// registry gets the same ones (two handlers that each register their own would panic). Labels take values of closed
// sets only, never ids of flows, datasets, agreements or DIDs.
//
// Gauges of flows come from a slow count that each gateway makes of the whole store: over replicas take the maximum,
// not the sum.
const metricsNamespace = "edrgate"

// otherLabel stands for a value outside the set that was known when this was written.
const otherLabel = "other"

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
	orphaned     prometheus.Gauge
	expiring     prometheus.Gauge
	commits      prometheus.Counter
	commitSize   prometheus.Histogram
	commitTime   prometheus.Histogram
	storeErrors  *prometheus.CounterVec
	space        *prometheus.GaugeVec
	callbacks    *prometheus.CounterVec
	owed         *prometheus.GaugeVec
	looks        *prometheus.CounterVec
	missing      prometheus.Gauge
	didFetches   *prometheus.CounterVec
	didFetchTime prometheus.Histogram
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
		issued:     counter("tokens_issued_total", "Access tokens issued. life is short where renewal can be expected, long otherwise.", "reason", "life"),
		renewals:   counter("renewals_total", "Renewals by result: an outcome, or why it was refused.", "result"),
		requests:   counter("data_requests_total", "Data requests by verdict and reason.", "handler", "verdict", "reason"),
		backends:   counter("backend_answers_total", "Answers of the backends of edr_proxy.", "result"),
		signaling:  counter("signaling_requests_total", "Signaling messages by dialect, operation and outcome.", "dialect", "operation", "outcome"),
		events:     counter("events_total", "Things that an operator should look at.", "event"),
		signalTime: histograms("signaling_duration_seconds", "How long answering a signaling message took.", "operation"),
		stages:     histograms("stage_duration_seconds", "How long one stage of an operation took.", "operation", "stage"),
		orphaned: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Name: "flows_orphaned", Help: "Flows of control planes that are not configured. Over replicas take the maximum.",
		}),
		expiring: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Name: "flows_expiring",
			Help: "Flows whose last access token cannot be renewed and expires within 30 days. Over replicas take the maximum.",
		}),
		flows: gauge("flows", "Flows by state, from a slow count. Over replicas take the maximum, not the sum.", "state"),
		commits: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: metricsNamespace, Name: "store_commits_total", Help: "Durable commits of the store.",
		}),
		commitSize:  histogram("store_commit_writes", "Writes that shared one commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}),
		commitTime:  histogram("store_commit_duration_seconds", "Time from the first edit of a commit until it was durable.", stageBuckets),
		storeErrors: counter("store_errors_total", "Errors of the store's engine or disk.", "in"),
		space:       gauge("store_space_state", "State of the free-space guard: 1 for the one that holds.", "state"),
		callbacks:   counter("callbacks_total", "Attempts to tell a control plane that the gateway ended a flow by itself, or that one has started.", "event", "result"),
		owed:        gauge("callbacks_owed", "What a control plane has still to be told, by event. Over replicas take the maximum.", "event"),
		looks:       counter("registrations_total", "Looks at the gateway's registrations at control planes.", "result"),
		missing: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: metricsNamespace, Name: "registrations_missing", Help: "Registrations at control planes that are not known to stand.",
		}),
		didFetches:   counter("did_fetches_total", "Fetches of DID documents by result.", "result"),
		didFetchTime: histogram("did_fetch_duration_seconds", "How long fetches of DID documents took.", stageBuckets),
		build:        gauge("build_info", "Always 1. The labels say what runs.", "version", "go_version"),
	}
}

func (c *collectors) all() []prometheus.Collector {
	return []prometheus.Collector{
		c.issued, c.renewals, c.requests, c.backends, c.signaling, c.signalTime, c.events, c.stages, c.flows, c.orphaned, c.expiring, c.commits,
		c.commitSize, c.commitTime, c.storeErrors, c.space, c.callbacks, c.owed, c.looks, c.missing, c.didFetches, c.didFetchTime, c.build,
	}
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

type (
	issueKey   struct{ reason, life string }
	requestKey struct{ handler, verdict, reason string }
	stageKey   struct{ operation, stage string }

	callbackKey struct {
		event  tokens.ReportEvent
		result controlplane.Result
	}
)

// observer turns what the packages report into metrics. It is safe for concurrent use and never blocks.
type observer struct {
	collectors *collectors

	issued      counters[issueKey]
	renewals    counters[string]
	requests    counters[requestKey]
	backends    counters[string]
	events      counters[string]
	storeErrors counters[string]
	callbacks   counters[callbackKey]
	looks       counters[string]
	didFetches  counters[string]
	stages      map[stageKey]prometheus.Observer
	otherStage  prometheus.Observer
	spaces      map[badger.Space]prometheus.Gauge
}

// The closed sets of label values.
var (
	dataCodes = []tokens.Code{
		tokens.CodeTokenMalformed, tokens.CodeTokenSignature, tokens.CodeTokenIssuer, tokens.CodeTokenExpired,
		tokens.CodeWrongDataset, tokens.CodeWrongEndpoint, tokens.CodeFlowUnknown, tokens.CodeFlowSuspended,
		tokens.CodeFlowEnded, tokens.CodeFlowNotStarted,
	}
	renewalCodes = []tokens.Code{
		tokens.CodeRefreshInvalid, tokens.CodeRefreshReused, tokens.CodeProofMalformed, tokens.CodeProofAlgorithm,
		tokens.CodeProofClaims, tokens.CodeProofIssuer, tokens.CodeProofNotBound, tokens.CodeProofAudience,
		tokens.CodeProofExpired, tokens.CodeProofTime, tokens.CodeProofToken, tokens.CodeProofTokenFlow,
		tokens.CodeProofKey, tokens.CodeProofSignature, tokens.CodeProofReplayed, tokens.CodeRenewalForbidden,
		tokens.CodeFlowSuspended, tokens.CodeFlowEnded, tokens.CodeFlowNotStarted, tokens.CodeUnavailable,
	}
	renewalOutcomes = []tokens.RenewalOutcome{tokens.Rotated, tokens.Replayed, tokens.FirstAgain, tokens.RolledForward}
	requestFaults   = []string{reasonMissing, reasonMalformed, reasonPath, reasonUpgrade, reasonMethod, reasonBody}
	flowStates      = []tokens.State{tokens.Starting, tokens.Started, tokens.Suspended, tokens.Completed, tokens.Terminated}
)

func newObserver(c *collectors) *observer {
	o := &observer{
		collectors:  c,
		backends:    countersOf(c.backends, "answered", "rejected", "unreachable", "denied", "misconfigured", "token_refused", "token_missing"),
		storeErrors: countersOf(c.storeErrors, "commit", "read", "space", "reserve"),
		looks:       countersOf(c.looks, names(controlplane.RegistrationResults())...),
		didFetches:  countersOf(c.didFetches, did.FetchResults()...),
		events: countersOf(c.events, tokens.EventRollForward, tokens.EventReuse, tokens.EventReplay, tokens.EventConflict,
			tokens.EventForeign, tokens.EventOrphan, tokens.EventUnknownEnding, tokens.EventClockJump, tokens.EventPinned, tokens.EventUnused, tokens.EventUntold),
		stages: map[stageKey]prometheus.Observer{},
		spaces: map[badger.Space]prometheus.Gauge{},
	}
	o.resolveCallbacks()
	o.resolveIssued()
	o.resolveRenewals()
	o.resolveRequests()
	o.resolveStages()
	for _, space := range []badger.Space{badger.SpaceOK, badger.SpaceLow, badger.SpaceReserve, badger.SpaceNone} {
		o.spaces[space] = c.space.WithLabelValues(space.String())
	}
	c.build.WithLabelValues(version(), runtime.Version()).Set(1)
	return o
}

func (o *observer) resolveCallbacks() {
	vec := o.collectors.callbacks
	o.callbacks = counters[callbackKey]{known: map[callbackKey]prometheus.Counter{}, other: vec.WithLabelValues(otherLabel, otherLabel)}
	for _, event := range tokens.ReportEvents() {
		o.collectors.owed.WithLabelValues(string(event))
		for _, result := range controlplane.Results() {
			o.callbacks.known[callbackKey{event, result}] = vec.WithLabelValues(string(event), string(result))
		}
	}
}

func (o *observer) resolveIssued() {
	o.issued = counters[issueKey]{known: map[issueKey]prometheus.Counter{}}
	for _, life := range []string{"short", "long"} {
		for _, reason := range []string{"start", "repeat", "resume", "renew"} {
			o.issued.known[issueKey{reason, life}] = o.collectors.issued.WithLabelValues(reason, life)
		}
	}
	o.issued.other = o.collectors.issued.WithLabelValues(otherLabel, otherLabel)
}

func (o *observer) resolveRenewals() {
	results := append([]string(nil), renewalFaults...)
	for _, code := range renewalCodes {
		results = append(results, string(code))
	}
	for _, outcome := range renewalOutcomes {
		results = append(results, string(outcome))
	}
	o.renewals = countersOf(o.collectors.renewals, results...)
}

func (o *observer) resolveRequests() {
	vec := o.collectors.requests
	o.requests = counters[requestKey]{known: map[requestKey]prometheus.Counter{}}
	add := func(handler, verdict, reason string) {
		o.requests.known[requestKey{handler, verdict, reason}] = vec.WithLabelValues(handler, verdict, reason)
	}
	for _, handler := range []string{"edr_auth", "edr_proxy"} {
		add(handler, verdictAdmitted, "")
		add(handler, verdictUnavailable, string(tokens.CodeUnavailable))
		add(handler, verdictMisrouted, reasonRenewal)
		for _, code := range dataCodes {
			add(handler, verdictRefused, string(code))
		}
		for _, fault := range requestFaults {
			add(handler, verdictRefused, fault)
		}
	}
	o.requests.other = vec.WithLabelValues(otherLabel, otherLabel, otherLabel)
}

func (o *observer) resolveStages() {
	for _, operation := range []string{"start", "verify", "renew"} {
		for _, stage := range []string{"did", "store", "sign", "total"} {
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

// Issued implements tokens.Observer.
func (o *observer) Issued(reason string, renewable bool) {
	life := "long"
	if renewable {
		life = "short"
	}
	o.issued.inc(issueKey{reason, life})
}

// Flows implements tokens.Observer.
func (o *observer) Flows(c tokens.FlowCount) {
	for _, state := range flowStates {
		o.collectors.flows.WithLabelValues(string(state)).Set(float64(c.ByState[state]))
	}
	o.collectors.orphaned.Set(float64(c.Orphaned))
	o.collectors.expiring.Set(float64(c.Expiring))
}

// Event implements tokens.Observer.
func (o *observer) Event(name string) { o.events.inc(name) }

// Verdict implements dataObserver.
func (o *observer) Verdict(handler, verdict, reason string) {
	o.requests.inc(requestKey{handler, verdict, reason})
}

// Backend implements dataObserver.
func (o *observer) Backend(result string) { o.backends.inc(result) }

// Renewal counts one request to edr_refresh.
func (o *observer) Renewal(result string) { o.renewals.inc(result) }

// Signaled implements signaling.Observer. Operations and outcomes are of closed sets, and messages are rare enough to
// look their counters up.
func (o *observer) Signaled(dialect tokens.Dialect, operation, outcome string, took time.Duration) {
	o.collectors.signaling.WithLabelValues(string(dialect), operation, outcome).Inc()
	o.collectors.signalTime.WithLabelValues(operation).Observe(took.Seconds())
}

// names are the values of a closed set as labels.
func names[T ~string](set []T) []string {
	labels := make([]string, 0, len(set))
	for _, value := range set {
		labels = append(labels, string(value))
	}
	return labels
}

// CalledBack implements controlplane.Observer.
func (o *observer) CalledBack(event tokens.ReportEvent, result controlplane.Result) {
	o.callbacks.inc(callbackKey{event, result})
}

// Owed implements controlplane.Observer.
func (o *observer) Owed(event tokens.ReportEvent, n int) {
	o.collectors.owed.WithLabelValues(string(event)).Set(float64(n))
}

// Looked implements controlplane.RegistrationObserver.
func (o *observer) Looked(result controlplane.RegistrationResult) { o.looks.inc(string(result)) }

// Unregistered implements controlplane.RegistrationObserver.
func (o *observer) Unregistered(n int) { o.collectors.missing.Set(float64(n)) }

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
	_ tokens.Observer                   = (*observer)(nil)
	_ signaling.Observer                = (*observer)(nil)
	_ controlplane.Observer             = (*observer)(nil)
	_ controlplane.RegistrationObserver = (*observer)(nil)
	_ StoreObserver                     = (*observer)(nil)
	_ did.Observer                      = (*observer)(nil)
	_ dataObserver                      = (*observer)(nil)
)

package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/tokens"
)

type (
	issueKey   struct{ reason, life string }
	requestKey struct{ handler, verdict, reason string }

	callbackKey struct {
		event  tokens.ReportEvent
		result controlplane.Result
	}
)

// participantObserver turns what the packages report of one participant into metrics. It is safe for concurrent use and
// never blocks.
type participantObserver struct {
	*observer
	name string
	uses int // configs that run with it; guarded by the observer's lock

	issued    counters[issueKey]
	renewals  counters[string]
	requests  counters[requestKey]
	backends  counters[string]
	events    counters[string]
	callbacks counters[callbackKey]
	looks     counters[string]
	signaling *prometheus.CounterVec
	flows     *prometheus.GaugeVec
	orphaned  prometheus.Gauge
	expiring  prometheus.Gauge
	owed      *prometheus.GaugeVec
	missing   prometheus.Gauge
	unchecked prometheus.Gauge
	consumer  *consumerObserver
}

// The closed sets of label values.
var (
	dataCodes = []tokens.Code{
		tokens.CodeTokenMalformed, tokens.CodeTokenSignature, tokens.CodeTokenIssuer, tokens.CodeTokenExpired,
		tokens.CodeWrongDataset, tokens.CodeWrongEndpoint, tokens.CodeFlowUnknown, tokens.CodeFlowSuspended,
		tokens.CodeFlowEnded, tokens.CodeFlowNotStarted, tokens.CodeFlowBusy, tokens.CodeConsumerBusy,
	}
	renewalCodes = []tokens.Code{
		tokens.CodeRefreshInvalid, tokens.CodeRefreshReused, tokens.CodeProofMalformed, tokens.CodeProofAlgorithm,
		tokens.CodeProofClaims, tokens.CodeProofIssuer, tokens.CodeProofNotBound, tokens.CodeProofAudience,
		tokens.CodeProofExpired, tokens.CodeProofTime, tokens.CodeProofToken, tokens.CodeProofTokenFlow,
		tokens.CodeProofKey, tokens.CodeProofSignature, tokens.CodeProofReplayed, tokens.CodeRenewalForbidden,
		tokens.CodePolicyDenied, tokens.CodeFlowSuspended, tokens.CodeFlowEnded, tokens.CodeFlowNotStarted, tokens.CodeConsumerBusy, tokens.CodeUnavailable,
	}
	renewalOutcomes = []tokens.RenewalOutcome{tokens.Rotated, tokens.Replayed, tokens.FirstAgain, tokens.RolledForward}
	requestFaults   = []string{reasonMissing, reasonMalformed, reasonPath, reasonUpgrade, reasonMethod, reasonQuery, reasonBody}
	flowStates      = []tokens.State{tokens.Starting, tokens.Started, tokens.Suspended, tokens.Completed, tokens.Terminated}
)

// acquire returns the observer of a participant, for a config that must give it back. Two configs with the participant
// have the same one.
func (o *observer) acquire(name string) *participantObserver {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.participants[name]
	if p == nil {
		p = o.newParticipant(name)
		o.participants[name] = p
	}
	p.uses++
	return p
}

// release gives the observer back. When no config has the participant any more, its gauges go: nobody would ever set them
// again. Its counters stay, as they do over every reload.
func (p *participantObserver) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uses--
	if p.uses > 0 {
		return
	}
	delete(p.participants, p.name)
	c := p.collectors
	for _, gauges := range []*prometheus.GaugeVec{c.flows, c.orphaned, c.expiring, c.owed, c.missing, c.policy.unchecked, c.consumer.edrs} {
		gauges.DeletePartialMatch(prometheus.Labels{participantLabel: p.name})
	}
}

func (o *observer) newParticipant(name string) *participantObserver {
	c := o.collectors
	its := prometheus.Labels{participantLabel: name}
	p := &participantObserver{
		observer: o,
		name:     name,
		backends: countersOf(c.backends.MustCurryWith(its), "answered", "rejected", "unreachable", "denied", "misconfigured",
			"token_refused", "token_missing"),
		looks: countersOf(c.looks.MustCurryWith(its), names(controlplane.RegistrationResults())...),
		events: countersOf(c.events.MustCurryWith(its), tokens.EventRollForward, tokens.EventReuse, tokens.EventReplay, tokens.EventConflict,
			tokens.EventForeign, tokens.EventOrphan, tokens.EventUnknownEnding, tokens.EventClockJump, tokens.EventPinned, tokens.EventUnused, tokens.EventUntold,
			tokens.EventUnchecked, tokens.EventDenied, tokens.EventJournaled, tokens.EventRepeatedEnd),
		signaling: c.signaling.MustCurryWith(its),
		flows:     c.flows.MustCurryWith(its),
		orphaned:  c.orphaned.With(its),
		expiring:  c.expiring.With(its),
		owed:      c.owed.MustCurryWith(its),
		missing:   c.missing.With(its),
		unchecked: c.policy.unchecked.With(its),
		consumer:  c.consumer.observer(its),
	}
	p.resolveCallbacks(c.callbacks.MustCurryWith(its))
	p.resolveIssued(c.issued.MustCurryWith(its))
	p.resolveRenewals(c.renewals.MustCurryWith(its))
	p.resolveRequests(c.requests.MustCurryWith(its))
	return p
}

func (p *participantObserver) resolveCallbacks(vec *prometheus.CounterVec) {
	p.callbacks = counters[callbackKey]{known: map[callbackKey]prometheus.Counter{}, other: vec.WithLabelValues(otherLabel, otherLabel)}
	for _, event := range tokens.ReportEvents() {
		p.owed.WithLabelValues(string(event))
		for _, result := range controlplane.Results() {
			p.callbacks.known[callbackKey{event, result}] = vec.WithLabelValues(string(event), string(result))
		}
	}
}

func (p *participantObserver) resolveIssued(vec *prometheus.CounterVec) {
	p.issued = counters[issueKey]{known: map[issueKey]prometheus.Counter{}}
	for _, life := range []string{"short", "long"} {
		for _, reason := range []string{"start", "repeat", "resume", "renew"} {
			p.issued.known[issueKey{reason, life}] = vec.WithLabelValues(reason, life)
		}
	}
	p.issued.other = vec.WithLabelValues(otherLabel, otherLabel)
}

func (p *participantObserver) resolveRenewals(vec *prometheus.CounterVec) {
	results := append([]string(nil), renewalFaults...)
	for _, code := range renewalCodes {
		results = append(results, string(code))
	}
	for _, outcome := range renewalOutcomes {
		results = append(results, string(outcome))
	}
	p.renewals = countersOf(vec, results...)
}

func (p *participantObserver) resolveRequests(vec *prometheus.CounterVec) {
	p.requests = counters[requestKey]{known: map[requestKey]prometheus.Counter{}}
	add := func(handler, verdict, reason string) {
		p.requests.known[requestKey{handler, verdict, reason}] = vec.WithLabelValues(handler, verdict, reason)
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
	p.requests.other = vec.WithLabelValues(otherLabel, otherLabel, otherLabel)
}

// Issued implements tokens.Observer.
func (p *participantObserver) Issued(reason string, renewable bool) {
	life := "long"
	if renewable {
		life = "short"
	}
	p.issued.inc(issueKey{reason, life})
}

// Flows implements tokens.Observer.
func (p *participantObserver) Flows(c tokens.FlowCount) {
	for _, state := range flowStates {
		p.flows.WithLabelValues(string(state)).Set(float64(c.ByState[state]))
	}
	p.orphaned.Set(float64(c.Orphaned))
	p.expiring.Set(float64(c.Expiring))
}

// Unchecked implements tokens.Observer.
func (p *participantObserver) Unchecked(n int) { p.unchecked.Set(float64(n)) }

// Event implements tokens.Observer.
func (p *participantObserver) Event(name string) { p.events.inc(name) }

// Verdict implements dataObserver.
func (p *participantObserver) Verdict(handler, verdict, reason string) {
	p.requests.inc(requestKey{handler, verdict, reason})
}

// Backend implements dataObserver.
func (p *participantObserver) Backend(result string) { p.backends.inc(result) }

// Renewal counts one request to edr_refresh.
func (p *participantObserver) Renewal(result string) { p.renewals.inc(result) }

// Signaled implements signaling.Observer. Operations and outcomes are of closed sets, and messages are rare enough to
// look their counters up.
func (p *participantObserver) Signaled(dialect tokens.Dialect, operation, outcome string, took time.Duration) {
	p.signaling.WithLabelValues(string(dialect), operation, outcome).Inc()
	p.collectors.signalTime.WithLabelValues(operation).Observe(took.Seconds())
}

// CalledBack implements controlplane.Observer.
func (p *participantObserver) CalledBack(event tokens.ReportEvent, result controlplane.Result) {
	p.callbacks.inc(callbackKey{event, result})
}

// Owed implements controlplane.Observer.
func (p *participantObserver) Owed(event tokens.ReportEvent, n int) {
	p.owed.WithLabelValues(string(event)).Set(float64(n))
}

// Looked implements controlplane.RegistrationObserver.
func (p *participantObserver) Looked(result controlplane.RegistrationResult) {
	p.looks.inc(string(result))
}

// Unregistered implements controlplane.RegistrationObserver.
func (p *participantObserver) Unregistered(n int) { p.missing.Set(float64(n)) }

// names are the values of a closed set as labels.
func names[T ~string](set []T) []string {
	labels := make([]string, 0, len(set))
	for _, value := range set {
		labels = append(labels, string(value))
	}
	return labels
}

// Interface guards
var (
	_ tokens.Observer                   = (*participantObserver)(nil)
	_ signaling.Observer                = (*participantObserver)(nil)
	_ controlplane.Observer             = (*participantObserver)(nil)
	_ controlplane.RegistrationObserver = (*participantObserver)(nil)
	_ dataObserver                      = (*participantObserver)(nil)
)

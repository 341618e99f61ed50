package caddymodule

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/policy"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/tokens"
)

// series returns the values of a metric by their labels' values, joined.
func series(t *testing.T, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, pair := range metric.GetLabel() {
				labels = append(labels, pair.GetValue())
			}
			value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			values[strings.Join(labels, " ")] = value
		}
	}
	return values
}

func TestObserver(t *testing.T) {
	o := newObserver(newCollectors()).acquire("acme")
	registry := prometheus.NewPedanticRegistry()
	for _, c := range o.collectors.all() {
		registry.MustRegister(c)
	}
	before := cardinality(t, registry)

	o.Issued("renew", true)
	o.Issued("start", false)
	o.Issued("made up", true)
	o.Renewal(string(tokens.Rotated))
	o.Renewal("did:web:" + strings.Repeat("x", 100))
	o.Verdict("edr_auth", verdictAdmitted, "")
	o.Verdict("edr_proxy", verdictRefused, string(tokens.CodeTokenExpired))
	o.Verdict("edr_auth", verdictUnavailable, string(tokens.CodeUnavailable))
	o.Verdict("edr_auth", verdictMisrouted, reasonRenewal)
	o.Verdict("edr_auth", verdictRefused, "flow-4711")
	o.Backend(backendAnswered)
	o.Backend("http://backend:8080")
	o.Event(tokens.EventReuse)
	o.Event("flow-4711")
	o.Stage("renew", "did", time.Millisecond)
	o.Stage("renew", "agreement-1", time.Millisecond)
	o.Flows(tokens.FlowCount{ByState: map[tokens.State]int{tokens.Started: 7, "MADE_UP": 1}})
	o.Committed(3, time.Millisecond)
	o.Failed("commit")
	o.Failed("connect")
	o.Called("update", time.Millisecond)
	o.Called("new", time.Millisecond)
	o.Connections(3, 2, 16)
	o.Failed("/var/lib/edr")
	o.Fetched("ok", time.Millisecond)
	o.Fetched("wallet.example", time.Millisecond)
	o.GuardChanged(badger.SpaceLow)
	o.CalledBack(tokens.ReportStarted, controlplane.GivenUp)
	o.CalledBack("http://cp:9191", controlplane.GivenUp)
	o.Owed(tokens.ReportCompleted, 3)
	o.Looked(controlplane.RegistrationMade)
	o.Looked("http://cp:9191")
	o.Unregistered(2)
	o.PolicyDecided(tokens.PolicyRenew, policy.Deny, time.Millisecond)
	o.PolicyDecided(tokens.PolicyRenew, policy.Cached, time.Millisecond)
	o.PolicyDecided("flow-4711", policy.Deny, time.Millisecond)
	o.PolicyBreaker("open")
	o.PolicyDialDenied("metadata")
	o.DialDenied(connectionDID, "range")
	o.DialDenied("wallet.example", "range")
	o.DialDenied(connectionDID, "10.0.0.1:80")
	o.Unchecked(4)

	for _, want := range []struct {
		metric, labels string
		value          float64
	}{
		{"edrgate_tokens_issued_total", "short acme renew", 1},
		{"edrgate_tokens_issued_total", "long acme start", 1},
		{"edrgate_tokens_issued_total", "other acme other", 1},
		{"edrgate_renewals_total", "acme rotated", 1},
		{"edrgate_renewals_total", "acme other", 1},
		{"edrgate_data_requests_total", "edr_auth acme  admitted", 1},
		{"edrgate_dial_denied_total", "policy metadata", 1},
		{"edrgate_dial_denied_total", "did range", 1},
		{"edrgate_dial_denied_total", "other other", 2},
		{"edrgate_callbacks_total", "started acme given_up", 1},
		{"edrgate_callbacks_total", "other acme other", 1},
		{"edrgate_callbacks_owed", "completed acme", 3},
		{"edrgate_registrations_total", "acme registered", 1},
		{"edrgate_registrations_total", "acme other", 1},
		{"edrgate_registrations_missing", "acme", 2},
		{"edrgate_data_requests_total", "edr_proxy acme token_expired refused", 1},
		{"edrgate_data_requests_total", "edr_auth acme unavailable unavailable", 1},
		{"edrgate_data_requests_total", "edr_auth acme refresh_request misrouted", 1},
		{"edrgate_data_requests_total", "other acme other other", 1},
		{"edrgate_backend_answers_total", "acme answered", 1},
		{"edrgate_backend_answers_total", "acme other", 1},
		{"edrgate_events_total", "reuse acme", 1},
		{"edrgate_stage_duration_seconds", "renew did", 1},
		{"edrgate_stage_duration_seconds", "other other", 1},
		{"edrgate_flows", "acme STARTED", 7},
		{"edrgate_flows", "acme SUSPENDED", 0},
		{"edrgate_store_commits_total", "", 1},
		{"edrgate_store_commit_writes", "", 1},
		{"edrgate_store_errors_total", "commit", 1},
		{"edrgate_store_errors_total", "connect", 1},
		{"edrgate_store_call_duration_seconds", "update", 1},
		{"edrgate_store_call_duration_seconds", "other", 1},
		{"edrgate_store_connections", "used", 3},
		{"edrgate_store_connections", "idle", 2},
		{"edrgate_store_connections", "limit", 16},
		{"edrgate_store_space_state", "low", 1},
		{"edrgate_store_space_state", "ok", 0},
		{"edrgate_did_fetches_total", "ok", 1},
		{"edrgate_policy_decisions_total", "renew deny", 1},
		{"edrgate_policy_decisions_total", "renew cached", 1},
		{"edrgate_policy_decisions_total", "other other", 1},
		{"edrgate_policy_duration_seconds", "", 2},
		{"edrgate_policy_breaker_state", "open", 1},
		{"edrgate_policy_breaker_state", "closed", 0},
		{"edrgate_flows_unchecked", "acme", 4},
	} {
		got, ok := series(t, registry, want.metric)[want.labels]
		if !ok || got != want.value {
			t.Errorf("%s{%s}: %v, %v", want.metric, want.labels, got, ok)
		}
	}
	// Whatever is reported, no new series appear but those of states.
	if after := cardinality(t, registry); after-before != len(flowStates) {
		t.Errorf("%d series became %d", before, after)
	}
}

func cardinality(t *testing.T, registry *prometheus.Registry) int {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, family := range families {
		n += len(family.GetMetric())
	}
	return n
}

// Every reason that the data path counts has a counter of its own.
func TestVerdictsAreKnown(t *testing.T) {
	o := newObserver(newCollectors()).acquire("default")
	for reason := range rulings {
		_, known := o.requests.known[requestKey{"edr_auth", verdictRefused, reason}]
		if !known {
			t.Errorf("%s is counted as other", reason)
		}
	}
}

func TestRegisterMetricsTolerance(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for range 2 {
		err := registerMetrics(registry)
		if err != nil {
			t.Fatal(err)
		}
	}
	// Collectors of somebody else under our names would leave ours uncounted.
	registry = prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollectors().commits)
	err := registerMetrics(registry)
	if err == nil {
		t.Error("another collector of the same name was ignored")
	}
}

// The gauges of a participant go with the last config that has it, and not before: during a reload two have it. A count that
// nobody makes any more must not look like a present one.
func TestGaugesGoWithTheirParticipant(t *testing.T) {
	o := newObserver(newCollectors())
	registry := prometheus.NewPedanticRegistry()
	for _, c := range o.collectors.all() {
		registry.MustRegister(c)
	}
	before, after := o.acquire("acme"), o.acquire("acme")
	other := o.acquire("other-one")
	for _, p := range []*participantObserver{after, other} {
		p.Flows(tokens.FlowCount{Orphaned: 5})
		p.Owed(tokens.ReportCompleted, 6)
		p.Renewal(string(tokens.Rotated))
	}
	before.release()
	if got := series(t, registry, "edrgate_flows_orphaned"); got["acme"] != 5 {
		t.Errorf("after a reload: %v", got)
	}
	after.release()
	for _, name := range []string{"edrgate_flows", "edrgate_flows_orphaned", "edrgate_flows_expiring", "edrgate_callbacks_owed", "edrgate_registrations_missing"} {
		for labels := range series(t, registry, name) {
			if strings.Contains(labels, "acme") {
				t.Errorf("%s{%s} is left", name, labels)
			}
		}
	}
	if got := series(t, registry, "edrgate_callbacks_owed"); got["completed other-one"] != 6 {
		t.Errorf("of another participant: %v", got)
	}
	if got := series(t, registry, "edrgate_renewals_total"); got["acme rotated"] != 1 {
		t.Errorf("counters: %v", got["acme rotated"])
	}
	again := o.acquire("acme")
	defer again.release()
	again.Owed(tokens.ReportCompleted, 1)
	if got := series(t, registry, "edrgate_callbacks_owed"); got["completed acme"] != 1 {
		t.Errorf("configured again: %v", got)
	}
}

// A config that is cleaned up twice gives back its participants' observers once.
func TestObserverIsGivenBackOnce(t *testing.T) {
	o := newObserver(newCollectors())
	a := &App{participants: []*participant{{name: "acme", observer: o.acquire("acme")}}}
	other := o.acquire("acme")
	defer other.release()
	for range 2 {
		err := a.Cleanup()
		if err != nil {
			t.Fatal(err)
		}
	}
	again := o.acquire("acme")
	defer again.release()
	if again != other {
		t.Error("another config has the participant, and its observer is gone")
	}
}

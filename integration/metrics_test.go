package integration

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// metricLabels are all metrics of the gateway with the names of their labels. Dashboards and alerts depend on them, so
// a change here is one for users.
var metricLabels = map[string][]string{
	"edrgate_backend_answers_total":             {"participant", "result"},
	"edrgate_build_info":                        {"go_version", "version"},
	"edrgate_callbacks_owed":                    {"event", "participant"},
	"edrgate_callbacks_total":                   {"event", "participant", "result"},
	"edrgate_consumer_edrs":                     {"participant", "state"},
	"edrgate_consumer_events_total":             {"event", "participant"},
	"edrgate_consumer_renewal_duration_seconds": {},
	"edrgate_consumer_renewals_total":           {"participant", "result"},
	"edrgate_data_requests_total":               {"handler", "participant", "reason", "verdict"},
	"edrgate_dial_denied_total":                 {"connection", "reason"},
	"edrgate_did_fetch_duration_seconds":        {},
	"edrgate_did_fetches_total":                 {"result"},
	"edrgate_events_total":                      {"event", "participant"},
	"edrgate_flows":                             {"participant", "state"},
	"edrgate_flows_expiring":                    {"participant"},
	"edrgate_flows_orphaned":                    {"participant"},
	"edrgate_flows_unchecked":                   {"participant"},
	"edrgate_follow_errors_total":               {"in"},
	"edrgate_policy_breaker_state":              {"state"},
	"edrgate_policy_decisions_total":            {"occasion", "result"},
	"edrgate_policy_duration_seconds":           {},
	"edrgate_registrations_missing":             {"participant"},
	"edrgate_registrations_total":               {"participant", "result"},
	"edrgate_renewals_total":                    {"participant", "result"},
	"edrgate_revocation_lag_seconds":            {},
	"edrgate_signaling_duration_seconds":        {"operation"},
	"edrgate_signaling_requests_total":          {"dialect", "operation", "outcome", "participant"},
	"edrgate_stage_duration_seconds":            {"operation", "stage"},
	"edrgate_store_call_duration_seconds":       {"operation"},
	"edrgate_store_commit_duration_seconds":     {},
	"edrgate_store_commit_writes":               {},
	"edrgate_store_commits_total":               {},
	"edrgate_store_connections":                 {"state"},
	"edrgate_store_endings_remembered":          {},
	"edrgate_store_errors_total":                {"in"},
	"edrgate_store_rollback":                    {},
	"edrgate_store_space_state":                 {"state"},
	"edrgate_store_staleness_seconds":           {},
	"edrgate_tokens_issued_total":               {"life", "participant", "reason"},
}

// TestMetricsHaveTheExpectedLabelsOnly: a label with ids in it would grow with the flows, and tell strangers who trades
// with whom.
func TestMetricsHaveTheExpectedLabelsOnly(t *testing.T) {
	t.Parallel()
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := startGateway(t, config{site: fmt.Sprintf("handle /weather/* {\n%s\n}\nhandle {\nedr_proxy {\nbackends %s\n}\n}",
		serves("a-dataset", weather), weather.address())})
	before := maps.Clone(g.scrape())
	var ids []string
	for i, p := range planes {
		wallet := hosts.wallet(fmt.Sprintf("consumer-%d", i))
		f := newTerms("a-dataset", wallet.DID)
		f.backend = "http://" + weather.address()
		c := &party{wallet: wallet, terms: f, edr: startFlow(g, p, f)}
		ids = append(ids, c.terms.flow, c.terms.agreement, c.terms.dataset, c.wallet.DID)
		makeEverythingHappen(g, p, c)
	}
	m := g.scrape()
	for name, family := range m {
		if !strings.HasPrefix(name, "edrgate_") {
			continue
		}
		want, known := metricLabels[name]
		if !known {
			t.Errorf("metric %s is not among the known ones", name)
			continue
		}
		onDemand := strings.HasPrefix(name, "edrgate_signaling_") // messages are rare, and most outcomes never come
		if !onDemand && len(family.GetMetric()) != len(before[name].GetMetric()) {
			t.Errorf("%s had %d combinations of labels and has %d: all must be there from the start, for rates to be computed",
				name, len(before[name].GetMetric()), len(family.GetMetric()))
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			got := slices.Sorted(maps.Keys(labels))
			if !slices.Equal(got, want) {
				t.Errorf("%s has the labels %v, want %v", name, got, want)
			}
			for label, value := range labels {
				if slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(value, id) }) || strings.Contains(value, "did:") {
					t.Errorf("%s: label %s has an id in its value: %q", name, label, value)
				}
				if value == "other" && metric.GetCounter().GetValue() > 0 {
					t.Errorf("%s: something that the gateway does is counted as %s=other", name, label)
				}
			}
		}
	}
	for name := range metricLabels {
		if m[name] == nil {
			t.Errorf("metric %s is missing", name)
		}
	}
}

// makeEverythingHappen does what can be done with a flow, right and wrong.
func makeEverythingHappen(g *gateway, p plane, c *party) {
	g.t.Helper()
	path := "/" + c.terms.dataset
	for _, token := range []string{c.edr.access, "nonsense", forgedToken(g.t, c.edr), ""} {
		send(g.t, g.client, g.dataRequest(path, token))
		send(g.t, g.client, g.dataRequest("/weather/x", token))
		g.getRaw("/%2e%2e/x", token)
	}
	trace := g.dataRequest(path, c.edr.access)
	trace.Method = http.MethodTrace
	send(g.t, g.client, trace)
	upgrade := g.dataRequest(path, c.edr.access)
	upgrade.Header.Set("Connection", "Upgrade")
	upgrade.Header.Set("Upgrade", "websocket")
	send(g.t, g.client, upgrade)

	old := c.edr
	for range 3 {
		c.edr = renew(g, c.wallet, c.edr)
	}
	renewalOf(g, c.wallet, old).send(g)
	renewalOf(g, testkit.NewWallet("did:web:thief.example"), c.edr).send(g)
	renewalOf(g, testkit.NewWallet(c.wallet.DID), c.edr).send(g)
	broken := renewalOf(g, c.wallet, c.edr)
	broken.form.Del("refresh_token")
	broken.send(g)
	unproven := renewalOf(g, c.wallet, c.edr)
	unproven.proof = ""
	unproven.send(g)
	late := renewalOf(g, c.wallet, c.edr)
	late.proof = c.wallet.Proof(g.did, c.edr.access, time.Now().Add(-time.Hour))
	late.send(g)

	p.start(g, c.terms)
	other := c.terms
	other.dataset += "-other"
	p.start(g, other) // a conflict
	p.suspend(g, c.terms.flow)
	p.suspend(g, c.terms.flow)
	g.get(path, c.edr.access)
	renewalOf(g, c.wallet, c.edr).send(g)
	p.resume(g, c.terms, c.edr)
	p.resume(g, c.terms, c.edr)
	p.suspend(g, "flow-unknown-"+p.name())
	p.terminate(g, "flow-unknown-"+p.name())
	p.terminate(g, c.terms.flow)
	p.suspend(g, c.terms.flow)
	p.resume(g, c.terms, c.edr)
	g.get(path, c.edr.access)
	renewalOf(g, c.wallet, c.edr).send(g)
	for _, elsewhere := range []string{"/dataflows/prepare", "/v1/dataflows/check", "/dataflows/nonsense/nonsense", "/v1/dataflows/start"} {
		signal(g, elsewhere, `{}`)
	}
	signal(g, "/dataflows/start", recorded(g.t, "dps-edc-0.18/20-push-start--04-pcp-to-pdp-start.json"))
}

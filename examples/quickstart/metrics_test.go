package main

import (
	"strings"
	"testing"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

const exposition = `# HELP edrgate_renewals_total Renewals by result.
# TYPE edrgate_renewals_total counter
edrgate_renewals_total{result="proof_not_bound"} 1
edrgate_renewals_total{result="replayed"} 2
edrgate_renewals_total{result="rotated"} 3
edrgate_tokens_issued_total{life="short",reason="start"} 4
edrgate_data_requests_total{handler="edr_auth",reason="",verdict="admitted"} 5
edrgate_data_requests_total{handler="edr_auth",reason="flow_ended",verdict="refused"} 6
edrgate_data_requests_total{handler="edr_auth",reason="token_expired",verdict="refused"} 1
edrgate_data_requests_total{handler="edr_proxy",reason="",verdict="admitted"} 8
edrgate_data_requests_totally_other{handler="edr_proxy",verdict="admitted"} 1e+02
go_goroutines 12
`

func TestCompare(t *testing.T) {
	all, err := demo.ParseMetrics(exposition)
	if err != nil {
		t.Fatal(err)
	}
	counted := tally{
		starts: 4, rotations: 3, repeats: 2, thefts: 1,
		admitted: handlerCounts{auth: 5, proxy: 8}, refused: handlerCounts{auth: 7},
	}
	err = counted.compare(all)
	if err != nil {
		t.Errorf("equal counts differ: %v", err)
	}
	counted.request(false, 403)
	counted.request(true, 200)
	err = counted.compare(all)
	for _, difference := range []string{
		`edrgate_data_requests_total{handler="edr_auth",verdict="admitted"} is 5, but there were 6`,
		`edrgate_data_requests_total{handler="edr_proxy",verdict="refused"} is 0, but there were 1`,
	} {
		if err == nil || !strings.Contains(err.Error(), difference) {
			t.Errorf("no difference %q in %v", difference, err)
		}
	}
}

func TestCountOfConsumer(t *testing.T) {
	all, err := demo.ParseMetrics(`edrgate_consumer_renewals_total{participant="default",result="renewed"} 2
edrgate_consumer_renewals_total{participant="default",result="refused"} 4
edrgate_consumer_events_total{event="rejected",participant="default"} 1
`)
	if err != nil {
		t.Fatal(err)
	}
	counted := tally{rotations: 1, refused: handlerCounts{auth: 5, proxy: 6}}
	counted.count(all)
	if counted != (tally{rotations: 3, refused: handlerCounts{auth: 6, proxy: 6}}) {
		t.Errorf("counted %+v", counted)
	}
}

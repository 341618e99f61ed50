package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

// tally is what the steps did, to be found again in the gateway's metrics.
type tally struct {
	starts, rotations, repeats, thefts int
	admitted, refused                  handlerCounts
}

// handlerCounts counts by the handler of the data path.
type handlerCounts struct{ auth, proxy int }

// request counts a data request by its status.
func (t *tally) request(byAuth bool, status int) {
	counts := &t.refused
	if status == http.StatusOK {
		counts = &t.admitted
	}
	if byAuth {
		counts.auth++
		return
	}
	counts.proxy++
}

const (
	issuedMetric   = "edrgate_tokens_issued_total"
	renewalsMetric = "edrgate_renewals_total"
	requestsMetric = "edrgate_data_requests_total"

	consumerRenewalsMetric = "edrgate_consumer_renewals_total"
	consumerEventsMetric   = "edrgate_consumer_events_total"
)

// count adds what the consumer's gateway has done at the provider's by itself.
func (t *tally) count(ofConsumer []demo.Series) {
	t.rotations += int(demo.Sum(ofConsumer, consumerRenewalsMetric, `result="renewed"`))
	t.refused.auth += int(demo.Sum(ofConsumer, consumerEventsMetric, `event="rejected"`)) // and then sent again
}

// compare finds what the gateway counted differently.
func (t *tally) compare(all []demo.Series) error {
	var differences []error
	for _, c := range []struct {
		name   string
		labels []string
		want   int
	}{
		{issuedMetric, []string{`reason="start"`}, t.starts},
		{renewalsMetric, []string{`result="rotated"`}, t.rotations},
		{renewalsMetric, []string{`result="replayed"`}, t.repeats},
		{renewalsMetric, []string{`result="proof_not_bound"`}, t.thefts},
		{requestsMetric, []string{`handler="edr_auth"`, `verdict="admitted"`}, t.admitted.auth},
		{requestsMetric, []string{`handler="edr_auth"`, `verdict="refused"`}, t.refused.auth},
		{requestsMetric, []string{`handler="edr_proxy"`, `verdict="admitted"`}, t.admitted.proxy},
		{requestsMetric, []string{`handler="edr_proxy"`, `verdict="refused"`}, t.refused.proxy},
	} {
		got := demo.Sum(all, c.name, c.labels...)
		if got != float64(c.want) {
			differences = append(differences, fmt.Errorf("%s{%s} is %v, but there were %d", c.name, strings.Join(c.labels, ","), got, c.want))
		}
	}
	return errors.Join(differences...)
}

// tell writes what was counted of tokens, renewals and data requests.
func tell(out io.Writer, all []demo.Series) {
	for _, name := range []string{issuedMetric, renewalsMetric, requestsMetric} {
		for _, s := range all {
			if s.Is(name) && s.Value > 0 {
				fmt.Fprintf(out, "     %s %v\n", s.Text, s.Value)
			}
		}
	}
}

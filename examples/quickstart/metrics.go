package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
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

// series is one line of the metrics.
type series struct {
	text  string // name and labels, as written
	value float64
}

// parseMetrics reads the lines with a value of the Prometheus text format.
func parseMetrics(text string) ([]series, error) {
	var all []series
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			return nil, fmt.Errorf("metrics: line %q has no value", line)
		}
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: line %q: %w", line, err)
		}
		all = append(all, series{text: line[:i], value: value})
	}
	return all, nil
}

// is reports whether the series has this name and these labels, each written as name="value".
func (s series) is(name string, labels ...string) bool {
	rest, ok := strings.CutPrefix(s.text, name)
	if !ok || rest != "" && rest[0] != '{' {
		return false
	}
	for _, label := range labels {
		if !strings.Contains(rest, "{"+label) && !strings.Contains(rest, ","+label) {
			return false
		}
	}
	return true
}

func sum(all []series, name string, labels ...string) float64 {
	var total float64
	for _, s := range all {
		if s.is(name, labels...) {
			total += s.value
		}
	}
	return total
}

const (
	issuedMetric   = "edrgate_tokens_issued_total"
	renewalsMetric = "edrgate_renewals_total"
	requestsMetric = "edrgate_data_requests_total"

	consumerRenewalsMetric = "edrgate_consumer_renewals_total"
	consumerEventsMetric   = "edrgate_consumer_events_total"
)

// count adds what the consumer's gateway has done at the provider's by itself.
func (t *tally) count(ofConsumer []series) {
	t.rotations += int(sum(ofConsumer, consumerRenewalsMetric, `result="renewed"`))
	t.refused.auth += int(sum(ofConsumer, consumerEventsMetric, `event="rejected"`)) // and then sent again
}

// compare finds what the gateway counted differently.
func (t *tally) compare(all []series) error {
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
		got := sum(all, c.name, c.labels...)
		if got != float64(c.want) {
			differences = append(differences, fmt.Errorf("%s{%s} is %v, but there were %d", c.name, strings.Join(c.labels, ","), got, c.want))
		}
	}
	return errors.Join(differences...)
}

// tell writes what was counted of tokens, renewals and data requests.
func tell(out io.Writer, all []series) {
	for _, name := range []string{issuedMetric, renewalsMetric, requestsMetric} {
		for _, s := range all {
			if s.is(name) && s.value > 0 {
				fmt.Fprintf(out, "     %s %v\n", s.text, s.value)
			}
		}
	}
}

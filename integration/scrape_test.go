package integration

import (
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metrics is one scrape, by family.
type metrics map[string]*dto.MetricFamily

// scrape reads the metrics as Prometheus does.
func (g *gateway) scrape() metrics {
	g.t.Helper()
	answer := g.adminGet("/metrics").want(g.t, http.StatusOK)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(answer.body))
	if err != nil {
		g.t.Fatalf("the metrics cannot be parsed: %v", err)
	}
	return families
}

// value returns the sum of the metrics of a family that have the labels, given as pairs of name and value.
func (m metrics) value(family string, labels ...string) float64 {
	var sum float64
	for _, metric := range m[family].GetMetric() {
		if !hasLabels(metric, labels) {
			continue
		}
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetUntyped().GetValue() +
			float64(metric.GetHistogram().GetSampleCount())
	}
	return sum
}

func hasLabels(metric *dto.Metric, pairs []string) bool {
	for i := 0; i < len(pairs); i += 2 {
		has := slices.ContainsFunc(metric.GetLabel(), func(l *dto.LabelPair) bool {
			return l.GetName() == pairs[i] && l.GetValue() == pairs[i+1]
		})
		if !has {
			return false
		}
	}
	return true
}

// wantCount checks a counter.
func (m metrics) wantCount(g *gateway, want float64, family string, labels ...string) {
	g.t.Helper()
	got := m.value(family, labels...)
	if got != want {
		g.t.Errorf("%s %v is %v, want %v", family, labels, got, want)
	}
}

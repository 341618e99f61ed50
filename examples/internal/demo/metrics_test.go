package demo

import "testing"

func TestParseMetricsRefuses(t *testing.T) {
	for _, text := range []string{"edrgate_flows", "edrgate_flows{} many"} {
		_, err := ParseMetrics(text)
		if err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

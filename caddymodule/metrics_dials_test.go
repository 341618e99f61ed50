package caddymodule

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/internal/dial"
)

// dialsDenied are the denied dials of the process, by whom they were to and why.
func dialsDenied(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(processObserver().collectors.dials)
	return series(t, registry, "edrgate_dials_denied_total")
}

// TestDeniedDialsHaveFixedLabels: a series for each thing that can happen is there from the start, and no other one ever.
func TestDeniedDialsHaveFixedLabels(t *testing.T) {
	o := newObserver(newCollectors())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(o.collectors.dials)
	before := cardinality(t, registry)
	o.deniedTo(dialDID)(string(dial.ReasonRange))
	o.deniedTo(dialProvider)("10.0.0.1")
	o.deniedTo("evil.example")(string(dial.ReasonRange))
	got := series(t, registry, "edrgate_dials_denied_total")
	if got["range did"] != 1 || got["other other"] != 2 {
		t.Errorf("%v", got)
	}
	if after := cardinality(t, registry); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

// TestDeniedDialsAreCounted by those who dial for the gateway.
func TestDeniedDialsAreCounted(t *testing.T) {
	before := dialsDenied(t)["range provider"]
	transport, err := checkedTransport(caddy.Context{Context: t.Context()}, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	_, err = transport.DialContext(t.Context(), "tcp", "127.0.0.1:9")
	if err == nil {
		t.Fatal("a loopback address was dialled")
	}
	if n := dialsDenied(t)["range provider"] - before; n != 1 {
		t.Errorf("%v are counted, want 1", n)
	}
}

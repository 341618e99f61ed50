package controlplane

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func prepareReport(flow string) tokens.Report {
	return tokens.Report{Flow: flow, Dialect: tokens.DPS, Event: tokens.ReportPrepared}
}

// What the answers to a prepared mean is what those to a started do: both are awaited.
func TestPreparedIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   Result
		unsure bool
		log    string
	}{
		"taken":   {status(200, ""), Delivered, false, "level=INFO msg=\"control plane told that a transfer is prepared\""},
		"trouble": {status(500, ""), Retried, true, "level=WARN"},
		"refused": {status(409, ""), Refused, false, "does not take that a transfer is prepared"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, test.answer)
			x := newFixture(t, map[string]*url.URL{"cp": p.base()}, prepareReport("flow-1"))
			x.round()
			s := x.book.settlement("flow-1")
			if s == nil || s.Done != (test.want != Retried) || s.Delivered != (test.want == Delivered) || s.Unsure != test.unsure {
				t.Errorf("settlement %+v", s)
			}
			got := p.requests()
			if len(got) != 1 || got[0].path != "/control/transfers/flow-1/dataflow/prepared" || strings.Contains(got[0].body, "dataAddress") {
				t.Errorf("%+v", got)
			}
			if x.observer.events[tokens.ReportPrepared] != 1 || x.observer.count(test.want) != 1 || !strings.Contains(x.log.String(), test.log) {
				t.Errorf("%v %v %s", x.observer.events, x.observer.results, x.log)
			}
		})
	}
}

func TestPreparedIsGivenUpAfterADay(t *testing.T) {
	p := newPlane(t, status(503, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, prepareReport("flow-1"))
	x.clock.Advance(tokens.StartedWithin + 1)
	x.round()
	if s := x.book.settlement("flow-1"); x.observer.count(GivenUp) != 1 || !s.Done || len(p.requests()) != 0 {
		t.Errorf("%v, %+v", x.observer.results, s)
	}
}

// A flow that we serve and a transfer that we use may have one id, at two control planes: both are told, and each report is
// settled where it is owed. What one control plane gets at once is bounded over both, with what is awaited first.
func TestTwoBooks(t *testing.T) {
	p := newPlane(t, status(200, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base(), "second": p.base()}, dpsReport("flow-1"), dpsReport("flow-2"))
	used := prepareReport("flow-1")
	used.ControlPlane, used.Since = "second", x.clock.Now()
	other := newBook(x.clock, used)
	x.c.Reports = append(x.c.Reports, other)
	due, owed := x.look()
	if len(due) != 3 || due[0].Event != tokens.ReportPrepared || owed[tokens.ReportCompleted] != 2 || owed[tokens.ReportPrepared] != 1 {
		t.Errorf("due %+v, owed %v", due, owed)
	}
	x.round()
	for _, flow := range []string{"flow-1", "flow-2"} {
		if s := x.book.settlement(flow); s == nil || !s.Delivered {
			t.Errorf("%s: %+v", flow, s)
		}
	}
	if s := other.settlement("flow-1"); s == nil || !s.Delivered || len(p.requests()) != 3 {
		t.Errorf("%+v, %d requests", s, len(p.requests()))
	}
	if len(x.running) != 0 || x.atOnce["cp"] != 0 || x.atOnce["second"] != 0 {
		t.Errorf("running %v, at once %v", x.running, x.atOnce)
	}
}

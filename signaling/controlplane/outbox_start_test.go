package controlplane

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func startReport(flow string) tokens.Report {
	return tokens.Report{
		Flow: flow, Dialect: tokens.DPS, Event: tokens.ReportStarted,
		EDR: &tokens.EDR{AccessToken: "CANARY-access", RefreshToken: "CANARY-refresh"},
	}
}

// tokenAddress is a data address that holds the token, as a real one does.
func tokenAddress(e *tokens.EDR) any {
	return map[string]string{"@type": "DataAddress", "authorization": e.AccessToken.Reveal()}
}

// What the answers to a start mean, and whether the control plane can have taken what it did not confirm: then its consumer
// may have the EDR, so the flow must not end.
func TestAnswersToStarts(t *testing.T) {
	for name, test := range map[string]struct {
		answer  func(http.ResponseWriter, *http.Request)
		unknown int
		want    Result
		unsure  bool
	}{
		"200":                              {status(200, ""), 0, Delivered, false},
		"EDC has not stored yet":           {status(500, ""), 0, Retried, true}, // or has taken it before
		"503":                              {status(503, ""), 0, Retried, true},
		"404 while the kit starts":         {status(404, ""), 0, Retried, false},
		"404 for good":                     {status(404, ""), unknownAfter - 1, Unknown, false},
		"429":                              {status(429, ""), 0, Retried, false},
		"leased":                           {status(409, `[{"message":"TransferProcess already leased"}]`), 0, Retried, false},
		"ended":                            {status(409, `[{"message":"cannot be started"}]`), 0, Refused, false},
		"unknown to EDC 0.18":              {status(401, "<html>"), 0, Refused, false},
		"not schema-valid":                 {status(400, ""), 0, Refused, false},
		"a redirect":                       {redirect, 0, Retried, false},
		"connection that is reset":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, Retried, true},
		"taken, and the answer never ends": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, endless{}) }, 0, Retried, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, test.answer)
			r := startReport("flow-1")
			r.Unknown = test.unknown
			x := newFixture(t, map[string]*url.URL{"cp": p.base()}, r)
			x.c.DataAddress = tokenAddress
			x.round()
			s := x.book.settlement("flow-1")
			if x.observer.count(test.want) != 1 || x.observer.events[tokens.ReportStarted] != 1 {
				t.Errorf("results %v of %v", x.observer.results, x.observer.events)
			}
			if s == nil || s.Done != (test.want != Retried) || s.Delivered != (test.want == Delivered) || s.Unsure != test.unsure {
				t.Errorf("settlement %+v", s)
			}
			got := p.requests()
			if len(got) != 1 || got[0].path != "/control/transfers/flow-1/dataflow/started" ||
				!strings.Contains(got[0].body, `"state":"STARTED","dataAddress":{"@type":"DataAddress","authorization":"CANARY-access"}`) {
				t.Errorf("%+v", got)
			}
			if log := x.log.String(); !strings.Contains(log, "event=started") || strings.Contains(log, "ending") || strings.Contains(log, "CANARY") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// What was never sent cannot have been taken.
func TestStartThatWasNotSent(t *testing.T) {
	p := newPlane(t, status(200, ""))
	p.Close()
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, startReport("flow-1"), startReport(".."))
	x.round()
	for flow, done := range map[string]bool{"flow-1": false, "..": true} {
		if s := x.book.settlement(flow); s == nil || s.Done != done || s.Unsure {
			t.Errorf("%s: settlement %+v, log %s", flow, s, x.log)
		}
	}
}

func TestStartIsGivenUp(t *testing.T) {
	p := newPlane(t, status(503, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, startReport("flow-1"))
	x.clock.Advance(tokens.StartedWithin)
	x.round()
	x.clock.Advance(longestWait)
	x.round()
	s := x.book.settlement("flow-1")
	if x.observer.count(Retried) != 1 || x.observer.count(GivenUp) != 1 || !s.Done || s.Delivered || s.Unsure || !strings.Contains(x.log.String(), "level=ERROR") {
		t.Errorf("%v, %+v, log %s", x.observer.results, s, x.log)
	}
}

func TestStartIsUnaddressed(t *testing.T) {
	x := newFixture(t, nil, startReport("flow-1"))
	x.round()
	if s := x.book.settlement("flow-1"); x.observer.count(Unaddressed) != 1 || !s.Done || s.Delivered || s.Unsure {
		t.Errorf("%v, %+v", x.observer.results, s)
	}
}

// A control plane that is well gets all that is due to it at once, a few at a time: transfers wait for it.
func TestOneRoundDeliversAll(t *testing.T) {
	p := newPlane(t, status(200, ""))
	var reports []tokens.Report
	for i := range 10 * perPlane {
		reports = append(reports, startReport(fmt.Sprintf("flow-%d", i)))
	}
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, reports...)
	x.round()
	if n := x.observer.count(Delivered); n != len(reports) {
		t.Errorf("%d of %d delivered", n, len(reports))
	}
	if x.observer.owed[tokens.ReportStarted] != len(reports) || len(x.running) != 0 || x.atOnce["cp"] != 0 {
		t.Errorf("owed %v, running %v, at once %v", x.observer.owed, x.running, x.atOnce)
	}
}

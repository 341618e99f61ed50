package controlplane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

// fixture is an outbox with everything around it. Its rounds are run by hand.
type fixture struct {
	*Outbox
	clock    *testkit.Clock
	book     *book
	observer *recorder
	log      *bytes.Buffer
}

func newFixture(t *testing.T, callbacks map[string]*url.URL, reports ...tokens.Report) *fixture {
	t.Helper()
	clock := testkit.NewClock()
	x := &fixture{clock: clock, observer: newRecorder(), log: &bytes.Buffer{}}
	for i := range reports {
		reports[i].Since = clock.Now()
		if reports[i].ControlPlane == "" {
			reports[i].ControlPlane = "cp"
		}
	}
	x.book = newBook(clock, reports...)
	var err error
	x.Outbox, err = NewOutbox(OutboxConfig{
		Reports: []Reports{x.book}, Client: newTestClient(t), Callbacks: callbacks, DataAddress: addressOf, Observer: x.observer,
		Logger: slog.New(slog.NewTextHandler(x.log, nil)), Now: clock.Now, Jitter: func() float64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// round delivers what is due.
func (x *fixture) round() {
	x.dispatch(context.Background())
	x.wg.Wait()
}

func dpsReport(flow string) tokens.Report {
	return tokens.Report{Flow: flow, Dialect: tokens.DPS, Event: tokens.ReportCompleted, Cause: tokens.CauseRevoked}
}

func TestAnswersToCallbacks(t *testing.T) {
	for name, test := range map[string]struct {
		answer  func(http.ResponseWriter, *http.Request)
		unknown int // before this one
		want    Result
	}{
		"200":                      {status(200, ""), 0, Delivered},
		"204":                      {status(204, ""), 0, Delivered},
		"EDC has not stored yet":   {status(500, ""), 0, Retried},
		"503":                      {status(503, ""), 0, Retried},
		"429":                      {status(429, ""), 0, Retried},
		"405 while it starts":      {status(405, ""), 0, Retried},
		"leased":                   {status(409, `[{"message":"TransferProcess already leased"}]`), 0, Retried},
		"ended or suspended":       {status(409, `[{"message":"cannot be completed"}]`), 0, Refused},
		"unknown to EDC 0.18":      {status(401, "<html>"), 0, Refused},
		"not our message":          {status(400, ""), 0, Refused},
		"404 while it starts":      {status(404, ""), 0, Retried},
		"404 for good":             {status(404, ""), unknownAfter - 1, Unknown},
		"a redirect":               {redirect, 0, Retried},
		"an answer without end":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, endless{}) }, 0, Retried},
		"connection that is reset": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, Retried},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, test.answer)
			r := dpsReport("flow-1")
			r.Attempt = 50 // an outage says nothing of what the control plane knows
			r.Unknown = test.unknown
			x := newFixture(t, map[string]*url.URL{"cp": p.base()}, r)
			x.round()
			s := x.book.settlement("flow-1")
			if x.observer.count(test.want) != 1 || s == nil || s.Done != (test.want != Retried) || s.Unknown != (name == "404 while it starts") {
				t.Errorf("results %v, settlement %+v", x.observer.results, s)
			}
			if got := p.requests(); len(got) != 1 || got[0].path != "/control/transfers/flow-1/dataflow/completed" || got[0].header.Get("Content-Type") != "application/json" {
				t.Errorf("%+v", got)
			}
			if !strings.Contains(x.log.String(), "result="+string(test.want)) || strings.Contains(x.log.String(), "cannot be completed") {
				t.Errorf("log: %s", x.log)
			}
		})
	}
}

// redirect points to another path of the same server, where it would be taken.
func redirect(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/elsewhere") {
		return
	}
	http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A control plane is broken, then away, then back: the report arrives, once.
func TestControlPlaneComesBack(t *testing.T) {
	p := newPlane(t, status(500, ""), status(500, ""), status(204, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, dpsReport("flow-1"))
	var waits []time.Duration
	for range 3 {
		x.round()
		x.round() // nothing is due
		again := x.book.settlement("flow-1").Again
		waits = append(waits, again)
		x.clock.Advance(again)
	}
	if len(p.requests()) != 3 || x.observer.count(Delivered) != 1 || x.observer.count(Retried) != 2 {
		t.Errorf("%d requests, %v", len(p.requests()), x.observer.results)
	}
	if waits[0] != firstWait/2 || waits[1] != firstWait {
		t.Errorf("waits %v", waits)
	}
	ids := map[string]bool{}
	for _, r := range p.requests() {
		ids[r.body] = true
	}
	if len(ids) != 1 {
		t.Errorf("repeats differ: %v", ids)
	}
	x.round()
	if n := x.observer.owed[tokens.ReportCompleted]; n != 0 {
		t.Errorf("%d owed", n)
	}
}

func TestControlPlaneIsAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	err = listener.Close()
	if err != nil {
		t.Fatal(err)
	}
	x := newFixture(t, map[string]*url.URL{"cp": mustBase(t, "http://"+address)}, dpsReport("flow-1"))
	x.round()
	if x.observer.count(Retried) != 1 || x.observer.owed[tokens.ReportCompleted] != 1 || !strings.Contains(x.log.String(), "connection refused") {
		t.Errorf("%v, owed %v, log %s", x.observer.results, x.observer.owed, x.log)
	}
}

// One control plane that hangs holds up nobody else, and takes no more than its share.
func TestControlPlaneHangs(t *testing.T) {
	release := make(chan struct{})
	hanging := newPlane(t, func(http.ResponseWriter, *http.Request) { <-release })
	well := newPlane(t, status(200, ""))
	reports := []tokens.Report{dpsReport("other")}
	reports[0].ControlPlane = "well"
	for _, flow := range strings.Split("abcdefgh", "") {
		reports = append(reports, dpsReport(flow))
	}
	x := newFixture(t, map[string]*url.URL{"cp": hanging.base(), "well": well.base()}, reports...)
	x.dispatch(context.Background())
	x.dispatch(context.Background())
	testkit.Eventually(t, "one delivered and the other plane's share under way", func() bool {
		return x.observer.count(Delivered) == 1 && len(hanging.requests()) >= perPlane
	})
	if n := len(hanging.requests()); n != perPlane {
		t.Errorf("%d requests at once, want %d", n, perPlane)
	}
	close(release)
	x.wg.Wait()
	x.round()
	if n := x.observer.count(Delivered); n != 9 {
		t.Errorf("%d delivered", n)
	}
}

// A process that ends leaves what it was about to deliver for the next one, which need not wait until the claim has run out.
func TestStoppedInTheMiddle(t *testing.T) {
	entered := make(chan struct{})
	p := newPlane(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, dpsReport("flow-1"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { x.Run(ctx); close(done) }()
	<-entered
	cancel()
	<-done
	s := x.book.settlement("flow-1")
	if s == nil || *s != (tokens.Settlement{Again: firstWait, Unsure: true}) || len(x.observer.results) != 0 {
		t.Errorf("settled: %+v, %v", s, x.observer.results)
	}
}

func TestGivenUp(t *testing.T) {
	p := newPlane(t, status(500, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, dpsReport("flow-1"))
	x.clock.Advance(tokens.ReportWithin)
	x.round()
	if x.observer.count(Retried) != 1 {
		t.Fatalf("%v", x.observer.results)
	}
	x.clock.Advance(longestWait)
	x.round()
	if x.observer.count(GivenUp) != 1 || len(p.requests()) != 1 || !x.book.settlement("flow-1").Done || !strings.Contains(x.log.String(), "level=ERROR") {
		t.Errorf("%v, log %s", x.observer.results, x.log)
	}
}

func TestUnaddressed(t *testing.T) {
	r := dpsReport("flow-1")
	p := newPlane(t, status(200, ""))
	r.Callback = p.URL // which the operator did not name
	x := newFixture(t, nil, r)
	x.round()
	if x.observer.count(Unaddressed) != 1 || !x.book.settlement("flow-1").Done || len(p.requests()) != 0 {
		t.Errorf("%v, %d requests", x.observer.results, len(p.requests()))
	}
}

func TestIDThatClimbsIsNeverSent(t *testing.T) {
	p := newPlane(t, status(200, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, dpsReport(".."))
	x.round()
	if x.observer.count(Refused) != 1 || len(p.requests()) != 0 {
		t.Errorf("%v, %d requests", x.observer.results, len(p.requests()))
	}
}

func TestReportWaitsForTheStore(t *testing.T) {
	p := newPlane(t, status(200, ""))
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, dpsReport("flow-1"))
	x.book.err = errors.New("disk on fire")
	x.round()
	if len(p.requests()) != 0 || !strings.Contains(x.log.String(), "disk on fire") {
		t.Errorf("%d requests, log %s", len(p.requests()), x.log)
	}
	x.book.err = nil
	x.round()
	if x.observer.count(Delivered) != 1 {
		t.Errorf("%v", x.observer.results)
	}
}

func TestWaitAfter(t *testing.T) {
	for attempt, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 9: 256 * time.Second, 10: longestWait, 11: longestWait, 5000: longestWait} {
		least, most := waitAfter(attempt, 0), waitAfter(attempt, 0.999999)
		if least != want/2 || most <= least || most > want {
			t.Errorf("attempt %d: %s to %s", attempt, least, most)
		}
	}
}

// Whatever trouble the host of a control plane is in, or that of its authorization server, the call fails, and its report
// stays owed. What was not connected has not been sent.
func TestControlPlaneHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		c := NewClient(ClientConfig{Transport: h.Transport(t), Timeout: h.Timeout})
		a, err := c.call(t.Context(), message{method: http.MethodPost, url: h.URL})
		if a.ok() && !h.Packed { // of an answer to a report only the status counts
			t.Errorf("the host has taken the message: %d, %d bytes, %v", a.status, len(a.body), err)
		}
		if h.Denied != "" && !errors.Is(err, errUnsent) {
			t.Errorf("not connected: %v", err)
		}
	})
}

func TestNewOutboxWantsWhatItNeeds(t *testing.T) {
	_, err := NewOutbox(OutboxConfig{})
	if err == nil {
		t.Error("no error")
	}
}

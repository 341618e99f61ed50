package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// asyncRoute is a route that starts the flows of a dataset asynchronously.
func asyncRoute(dataset string) string { return "route later {\ndataset " + dataset + "\nasync\n}\n" }

// calledPlane is the side of a control plane that takes callbacks.
type calledPlane struct {
	t       *testing.T
	address string // host:port

	mu     sync.Mutex
	server *http.Server // nil while it is away
	answer http.HandlerFunc
	bodies map[string][]string // of the callbacks, by path
}

func newCalledPlane(t *testing.T, answer http.HandlerFunc) *calledPlane {
	p := &calledPlane{t: t, address: freeAddress(t), answer: answer, bodies: map[string][]string{}}
	t.Cleanup(p.leave)
	return p
}

func (p *calledPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the gateway was stopped
	}
	p.mu.Lock()
	p.bodies[r.URL.Path] = append(p.bodies[r.URL.Path], string(body))
	answer := p.answer
	p.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer(w, r)
}

// arrive makes the control plane be there.
func (p *calledPlane) arrive() {
	p.t.Helper()
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = &http.Server{Handler: p}
	go func(s *http.Server) { _ = s.Serve(listener) }(p.server)
}

func (p *calledPlane) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		_ = p.server.Close()
		p.server = nil
	}
}

func (p *calledPlane) answers(with http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = with
}

// told returns the callbacks about the start of a flow.
func (p *calledPlane) told(flow string) []string { return p.toldOf(flow, "started") }

// toldOf returns the callbacks of an event of a flow.
func (p *calledPlane) toldOf(flow, event string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.bodies["/signaling/transfers/"+flow+"/dataflow/"+event]...)
}

func takes(http.ResponseWriter, *http.Request)     {}
func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
func breaksOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
func failsInside(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusInternalServerError)
}
func conflicts(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) }

// startAsyncGateway starts a gateway that serves the dataset "weather" asynchronously.
func startAsyncGateway(t *testing.T, p *calledPlane) *gateway {
	t.Helper()
	return startGateway(t, config{
		app:  "control_plane default {\ncallback http://" + p.address + "/signaling\n}\n" + asyncRoute("weather"),
		site: "edr_auth {\nroute later\n}\nreverse_proxy " + newBackend(t, "weather").address(),
	})
}

// wantStarting ends the test unless the answer promises a callback.
func wantStarting(t testing.TB, answer reply, flow string) {
	t.Helper()
	answer.want(t, http.StatusAccepted)
	var a kitAnswer
	err := json.Unmarshal([]byte(answer.body), &a)
	if err != nil || a.State != "STARTING" || a.DataFlowID != flow || a.DataAddress != nil {
		t.Fatalf("the start is answered %s", answer.body)
	}
	if want := "/dataflows/" + flow + "/status"; answer.header.Get("Location") != want {
		t.Errorf("location %q, want %q", answer.header.Get("Location"), want)
	}
}

// wantStarted waits until the control plane was told more often than before of the flow's start, and returns the last EDR.
func wantStarted(t testing.TB, g *gateway, p *calledPlane, flow string, before int) edr {
	t.Helper()
	testkit.Eventually(t, "the control plane is told of the start", func() bool { return len(p.told(flow)) > before })
	var last edr
	for _, body := range p.told(flow) {
		wantStatusMessage(t, body, flow)
		last = readEDR(g, flow, reply{body: body})
	}
	return last
}

// callbacks is how many attempts to tell a control plane of an event had a result.
func (g *gateway) callbacks(event, result string) float64 {
	return g.scrape().value("edrgate_callbacks_total", "event", event, "result", result)
}

// awaitOwed waits until so many control planes have still to be told of an event.
func (g *gateway) awaitOwed(event string, want float64) {
	g.t.Helper()
	testkit.Eventually(g.t, "the metric shows what is owed", func() bool {
		return g.scrape().value("edrgate_callbacks_owed", "event", event) == want
	})
}

// troubles are what may be wrong with a control plane while it is due to be told something; nil: it is away.
var troubles = map[string]http.HandlerFunc{"answers 500": failsInside, "hangs": hangs, "breaks off": breaksOff, "is away": nil}

// TestStartIsToldWhenTheControlPlaneIsWell: nothing is lost while it is not, over a restart too, and the metrics show it.
func TestStartIsToldWhenTheControlPlaneIsWell(t *testing.T) {
	t.Parallel()
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			control := newCalledPlane(t, trouble)
			if trouble != nil {
				control.arrive()
			}
			g := startAsyncGateway(t, control)
			wallet := newDIDHost(t).wallet("consumer")
			f := newTerms("weather", wallet.DID)
			p := dpsPlane{}
			wantStarting(t, p.start(g, f), f.flow)
			wantStarting(t, p.start(g, f), f.flow) // EDC repeats what got no answer

			testkit.Eventually(t, "an attempt has failed", func() bool { return g.callbacks("started", "retried") > 0 })
			g.awaitOwed("started", 1)
			g.restart()
			g.awaitOwed("started", 1)
			wantStarting(t, p.start(g, f), f.flow)

			before := len(control.told(f.flow))
			control.answers(takes)
			if trouble == nil {
				control.arrive()
			}
			e := wantStarted(t, g, control, f.flow, before)
			wantData(t, g, "/", e.access, "data of weather")
			renewed := renew(g, wallet, e)
			wantData(t, g, "/", renewed.access, "data of weather")
			g.awaitOwed("started", 0)
			again := readEDR(g, f.flow, p.start(g, f).want(t, http.StatusOK)) // nobody waits for a callback any more
			wantData(t, g, "/", again.access, "data of weather")
			if shown := showFlow(g, f.flow); shown.State != "STARTED" {
				t.Errorf("the flow is shown as %+v", shown)
			}
		})
	}
}

// TestAsynchronousStartKilledBeforeTheAnswer: the control plane repeats its message and gets the same promise, which is kept.
func TestAsynchronousStartKilledBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, failsInside)
	control.arrive()
	g := startAsyncGateway(t, control)
	line := newSilentLine(t, g.signaling)
	f := newTerms("weather", newDIDHost(t).wallet("consumer").DID)
	m := dpsPlane{}.startMessage(g, f)
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = m.trySend(line.address(), line.client) })
	wantStarting(t, line.swallowed(t), f.flow)
	g.kill()
	line.cut()
	sending.Wait()

	g.start()
	g.awaitOwed("started", 1)
	wantStarting(t, m.send(g), f.flow)
	before := len(control.told(f.flow))
	control.answers(takes)
	e := wantStarted(t, g, control, f.flow, before)
	wantData(t, g, "/", e.access, "data of weather")
	if n := len(listFlows(g)); n != 1 {
		t.Errorf("a start and its repeat made %d flows", n)
	}
}

// TestWhoTakesAStartIsNotToldAgain: EDC answers 500 to a start that it has taken, so each repeat would lock the transfer. That
// it has taken it shows when the consumer uses the EDR.
func TestWhoTakesAStartIsNotToldAgain(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, breaksOff)
	control.arrive()
	g := startAsyncGateway(t, control)
	wallet := newDIDHost(t).wallet("consumer")
	f := newTerms("weather", wallet.DID)
	wantStarting(t, dpsPlane{}.start(g, f), f.flow)
	e := wantStarted(t, g, control, f.flow, 0)
	control.answers(failsInside)
	wantData(t, g, "/", e.access, "data of weather")
	g.awaitOwed("started", 0)
	wantNotTold(t, g, control, wallet.DID, f.flow)
	wantData(t, g, "/", e.access, "data of weather")
}

// wantNotTold checks that nothing more comes about the start of a flow: a flow that starts now is told of, and this is not.
func wantNotTold(t *testing.T, g *gateway, control *calledPlane, consumer, flow string) {
	t.Helper()
	before := len(control.told(flow))
	control.answers(takes)
	other := newTerms("weather", consumer)
	wantStarting(t, dpsPlane{}.start(g, other), other.flow)
	wantStarted(t, g, control, other.flow, 0)
	if n := len(control.told(flow)); n != before {
		t.Errorf("told %d more times", n-before)
	}
}

// TestEndingOfAStartingFlow takes the promise back.
func TestEndingOfAStartingFlow(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, failsInside)
	control.arrive()
	g := startAsyncGateway(t, control)
	consumer := newDIDHost(t).wallet("consumer").DID
	f := newTerms("weather", consumer)
	wantStarting(t, dpsPlane{}.start(g, f), f.flow)
	testkit.Eventually(t, "an attempt has failed", func() bool { return g.callbacks("started", "retried") > 0 })
	dpsPlane{}.terminate(g, f.flow).want(t, http.StatusOK)
	g.awaitOwed("started", 0)
	wantNotTold(t, g, control, consumer, f.flow)
	if shown := showFlow(g, f.flow); shown.State != "TERMINATED" {
		t.Errorf("the flow is shown as %+v", shown)
	}
}

// TestStartThatTheControlPlaneRefuses leaves no flow whose EDR nobody has.
func TestStartThatTheControlPlaneRefuses(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, conflicts)
	control.arrive()
	g := startAsyncGateway(t, control)
	f := newTerms("weather", newDIDHost(t).wallet("consumer").DID)
	wantStarting(t, dpsPlane{}.start(g, f), f.flow)
	e := wantStarted(t, g, control, f.flow, 0)
	testkit.Eventually(t, "the flow ends", func() bool { return showFlow(g, f.flow).State == "TERMINATED" })
	wantRefusal(t, g.get("/", e.access), "a flow's that was not taken", http.StatusUnauthorized, "")
	g.scrape().wantCount(g, 1, "edrgate_callbacks_total", "event", "started", "result", "refused")
	if !strings.Contains(read(t, g.errorLog()), "did not take its start") {
		t.Error("the log does not say why the flow has ended")
	}
}

// TestClassicStartOfAnAsyncRoute is answered with its EDR: that dialect has no callback which brings one.
func TestClassicStartOfAnAsyncRoute(t *testing.T) {
	t.Parallel()
	g := startAsyncGateway(t, newCalledPlane(t, takes))
	c := newParty(g, classicPlane{}, newDIDHost(t), "consumer", "weather")
	wantData(t, g, "/", c.edr.access, "data of weather")
}

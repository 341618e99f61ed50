package signaling

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/routing"
)

func asyncRoute(t *testing.T) func(*Config) {
	t.Helper()
	serving, err := NewServing([]Route{{Name: "r", Match: routing.Match{Datasets: []string{"asset-*"}}, Async: true}}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Serving = func() *Serving { return serving } }
}

// TestAsynchronousAnswer: DPS §1.1 has 202 and where the status is; EDC looks at the state alone.
func TestAsynchronousAnswer(t *testing.T) {
	for _, test := range []struct{ path, flow, location string }{
		{"/dataflows/start", "tp-1", "/dataflows/tp-1/status"},
		{"/acme/dataflows/start", "tp-1", "/acme/dataflows/tp-1/status"},
		{"/dataflows/start", "urn:uuid:1?#%", "/dataflows/urn:uuid:1%3F%23%25/status"},
		{"/dataflows/start", "start", "/dataflows/start/status"},
	} {
		x := newFixture(t, asyncRoute(t))
		a := x.post(test.path, dpsStart(map[string]any{"processId": test.flow})).want(t, http.StatusAccepted)
		if got := a.Header().Get("Location"); got != test.location {
			t.Errorf("location %q, want %q", got, test.location)
		}
		var members map[string]string
		err := json.Unmarshal(a.Body.Bytes(), &members)
		if err != nil || len(members) != 3 || members["messageId"] == "" || members["dataFlowId"] != test.flow || members["state"] != "STARTING" {
			t.Errorf("%v: %s", err, a.Body)
		}
		if line := x.lastLog(); line["status"] != 202.0 || line["outcome"] != "applied" {
			t.Errorf("log line %v", line)
		}
		x.get(test.location).want(t, http.StatusOK)
	}
}

// The classic dialect has no callback that brings an EDR.
func TestClassicStartOfAnAsyncRoute(t *testing.T) {
	x := newFixture(t, asyncRoute(t))
	a := x.post("/v1/dataflows/start", classicStart(nil)).want(t, http.StatusOK)
	if a.Header().Get("Location") != "" || !strings.Contains(a.Body.String(), "access-token-1") {
		t.Errorf("%v %s", a.Header(), a.Body)
	}
}

func TestStartOfAnotherRouteIsSynchronous(t *testing.T) {
	x := newFixture(t)
	x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusOK)
	if x.flows.starts[0].Async {
		t.Error("asynchronous although no route says so")
	}
}

// DPS §1.3 has no way from STARTING to SUSPENDED.
func TestStartingFlowOnTheCore(t *testing.T) {
	g := newGateway(t, Route{Name: "async", Match: routing.Match{Datasets: []string{"asset-1"}}, Async: true})
	want := func(status int, path, body string) {
		t.Helper()
		got, _ := g.send(http.MethodPost, path, body)
		if got != status {
			t.Fatalf("%s: status %d, want %d", path, got, status)
		}
	}
	want(202, "/dataflows/start", kitStart("http-pull"))
	want(202, "/dataflows/start", kitStart("http-pull")) // EDC repeats what got no answer
	want(409, "/dataflows/process-of-the-kit/suspend", `{"messageId":"m-2"}`)
	want(409, "/dataflows/process-of-the-kit/resume", `{"messageId":"m-3"}`)
	g.wantState("process-of-the-kit", "STARTING")
	want(200, "/dataflows/process-of-the-kit/terminate", `{"messageId":"m-4"}`)
	g.wantState("process-of-the-kit", "TERMINATED")
	want(409, "/dataflows/start", kitStart("http-pull"))
	if due, owed := g.core.DueReports(); len(due) != 0 || len(owed) != 0 {
		t.Errorf("owed %v after the ending", owed)
	}
}

// later has transfers of one dataset prepared asynchronously.
func later(c *Config) { c.AsyncPrepare = func(dataset string) bool { return dataset == "later" } }

// TestAsynchronousPrepare: DPS §1.1 has 202 and where the status is.
func TestAsynchronousPrepare(t *testing.T) {
	for _, test := range []struct{ path, flow, location string }{
		{"/dataflows/prepare", "use-1", "/dataflows/use-1/status"},
		{"/acme/dataflows/prepare", "use-1", "/acme/dataflows/use-1/status"},
		{"/dataflows/prepare", "urn:uuid:1?#%", "/dataflows/urn:uuid:1%3F%23%25/status"},
		{"/dataflows/prepare", "prepare", "/dataflows/prepare/status"},
	} {
		x := newReceivingFixture(t, later)
		body := prepareMessage(map[string]any{"processId": test.flow, "datasetId": "later"})
		for _, outcome := range []string{"applied", "already"} { // EDC repeats what got no answer
			a := x.post(test.path, body).want(t, http.StatusAccepted)
			if got := a.Header().Get("Location"); got != test.location {
				t.Errorf("location %q, want %q", got, test.location)
			}
			wantTransfer(t, test.path, a, "PREPARING")
			if line := x.lastLog(); line["status"] != 202.0 || line["outcome"] != outcome {
				t.Errorf("log line %v", line)
			}
		}
		if a := x.get(test.location).want(t, http.StatusOK); !strings.Contains(a.Body.String(), `"PREPARING"`) {
			t.Errorf("status %s", a.Body)
		}
	}
}

func TestPrepareOfAnotherDatasetIsSynchronous(t *testing.T) {
	x := newReceivingFixture(t, later)
	a := x.post("/dataflows/prepare", prepareMessage(nil)).want(t, http.StatusOK)
	wantTransfer(t, "prepare", a, "PREPARED")
	if a.Header().Get("Location") != "" {
		t.Errorf("%v", a.Header())
	}
}

// DPS §1.3 has no way from PREPARING to SUSPENDED or STARTED.
func TestPreparingTransfer(t *testing.T) {
	x := newReceivingFixture(t, later)
	prepare := prepareMessage(map[string]any{"datasetId": "later"})
	x.post("/dataflows/prepare", prepare).want(t, 202)
	x.post("/dataflows/use-1/started", startedMessage("m-1", nil)).want(t, 409).wantText(t, textState)
	x.post("/dataflows/use-1/suspend", `{"messageId":"m-2"}`).want(t, 409)
	x.post("/dataflows/use-1/resume", `{"messageId":"m-3"}`).want(t, 409)
	x.post("/dataflows/start", dpsStart(map[string]any{"processId": "use-1"})).want(t, 409).wantText(t, textConflict)
	x.post("/dataflows/use-1/terminate", `{"messageId":"m-4"}`).want(t, 200)
	x.post("/dataflows/prepare", prepare).want(t, 409).wantText(t, textState)
}

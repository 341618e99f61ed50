package signaling

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

func TestPaths(t *testing.T) {
	tests := []struct {
		path string
		want target // zero: not ours
	}{
		{"/dataflows/start", target{tokens.DPS, opStart, "", ""}},
		{"/dataflows/prepare", target{tokens.DPS, opPrepare, "", ""}},
		{"/dataflows/tp-1/started", target{tokens.DPS, opStarted, "tp-1", ""}},
		{"/dataflows/tp-1/suspend", target{tokens.DPS, opSuspend, "tp-1", ""}},
		{"/dataflows/tp-1/resume", target{tokens.DPS, opResume, "tp-1", ""}},
		{"/dataflows/tp-1/terminate", target{tokens.DPS, opTerminate, "tp-1", ""}},
		{"/dataflows/tp-1/completed", target{tokens.DPS, opComplete, "tp-1", ""}},
		{"/dataflows/tp-1/status", target{tokens.DPS, opStatus, "tp-1", ""}},
		{"/v1/dataflows", target{tokens.Classic, opStart, "", ""}},
		{"/v1/dataflows/", target{tokens.Classic, opStart, "", ""}},
		{"/v1/dataflows/start", target{tokens.Classic, opStart, "", ""}},
		{"/v1/dataflows/prepare", target{tokens.Classic, opPrepare, "", ""}},
		{"/v1/dataflows/check", target{tokens.Classic, opCheck, "", ""}},
		{"/v1/dataflows/tp-1/start", target{tokens.Classic, opStart, "tp-1", ""}},
		{"/v1/dataflows/tp-1/suspend", target{tokens.Classic, opSuspend, "tp-1", ""}},
		{"/v1/dataflows/tp-1/terminate", target{tokens.Classic, opTerminate, "tp-1", ""}},
		{"/v1/dataflows/tp-1/state", target{tokens.Classic, opStatus, "tp-1", ""}},
		{"/acme/dataflows/start", target{tokens.DPS, opStart, "", ""}},
		{"/acme/v1/dataflows/tp-1/terminate", target{tokens.Classic, opTerminate, "tp-1", ""}},
		{"/dataflows/urn:uuid:1/status", target{tokens.DPS, opStatus, "urn:uuid:1", ""}},
		{"/dataflows/a%2Fb/status", target{tokens.DPS, opStatus, "a/b", ""}}, // one segment; refused as an id
		{"/dataflows", target{tokens.DPS, opUnknown, "", ""}},
		{"/dataflows/check", target{tokens.DPS, opUnknown, "", ""}},
		{"/dataflows/tp-1/state", target{tokens.DPS, opUnknown, "", ""}},
		{"/dataflows/a/b/status", target{tokens.DPS, opUnknown, "", ""}},
		{"/dataflows//terminate", target{tokens.DPS, opUnknown, "", ""}},
		{"/v1/dataflows/tp-1/resume", target{tokens.Classic, opUnknown, "", ""}},
		{"/controlplanes", target{tokens.DPS, opPutPlane, "", ""}},
		{"/acme/controlplanes", target{tokens.DPS, opPutPlane, "", ""}},
		{"/controlplanes/cp-1", target{tokens.DPS, opDelPlane, "", "cp-1"}},
		{"/controlplanes/https:%2F%2Fcp%2F1", target{tokens.DPS, opDelPlane, "", "https://cp/1"}},
		{"/controlplanes/a/b", target{tokens.DPS, opUnknown, "", ""}},
		{"/controlplanes/%00", target{tokens.DPS, opUnknown, "", ""}},
		{"/controlplanes-old", target{}},
		{"/other/dataflows/start", target{}},
		{"/acmedataflows/start", target{}},
		{"/dataflows-old/start", target{}},
		{"/v2/dataflows/start", target{}},
		{"/", target{}},
	}
	x := newFixture(t)
	for _, tt := range tests {
		r := httptest.NewRequest(http.MethodPost, tt.path, nil)
		got, ok := x.handler.target(r)
		ours := tt.want != target{}
		if got != tt.want || ok != ours || x.handler.Serves(r) != ours {
			t.Errorf("%s: %+v %v, want %+v", tt.path, got, ok, tt.want)
		}
		if !ours {
			x.do(r).want(t, http.StatusNotFound)
		}
	}
}

func TestConfiguration(t *testing.T) {
	good := Config{Flows: newFakeFlows(), Access: anybody(t), Serving: everything(t), DID: ourDID}
	tests := []struct {
		name   string
		change func(*Config)
		want   string // empty: accepted
	}{
		{"good", func(*Config) {}, ""},
		{"classic alone needs no DID", func(c *Config) { c.DID, c.Dialects = "", []tokens.Dialect{tokens.Classic} }, ""},
		{"no flows", func(c *Config) { c.Flows = nil }, "required"},
		{"no access", func(c *Config) { c.Access = nil }, "required"},
		{"no serving", func(c *Config) { c.Serving = nil }, "required"},
		{"no DID", func(c *Config) { c.DID = "" }, "DID"},
		{"unknown dialect", func(c *Config) { c.Dialects = []tokens.Dialect{"dsp"} }, `"dsp"`},
		{"participant with a slash", func(c *Config) { c.Participant = "a/b" }, "participant"},
		{"participant named like a path", func(c *Config) { c.Participant = "v1" }, "participant"},
		{"participant named like another", func(c *Config) { c.Participant = "controlplanes" }, "participant"},
		{"participant of dots", func(c *Config) { c.Participant = ".." }, "participant"},
		{"negative limit", func(c *Config) { c.StartsAtOnce = -1 }, "negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			_, err := New(c)
			if tt.want == "" && err == nil {
				return
			}
			if err == nil || tt.want == "" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	big := strings.Repeat(" ", defaultBodyBytes)
	tests := []struct {
		name         string
		method, path string
		contentType  string
		body         string
		chunked      bool
		status       int
		header       [2]string
	}{
		{name: "GET of start", method: "GET", path: "/dataflows/start", status: 405, header: [2]string{"Allow", "POST"}},
		{name: "PUT of terminate", method: "PUT", path: "/v1/dataflows/tp-1/terminate", status: 405, header: [2]string{"Allow", "POST"}},
		{name: "POST of status", method: "POST", path: "/dataflows/tp-1/status", status: 405, header: [2]string{"Allow", "GET, HEAD"}},
		{name: "POST of check", method: "POST", path: "/v1/dataflows/check", status: 405, header: [2]string{"Allow", "GET, HEAD"}},
		{name: "HEAD of check", method: "HEAD", path: "/v1/dataflows/check", status: 204},
		{name: "unknown operation", method: "POST", path: "/dataflows/tp-1/revive", status: 404},
		{name: "too large", method: "POST", path: "/dataflows/start", contentType: "application/json", body: dpsStart(nil) + big, status: 413},
		{name: "too large, length unknown", method: "POST", path: "/dataflows/start", contentType: "application/json", body: dpsStart(nil) + big, chunked: true, status: 413},
		{name: "text", method: "POST", path: "/dataflows/start", contentType: "text/plain", body: dpsStart(nil), status: 415},
		{name: "no media type", method: "POST", path: "/dataflows/start", body: dpsStart(nil), status: 415},
		{name: "JSON-LD for DPS", method: "POST", path: "/dataflows/start", contentType: "application/ld+json", body: dpsStart(nil), status: 415},
		{name: "JSON-LD for classic", method: "POST", path: "/v1/dataflows/start", contentType: "application/ld+json", body: classicStart(nil), status: 200},
		{name: "capitals and parameters", method: "POST", path: "/dataflows/start", contentType: `Application/JSON;charset="UTF-8"`, body: dpsStart(nil), status: 200},
		{name: "empty start", method: "POST", path: "/dataflows/start", contentType: "application/json", status: 400},
		{name: "ending without a body", method: "POST", path: "/dataflows/tp-1/completed", status: 200},
		{name: "ending with a body that is no JSON", method: "POST", path: "/v1/dataflows/tp-1/terminate", contentType: "application/json", body: "{", status: 204},
		{name: "id that no flow has", method: "POST", path: "/dataflows/a%2Fb/terminate", status: 400},
		{name: "id too long", method: "POST", path: "/dataflows/" + strings.Repeat("a", 256) + "/terminate", status: 400},
		{name: "prepare", method: "POST", path: "/dataflows/prepare", contentType: "application/json", body: dpsStart(nil), status: 400},
		{name: "started", method: "POST", path: "/dataflows/tp-1/started", contentType: "application/json", body: "{}", status: 400},
		{name: "classic prepare", method: "POST", path: "/v1/dataflows/prepare", contentType: "application/json", body: classicStart(nil), status: 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
			if tt.chunked {
				r.ContentLength = -1
			}
			if tt.contentType != "" {
				r.Header.Set("Content-Type", tt.contentType)
			}
			a := x.do(r).want(t, tt.status)
			if tt.header[0] != "" && a.Header().Get(tt.header[0]) != tt.header[1] {
				t.Errorf("%s: %q", tt.header[0], a.Header().Get(tt.header[0]))
			}
			if tt.status >= 400 && a.text() == "" {
				t.Errorf("no text: %s", a.Body)
			}
		})
	}
}

func TestCompressedBodyIsRefused(t *testing.T) {
	x := newFixture(t)
	r := httptest.NewRequest(http.MethodPost, "/dataflows/start", strings.NewReader(dpsStart(nil)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Encoding", "gzip")
	x.do(r).want(t, http.StatusUnsupportedMediaType)
}

// TestBodyThatEndsEarly: half a message is no message, and must not pass for an ending without a body.
func TestBodyThatEndsEarly(t *testing.T) {
	x := newFixture(t)
	r := httptest.NewRequest(http.MethodPost, "/dataflows/tp-1/terminate", io.MultiReader(strings.NewReader("{"), brokenReader{}))
	r.Header.Set("Content-Type", "application/json")
	x.do(r).want(t, http.StatusBadRequest).wantText(t, "ends early")
	if len(x.flows.messages) != 0 {
		t.Error("the core was asked")
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestDialectThatIsOff(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.Dialects = []tokens.Dialect{tokens.DPS} })
	x.post("/v1/dataflows/start", classicStart(nil)).want(t, http.StatusNotFound).wantText(t, "no such operation")
	x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusOK)
}

func TestParticipantPath(t *testing.T) {
	x := newFixture(t)
	x.post("/acme/dataflows/start", dpsStart(nil)).want(t, http.StatusOK)
	x.post("/acme/v1/dataflows/tp-1/terminate", "{}").want(t, http.StatusNoContent)
	if f := x.flows.flows["tp-1"]; f.flow.State != tokens.Terminated {
		t.Errorf("state %s", f.flow.State)
	}
}

// TestOnlyBelowTheName: the paths without a name are another participant's, and are left to it.
func TestOnlyBelowTheName(t *testing.T) {
	x := newFixture(t, func(c *Config) { c.BelowName = true })
	for path, serves := range map[string]bool{
		"/acme/dataflows/start": true, "/acme/v1/dataflows": true, "/acme/controlplanes": true, "/acme/dataflows/tp-1/nonsense": true,
		"/dataflows/start": false, "/v1/dataflows": false, "/controlplanes": false, "/acme": false, "/acme/": false,
		"/acmes/dataflows/start": false, "/ACME/dataflows/start": false, "/%61cme/dataflows/start": false, "/acme/acme/dataflows/start": false,
	} {
		if got := x.handler.Serves(httptest.NewRequest(http.MethodPost, path, nil)); got != serves {
			t.Errorf("%s: %v", path, got)
		}
	}
	x.post("/acme/dataflows/start", dpsStart(nil)).want(t, http.StatusOK)
	x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusNotFound)
	_, err := New(Config{Flows: x.flows, Access: x.handler.access, Serving: x.handler.machine.serving, DID: ourDID, BelowName: true})
	if err == nil || !strings.Contains(err.Error(), "it has none") {
		t.Errorf("without a name: %v", err)
	}
}

// TestAnswersAreNotKept: an EDR holds tokens.
func TestAnswersAreNotKept(t *testing.T) {
	x := newFixture(t)
	a := x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusOK)
	if a.Header().Get("Cache-Control") != "no-store" || a.Header().Get("Content-Type") != "application/json" {
		t.Errorf("header %v", a.Header())
	}
}

// TestRefusalBodies: a fixed text, and an id that finds the log line.
func TestRefusalBodies(t *testing.T) {
	x := newFixture(t)
	a := x.post("/dataflows/start", dpsStart(map[string]any{"profile": "http-push"})).want(t, http.StatusBadRequest)
	var d map[string]any
	if json.Unmarshal(a.Body.Bytes(), &d) != nil || len(d) != 6 {
		t.Fatalf("body %s", a.Body)
	}
	line := x.lastLog()
	if d["logId"] != line["log_id"] || d["messageId"] != line["log_id"] || d["dataFlowId"] != "tp-1" || d["status"] != 400.0 {
		t.Errorf("body %v, log line %v", d, line)
	}

	a = x.post("/v1/dataflows/start", classicStart(map[string]any{"flowType": "PUSH"})).want(t, http.StatusBadRequest)
	id, _ := x.lastLog()["log_id"].(string)
	want := `[{"message":"push transfers are not served (log id ` + id + `)","type":"InvalidRequest","path":null,"invalidValue":null}]`
	if got := strings.TrimSpace(a.Body.String()); got != want {
		t.Errorf("body %s, want %s", got, want)
	}
	if line := x.lastLog(); line["flow"] != "tp-1" || line["outcome"] != "push" || line["level"] != "INFO" {
		t.Errorf("log line %v", line)
	}
}

// TestErrorsOfTheCore: how each answer of the core reads, and that nothing of its detail is told.
func TestErrorsOfTheCore(t *testing.T) {
	const path, resume = "/dataflows/start", "/dataflows/tp-1/resume"
	tests := []struct {
		code   tokens.Code
		path   string
		status int
		text   string
		level  string
	}{
		{tokens.CodeConflict, path, 409, textConflict, "WARN"},
		{tokens.CodeForeign, path, 409, textConflict, "WARN"},
		{tokens.CodeForeign, resume, 404, textUnknown, "WARN"},
		{tokens.CodeFlowUnknown, resume, 404, textUnknown, "INFO"},
		{tokens.CodeState, path, 409, textState, "INFO"},
		{tokens.CodeState, resume, 409, textState, "INFO"},
		{tokens.CodeUnserved, path, 400, textUnserved, "INFO"},
		{tokens.CodeNoRenewal, path, 400, textNoRenewal, "INFO"},
		{tokens.CodePolicyDenied, path, 403, textDenied, "INFO"},
		{tokens.CodeUnavailable, path, 503, textUnavailable, "ERROR"},
		{tokens.CodeUnavailable, "/dataflows/tp-1/terminate", 503, textUnavailable, "ERROR"},
		{tokens.CodeUnavailable, "/dataflows/tp-1/status", 503, textUnavailable, "ERROR"},
		{tokens.CodeProofKey, path, 503, textUnavailable, "ERROR"}, // a code that makes no sense here is our trouble
	}
	for _, tt := range tests {
		t.Run(string(tt.code)+tt.path, func(t *testing.T) {
			x := newFixture(t)
			x.flows.err = &tokens.Error{Code: tt.code, Detail: "internal detail", RetryAfter: 1500 * time.Millisecond}
			a := x.post(tt.path, dpsStart(nil))
			if strings.HasSuffix(tt.path, "status") {
				a = x.get(tt.path)
			}
			a.want(t, tt.status)
			if a.text() != tt.text || strings.Contains(a.Body.String(), "internal") {
				t.Errorf("body %s, want %q", a.Body, tt.text)
			}
			line := x.lastLog()
			if line["level"] != tt.level || !strings.Contains(line["reason"].(string), "internal detail") {
				t.Errorf("log line %v", line)
			}
			if got := a.Header().Get("Retry-After"); tt.status == 503 && tt.code == tokens.CodeUnavailable && got != "2" {
				t.Errorf("Retry-After %q", got)
			}
		})
	}
	x := newFixture(t)
	x.flows.err = &tokens.Error{Code: tokens.CodeInvalid, Detail: "audience and counterparty are different DIDs"}
	x.post(path, dpsStart(nil)).want(t, 400).wantText(t, "different DIDs") // the core writes this one for the caller
	x.flows.err = errors.New("disk gone")
	x.post(path, dpsStart(nil)).want(t, 503)
	x.flows.err = &tokens.Error{Code: tokens.CodeNoRenewal}
	x.post(path, dpsStart(nil)).want(t, 400)
	if got := x.lastLog()["reason"].(string); !strings.Contains(got, "did_map") {
		t.Errorf("reason %q does not name the option", got)
	}
}

// TestOneLogLinePerMessage: and none of them holds what must not be seen.
func TestOneLogLinePerMessage(t *testing.T) {
	x := newFixture(t)
	const canary = "canary-3f9a"
	secret := source("HttpData", edcNS+"baseUrl", "http://backend.example/?key="+canary, edcNS+"authCode", canary, "header:X-Key", canary)
	old := source("HttpData", edcNS+"authorization", canary, txNS+"refreshToken", canary)
	posts := []struct{ path, body string }{
		{"/v1/dataflows/start", classicStart(map[string]any{"sourceDataAddress": secret})},
		{"/v1/dataflows/tp-1/suspend", `{"reason":"` + canary + `"}`},
		{"/v1/dataflows/start", classicStart(map[string]any{"sourceDataAddress": secret, "destinationDataAddress": old})},
		{"/v1/dataflows/tp-1/terminate", "{}"},
		{"/v1/dataflows/start", classicStart(map[string]any{"processId": "tp-2", "sourceDataAddress": source("HttpData",
			edcNS+"baseUrl", "http://user:"+canary+"@backend.example", "oauth2:"+canary, canary)})},
		{"/v1/dataflows/start", `{"@type":"` + canary + `"}`},
		{"/v1/dataflows/start", canary},
		{"/dataflows/start", dpsStart(map[string]any{"metadata": map[string]any{"k": canary}, "profile": canary})},
		{"/dataflows/tp-3/resume", `{"messageId":"m","processId":"x","dataAddress":{"endpoint":"` + canary + `"}}`},
	}
	for _, p := range posts {
		a := x.post(p.path, p.body)
		if a.Code >= 400 && strings.Contains(a.Body.String(), canary) {
			t.Errorf("%s: the answer repeats it: %s", p.path, a.Body)
		}
	}
	log := x.log.String()
	for _, s := range []string{canary, "access-token", "refresh-token"} {
		if strings.Contains(log, s) {
			t.Errorf("log holds %q: %s", s, log)
		}
	}
	if got := strings.Count(log, "\n"); got != len(posts) {
		t.Errorf("%d log lines, want %d", got, len(posts))
	}
	for _, line := range strings.Split(strings.TrimSpace(log), "\n") {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) != nil || m["msg"] != "data flow signaling" || m["control_plane"] != DefaultControlPlane ||
			m["log_id"] == "" || m["operation"] == "" || m["outcome"] == "" {
			t.Errorf("log line %s", line)
		}
	}
	if len(x.observed) != len(posts) || x.observed[0] != "edc start applied" || x.observed[4] != "edc start invalid" {
		t.Errorf("observed %q", x.observed)
	}
}

// TestPollsAreQuiet: EDC asks once a second whether the data plane is there.
func TestPollsAreQuiet(t *testing.T) {
	x := newFixture(t)
	x.get("/v1/dataflows/check").want(t, http.StatusNoContent)
	if line := x.lastLog(); line["level"] != "DEBUG" || line["operation"] != "check" {
		t.Errorf("log line %v", line)
	}
}

// TestEndingsOutliveTheirRequest: a control plane that hangs up while it terminates still wants the flow to end.
func TestEndingsOutliveTheirRequest(t *testing.T) {
	ended := make(chan error, 1)
	x := newFixture(t, func(c *Config) { c.Flows = contextFlows{newFakeFlows(), ended} })
	r := httptest.NewRequest(http.MethodPost, "/dataflows/tp-1/terminate", nil)
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	x.do(r.WithContext(ctx)).want(t, http.StatusOK)
	if err := <-ended; err != nil {
		t.Errorf("the core was asked with a context that is done: %v", err)
	}
}

type contextFlows struct {
	*fakeFlows
	ended chan error
}

func (c contextFlows) Terminate(ctx context.Context, _ tokens.Caller, _ tokens.Message) (tokens.Ending, error) {
	c.ended <- ctx.Err()
	return tokens.Ending{Outcome: tokens.Applied}, nil
}

// Who asks whether we are there may be watched: a control plane that stops asking may have forgotten us.
func TestChecksAreTold(t *testing.T) {
	var told []tokens.Caller
	h, err := New(Config{
		Flows: newFakeFlows(), Access: anybody(t), Serving: everything(t), DID: ourDID,
		Checked: func(c tokens.Caller) { told = append(told, c) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/dataflows/check", "/dataflows/flow-1/status"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
	}
	if len(told) != 1 || told[0] == "" {
		t.Errorf("%q", told)
	}
}

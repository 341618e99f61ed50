package signaling

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// prepareMessage is a prepare for a transfer from theirDID; change takes members away or sets them.
func prepareMessage(change map[string]any) string {
	all := map[string]any{"processId": "use-1", "messageId": "m-prepare", "profile": "HttpData-PULL"}
	for name, value := range change {
		all[name] = value
	}
	return dpsStart(all)
}

const canary = "canary-token"

// startedMessage brings an EDR; change sets members of the data address.
func startedMessage(messageID string, change map[string]any) string {
	properties := []any{}
	for name, value := range map[string]string{
		"authorization": canary, "authType": "bearer", "refreshToken": "canary-refresh", "expiresIn": "300",
		"refreshEndpoint": "https://data.other.example/token",
	} {
		properties = append(properties, map[string]any{"@type": "EndpointProperty", "name": name, "value": value})
	}
	address := map[string]any{
		"@type": "DataAddress", "endpoint": "https://data.other.example/x", "endpointType": profilePull, "endpointProperties": properties,
	}
	for name, value := range change {
		address[name] = value
	}
	return message(map[string]any{"messageId": messageID, "dataAddress": address}, nil)
}

func prepared(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	x := newReceivingFixture(t, change...)
	wantTransfer(t, "prepare", x.post("/dataflows/prepare", prepareMessage(nil)).want(t, 200), "PREPARED")
	return x
}

// TestReceivedMessages goes through a consumer's transfer, with what each message is counted as.
func TestReceivedMessages(t *testing.T) {
	x := prepared(t)
	wantTransfer(t, "again", x.post("/acme/dataflows/prepare", prepareMessage(nil)).want(t, 200), "PREPARED")
	x.post("/dataflows/use-1/started", startedMessage("m-1", nil)).want(t, 200)
	x.post("/dataflows/use-1/started", startedMessage("m-1", nil)).want(t, 200)
	x.post("/dataflows/use-1/suspend", `{"messageId":"m-2"}`).want(t, 200)
	e, err := x.received.Get(t.Context(), "use-1")
	if err != nil || e.State != "suspended" || e.EDR.AccessToken != canary {
		t.Fatalf("entry %+v, %v", e, err)
	}
	x.get("/dataflows/use-1/status").want(t, 200)
	wantTransfer(t, "resume", x.post("/dataflows/use-1/resume", `{"messageId":"m-3","processId":"random"}`).want(t, 200), "STARTED")
	x.post("/dataflows/use-1/terminate", ``).want(t, 200)
	x.post("/dataflows/use-1/completed", `{}`).want(t, 200)
	e, err = x.received.Get(t.Context(), "use-1")
	if err != nil || e.EDR != nil {
		t.Errorf("entry %+v, %v", e, err)
	}
	x.post("/dataflows/prepare", prepareMessage(nil)).want(t, 409).wantText(t, textState)
	want := []string{
		"dps prepare applied", "dps prepare already", "dps started applied", "dps started already", "dps suspend applied",
		"dps status applied", "dps resume applied", "dps terminate applied", "dps complete already", "dps prepare state",
	}
	if strings.Join(x.observed, "\n") != strings.Join(want, "\n") {
		t.Errorf("observed %q", x.observed)
	}
	if len(x.flows.messages) != 0 {
		t.Errorf("the provider's side was told: %+v", x.flows.messages)
	}
	if strings.Contains(x.log.String(), "canary") {
		t.Error("a token is in the log")
	}
}

// TestReceivedPrepareIsRead: a prepare is checked as a start is.
func TestReceivedPrepareIsRead(t *testing.T) {
	tests := []struct {
		name   string
		change map[string]any
		status int
		text   string
	}{
		{"transferType", map[string]any{"profile": absent, "transferType": "HttpData-PULL"}, 200, ""},
		{"profile URL", map[string]any{"profile": profilePull}, 200, ""},
		{"callbackAddress null", map[string]any{"callbackAddress": nil}, 200, ""},
		{"another participant", map[string]any{"participantId": theirDID}, 400, "participantId is not the participant"},
		{"no counterPartyId", map[string]any{"counterPartyId": absent}, 400, "counterPartyId is missing"},
		{"no messageId", map[string]any{"messageId": absent}, 400, "messageId is missing"},
		{"push", map[string]any{"profile": "http-push"}, 400, "push transfers are not served"},
		{"other profile", map[string]any{"profile": "s3-pull"}, 400, "profile is not served"},
		{"dataAddress", map[string]any{"dataAddress": map[string]any{}}, 400, "must not have a dataAddress"},
		{"an id that the cache cannot index", map[string]any{"datasetId": strings.Repeat("a", 901)}, 400, "asset has more than"},
		{"of classic signaling", map[string]any{"@type": "X"}, 400, "send it to /v1/dataflows"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newReceivingFixture(t)
			a := x.post("/dataflows/prepare", prepareMessage(tt.change)).want(t, tt.status)
			if tt.status != 200 {
				a.wantText(t, tt.text)
				x.get("/dataflows/use-1/status").want(t, 404)
			}
		})
	}
	x := newReceivingFixture(t)
	x.post("/dataflows/prepare", "{").want(t, 400).wantText(t, "not one JSON object")
	x.post("/v1/dataflows/prepare", prepareMessage(nil)).want(t, 400).wantText(t, errConsumer.text)
}

// TestReceivedStartedIsRefused: the provider chose the data address, so that a bad one is no fault of ours; nothing is kept,
// and the words are fixed.
func TestReceivedStartedIsRefused(t *testing.T) {
	tests := []struct {
		name   string
		body   string
		status int
		text   string
	}{
		{"not JSON", `{`, 400, "not one JSON object"},
		{"an array", `[]`, 400, "not one JSON object"},
		{"a text", `{"dataAddress":"` + canary + `"}`, 400, "dataAddress: want an object"},
		{"no endpoint", startedMessage("m-1", map[string]any{"endpoint": ""}), 400, "member dataAddress: endpoint is missing"},
		{"plain http", startedMessage("m-1", map[string]any{"endpoint": "http://other.example/" + canary}), 400, "member dataAddress: endpoint is not https"},
		{"another audience", startedMessage("m-1", map[string]any{"endpointProperties": []any{
			map[string]any{"name": "refreshAudience", "value": "did:web:" + canary}, map[string]any{"name": "refreshToken", "value": canary},
		}}), 400, "refreshAudience is neither the provider nor this participant"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := prepared(t)
			a := x.post("/dataflows/use-1/started", tt.body).want(t, tt.status).wantText(t, tt.text)
			if strings.Contains(a.Body.String()+x.log.String(), canary) {
				t.Errorf("what the provider wrote is in the answer or the log: %s", a.Body)
			}
			wantTransfer(t, "status", x.post("/dataflows/prepare", prepareMessage(nil)).want(t, 200), "PREPARED")
		})
	}
	x := prepared(t)
	x.post("/dataflows/use-2/started", startedMessage("m-1", nil)).want(t, 404).wantText(t, textUnknown)
	x.post("/dataflows/use-1/suspend", `{}`).want(t, 409)
	x.post("/dataflows/use-1/resume", `{}`).want(t, 409)
	x.post("/dataflows/use-1/started", ``).want(t, 200)
}

// TestReceivedAndServed: a message goes to the side that knows the id, and no id is on both sides.
func TestReceivedAndServed(t *testing.T) {
	x := prepared(t)
	x.post("/dataflows/start", dpsStart(nil)).want(t, 200)
	x.post("/dataflows/tp-1/suspend", `{}`).want(t, 200)
	x.post("/dataflows/tp-1/resume", `{"dataAddress":{}}`).want(t, 200)
	x.get("/dataflows/tp-1/status").want(t, 200)
	x.post("/dataflows/prepare", prepareMessage(map[string]any{"processId": "tp-1"})).want(t, 409).wantText(t, textConflict)
	x.post("/dataflows/start", dpsStart(map[string]any{"processId": "use-1"})).want(t, 409).wantText(t, textConflict)
	x.post("/dataflows/tp-1/terminate", `{}`).want(t, 200)
	x.post("/dataflows/prepare", prepareMessage(map[string]any{"processId": "tp-1"})).want(t, 409).wantText(t, textState)

	// What neither side knows is as it is without a consumer's side: a late prepare finds that it has ended.
	x.post("/dataflows/use-9/suspend", `{}`).want(t, 404)
	x.post("/dataflows/use-9/resume", `{}`).want(t, 404)
	x.post("/dataflows/use-9/terminate", `{}`).want(t, 200)
	x.post("/dataflows/prepare", prepareMessage(map[string]any{"processId": "use-9"})).want(t, 409).wantText(t, textState)
	if line := x.lastLog(); line["outcome"] != "state" || line["flow"] != "use-9" {
		t.Errorf("log line %v", line)
	}
}

// TestReceivedOfAnotherControlPlane: it is as if the transfer were not there, and its own flow of that id is found.
func TestReceivedOfAnotherControlPlane(t *testing.T) {
	access, err := NewAccessList([]Rule{
		{Bearer: []Digest{DigestOf("first")}}, {Bearer: []Digest{DigestOf("second")}, ControlPlane: "second"},
	})
	if err != nil {
		t.Fatal(err)
	}
	x := newReceivingFixture(t, func(c *Config) { c.Access = access })
	as := func(token, operation, body string) answer {
		t.Helper()
		r := recording{Method: http.MethodPost, Path: "/dataflows/" + operation, ContentType: "application/json"}.request(body)
		if body == "status" {
			r = recording{Method: http.MethodGet, Path: "/dataflows/" + operation}.request("")
		}
		r.Header.Set("Authorization", "Bearer "+token)
		return x.do(r)
	}
	as("first", "prepare", prepareMessage(nil)).want(t, 200)
	as("first", "use-1/started", startedMessage("m-1", nil)).want(t, 200)
	as("second", "use-1/status", "status").want(t, 404)
	as("second", "use-1/started", startedMessage("m-2", nil)).want(t, 404).wantText(t, textUnknown)
	as("second", "use-1/resume", `{}`).want(t, 404)
	as("second", "use-1/suspend", `{}`).want(t, 404)
	as("second", "prepare", prepareMessage(nil)).want(t, 409).wantText(t, textConflict)
	as("second", "start", dpsStart(map[string]any{"processId": "use-1"})).want(t, 200)
	as("second", "use-1/terminate", `{}`).want(t, 200)
	as("second", "use-1/status", "status").want(t, 200)
	if f := x.flows.flows["use-1"]; f.flow.State != tokens.Terminated {
		t.Errorf("flow %+v", f.flow)
	}
	a := as("first", "use-1/status", "status").want(t, 200)
	if !strings.Contains(a.Body.String(), "STARTED") {
		t.Errorf("status %s", a.Body)
	}
}

// brokenReceived is a consumer's side whose store is in trouble.
type brokenReceived struct{}

var errReceived = &tokens.Error{Code: tokens.CodeUnavailable, Detail: "disk on fire"}

func (brokenReceived) Prepare(context.Context, tokens.Caller, tokens.StartRequest) (*tokens.Flow, bool, error) {
	return nil, false, errReceived
}

func (brokenReceived) Started(context.Context, tokens.Caller, tokens.Message, json.RawMessage) (*tokens.Flow, bool, error) {
	return nil, false, errReceived
}

func (brokenReceived) Resume(context.Context, tokens.Caller, tokens.Message, json.RawMessage) (*tokens.Flow, bool, error) {
	return nil, false, errors.New("disk on fire")
}

func (brokenReceived) Suspend(context.Context, tokens.Caller, tokens.Message) (tokens.Ending, error) {
	return tokens.Ending{}, errReceived
}

func (brokenReceived) Terminate(context.Context, tokens.Caller, tokens.Message) (tokens.Ending, error) {
	return tokens.Ending{}, errReceived
}

func (brokenReceived) Complete(context.Context, tokens.Caller, tokens.Message) (tokens.Ending, error) {
	return tokens.Ending{}, errReceived
}

func (brokenReceived) Status(context.Context, tokens.Caller, string) (*tokens.Flow, error) {
	return nil, errReceived
}

// TestReceivedCannotTell: trouble on the consumer's side is no refusal, and keeps no flow of the provider's side alive.
func TestReceivedCannotTell(t *testing.T) {
	x := newFixture(t)
	x.post("/dataflows/start", dpsStart(nil)).want(t, 200)
	x.handler.machine.received = brokenReceived{}
	for _, m := range []struct{ path, body string }{
		{"/dataflows/prepare", prepareMessage(nil)},
		{"/dataflows/start", dpsStart(nil)},
		{"/dataflows/use-1/started", ""},
		{"/dataflows/use-1/resume", ""},
		{"/dataflows/use-1/suspend", ""},
		{"/dataflows/use-1/completed", ""},
		{"/dataflows/tp-1/terminate", ""},
	} {
		a := x.post(m.path, m.body).want(t, 503).wantText(t, textUnavailable)
		if a.Header().Get("Retry-After") == "" || strings.Contains(a.Body.String(), "fire") {
			t.Errorf("%s: %v %s", m.path, a.Header(), a.Body)
		}
	}
	x.get("/dataflows/tp-1/status").want(t, 503)
	if f := x.flows.flows["tp-1"]; f.flow.State != tokens.Terminated {
		t.Errorf("flow %+v", f.flow)
	}
	x.post("/v1/dataflows/tp-1/terminate", `{}`).want(t, 204) // classic signaling has no consumer's side
}

package signaling

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/tokens"
)

// fixture is a handler over a fake core, with its log.
type fixture struct {
	t       *testing.T
	flows   *fakeFlows
	handler *Handler
	log     *lockedBuffer

	received *consumer.Cache // the EDRs of a consumer's side, if there is one

	mu       sync.Mutex
	observed []string
}

// everything is a configuration that can serve whatever is asked for, from the flow's own backend.
func everything(t testing.TB) func() *Serving {
	t.Helper()
	s, err := NewServing(nil, []Site{{AnyDataset: true}}, true)
	if err != nil {
		t.Fatal(err)
	}
	return func() *Serving { return s }
}

func anybody(t testing.TB) *AccessList {
	t.Helper()
	a, err := NewAccessList([]Rule{{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func anySource(*tokens.Source) error { return nil }

func newFixture(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	x := &fixture{t: t, flows: newFakeFlows(), log: &lockedBuffer{}}
	var answers atomic.Int64
	c := Config{
		Flows: x.flows, Access: anybody(t), Serving: everything(t), CheckSource: anySource,
		Participant: "acme", DID: ourDID, Observer: x,
		Logger: slog.New(slog.NewJSONHandler(x.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:    func() time.Time { return time.Unix(1_800_000_000, 0) },
		NewID:  func() string { return fmt.Sprintf("answer-%d", answers.Add(1)) },
	}
	for _, f := range change {
		f(&c)
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	x.handler = h
	return x
}

func (x *fixture) Signaled(d tokens.Dialect, operation, outcome string, _ time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.observed = append(x.observed, fmt.Sprintf("%s %s %s", d, operation, outcome))
}

type answer struct {
	*httptest.ResponseRecorder
}

func (x *fixture) do(r *http.Request) answer {
	w := httptest.NewRecorder()
	x.handler.ServeHTTP(w, r)
	return answer{w}
}

func (x *fixture) post(path, body string) answer {
	x.t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	return x.do(r)
}

func (x *fixture) get(path string) answer {
	return x.do(httptest.NewRequest(http.MethodGet, path, nil))
}

func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.Code != status {
		t.Fatalf("status %d, want %d: %s", a.Code, status, a.Body)
	}
	return a
}

// text is what a refusal tells the caller, in either dialect.
func (a answer) text() string {
	var list []edcError
	if json.Unmarshal(a.Body.Bytes(), &list) == nil && len(list) == 1 {
		return list[0].Message
	}
	var body dpsError
	_ = json.Unmarshal(a.Body.Bytes(), &body)
	return body.Error
}

func (a answer) wantText(t *testing.T, part string) answer {
	t.Helper()
	if !strings.Contains(a.text(), part) {
		t.Fatalf("text %q, want %q in it", a.text(), part)
	}
	return a
}

// lastLog returns the last line of the log.
func (x *fixture) lastLog() map[string]any {
	x.t.Helper()
	lines := strings.Split(strings.TrimSpace(x.log.String()), "\n")
	var line map[string]any
	err := json.Unmarshal([]byte(lines[len(lines)-1]), &line)
	if err != nil {
		x.t.Fatalf("log line %q: %v", lines[len(lines)-1], err)
	}
	return line
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// dpsStart is a DPS start message; change takes members away or sets them.
func dpsStart(change map[string]any) string {
	return message(map[string]any{
		"messageId": "m-1", "participantId": ourDID, "counterPartyId": theirDID,
		"dataspaceContext": "dataspace-protocol-http:2025-1", "processId": "tp-1", "agreementId": "agreement-1",
		"datasetId": "asset-1", "profile": profilePull, "claims": map[string]any{}, "labels": []any{}, "metadata": map[string]any{},
	}, change)
}

// classicStart is a classic start message as EDC 0.15 sends it.
func classicStart(change map[string]any) string {
	return message(map[string]any{
		"@type": "DataFlowStartMessage", "transferTypeDestination": "HttpData", "flowType": "PULL",
		"agreementId": "agreement-1", "processId": "tp-1", "datasetId": "asset-1", "properties": map[string]any{},
		"callbackAddress": "http://cp.provider.example/control", "participantId": theirDID,
		"sourceDataAddress": source("HttpData", "https://w3id.org/edc/v0.0.1/ns/baseUrl", "http://backend.example/api"),
		"@context":          edcRequestContext(dspaceV08),
	}, change)
}

func edcRequestContext(dspace string) map[string]any {
	return map[string]any{"odrl": "http://www.w3.org/ns/odrl/2/", "dspace": dspace, "@vocab": edcNS}
}

// source is a source address with pairs of property names and values.
func source(kind string, pairs ...string) map[string]any {
	var list []any
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, map[string]any{
			"@type": "dspace:EndpointProperty", "dspace:name": pairs[i], "dspace:value": pairs[i+1],
		})
	}
	return map[string]any{"@type": "dspace:DataAddress", "dspace:endpointType": kind, "dspace:endpointProperties": list}
}

// absent takes a member away.
var absent = new(int)

func message(m, change map[string]any) string {
	for name, value := range change {
		if value == absent {
			delete(m, name)
			continue
		}
		m[name] = value
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(data)
}

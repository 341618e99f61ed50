package signaling

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/signaling/controlplane"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

const kitDID = "did:web:localhost%3A8083"

// unreachable stands for DID resolution, which signaling never needs.
type unreachable struct{}

func (unreachable) ResolveKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("no DID is resolved by signaling")
}

func (unreachable) RefetchKey(context.Context, string, string) (crypto.PublicKey, error) {
	return nil, errors.New("no DID is resolved by signaling")
}

// gateway is a handler over the real token core, behind a server.
type gateway struct {
	t      *testing.T
	core   *tokens.Service
	server *httptest.Server

	transfers *consumer.Transfers
}

// newGateway returns a gateway. Datasets of routes are served by no site but that of everything.
func newGateway(t *testing.T, routes ...Route) *gateway {
	t.Helper()
	serving, err := NewServing(routes, []Site{{AnyDataset: true}}, true)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: key, State: tokens.KeyActive, Name: "test"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	core, err := tokens.New(tokens.Config{
		Participant: "default", DID: ourDID, Keys: ring, Store: memory.New(time.Now), Live: tokens.NewLive(),
		Resolver: unreachable{}, ControlPlanes: []string{DefaultControlPlane}, PublicURL: "https://data.provider.example/public",
	})
	if err != nil {
		t.Fatal(err)
	}
	transfers, _ := newTransfers(t, ourDID, DefaultControlPlane)
	h, err := New(Config{
		Flows: core, Received: transfers, Access: anybody(t), Serving: func() *Serving { return serving }, CheckSource: anySource, DID: ourDID,
		AsyncPrepare: func(dataset string) bool { return dataset == "later" },
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, core: core, server: httptest.NewServer(h), transfers: transfers}
	t.Cleanup(g.server.Close)
	return g
}

type kitAnswer struct {
	DataFlowID  string
	State       string
	DataAddress *struct {
		EndpointType       string
		Endpoint           string
		EndpointProperties []struct{ Name, Value string }
	}
}

func (a kitAnswer) property(name string) string {
	for _, p := range a.DataAddress.EndpointProperties {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

func (g *gateway) send(method, path, body string) (int, kitAnswer) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.server.URL+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Authorization", "dummy-authorization")
	if body != "" {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	response, err := g.server.Client().Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	var a kitAnswer
	_ = json.NewDecoder(response.Body).Decode(&a) // some answers have no body
	return response.StatusCode, a
}

// kitStart is the kit's start: no labels, metadata and callback address.
func kitStart(profile string) string {
	return dpsStart(map[string]any{
		"participantId": ourDID, "counterPartyId": kitDID, "dataspaceContext": "tck-dataspace", "profile": profile,
		"processId": "process-of-the-kit", "labels": absent, "metadata": absent,
	})
}

// kitPrepareLater is the kit's prepare of a transfer that is prepared asynchronously.
func kitPrepareLater() string {
	return strings.Replace(kitStart("http-pull"), `"datasetId":"asset-1"`, `"datasetId":"later"`, 1)
}

// start is answered with the flow.
func (g *gateway) start(profile string) kitAnswer {
	g.t.Helper()
	status, a := g.send(http.MethodPost, "/dataflows/start", kitStart(profile))
	if status/100 != 2 || a.State != "STARTED" || a.DataAddress == nil || a.DataFlowID == "" {
		g.t.Fatalf("start: status %d, %+v", status, a)
	}
	return a
}

func (g *gateway) step(flow, operation, body string) kitAnswer {
	g.t.Helper()
	status, a := g.send(http.MethodPost, "/dataflows/"+flow+"/"+operation, body)
	if status/100 != 2 {
		g.t.Fatalf("%s: status %d", operation, status)
	}
	return a
}

func (g *gateway) wantState(flow, state string) {
	g.t.Helper()
	status, a := g.send(http.MethodGet, "/dataflows/"+flow+"/status", "")
	if status/100 != 2 || a.State != state || a.DataFlowID != flow {
		g.t.Fatalf("status: %d, %+v, want %s", status, a, state)
	}
}

// prepare is answered with the transfer, and without a data address.
func (g *gateway) prepare(profile string) string {
	g.t.Helper()
	status, a := g.send(http.MethodPost, "/dataflows/prepare", kitStart(profile))
	if status/100 != 2 || a.State != "PREPARED" || a.DataAddress != nil || a.DataFlowID == "" {
		g.t.Fatalf("prepare: status %d, %+v", status, a)
	}
	return a.DataFlowID
}

// kitStarted is the kit's started with a data address of its own, without some of the properties.
func kitStarted(without ...string) string {
	var properties []any
	for _, p := range [][2]string{
		{"authorization", "token"},
		{"authType", "bearer"},
		{"refreshToken", "refresh"},
		{"expiresIn", "300"},
		{"refreshEndpoint", "https://provider.example.com/authorization/refresh"},
	} {
		if !slices.Contains(without, p[0]) {
			properties = append(properties, map[string]any{"name": p[0], "value": p[1]}) // the kit's have no @type
		}
	}
	return message(map[string]any{"messageId": "m-2", "dataAddress": map[string]any{
		"@type": "DataAddress", "endpoint": "https://provider.example.com/data", "endpointType": profilePull,
		"endpointProperties": properties,
	}}, nil)
}

// TestConformanceKit has the cases of the DPS conformance kit (dps-tck 1.2) for a pull data plane, a provider's and a
// consumer's, as far as they need no renewal endpoint.
func TestConformanceKit(t *testing.T) {
	const messageID = `{"messageId":"m-2"}`
	t.Run("DP_P_PULL:01-01", func(t *testing.T) {
		g := newGateway(t)
		flow := g.start("http-pull").DataFlowID
		g.wantState(flow, "STARTED")
		g.step(flow, "completed", `{}`)
		g.wantState(flow, "COMPLETED")
	})
	t.Run("DP_P_PULL:01-02", func(t *testing.T) {
		g := newGateway(t)
		flow := g.start("http-pull").DataFlowID
		g.wantState(flow, "STARTED")
		g.step(flow, "terminate", `{"messageId":"m-2","reason":"any"}`)
		g.wantState(flow, "TERMINATED")
	})
	t.Run("DP_P_PULL:02-01", func(t *testing.T) {
		g := newGateway(t)
		first := g.start("http-pull")
		flow := first.DataFlowID
		g.step(flow, "suspend", messageID)
		g.wantState(flow, "SUSPENDED")
		again := g.step(flow, "resume", `{"messageId":"m-3"}`)
		if again.State != "STARTED" || again.DataAddress == nil {
			t.Fatalf("resume: %+v", again)
		}
		// An EDC 0.18 consumer never sees the EDR of a resume.
		if again.property("refreshToken") != first.property("refreshToken") {
			t.Error("the refresh token changed")
		}
		g.wantState(flow, "STARTED")
	})
	t.Run("DP_P_PULL:02-02", func(t *testing.T) {
		g := newGateway(t)
		flow := g.start("http-pull").DataFlowID
		g.step(flow, "suspend", messageID)
		g.wantState(flow, "SUSPENDED")
		g.step(flow, "terminate", `{"messageId":"m-3","reason":"any"}`)
		g.wantState(flow, "TERMINATED")
	})
	t.Run("DP_P_PULL:04-01", func(t *testing.T) {
		g := newGateway(t, Route{Name: "async", Match: routing.Match{Datasets: []string{"asset-1"}}, Async: true})
		kit := newKitCallbacks(t)
		status, a := g.send(http.MethodPost, "/dataflows/start", kitStart("http-pull"))
		if status/100 != 2 || a.State != "STARTING" || a.DataAddress != nil || a.DataFlowID == "" {
			t.Fatalf("start: status %d, %+v", status, a)
		}
		g.wantState(a.DataFlowID, "STARTING")
		g.deliver(kit.address)
		testkit.Eventually(t, "the callback", func() bool { return kit.got("/transfers/process-of-the-kit/dataflow/started") != "" })
		g.wantState(a.DataFlowID, "STARTED")
		wantSchemaValid(t, kit.got("/transfers/process-of-the-kit/dataflow/started"), a.DataFlowID)
	})
	t.Run("DP_C_PULL:01-01", func(t *testing.T) {
		g := newGateway(t)
		flow := g.prepare("http-pull")
		g.step(flow, "started", messageID)
		g.wantState(flow, "STARTED")
	})
	t.Run("DP_C_PULL:01-02", func(t *testing.T) {
		g := newGateway(t)
		flow := g.prepare("http-pull")
		g.step(flow, "started", messageID)
		g.step(flow, "terminate", `{"messageId":"m-3","reason":"any"}`)
		g.wantState(flow, "TERMINATED")
	})
	t.Run("DP_C_PULL:02-01", func(t *testing.T) {
		g := newGateway(t)
		flow := g.prepare("http-pull")
		g.step(flow, "started", messageID)
		g.step(flow, "suspend", `{"messageId":"m-3"}`)
		g.wantState(flow, "SUSPENDED")
		again := g.step(flow, "resume", `{"messageId":"m-4"}`)
		if again.State != "STARTED" || again.DataAddress != nil {
			t.Fatalf("resume: %+v", again)
		}
		g.wantState(flow, "STARTED")
	})
	t.Run("DP_C_PULL:02-02", func(t *testing.T) {
		g := newGateway(t)
		flow := g.prepare("http-pull")
		g.step(flow, "started", messageID)
		g.step(flow, "suspend", `{"messageId":"m-3"}`)
		g.wantState(flow, "SUSPENDED")
		g.step(flow, "terminate", `{"messageId":"m-4","reason":"any"}`)
		g.wantState(flow, "TERMINATED")
	})
	t.Run("DP_C_PULL:03-01", func(t *testing.T) {
		g := newGateway(t)
		kit := newKitCallbacks(t)
		g.deliver(kit.address)
		flow := g.prepare("http-pull")
		g.wantState(flow, "PREPARED")
		g.step(flow, "started", messageID)
		g.wantState(flow, "STARTED") // until whoever uses the data has enough
		outcome, err := g.transfers.Finish(t.Context(), flow)
		if err != nil || outcome != tokens.Applied {
			t.Fatalf("finish: %s, %v", outcome, err)
		}
		testkit.Eventually(t, "the callback", func() bool { return kit.got("/transfers/process-of-the-kit/dataflow/completed") != "" })
		wantStateTold(t, kit.got("/transfers/process-of-the-kit/dataflow/completed"), flow, "COMPLETED")
		g.wantState(flow, "COMPLETED")
	})
	t.Run("DP_C_PULL:04-01", func(t *testing.T) {
		g := newGateway(t)
		kit := newKitCallbacks(t)
		status, a := g.send(http.MethodPost, "/dataflows/prepare", kitPrepareLater())
		if status/100 != 2 || a.State != "PREPARING" || a.DataAddress != nil || a.DataFlowID == "" {
			t.Fatalf("prepare: status %d, %+v", status, a)
		}
		g.wantState(a.DataFlowID, "PREPARING")
		g.deliver(kit.address)
		testkit.Eventually(t, "the callback", func() bool { return kit.got("/transfers/process-of-the-kit/dataflow/prepared") != "" })
		wantStateTold(t, kit.got("/transfers/process-of-the-kit/dataflow/prepared"), a.DataFlowID, "PREPARED")
		g.wantState(a.DataFlowID, "PREPARED")
	})
	t.Run("DP_C_HTTP_PULL:01-01", func(t *testing.T) {
		g := newGateway(t)
		flow := g.prepare(profilePull)
		g.step(flow, "started", kitStarted())
		g.wantState(flow, "STARTED")
	})
	t.Run("DP_C_HTTP_PULL:02-01", func(t *testing.T) {
		g := newGateway(t)
		flow := g.prepare(profilePull)
		status, _ := g.send(http.MethodPost, "/dataflows/"+flow+"/started", kitStarted("refreshToken", "expiresIn", "refreshEndpoint"))
		if status/100 != 4 {
			t.Fatalf("started: status %d", status)
		}
		g.wantState(flow, "PREPARED")
	})
	t.Run("DP_P_HTTP_PULL:01-01 start", func(t *testing.T) {
		g := newGateway(t)
		a := g.start(profilePull)
		g.wantState(a.DataFlowID, "STARTED")
		if a.DataAddress.EndpointType != profilePull || !strings.HasPrefix(a.DataAddress.Endpoint, "https://") {
			t.Errorf("address %+v", a.DataAddress)
		}
		if a.property("authType") != "bearer" || a.property("authorization") == "" || a.property("refreshToken") == "" ||
			a.property("expiresIn") != "300" || a.property("refreshEndpoint") != "https://data.provider.example/public/token" {
			t.Errorf("properties %+v", a.DataAddress.EndpointProperties)
		}
		for _, p := range a.DataAddress.EndpointProperties {
			plain := p.Name[strings.LastIndex(p.Name, "/")+1:]
			if p.Value != a.property(plain) {
				t.Errorf("%s differs from %s", p.Name, plain)
			}
		}
	})
}

// kitCallbacks are where the kit takes callbacks. The first one comes before its handler is registered.
type kitCallbacks struct {
	address *url.URL

	mu    sync.Mutex
	calls int
	taken map[string]string // body by path
}

func newKitCallbacks(t *testing.T) *kitCallbacks {
	t.Helper()
	k := &kitCallbacks{taken: map[string]string{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.calls++
		if k.calls == 1 {
			http.NotFound(w, r)
			return
		}
		k.taken[r.URL.Path] = string(body)
	}))
	t.Cleanup(server.Close)
	var err error
	k.address, err = controlplane.ParseBase(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *kitCallbacks) got(path string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taken[path]
}

type unobserved struct{}

func (unobserved) CalledBack(tokens.ReportEvent, controlplane.Result) {}
func (unobserved) Owed(tokens.ReportEvent, int)                       {}

// deliver runs the outbox of the gateway.
func (g *gateway) deliver(callback *url.URL) {
	g.t.Helper()
	transport := dialtest.Transport(g.t, "127.0.0.0/8")
	client := controlplane.NewClient(controlplane.ClientConfig{Transport: transport, TokenTransport: transport})
	outbox, err := controlplane.NewOutbox(controlplane.OutboxConfig{
		Reports: []controlplane.Reports{g.core, g.transfers}, Client: client, Callbacks: map[string]*url.URL{DefaultControlPlane: callback},
		DataAddress: DataAddress, Observer: unobserved{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { outbox.Run(ctx) })
	g.t.Cleanup(func() { cancel(); running.Wait() })
}

// wantSchemaValid checks what the schema of a DataFlowStatusMessage demands (DPS §1.2), which the kit validates callbacks
// against.
func wantSchemaValid(t *testing.T, body, flow string) {
	t.Helper()
	var m struct {
		MessageID, DataFlowID, State string
		DataAddress                  struct {
			Type               string `json:"@type"`
			EndpointType       string
			Endpoint           string
			EndpointProperties []struct {
				Type  string `json:"@type"`
				Name  string
				Value *string
			}
		}
	}
	err := json.Unmarshal([]byte(body), &m)
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	a := m.DataAddress
	if m.MessageID == "" || m.DataFlowID != flow || m.State != "STARTED" ||
		a.Type != "DataAddress" || a.EndpointType != profilePull || a.Endpoint == "" || len(a.EndpointProperties) == 0 {
		t.Errorf("callback %+v", m)
	}
	for _, p := range a.EndpointProperties {
		if p.Type != "EndpointProperty" || p.Name == "" || p.Value == nil || *p.Value == "" {
			t.Errorf("property %+v", p)
		}
	}
}

// wantStateTold is wantSchemaValid for a callback that brings no data address.
func wantStateTold(t *testing.T, body, flow, state string) {
	t.Helper()
	var m map[string]string
	err := json.Unmarshal([]byte(body), &m)
	if err != nil || len(m) != 3 || m["messageId"] == "" || m["dataFlowId"] != flow || m["state"] != state {
		t.Errorf("callback %s, %v", body, err)
	}
}

// TestClassicLifeOnTheCore is a flow's life as EDC 0.17 and Tractus-X drive it.
func TestClassicLifeOnTheCore(t *testing.T) {
	g := newGateway(t)
	start := func(want int, change map[string]any) {
		t.Helper()
		status, _ := g.send(http.MethodPost, "/v1/dataflows/start", classicStart(change))
		if status != want {
			t.Fatalf("start: status %d, want %d", status, want)
		}
	}
	notice := func(operation string) {
		t.Helper()
		status, _ := g.send(http.MethodPost, "/v1/dataflows/tp-1/"+operation, `{"@type":"DataFlowSuspendMessage"}`)
		if status != http.StatusNoContent {
			t.Fatalf("%s: status %d", operation, status)
		}
	}
	state := func(want string) {
		t.Helper()
		status, a := g.send(http.MethodGet, "/v1/dataflows/tp-1/state", "")
		if status != http.StatusOK || a.State != want {
			t.Fatalf("state: %d %s, want %s", status, a.State, want)
		}
	}
	start(200, nil)
	start(200, nil)
	start(409, map[string]any{"sourceDataAddress": source("HttpData", edcNS+"baseUrl", "http://other.example")})
	notice("suspend")
	state("SUSPENDED")
	notice("suspend")
	start(200, map[string]any{"destinationDataAddress": source("HttpData", edcNS+"authorization", "old")})
	state("STARTED")
	notice("terminate")
	state("TERMINATED")
	notice("terminate")
	notice("suspend")
	start(409, nil)
	flow, err := g.core.Flow(t.Context(), "tp-1")
	if err != nil || flow.BoundDID != theirDID {
		t.Errorf("flow %+v, %v", flow, err)
	}
}

package integration

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestConformanceKit replays the pull cases of the Dataspace Protocol TCK for Data Plane Signaling (1.2.x), a provider's and
// a consumer's, with its own messages, in the order in which it runs them: against one data plane, with one DID whose key is
// another one in each case. The dataset of DP_P_PULL:04-01 has a route that says async, that of DP_C_PULL:04-01 is one of
// async_prepare, and an operator completes the transfer of DP_C_PULL:03-01 when it is started.
func TestConformanceKit(t *testing.T) {
	t.Parallel()
	kit := newConformanceKit(t)
	g := startGateway(t, config{
		app:  kit.controlPlane() + asyncRoute("8b088b47-daa5-4d02-94ee-c64d2bf33f6e") + "\nconsumer {\nrenew never\nasync_prepare a10a8c11-507e-429b-8b11-a5c9d21b3f87\n}\n",
		site: "edr_auth {\nany_dataset\nignore_source_address\n}\nreverse_proxy " + newBackend(t, "weather").address(),
	})
	for _, c := range []struct {
		id     string
		states []string // each is waited for, in this order
		renew  func(t *testing.T, g *gateway, w *testkit.Wallet, e edr)
	}{
		{"DP_C_HTTP_PULL:01-01", []string{"STARTED"}, nil},
		{"DP_C_HTTP_PULL:02-01", nil, nil},
		{"DP_C_PULL:01-01", []string{"STARTED"}, nil},
		{"DP_C_PULL:01-02", []string{"TERMINATED"}, nil},
		{"DP_C_PULL:02-01", []string{"SUSPENDED", "STARTED"}, nil},
		{"DP_C_PULL:02-02", []string{"SUSPENDED", "TERMINATED"}, nil},
		{"DP_C_PULL:03-01", []string{"PREPARED", "STARTED"}, nil},
		{"DP_C_PULL:04-01", []string{"PREPARED"}, nil},
		{"DP_P_PULL:01-01", []string{"STARTED", "COMPLETED"}, nil},
		{"DP_P_PULL:01-02", []string{"STARTED", "TERMINATED"}, nil},
		{"DP_P_PULL:02-01", []string{"SUSPENDED", "STARTED"}, nil},
		{"DP_P_PULL:02-02", []string{"SUSPENDED", "TERMINATED"}, nil},
		{"DP_P_PULL:04-01", []string{"STARTED"}, kitRenews},
		{"DP_P_HTTP_PULL:01-01", []string{"STARTED"}, kitRenews},
		{"DP_P_HTTP_PULL:02-01", []string{"STARTED"}, kitRenewsWithAnInventedRefreshToken},
		{"DP_P_HTTP_PULL:02-02", []string{"STARTED"}, kitRenewsForAnotherAudience},
	} {
		t.Run(c.id, func(t *testing.T) {
			wallet := kit.begin()
			defer kit.end()
			e, states := kit.replay(t, g, c.id)
			if !slices.Equal(states, c.states) {
				t.Fatalf("the recorded case waits for the states %v, want %v", states, c.states)
			}
			if c.renew != nil {
				wantProfileEDR(t, e)
				c.renew(t, g, wallet, readKitEDR(t, g, e))
			}
			if c.id == "DP_C_PULL:03-01" {
				completes(g, e.DataFlowID)
				wantStateMessage(t, kit.awaitCallback(t, e.DataFlowID, "completed"), e.DataFlowID, "COMPLETED")
				g.wantTransfer(e.DataFlowID, "COMPLETED")
			}
		})
	}
}

// conformanceKit is the consumer whom the kit plays, a DID at a host of its own, and the provider's control plane.
type conformanceKit struct {
	did     string
	address string

	mu        sync.Mutex
	document  []byte // nil between the cases, when the kit answers 404
	refused   bool   // a callback came before the kit was ready for it
	callbacks map[string]string
}

func newConformanceKit(t *testing.T) *conformanceKit {
	k := &conformanceKit{callbacks: map[string]string{}}
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	_, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	k.did, k.address = "did:web:localhost%3A"+port, server.URL
	return k
}

// controlPlane is the kit as a control plane of the gateway.
func (k *conformanceKit) controlPlane() string {
	return "control_plane default {\ncallback " + k.address + "\n}\n"
}

func (k *conformanceKit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	if r.Method == http.MethodPost && err == nil {
		if !k.refused {
			k.refused = true // until its handler is registered the kit answers 404
			http.NotFound(w, r)
			return
		}
		k.callbacks[r.URL.Path] = string(body)
		return
	}
	if r.URL.Path != "/.well-known/did.json" || k.document == nil {
		http.NotFound(w, r)
		return
	}
	w.Header()["Content-Type"] = nil // the kit sends none
	_, _ = w.Write(k.document)
}

// begin makes a new key and publishes it in the document as the kit writes it.
func (k *conformanceKit) begin() *testkit.Wallet {
	wallet := testkit.NewWallet(k.did)
	name := rand.Text()
	wallet.KID = k.did + "#" + name
	key := jose.JSONWebKey{Key: wallet.Key.Public(), KeyID: name, Use: "sig"}
	document, err := json.Marshal(map[string]any{
		"id":       k.did,
		"@context": []string{"https://www.w3.org/ns/did/v1", "https://w3id.org/dspace-dcp/v1.0"},
		"service": []any{map[string]any{
			"id": "TCK-Credential-Service", "type": "CredentialService", "serviceEndpoint": "http://localhost:8083",
		}},
		"verificationMethod": []any{map[string]any{
			"publicKeyJwk": key, "id": wallet.KID, "type": "JsonWebKey2020", "controller": k.did, "publicKeyMultibase": nil,
		}},
		"authentication": []string{wallet.KID}, "assertionMethod": []string{wallet.KID}, "capabilityInvocation": []string{wallet.KID},
	})
	if err != nil {
		panic(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.document = document
	return wallet
}

func (k *conformanceKit) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.document = nil
}

// kitAnswer is a DataFlowStatusMessage (DPS §1.2), as far as the kit looks at it.
type kitAnswer struct {
	DataFlowID  string                     `json:"dataFlowId"`
	State       string                     `json:"state"`
	DataAddress map[string]json.RawMessage `json:"dataAddress"`
}

// flowInPath is the flow id in the path of a recorded message.
var flowInPath = regexp.MustCompile(`^/dataflows/[^/]+/`)

// replay sends the messages of a case. It returns the answer to its start or prepare, and the states that it waited for.
func (k *conformanceKit) replay(t *testing.T, g *gateway, id string) (kitAnswer, []string) {
	t.Helper()
	var start kitAnswer
	var states []string
	wire := filepath.Join(moduleRoot, "signaling", "testdata", "wire")
	folder := "dps-tck"
	if strings.HasPrefix(id, "DP_C") {
		folder = "dps-tck-consumer"
	}
	files, err := filepath.Glob(filepath.Join(wire, folder, strings.ReplaceAll(id, ":", "-")+"--*.json"))
	if err != nil || len(files) < 2 {
		t.Fatalf("recordings of %s: %v, %v", id, files, err)
	}
	for _, file := range files {
		message := recordedExchange(t, folder+"/"+filepath.Base(file))
		// The kit goes on with the flow id that the start was answered with.
		message.Path = flowInPath.ReplaceAllLiteralString(message.Path, "/dataflows/"+start.DataFlowID+"/")
		switch operation := path.Base(message.Path); operation {
		case "start":
			message.Body = replaceAll(t, message.Body, "did:web:localhost%3A9600", g.did, "did:web:localhost%3A8083", k.did)
			start = k.send(t, g, message)
			asynchronous := recordedState(t, message, file) == "STARTING"
			if asynchronous && (start.State != "STARTING" || start.DataFlowID == "" || start.DataAddress != nil) ||
				!asynchronous && (start.State != "STARTED" || start.DataFlowID == "" || start.DataAddress == nil) {
				t.Fatalf("the start is answered with state %q, flow %q, %d members of an address",
					start.State, start.DataFlowID, len(start.DataAddress))
			}
			if asynchronous {
				start.DataAddress = k.awaitStarted(t, start.DataFlowID)
			}
		case "prepare":
			message.Body = replaceAll(t, message.Body, "did:web:localhost%3A9600", g.did, "did:web:localhost%3A8083", k.did)
			start = k.send(t, g, message)
			asynchronous := recordedState(t, message, file) == "PREPARING"
			if start.State != recordedState(t, message, file) || start.DataFlowID == "" || start.DataAddress != nil {
				t.Fatalf("the prepare is answered with state %q, flow %q, %d members of an address",
					start.State, start.DataFlowID, len(start.DataAddress))
			}
			if asynchronous {
				wantStateMessage(t, k.awaitCallback(t, start.DataFlowID, "prepared"), start.DataFlowID, "PREPARED")
			}
		case "started":
			if message.Answer.Status/100 != 2 {
				k.sendRefused(t, g, message)
				continue
			}
			k.send(t, g, message)
		case "resume":
			again := k.send(t, g, message)
			if again.State != "STARTED" {
				t.Fatalf("the resume is answered with state %q", again.State)
			}
		case "status":
			states = append(states, k.await(t, g, message, file))
		case "suspend", "terminate", "completed":
			k.send(t, g, message)
		default:
			t.Fatalf("%s has an operation %q", file, operation)
		}
	}
	return start, states
}

// awaitStarted waits for the callback that the flow has started and returns the data address in it.
func (k *conformanceKit) awaitStarted(t *testing.T, flow string) map[string]json.RawMessage {
	t.Helper()
	body := k.awaitCallback(t, flow, "started")
	wantStatusMessage(t, body, flow)
	var answer kitAnswer
	err := json.Unmarshal([]byte(body), &answer)
	if err != nil {
		t.Fatal(err)
	}
	return answer.DataAddress
}

// awaitCallback waits for a callback about a flow and returns its body.
func (k *conformanceKit) awaitCallback(t *testing.T, flow, event string) string {
	t.Helper()
	var body string
	testkit.Eventually(t, "the kit is told "+event, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		body = k.callbacks["/transfers/"+flow+"/dataflow/"+event]
		return body != ""
	})
	return body
}

// wantStateMessage checks a DataFlowStatusMessage that brings no data address (DPS §1.2).
func wantStateMessage(t testing.TB, body, flow, state string) {
	t.Helper()
	var m map[string]string
	err := json.Unmarshal([]byte(body), &m)
	if err != nil || len(m) != 3 || m["messageId"] == "" || m["dataFlowId"] != flow || m["state"] != state {
		t.Errorf("callback %s, %v", body, err)
	}
}

// wantStatusMessage checks what the schema of a DataFlowStatusMessage demands (DPS §1.2): the kit answers 400 to a callback
// that is not valid.
func wantStatusMessage(t testing.TB, body, flow string) {
	t.Helper()
	var m struct {
		MessageID, DataFlowID, State string
		DataAddress                  struct {
			Type               string `json:"@type"`
			EndpointType       string
			EndpointProperties []struct {
				Type  string `json:"@type"`
				Name  string
				Value string
			}
		}
	}
	err := json.Unmarshal([]byte(body), &m)
	if err != nil {
		t.Fatalf("callback: %v", err)
	}
	a := m.DataAddress
	if m.MessageID == "" || m.DataFlowID != flow || m.State != "STARTED" || a.Type != "DataAddress" || a.EndpointType != profilePull {
		t.Errorf("the callback has message id %q, flow %q, state %q, and a data address of type %q, endpoint type %q",
			m.MessageID, m.DataFlowID, m.State, a.Type, a.EndpointType)
	}
	for _, p := range a.EndpointProperties {
		if p.Type != "EndpointProperty" || p.Name == "" || p.Value == "" {
			t.Errorf("property %q of type %q has %d characters", p.Name, p.Type, len(p.Value))
		}
	}
}

// sendRefused sends a message and wants to hear that it is wrong.
func (k *conformanceKit) sendRefused(t *testing.T, g *gateway, message exchange) {
	t.Helper()
	got := k.exchange(t, g, message)
	if got.status/100 != 4 {
		t.Fatalf("%s %s: status %d: %s", message.Method, message.Path, got.status, got.body)
	}
}

func (k *conformanceKit) exchange(t *testing.T, g *gateway, message exchange) reply {
	t.Helper()
	request, err := http.NewRequest(message.Method, "http://"+g.signaling+message.Path, strings.NewReader(message.Body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "dummy-authorization")
	if message.ContentType != "" {
		request.Header.Set("Content-Type", message.ContentType)
	}
	return send(t, g.client, request)
}

// send sends a message as the kit does, and wants any success.
func (k *conformanceKit) send(t *testing.T, g *gateway, message exchange) kitAnswer {
	t.Helper()
	got := k.exchange(t, g, message)
	if got.status/100 != 2 {
		t.Fatalf("%s %s: status %d: %s", message.Method, message.Path, got.status, got.body)
	}
	var answer kitAnswer
	if got.body == "" {
		return answer
	}
	err := json.Unmarshal([]byte(got.body), &answer)
	if err != nil {
		t.Fatalf("%s %s: %v: %s", message.Method, message.Path, err, got.body)
	}
	return answer
}

// await asks for the status until it is the recorded one, and returns it.
func (k *conformanceKit) await(t *testing.T, g *gateway, message exchange, file string) string {
	t.Helper()
	state := recordedState(t, message, file)
	testkit.Eventually(t, "the flow is "+state, func() bool { return k.send(t, g, message).State == state })
	return state
}

// recordedState is the state in the answer that the kit was content with.
func recordedState(t *testing.T, message exchange, file string) string {
	t.Helper()
	var recorded kitAnswer
	err := json.Unmarshal([]byte(message.Answer.Body), &recorded)
	if err != nil || recorded.State == "" {
		t.Fatalf("%s has no state: %v", file, err)
	}
	return recorded.State
}

// wantProfileEDR checks what the kit looks for in an EDR of the profile (DPS HTTP profile, token renewal profile).
func wantProfileEDR(t *testing.T, start kitAnswer) {
	t.Helper()
	properties := propertiesOf(t, start.DataAddress)
	for name, pattern := range map[string]string{
		"authorization": `^.+$`, "authType": `^bearer$`, "refreshToken": `^.+$`, "expiresIn": `^[0-9]+$`, "refreshEndpoint": `^https?://`,
	} {
		if !regexp.MustCompile(pattern).MatchString(properties[name]) {
			t.Errorf("property %s of the EDR has %d characters that do not match %s", name, len(properties[name]), pattern)
		}
	}
	for name, pattern := range map[string]string{"endpointType": `^"` + profilePull + `"$`, "endpoint": `^"https?://`} {
		if !regexp.MustCompile(pattern).Match(start.DataAddress[name]) {
			t.Errorf("%s of the EDR is %s", name, start.DataAddress[name])
		}
	}
}

func readKitEDR(t *testing.T, g *gateway, start kitAnswer) edr {
	t.Helper()
	body, err := json.Marshal(map[string]any{"dataAddress": start.DataAddress})
	if err != nil {
		t.Fatal(err)
	}
	return readEDR(g, start.DataFlowID, reply{body: string(body)})
}

// kitRenewal is a renewal as the kit sends it. Its proofs are good for ten minutes.
func kitRenewal(g *gateway, w *testkit.Wallet, e edr, audience, refreshToken string) renewal {
	now := time.Now()
	claims := w.Claims(audience, e.access, now)
	claims["exp"] = now.Add(10 * time.Minute).Unix()
	claims["jti"] = rand.Text()
	return renewal{
		endpoint: e.refreshEndpoint, proof: "Bearer " + w.Sign(claims),
		form: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}},
	}
}

func kitRenews(t *testing.T, g *gateway, w *testkit.Wallet, e edr) {
	answer := kitRenewal(g, w, e, g.did, e.refresh).send(g).want(t, http.StatusOK)
	renewed, err := e.renewedBy(g, answer)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.access == "" || renewed.access == e.access || !strings.Contains(answer.body, `"token_type"`) {
		t.Error("the renewal gave no new access token with its type")
	}
	wantData(t, g, "/", renewed.access, "data of weather")
}

func kitRenewsWithAnInventedRefreshToken(t *testing.T, g *gateway, w *testkit.Wallet, e edr) {
	wantRenewalRefused(t, kitRenewal(g, w, e, g.did, "invalid-refresh-token-"+rand.Text()).send(g), "with an invented refresh token")
	// The kit stops here. It was not the proof that was refused:
	kitRenewal(g, w, e, g.did, e.refresh).send(g).want(t, http.StatusOK)
}

func kitRenewsForAnotherAudience(t *testing.T, g *gateway, w *testkit.Wallet, e edr) {
	wantRenewalRefused(t, kitRenewal(g, w, e, "did:web:invalid-audience", e.refresh).send(g), "for another audience")
	kitRenewal(g, w, e, g.did, e.refresh).send(g).want(t, http.StatusOK)
}

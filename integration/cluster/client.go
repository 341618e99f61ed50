package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// Reply is an answer that was read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// String shows a reply in messages.
func (r Reply) String() string { return fmt.Sprintf("%d %s", r.Status, strings.TrimSpace(r.Body)) }

// Flow is a transfer as its control plane and its consumer know it.
type Flow struct {
	ID, Agreement string
	Classic       bool // of Tractus-X; otherwise of Data Plane Signaling
	Wallet        *testkit.Wallet
}

// Tokens are the part of an EDR that changes.
type Tokens struct{ Access, Refresh string }

// NewFlow returns a flow of the consumer that is not started yet.
func NewFlow(consumer *testkit.Wallet, classic bool) *Flow {
	return &Flow{ID: "flow-" + rand.Text(), Agreement: "agreement-" + rand.Text(), Classic: classic, Wallet: consumer}
}

// StartFlow starts a flow as its control plane does. The tokens are zero unless the reply is 200.
func (g *Gateway) StartFlow(ctx context.Context, f *Flow) (Tokens, Reply, error) {
	return g.edr(ctx, f, "start", startOf(f))
}

// Resume resumes a flow; a classic control plane does so by its start.
func (g *Gateway) Resume(ctx context.Context, f *Flow) (Tokens, Reply, error) {
	if f.Classic {
		return g.edr(ctx, f, "start", startOf(f))
	}
	return g.edr(ctx, f, f.ID+"/resume", map[string]any{"messageId": rand.Text(), "processId": rand.Text()})
}

// Suspend suspends a flow.
func (g *Gateway) Suspend(ctx context.Context, f *Flow) (Reply, error) {
	return g.signal(ctx, f, f.ID+"/suspend", map[string]any{"messageId": rand.Text(), "reason": "suspend"})
}

// Terminate ends a flow.
func (g *Gateway) Terminate(ctx context.Context, f *Flow) (Reply, error) {
	return g.signal(ctx, f, f.ID+"/terminate", map[string]any{"messageId": rand.Text()})
}

// Renew exchanges the tokens as a consumer does. The new ones are zero unless the reply is 200.
func (g *Gateway) Renew(ctx context.Context, f *Flow, held Tokens) (Tokens, Reply, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held.Refresh}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.public+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return Tokens{}, Reply{}, err
	}
	request.Host = PublicHost
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+f.Wallet.Proof(ProviderDID, held.Access, time.Now()))
	answer, err := send(g.client, request)
	if err != nil || answer.Status != http.StatusOK {
		return Tokens{}, answer, err
	}
	var renewed struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	err = json.Unmarshal([]byte(answer.Body), &renewed)
	if err == nil && (renewed.Access == "" || renewed.Refresh == "") {
		err = errors.New("a renewal was answered without both tokens")
	}
	return Tokens{Access: renewed.Access, Refresh: renewed.Refresh}, answer, err
}

// Data requests data with an access token.
func (g *Gateway) Data(ctx context.Context, access string) (Reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.public+"/berlin", nil)
	if err != nil {
		return Reply{}, err
	}
	request.Host = PublicHost
	request.Header.Set("Authorization", access)
	return send(g.client, request)
}

// Get gets a path at one of the gateway's addresses.
func (g *Gateway) Get(ctx context.Context, address, path string) (Reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return Reply{}, err
	}
	return send(g.client, request)
}

// startOf is a start message as EDC 0.18 or Tractus-X 0.12.1 sends it.
func startOf(f *Flow) map[string]any {
	if !f.Classic {
		return map[string]any{
			"messageId": rand.Text(), "participantId": ProviderDID, "counterPartyId": f.Wallet.DID,
			"dataspaceContext": "dataspace-protocol-http:2025-1", "processId": f.ID, "agreementId": f.Agreement, "datasetId": Dataset,
			"callbackAddress": "http://localhost:9204/api/signaling", "transferType": "https://w3id.org/dspace-sig/profile/http-pull",
			"labels": []any{}, "metadata": map[string]any{}, "claims": map[string]any{"client_id": f.Wallet.DID},
		}
	}
	const edc = "https://w3id.org/edc/v0.0.1/ns/"
	return map[string]any{
		"@type":    "DataFlowStartMessage",
		"@context": map[string]any{"dspace": "https://w3id.org/dspace/v0.8/", "@vocab": edc},
		"flowType": "PULL", "transferTypeDestination": "HttpData", "processId": f.ID, "datasetId": Dataset, "agreementId": f.Agreement,
		"participantId": f.Wallet.DID, "callbackAddress": "http://localhost:16292/control",
		"properties": map[string]any{"https://w3id.org/tractusx/auth/audience": f.Wallet.DID},
	}
}

// signal posts a message to edr_signaling.
func (g *Gateway) signal(ctx context.Context, f *Flow, path string, message map[string]any) (Reply, error) {
	root := "/dataflows/"
	if f.Classic {
		root = "/v1/dataflows/"
		delete(message, "messageId")
	}
	body, err := json.Marshal(message)
	if err != nil {
		return Reply{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.signaling+root+path, strings.NewReader(string(body)))
	if err != nil {
		return Reply{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	return send(g.client, request)
}

// edr is signal for messages that are answered with an EDR.
func (g *Gateway) edr(ctx context.Context, f *Flow, path string, message map[string]any) (Tokens, Reply, error) {
	answer, err := g.signal(ctx, f, path, message)
	if err != nil || answer.Status != http.StatusOK {
		return Tokens{}, answer, err
	}
	tokens, err := readEDR(answer.Body)
	return tokens, answer, err
}

// readEDR reads the tokens out of an answer of either dialect.
func readEDR(body string) (Tokens, error) {
	var message struct {
		DataAddress map[string]json.RawMessage `json:"dataAddress"`
	}
	err := json.Unmarshal([]byte(body), &message)
	if err != nil {
		return Tokens{}, fmt.Errorf("answer with an EDR: %w", err)
	}
	var t Tokens
	for member, raw := range message.DataAddress {
		if !strings.HasSuffix(member, "endpointProperties") {
			continue
		}
		var properties []map[string]string
		err = json.Unmarshal(raw, &properties)
		if err != nil {
			return Tokens{}, fmt.Errorf("properties of an EDR: %w", err)
		}
		for _, p := range properties {
			name, value := p["name"]+p["dspace:name"], p["value"]+p["dspace:value"]
			switch name[strings.LastIndexByte(name, '/')+1:] {
			case "authorization":
				t.Access = value
			case "refreshToken":
				t.Refresh = value
			}
		}
	}
	if t.Access == "" || t.Refresh == "" {
		return Tokens{}, errors.New("an EDR without both tokens")
	}
	return t, nil
}

func send(client *http.Client, r *http.Request) (Reply, error) {
	response, err := client.Do(r)
	if err != nil {
		return Reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return Reply{Status: response.StatusCode, Header: response.Header, Body: string(body)}, err
}

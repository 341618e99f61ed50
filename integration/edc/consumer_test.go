//go:build interop

package edc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// consumer is an application beside the consumer's control plane: it takes EDRs from there, and has the key of the
// consumer's DID.
type consumer struct {
	wallet   *testkit.Wallet
	document []byte // of the wallet's DID
	client   *http.Client
}

// newConsumer serves the DID document of a new wallet, did:web:localhost%3APORT, for as long as the test runs.
func newConsumer(t testing.TB) *consumer {
	c := &consumer{client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/did.json" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/did+json")
		_, _ = w.Write(c.document)
	}))
	t.Cleanup(server.Close)
	port := server.Listener.Addr().(*net.TCPAddr).Port
	c.wallet = testkit.NewWallet(fmt.Sprintf("did:web:localhost%%3A%d", port))
	c.document = c.wallet.Document()
	return c
}

// publish adds what `caddy edr keygen --did` prints to the DID document, and returns the key's id there.
func (c *consumer) publish(printed []byte) (string, error) {
	document, added := map[string]any{}, map[string][]any{}
	err := errors.Join(json.Unmarshal(c.document, &document), json.Unmarshal(printed, &added))
	if err != nil {
		return "", err
	}
	for member, values := range added {
		there, _ := document[member].([]any)
		document[member] = append(there, values...)
	}
	const usedForProofs = "assertionMethod"
	if len(added[usedForProofs]) != 1 {
		return "", fmt.Errorf("keygen printed %d keys, want 1: %s", len(added[usedForProofs]), printed)
	}
	kid, _ := added[usedForProofs][0].(string)
	c.document, err = json.Marshal(document)
	return kid, err
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (c *consumer) send(request *http.Request) (reply, error) {
	response, err := c.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{status: response.StatusCode, header: response.Header, body: string(body)}, err
}

// get asks for data below an endpoint. Authorization is the token alone or with a scheme.
func (c *consumer) get(ctx context.Context, endpoint, below, authorization string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+below, nil)
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("Authorization", authorization)
	return c.send(request)
}

// tokens are what a renewal gives.
type tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Expires   int    `json:"expires"` // consumers of Tractus-X up to 0.12.1 read this one
	ExpiresIn int    `json:"expires_in"`
	Type      string `json:"token_type"`
}

// renewalOf returns the request that renews a flow's tokens, as consumers of Tractus-X send it: with the parameters in
// the query and, from 0.12.2 on, in the body too.
func renewalOf(ctx context.Context, f *flow, prover *testkit.Wallet, inQueryOnly bool) (*http.Request, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.refresh}}.Encode()
	body := form
	if inQueryOnly {
		body = ""
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.edr.RefreshEndpoint()+"?"+form, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+prover.Proof(f.edr.RefreshAudience(), f.access, time.Now()))
	return request, nil
}

// renew renews a flow's tokens and returns the new ones.
func (c *consumer) renew(ctx context.Context, f *flow, inQueryOnly bool) (tokens, error) {
	request, err := renewalOf(ctx, f, c.wallet, inQueryOnly)
	if err != nil {
		return tokens{}, err
	}
	answer, err := c.send(request)
	if err != nil {
		return tokens{}, err
	}
	if answer.status != http.StatusOK {
		return tokens{}, fmt.Errorf("renewal: status %d, want 200: %s", answer.status, answer.body)
	}
	var renewed tokens
	err = json.Unmarshal([]byte(answer.body), &renewed)
	if err != nil {
		return tokens{}, fmt.Errorf("renewal: %w", err)
	}
	if renewed.Access == "" || renewed.Refresh == "" || renewed.Expires <= 0 || renewed.ExpiresIn != renewed.Expires ||
		!strings.EqualFold(renewed.Type, "bearer") {
		return tokens{}, fmt.Errorf("renewal: the answer is not complete: type %q, expires %d, expires_in %d",
			renewed.Type, renewed.Expires, renewed.ExpiresIn)
	}
	return renewed, nil
}

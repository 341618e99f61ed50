package integration

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// get asks for data with an access token, as `Bearer`.
func (g *gateway) get(path, token string) reply {
	g.t.Helper()
	return send(g.t, g.client, g.dataRequest(path, "Bearer "+token))
}

func (g *gateway) dataRequest(path, authorization string) *http.Request {
	g.t.Helper()
	request, err := http.NewRequest(http.MethodGet, g.publicURL()+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	return request
}

// renewal is what a consumer sends to get new tokens.
type renewal struct {
	endpoint string
	query    url.Values
	form     url.Values
	proof    string // as the Authorization header has it
}

// renewalOf returns a renewal of an EDR in the form that a consumer of the DPS profile sends: everything in the body.
func renewalOf(g *gateway, w *testkit.Wallet, e edr) renewal {
	proof := w.Proof(g.did, e.access, time.Now())
	return renewal{
		endpoint: e.refreshEndpoint,
		form:     url.Values{"grant_type": {"refresh_token"}, "refresh_token": {e.refresh}},
		proof:    "Bearer " + proof,
	}
}

// inQuery moves the parameters into the query, as consumers of Tractus-X send them.
func (r renewal) inQuery() renewal {
	r.query, r.form = r.form, nil
	return r
}

func (r renewal) request(g *gateway) (*http.Request, error) {
	_, proof, found := strings.Cut(r.proof, " ")
	if !found {
		proof = r.proof
	}
	g.canaries.Token("a proof", proof)
	address := r.endpoint
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	request, err := http.NewRequest(http.MethodPost, address, strings.NewReader(r.form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", r.proof)
	return request, nil
}

// send sends a renewal.
func (r renewal) send(g *gateway) reply {
	g.t.Helper()
	request, err := r.request(g)
	if err != nil {
		g.t.Fatal(err)
	}
	return send(g.t, g.client, request)
}

// trySend sends a renewal that may fail, for goroutines that must not end the test.
func (r renewal) trySend(g *gateway, client *http.Client) (reply, error) {
	request, err := r.request(g)
	if err != nil {
		return reply{}, err
	}
	return trySend(client, request)
}

// renew renews an EDR and returns it with the new tokens.
func renew(g *gateway, w *testkit.Wallet, e edr) edr {
	g.t.Helper()
	answer := renewalOf(g, w, e).send(g).want(g.t, http.StatusOK)
	renewed, err := e.renewedBy(g, answer)
	if err != nil {
		g.t.Fatal(err)
	}
	return renewed
}

// renewedBy returns the EDR with the tokens of an answer to a renewal.
func (e edr) renewedBy(g *gateway, answer reply) (edr, error) {
	var tokens struct {
		Access    string `json:"access_token"`
		Refresh   string `json:"refresh_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	err := json.Unmarshal([]byte(answer.body), &tokens)
	if err != nil {
		return e, err
	}
	g.canaries.Token("a renewed access token", tokens.Access)
	g.canaries.Token("a renewed refresh token", tokens.Refresh)
	e.access, e.refresh, e.expiresIn = tokens.Access, tokens.Refresh, tokens.ExpiresIn
	return e, nil
}

// party is one consumer with one flow.
type party struct {
	wallet *testkit.Wallet
	terms  terms
	edr    edr
}

// newParty starts a flow for a new consumer.
func newParty(g *gateway, p plane, hosts *didHost, name, dataset string) *party {
	g.t.Helper()
	wallet := hosts.wallet(name)
	f := newTerms(dataset, wallet.DID)
	return &party{wallet: wallet, terms: f, edr: startFlow(g, p, f)}
}

// wantData ends the test unless the token opens the path and the body is the expected one.
func wantData(t testing.TB, g *gateway, path, token, body string) {
	t.Helper()
	answer := g.get(path, token).want(t, http.StatusOK)
	if answer.body != body {
		t.Fatalf("got %q, want %q", answer.body, body)
	}
}

// getRaw is get with the path exactly as given: net/http would clean it.
func (g *gateway) getRaw(path, token string) reply {
	g.t.Helper()
	request := g.dataRequest("/", "Bearer "+token)
	request.URL.Opaque = "//" + g.public + path
	return send(g.t, g.client, request)
}

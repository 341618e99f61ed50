package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestTokenExchangeInBothDirections: a control plane comes with a token of a broker, and is called with one that the gateway
// got there for its workload's credential.
func TestTokenExchangeInBothDirections(t *testing.T) {
	t.Parallel()
	const credential = "the-credential-of-a-workload"
	hosts, weather, controlPlane, broker := newDIDHost(t), newBackend(t, "weather"), newBackend(t, "control plane"), testkit.NewTokenServer(t)
	broker.Answer(func(w http.ResponseWriter, _ *http.Request) { testkit.WriteToken(w, "an-exchanged-token") })
	signer := testkit.NewWallet("did:web:broker.example")
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signer.Key.Public(), KeyID: signer.KID, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, config{site: serves("weather", weather)})
	writeFile(t, g.path("keys", "workload.pem"), credential+"\n")
	writeFile(t, g.path("jwks.json"), string(keys))
	g.canaries.Credential("a workload's credential", credential)
	g.canaries.Credential("a token for a control plane", "an-exchanged-token")
	g.config.app = fmt.Sprintf(`control_plane default {
		callback http://%s/api/signaling
		authorization oauth2_token_exchange {
			token_exchange_endpoint %s/token
			subject_token_file %s
			resource urn:principal:gateway
			audience control-plane
			scope signaling:dataflow
		}
	}`, controlPlane.address(), broker.URL, g.path("keys", "workload.pem"))
	g.config.signaling = fmt.Sprintf(`auth oauth2_token_exchange {
		issuer https://broker.example
		jwks %s
		subject urn:principal:control-plane
		client control-plane
		audience edrgate
		scope signaling:dataflow
	}`, g.path("jwks.json"))
	g.start()

	wallet := hosts.wallet("consumer")
	f := newTerms("weather", wallet.DID)
	start := func(name string, edits map[string]any, status int) reply {
		t.Helper()
		now := time.Now().Unix()
		claims := map[string]any{
			"iss": "https://broker.example", "sub": "urn:principal:control-plane", "client_id": "control-plane", "aud": "edrgate",
			"scope": "signaling:dataflow signaling:x", "jti": name, "iat": now, "exp": now + 300, "participant_context": "default",
		}
		for claim, value := range edits {
			claims[claim] = value
		}
		request, err := dpsPlane{}.startMessage(g, f).request(g.signaling)
		if err != nil {
			t.Fatal(err)
		}
		token := signer.Sign(claims)
		g.canaries.Token("a control plane's token", token)
		request.Header.Set("Authorization", "Bearer "+token)
		return send(t, g.client, request).want(t, status)
	}
	start("scope", map[string]any{"scope": "signaling:x"}, http.StatusUnauthorized)
	start("client", map[string]any{"client_id": "another"}, http.StatusUnauthorized)
	start("context", map[string]any{"participant_context": "another"}, http.StatusUnauthorized)
	e := readEDR(g, f.flow, start("good", nil, http.StatusOK))
	start("good", nil, http.StatusUnauthorized)
	wantData(t, g, "/", e.access, "data of weather")

	g.adminDo(http.MethodPost, flowPath(f.flow)+"/revoke", "").want(t, http.StatusOK)
	testkit.Eventually(t, "a call to the control plane", func() bool { return len(controlPlane.saw()) == 1 })
	if got := controlPlane.last(t).header.Get("Authorization"); got != "Bearer an-exchanged-token" {
		t.Errorf("called with %q", got)
	}
	for name, want := range map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": credential, "resource": "urn:principal:gateway",
		"audience": "control-plane", "scope": "signaling:dataflow", "client_id": "", "client_secret": "",
	} {
		if got := broker.Forms()[0].Get(name); got != want {
			t.Errorf("the broker got another %s", name)
		}
	}
}

package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestCallsToControlPlanesAreAuthorized: a control plane that wants a token gets a new one with each call, by the
// credentials that the operator has, or those that it registered; of which nothing is to be found anywhere.
func TestCallsToControlPlanesAreAuthorized(t *testing.T) {
	t.Parallel()
	const configured, rotated = "a-configured-client-secret", "a-registered-client-secret"
	hosts, weather, controlPlane, auth := newDIDHost(t), newBackend(t, "weather"), newBackend(t, "control plane"), testkit.NewTokenServer(t)
	auth.Answer(func(w http.ResponseWriter, _ *http.Request) {
		testkit.WriteToken(w, unsigned(fmt.Sprintf("token-%d", len(auth.Forms()))))
	})
	g := newGateway(t, config{site: serves("weather", weather)})
	writeFile(t, g.path("keys", "client.pem"), configured+"\n")
	g.canaries.Credential("a configured client secret", configured)
	g.canaries.Credential("a registered client secret", rotated)
	g.canaries.Token("a token for a control plane", unsigned("token-1"))
	g.config.app = fmt.Sprintf(`control_plane default {
		callback http://%s/api/signaling
		authorization oauth2_client_credentials {
			token_endpoint %s/token
			client_id gateway
			client_secret {file.%s}
			audience cp
		}
	}`, controlPlane.address(), auth.URL, g.path("keys", "client.pem"))
	g.start()

	revoke := func(n int) (seen, url.Values) {
		t.Helper()
		c := newParty(g, dpsPlane{}, hosts, fmt.Sprintf("consumer-%d", n), "weather")
		g.adminDo(http.MethodPost, flowPath(c.terms.flow)+"/revoke", "").want(t, http.StatusOK)
		testkit.Eventually(t, "a call to the control plane", func() bool { return len(controlPlane.saw()) == n })
		called := controlPlane.last(t)
		if called.target != "/api/signaling/transfers/"+c.terms.flow+"/dataflow/completed" {
			t.Errorf("called %s", called.target)
		}
		forms := auth.Forms()
		if len(forms) != n {
			t.Fatalf("%d tokens for %d calls", len(forms), n)
		}
		return called, forms[n-1]
	}
	called, form := revoke(1)
	if called.header.Get("Authorization") != "Bearer "+unsigned("token-1") {
		t.Error("the call has another token, or none")
	}
	if form.Get("client_id") != "gateway" || form.Get("client_secret") != configured || form.Get("audience") != "cp" {
		t.Error("the token was asked for by other credentials")
	}
	called, _ = revoke(2)
	if called.header.Get("Authorization") != "Bearer "+unsigned("token-2") {
		t.Error("a second call has no token of its own")
	}

	register := func(endpoint string) reply {
		body, err := json.Marshal(map[string]any{
			"controlplaneId": "cp", "endpoint": "http://" + controlPlane.address() + "/api/signaling",
			"authorization": map[string]string{
				"type": "oauth2_client_credentials", "tokenEndpoint": endpoint, "clientId": "rotated", "clientSecret": rotated, "jwksUri": auth.URL + "/jwks",
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequest(http.MethodPut, "http://"+g.signaling+"/controlplanes", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		return send(t, g.client, request)
	}
	answer := register("http://127.0.0.1:1/token").want(t, http.StatusBadRequest)
	if !strings.Contains(answer.body, "authorization: tokenEndpoint is not what this data plane has configured") {
		t.Errorf("got %s", answer.body)
	}
	register(auth.URL+"/token").want(t, http.StatusOK)
	g.restart() // they are read from the store
	_, form = revoke(3)
	if form.Get("client_id") != "rotated" || form.Get("client_secret") != rotated {
		t.Error("the token was not asked for by what the control plane registered")
	}
}

// unsigned is a JWT with a jti. Nobody here checks its signature.
func unsigned(jti string) string {
	parts := []string{`{"alg":"ES256","kid":"k"}`, `{"jti":"` + jti + `"}`, strings.Repeat("signature-of-"+jti, 4)}
	for i, part := range parts {
		parts[i] = base64.RawURLEncoding.EncodeToString([]byte(part))
	}
	return strings.Join(parts, ".")
}

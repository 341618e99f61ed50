package integration

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestBackendBehindAnAuthorizationServer: the start message names the token endpoint, the operator has the secret. The
// backend gets a token of the endpoint, one for all requests; nobody else sees it or the secret.
func TestBackendBehindAnAuthorizationServer(t *testing.T) {
	t.Parallel()
	const secret, inClear = "a-client-secret-of-the-operator", "a-client-secret-in-an-address"
	hosts, orders, auth := newDIDHost(t), newBackend(t, "orders"), testkit.NewTokenServer(t)
	orders.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Repeats", r.Header.Get("Authorization"))
	}
	var token string
	auth.Answer(func(w http.ResponseWriter, _ *http.Request) {
		token = fmt.Sprintf("a-token-for-the-backend-%d", len(auth.Forms()))
		testkit.WriteToken(w, token)
	})
	g := newGateway(t, config{})
	writeFile(t, g.path("keys", "client-secret.pem"), secret+"\n")
	g.config.site = fmt.Sprintf("edr_proxy {\nbackends %s %s\nsecret client {file.%s} for %s/realm\n}",
		orders.address(), auth.HostPort(), g.path("keys", "client-secret.pem"), auth.URL)
	g.canaries.Credential("a client secret", secret)
	g.canaries.Credential("a client secret of an address", inClear)
	g.canaries.Credential("a token for the backend", "a-token-for-the-backend")
	g.start()

	wallet := hosts.wallet("consumer")
	start := func(properties ...string) (edr, reply) {
		f := newTerms("orders", wallet.DID)
		f.backend = "http://" + orders.address() + "/base"
		m := classicPlane{}.startMessage(g, f)
		members := ""
		for i := 0; i+1 < len(properties); i += 2 {
			members += property(properties[i], properties[i+1]) + ","
		}
		m.body = replaceAll(t, m.body, `"dspace:endpointProperties":[`, `"dspace:endpointProperties":[`+members)
		answer := m.send(g)
		if answer.status != http.StatusOK {
			return edr{}, answer
		}
		return readEDR(g, f.flow, answer), answer
	}
	named, _ := start("oauth2:tokenUrl", auth.URL+"/realm/token", "oauth2:clientId", "edrgate", "oauth2:clientSecretKey", "client")
	clear, _ := start("oauth2:tokenUrl", auth.URL+"/other/token", "oauth2:clientId", "edrgate", "oauth2:clientSecret", inClear)
	for _, c := range []struct {
		edr    edr
		secret string
	}{{named, secret}, {clear, inClear}} {
		for range 3 {
			answer := g.get("/x", c.edr.access).want(t, http.StatusOK)
			if got := orders.last(t).header.Get("Authorization"); got != "Bearer "+token || answer.header.Get("X-Repeats") != "" {
				t.Errorf("the backend got %q; the consumer %q", got, answer.header.Get("X-Repeats"))
			}
		}
		forms := auth.Forms()
		if got := forms[len(forms)-1]; got.Get("client_secret") != c.secret || got.Get("client_id") != "edrgate" {
			t.Error("the token endpoint got another client or secret")
		}
	}
	if got := len(auth.Forms()); got != 2 {
		t.Errorf("%d tokens were fetched for 6 requests of two flows", got)
	}

	// What the operator did not allow is refused at the start.
	for _, properties := range [][]string{
		{"oauth2:tokenUrl", auth.URL + "/other/token", "oauth2:clientId", "edrgate", "oauth2:clientSecretKey", "client"},
		{"oauth2:tokenUrl", "http://127.0.0.1:1/realm/token", "oauth2:clientId", "edrgate", "oauth2:clientSecretKey", "client"},
		{"oauth2:tokenUrl", auth.URL + "/realm/token", "oauth2:clientId", "edrgate", "oauth2:clientSecretKey", "unknown"},
		{"oauth2:tokenUrl", auth.URL + "/realm/token", "oauth2:clientId", "edrgate", "oauth2:privateKeyName", "key"},
	} {
		_, answer := start(properties...)
		answer.want(t, http.StatusBadRequest)
	}

	// Trouble at the token endpoint is not the consumer's.
	g.restart()
	auth.AnswerText(http.StatusInternalServerError, "")
	answer := g.get("/x", named.access).want(t, http.StatusServiceUnavailable)
	if answer.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	auth.AnswerText(http.StatusUnauthorized, `{"error":"invalid_client"}`)
	g.get("/x", clear.access).want(t, http.StatusBadGateway)
	m := g.scrape()
	m.wantCount(g, 1, "edrgate_backend_answers_total", "result", "token_missing")
	m.wantCount(g, 1, "edrgate_backend_answers_total", "result", "token_refused")
}

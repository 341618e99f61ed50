package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// user is a company that uses data: the same binary, on the consumer's side.
type user struct {
	*gateway
	wallet      *testkit.Wallet
	api, egress string // host:port
}

// startUser starts the gateway of a company with a DID of a DID host.
func startUser(t *testing.T, hosts *didHost) *user {
	t.Helper()
	return startUserOf(t, hosts.wallet("user"))
}

// startUserOf starts the gateway of the company of a wallet.
func startUserOf(t *testing.T, wallet *testkit.Wallet) *user {
	t.Helper()
	u := newUser(t, wallet)
	u.start()
	return u
}

// newUser makes the gateway of the company of a wallet, which signs its proofs itself.
func newUser(t *testing.T, wallet *testkit.Wallet) *user {
	t.Helper()
	u := &user{wallet: wallet, api: freeAddress(t), egress: freeAddress(t)}
	u.gateway = newGateway(t, config{more: expand(`http://{api} {
	edr_consumer
}

http://{egress} {
	edr_egress
}
`, map[string]string{"api": u.api, "egress": u.egress})})
	u.did = u.wallet.DID
	key, ok := u.wallet.Key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the wallet has a %T", u.wallet.Key)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = u.canaries.Key(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, u.keyFile("signing"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	u.config.app = expand(`consumer {
			kid {kid}
			renew on_use
			allow_http 127.0.0.1
			allow_addresses 127.0.0.0/8
		}`, map[string]string{"kid": u.wallet.KID})
	return u
}

// callAPI sends a request to edr_consumer and notes the token of the answer, if there is one. No other secret may stand there.
func (u *user) callAPI(method, path string, body any) reply {
	u.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		u.t.Fatal(err)
	}
	request, err := http.NewRequest(method, "http://"+u.api+path, bytes.NewReader(data))
	if err != nil {
		u.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer := send(u.t, u.client, request)
	var address struct{ Authorization string }
	rest := answer.body
	if json.Unmarshal([]byte(answer.body), &address) == nil && address.Authorization != "" {
		u.canaries.Token("an access token", address.Authorization)
		rest = strings.ReplaceAll(rest, address.Authorization, "")
	}
	u.canaries.check(u.t, "the answer to "+method+" "+path, []byte(rest))
	return answer
}

func tokenOf(t *testing.T, answer reply) string {
	t.Helper()
	var address struct{ Authorization string }
	err := json.Unmarshal([]byte(answer.want(t, http.StatusOK).body), &address)
	if err != nil || address.Authorization == "" {
		t.Fatalf("no data address: %s", answer.body)
	}
	return address.Authorization
}

// receives gives the company an EDR, as its control plane would. life is the life of the access token as the provider
// says it; empty: it does not say.
func (u *user) receives(e edr, asset, life string) {
	u.t.Helper()
	u.canaries.Token("an access token", e.access)
	u.canaries.Token("a refresh token", e.refresh)
	properties := []map[string]string{
		{"name": "authorization", "value": e.access},
		{"name": "authType", "value": "bearer"},
		{"name": "refreshToken", "value": e.refresh},
		{"name": "refreshEndpoint", "value": e.refreshEndpoint},
	}
	if life != "" {
		properties = append(properties, map[string]string{"name": "expiresIn", "value": life})
	}
	u.callAPI(http.MethodPut, "/v3/edrs/"+e.flow, map[string]any{
		"providerId": providerDID, "assetId": asset, "dataAddress": map[string]any{
			"endpointType": profilePull, "endpoint": e.endpoint, "endpointProperties": properties,
		},
	}).want(u.t, http.StatusOK)
}

// expired starts a flow and waits until the provider does not take its token any more.
func expired(g *gateway, u *user) edr {
	g.t.Helper()
	e := startFlow(g, dpsPlane{}, newTerms("weather", u.wallet.DID))
	testkit.Eventually(g.t, "the token has expired", func() bool { return g.get("/now", e.access).status == http.StatusUnauthorized })
	return e
}

// TestConsumerRenewsInEachWay are the three ways in which the Tractus-X token refresh has a consumer renew, between two
// processes of the binary.
func TestConsumerRenewsInEachWay(t *testing.T) {
	t.Parallel()
	provider := startGateway(t, config{app: "token_ttl 1s\nclock_skew 1s", site: serves("weather", newBackend(t, "weather"))})
	u := startUser(t, newDIDHost(t))

	t.Run("the consumer's data plane, when a token is refused", func(t *testing.T) {
		e := expired(provider, u)
		u.receives(e, "weather", "") // it does not know that the token has expired
		request, err := http.NewRequest(http.MethodGet, "http://"+u.egress+"/"+e.flow+"/now", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer of the client")
		if body := send(t, u.client, request).want(t, http.StatusOK).body; body != "data of weather" {
			t.Errorf("got %q", body)
		}
	})
	t.Run("the EDR API, before it answers", func(t *testing.T) {
		e := expired(provider, u)
		u.receives(e, "weather", "1")
		var fresh string
		testkit.Eventually(t, "the EDR API renews", func() bool {
			fresh = tokenOf(t, u.callAPI(http.MethodGet, "/v3/edrs/"+e.flow+"/dataaddress", nil))
			return fresh != e.access
		})
		provider.canaries.Token("a renewed access token", fresh)
	})
	t.Run("the client, by asking for it", func(t *testing.T) {
		e := expired(provider, u)
		u.receives(e, "weather", "")
		if got := tokenOf(t, u.callAPI(http.MethodGet, "/v3/edrs/"+e.flow+"/dataaddress?auto_refresh=true", nil)); got != e.access {
			t.Fatal("renewed unasked")
		}
		fresh := tokenOf(t, u.callAPI(http.MethodPost, "/v1/token/refresh", map[string]string{"transferProcessId": e.flow}))
		if fresh == e.access {
			t.Fatal("not renewed")
		}
		provider.canaries.Token("a renewed access token", fresh)
	})
	wantListed(t, u)
}

// wantListed checks what operators are shown. That it holds no token is looked for when the test ends.
func wantListed(t *testing.T, u *user) {
	t.Helper()
	page := u.adminGet("/edrgate/edrs?limit=2").want(t, http.StatusOK)
	u.canaries.check(t, "the answer of /edrgate/edrs", []byte(page.body))
	if strings.Count(page.body, `"state":"started"`) != 2 || !strings.Contains(page.body, `"next":`) {
		t.Errorf("got %s", page.body)
	}
	found := u.callAPI(http.MethodPost, "/v3/edrs/request", map[string]any{"@type": "QuerySpec"}).want(t, http.StatusOK)
	if strings.Count(found.body, `"transferProcessId"`) != 3 {
		t.Errorf("got %s", found.body)
	}
	stdout, stderr, err := u.cli("edr", "edrs", "--address", "unix/"+u.socket())
	if err != nil || strings.Count(stdout, providerDID) != 3 {
		t.Errorf("caddy edr edrs: %v: %s%s", err, stdout, stderr)
	}
	metrics := u.adminGet("/metrics").want(t, http.StatusOK)
	for _, line := range []string{
		`edrgate_consumer_renewals_total{participant="default",result="renewed"} 3`,
		`edrgate_consumer_events_total{event="replayed",participant="default"} 1`,
	} {
		if !strings.Contains(metrics.body, line) {
			t.Errorf("no metric %s", line)
		}
	}
}

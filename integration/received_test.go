package integration

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// newConsumerGateway makes an installation of the company of a wallet, which uses data of others. It is not started yet.
func newConsumerGateway(t testing.TB, wallet *testkit.Wallet) *gateway {
	t.Helper()
	g := newGateway(t, config{site: "edr_auth {\nany_dataset\n}\nrespond nothing"})
	g.did = wallet.DID
	der, err := x509.MarshalPKCS8PrivateKey(wallet.Key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, g.keyFile("proofs"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	g.config.app = "consumer {\nkid " + wallet.KID + "\nkey " + g.keyFile("proofs") + "\nallow_http 127.0.0.1\nallow_addresses 127.0.0.0/8\n}"
	return g
}

// prepareMessage is what the control plane of EDC 0.18 sends to its consumer's data plane first.
func prepareMessage(g *gateway, provider string, f terms) message {
	return message{"/dataflows/prepare", recorded(g.t, "dps-edc-0.18-consumer/04-pull-start--02-ccp-to-cdp-prepare.json",
		"did:web:localhost%3A9601", g.did, "did:web:localhost%3A9600", provider,
		"77228b60-309b-40db-a56c-ba635d0a33a5", f.flow, `"datasetId":"asset-1"`, `"datasetId":"`+f.dataset+`"`)}
}

// startedMessage hands a provider's answer to a start over to the consumer's side, as two control planes do.
func startedMessage(g *gateway, flow string, answer reply) message {
	g.t.Helper()
	var start struct {
		DataAddress json.RawMessage `json:"dataAddress"`
	}
	err := json.Unmarshal([]byte(answer.body), &start)
	if err != nil || start.DataAddress == nil {
		g.t.Fatalf("the answer to the start has no data address: %v", err)
	}
	body, err := json.Marshal(map[string]any{"messageId": rand.Text(), "dataAddress": start.DataAddress})
	if err != nil {
		g.t.Fatal(err)
	}
	return message{"/dataflows/" + flow + "/started", string(body)}
}

func (g *gateway) wantTransfer(flow, state string) {
	g.t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+g.signaling+"/dataflows/"+flow+"/status", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	answer := send(g.t, g.client, request)
	if answer.status != http.StatusOK || !strings.Contains(answer.body, `"state":"`+state+`"`) {
		g.t.Fatalf("status of the transfer: %d %s, want %s", answer.status, answer.body, state)
	}
}

// TestConsumerReceivesAnEDR: the gateway of a consumer gets the EDR of a provider's gateway from its own control plane, keeps
// it sealed, over a restart, and renews it for as long as the transfer is started. That it holds the EDR shows at the
// provider, who renews for nobody else.
func TestConsumerReceivesAnEDR(t *testing.T) {
	t.Parallel()
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	wallet := hosts.wallet("consumer")
	provider := startGateway(t, config{app: "token_ttl 2s", site: serves("weather", weather)})
	c := newConsumerGateway(t, wallet)
	c.start()
	renewed := func() float64 { return provider.scrape().value("edrgate_renewals_total", "result", "rotated") }

	served, used := newTerms("weather", wallet.DID), newTerms("weather", "")
	prepare := prepareMessage(c, provider.did, used)
	for range 2 { // EDC repeats what it got no answer to
		answer := prepare.send(c).want(t, http.StatusOK)
		if !strings.Contains(answer.body, `"state":"PREPARED"`) || strings.Contains(answer.body, "dataAddress") {
			t.Errorf("the prepare is answered with %s", answer.body)
		}
	}
	start := dpsPlane{}.start(provider, served).want(t, http.StatusOK)
	e := readEDR(c, served.flow, start) // its tokens are to be found nowhere at the consumer's either
	readEDR(provider, served.flow, start)
	started := startedMessage(c, used.flow, start)
	started.send(c).want(t, http.StatusOK)
	started.send(c).want(t, http.StatusOK)
	c.wantTransfer(used.flow, "STARTED")
	wantData(t, provider, "/berlin", e.access, "data of weather")
	testkit.Eventually(t, "the consumer's gateway renews", func() bool { return renewed() >= 1 })
	c.scrape().wantCount(c, 0, "edrgate_consumer_renewals_total", "result", "refused")

	c.restart()
	before := renewed()
	testkit.Eventually(t, "it renews after a restart", func() bool { return renewed() > before })

	signal(c, "/dataflows/"+used.flow+"/suspend", `{"messageId":"`+rand.Text()+`","reason":"suspend"}`).want(t, http.StatusOK)
	c.wantTransfer(used.flow, "SUSPENDED")
	// What EDC sends: a process id that names nothing, and no data address.
	resumed := signal(c, "/dataflows/"+used.flow+"/resume", `{"messageId":"`+rand.Text()+`","processId":"`+rand.Text()+`"}`).want(t, http.StatusOK)
	if !strings.Contains(resumed.body, `"state":"STARTED"`) || strings.Contains(resumed.body, "dataAddress") {
		t.Errorf("the resume is answered with %s", resumed.body)
	}
	before = renewed()
	testkit.Eventually(t, "it renews after the resume", func() bool { return renewed() > before })

	for range 2 {
		signal(c, "/dataflows/"+used.flow+"/terminate", `{"messageId":"`+rand.Text()+`"}`).want(t, http.StatusOK)
	}
	c.wantTransfer(used.flow, "TERMINATED")
	started.send(c).want(t, http.StatusConflict)
	prepare.send(c).want(t, http.StatusConflict)
}

// TestConsumerRefusesAnEDR: an EDR that names somebody else as audience would have us sign for him. The consumer's control
// plane is told that in fixed words, and nothing is kept.
func TestConsumerRefusesAnEDR(t *testing.T) {
	t.Parallel()
	c := newConsumerGateway(t, newDIDHost(t).wallet("consumer"))
	c.start()
	f := newTerms("weather", "")
	prepareMessage(c, providerDID, f).send(c).want(t, http.StatusOK)
	refused := signal(c, "/dataflows/"+f.flow+"/started", `{"messageId":"m-1","dataAddress":{"@type":"DataAddress",
		"endpoint":"https://data.provider.example","endpointType":"`+profilePull+`","endpointProperties":[
		{"name":"authorization","value":"token"},{"name":"refreshToken","value":"refresh"},{"name":"expiresIn","value":"300"},
		{"name":"refreshAudience","value":"did:web:victim.example"}]}}`).want(t, http.StatusBadRequest)
	if !strings.Contains(refused.body, "refreshAudience is neither the provider nor this participant") || strings.Contains(refused.body, "victim") {
		t.Errorf("the started is refused with %s", refused.body)
	}
	c.wantTransfer(f.flow, "PREPARED")
}

// TestProviderOnlyRefusesPrepare: a gateway that is configured for no use of data says so.
func TestProviderOnlyRefusesPrepare(t *testing.T) {
	t.Parallel()
	g := startGateway(t, config{site: serves("weather", newBackend(t, "weather"))})
	answer := prepareMessage(g, "did:web:other.example", newTerms("weather", "")).send(g).want(t, http.StatusBadRequest)
	if !strings.Contains(answer.body, "this data plane serves providers") {
		t.Errorf("the prepare is refused with %s", answer.body)
	}
}

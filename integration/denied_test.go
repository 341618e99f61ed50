package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// inside is where clouds hand credentials to any local process.
const inside = "169.254.169.254"

// TestAddressesThatAreNeverConnected: each kind of connection, sent to a metadata service or to the admin API by whoever
// names its address, is denied and counted. What waits for it is told that nobody can tell, never no; all else goes on.
func TestAddressesThatAreNeverConnected(t *testing.T) {
	t.Parallel()
	for connection, c := range map[string]struct {
		reason string
		do     func(t *testing.T, hosts *didHost, well *backend) *gateway
	}{
		"did":           {"endpoint", deniedDID},
		"backend":       {"metadata", deniedBackend},
		"token":         {"metadata", deniedToken},
		"control_plane": {"metadata", deniedCallback},
		"key_set":       {"metadata", deniedKeySet},
		"policy":        {"metadata", deniedPolicy},
		"renewal":       {"metadata", deniedRenewal},
		"provider":      {"metadata", deniedProvider},
		"signer":        {"metadata", deniedSigner},
	} {
		t.Run(connection, func(t *testing.T) {
			t.Parallel()
			g := c.do(t, newDIDHost(t), newBackend(t, "weather"))
			testkit.Eventually(t, "the denial is counted", func() bool {
				return g.scrape().value("edrgate_dial_denied_total", "connection", connection, "reason", c.reason) > 0
			})
			m := g.scrape()
			if all, these := m.value("edrgate_dial_denied_total"), m.value("edrgate_dial_denied_total", "connection", connection, "reason", c.reason); all != these {
				t.Errorf("%v denials in all, %v of them of this kind", all, these)
			}
		})
	}
}

// wantWell checks that a consumer who has nothing to do with the trouble gets data and renews.
func wantWell(t *testing.T, g *gateway, hosts *didHost) {
	t.Helper()
	c := newParty(g, dpsPlane{}, hosts, "another", "weather")
	wantData(t, g, "/", c.edr.access, "data of weather")
	c.edr = renew(g, c.wallet, c.edr)
	wantData(t, g, "/", c.edr.access, "data of weather")
}

func deniedDID(t *testing.T, hosts *didHost, well *backend) *gateway {
	g := startGateway(t, config{site: serves("weather", well)})
	wallet := testkit.NewWallet("did:web:localhost%3A2019:config") // of the admin API, where it is by default
	e := startFlow(g, dpsPlane{}, newTerms("weather", wallet.DID))
	wantCannotTell(t, renewalOf(g, wallet, e).send(g), "a renewal")
	wantData(t, g, "/", e.access, "data of weather")
	wantWell(t, g, hosts)
	return g
}

func deniedBackend(t *testing.T, hosts *didHost, well *backend) *gateway {
	g := startGateway(t, config{site: fmt.Sprintf("edr_proxy {\nbackends %s:80 %s\n}", inside, well.address())})
	f := newTerms("credentials", hosts.wallet("consumer").DID)
	f.backend = "http://" + inside + ":80/latest"
	g.get("/x", startFlow(g, classicPlane{}, f).access).want(t, http.StatusBadGateway)
	f = newTerms("weather", hosts.wallet("another").DID)
	f.backend = "http://" + well.address()
	wantData(t, g, "/x", startFlow(g, classicPlane{}, f).access, "data of weather")
	return g
}

func deniedToken(t *testing.T, hosts *didHost, well *backend) *gateway {
	g := startGateway(t, config{site: fmt.Sprintf("edr_proxy {\nbackends https://%s %s\n}", inside, well.address())})
	g.canaries.Credential("a client secret", "a-client-secret-of-the-address")
	f := newTerms("weather", hosts.wallet("consumer").DID)
	f.backend = "http://" + well.address()
	m := classicPlane{}.startMessage(g, f)
	m.body = replaceAll(t, m.body, `"dspace:endpointProperties":[`, `"dspace:endpointProperties":[`+
		property("oauth2:tokenUrl", "https://"+inside+"/token")+","+property("oauth2:clientId", "edrgate")+","+
		property("oauth2:clientSecret", "a-client-secret-of-the-address")+",")
	e := readEDR(g, f.flow, m.send(g).want(t, http.StatusOK))
	g.get("/x", e.access).want(t, http.StatusBadGateway)
	if len(well.saw()) > 0 {
		t.Error("the backend was asked without its token")
	}
	return g
}

func deniedCallback(t *testing.T, hosts *didHost, well *backend) *gateway {
	g := startGateway(t, config{app: "control_plane main {\ncallback http://" + inside + "/api/signaling\n}", site: serves("weather", well)})
	c := newParty(g, dpsPlane{}, hosts, "consumer", "weather")
	g.adminDo(http.MethodPost, flowPath(c.terms.flow)+"/revoke", "").want(t, http.StatusOK)
	wantRefusal(t, g.get("/", c.edr.access), "revoked", dpsPlane{}.refused(), "")
	testkit.Eventually(t, "the callback stays owed", func() bool {
		m := g.scrape()
		return m.value("edrgate_callbacks_owed") == 1 && m.value("edrgate_callbacks_total", "result", "retried") > 0
	})
	wantWell(t, g, hosts)
	return g
}

func deniedKeySet(t *testing.T, hosts *didHost, well *backend) *gateway {
	g := startGateway(t, config{
		site: serves("weather", well),
		signaling: "auth oauth2 {\nissuer https://issuer.example\njwks https://" + inside + "/keys\nsubject control-plane\n}\n" +
			"auth network 127.0.0.0/8",
	})
	signer, now := testkit.NewWallet("did:web:issuer.example"), time.Now().Unix()
	token := signer.Sign(map[string]any{
		"iss": "https://issuer.example", "sub": "control-plane", "aud": providerDID, "jti": "1", "iat": now, "exp": now + 300,
	})
	g.canaries.Token("a control plane's token", token)
	request, err := dpsPlane{}.startMessage(g, newTerms("weather", hosts.wallet("consumer").DID)).request(g.signaling)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	wantCannotTell(t, send(t, g.client, request), "a message with a token of the issuer")
	wantWell(t, g, hosts)
	return g
}

func deniedPolicy(t *testing.T, hosts *didHost, well *backend) *gateway {
	g := startGateway(t, config{app: "policy webhook https://" + inside + "/decide", site: serves("weather", well)})
	c := newParty(g, dpsPlane{}, hosts, "consumer", "weather")
	wantCannotTell(t, g.get("/", c.edr.access), "data of an unchecked flow")
	wantCannotTell(t, renewalOf(g, c.wallet, c.edr).send(g), "a renewal")
	return g
}

// givenTo starts a flow at a provider, and changes its EDR before the company gets it.
func givenTo(t *testing.T, u *user, well *backend, change func(*edr)) edr {
	t.Helper()
	provider := startGateway(t, config{site: serves("weather", well)})
	e := startFlow(provider, dpsPlane{}, newTerms("weather", u.wallet.DID))
	other := e
	change(&other)
	u.receives(other, "weather", "300")
	return other
}

func deniedRenewal(t *testing.T, hosts *didHost, well *backend) *gateway {
	u := startUser(t, hosts)
	e := givenTo(t, u, well, func(e *edr) { e.refreshEndpoint = "https://" + inside + "/token" })
	wantCannotTell(t, u.refresh(e.flow), "a renewal")
	u.getEgress(e.flow).want(t, http.StatusOK)
	return u.gateway
}

func deniedProvider(t *testing.T, hosts *didHost, well *backend) *gateway {
	u := startUser(t, hosts)
	e := givenTo(t, u, well, func(e *edr) { e.endpoint = "https://" + inside })
	u.getEgress(e.flow).want(t, http.StatusBadGateway)
	return u.gateway
}

func deniedSigner(t *testing.T, hosts *didHost, well *backend) *gateway {
	u := newUser(t, hosts.wallet("user"))
	u.config.app = fmt.Sprintf(`consumer {
		sts https://%s/token {
			client_id edrgate
			client_secret a-client-secret-of-the-service
		}
		renew on_use
		allow_http 127.0.0.1
		allow_addresses 127.0.0.0/8
	}`, inside)
	u.start()
	e := givenTo(t, u, well, func(*edr) {})
	wantCannotTell(t, u.refresh(e.flow), "a renewal")
	u.getEgress(e.flow).want(t, http.StatusOK)
	return u.gateway
}

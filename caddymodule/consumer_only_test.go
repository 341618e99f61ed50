package caddymodule

import (
	"net/http"
	"strings"
	"testing"
)

// consumerOnly is the app of a company that only uses data.
func (g *liveGateway) consumerOnly() object {
	app := g.app()
	delete(app, "public_url")
	app["consumer"] = object{"kid": "did:web:provider.example#key-1"}
	return app
}

// TestConsumerAlone: a company that only uses data needs no address at which it would give some, and none of the provider's handlers.
// Its control plane may bring EDRs, and is refused if it starts a flow.
func TestConsumerAlone(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.consumerOnly(), object{
		"api":       g.site("api", object{"handler": "edr_consumer"}),
		"signaling": g.site("signaling", object{"handler": "edr_health"}, object{"handler": "edr_signaling"}),
	})
	if a := g.send("api", g.request(http.MethodPost, "http://localhost/edrs/request", nil)); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.send("signaling", g.request(http.MethodGet, "http://localhost/health", nil)); a.status != http.StatusOK {
		t.Errorf("health: %d %s", a.status, a.body)
	}
	prepare := object{
		"messageId": "m1", "processId": "tp-1", "participantId": "did:web:provider.example", "counterPartyId": "did:web:other.example",
		"datasetId": "asset-1", "agreementId": "a1", "profile": "HttpData-PULL",
	}
	if a := g.post("/dataflows/prepare", prepare); a.status != http.StatusOK {
		t.Errorf("prepare: %d %s", a.status, a.body)
	}
	const want = "this participant only uses data of others"
	if a := g.post("/dataflows/start", joined(prepare, object{"processId": "p-1"})); a.status != http.StatusBadRequest || !strings.Contains(a.body, want) {
		t.Errorf("start: %d %s", a.status, a.body)
	}
	if a := g.classicStart("p-2", newConsumer(t)); a.status != http.StatusBadRequest || !strings.Contains(a.body, want) {
		t.Errorf("classic start: %d %s", a.status, a.body)
	}
	if strings.Contains(g.logged(), "no site has edr_signaling") {
		t.Error("told that it cannot give data")
	}
	status := g.admin(http.MethodGet, "/edrgate/status", "")
	if status.status != http.StatusOK || !strings.Contains(status.body, `"refresh_endpoint":""`) {
		t.Errorf("status: %d %s", status.status, status.body)
	}
}

// TestConsumerAloneGivesNoData: what would give data says what is missing for it.
func TestConsumerAloneGivesNoData(t *testing.T) {
	g := newLiveGateway(t)
	withURL := joined(g.consumerOnly(), object{"public_url": "https://data.example"})
	signaling := object{"signaling": g.site("signaling", object{"handler": "edr_signaling"})}
	for name, c := range map[string]struct {
		app, servers object
		want         string // empty: good
	}{
		"edr_auth": {
			g.consumerOnly(),
			object{"data": g.site("data", object{"handler": "edr_auth", "any_dataset": true})},
			"edr_auth serves data, and the participant has no public_url: add `public_url <url>`",
		},
		"edr_proxy": {
			g.consumerOnly(),
			object{"data": g.site("data", object{"handler": "edr_proxy", "backends": []string{"a:80"}})},
			"edr_proxy serves data, and the participant has no public_url: add `public_url <url>`",
		},
		"edr_refresh": {
			g.consumerOnly(),
			object{"data": g.site("data", object{"handler": "edr_refresh"})},
			"edr_refresh serves data, and the participant has no public_url: add `public_url <url>`",
		},
		"a route": {
			joined(g.consumerOnly(), object{"routes": object{"r": object{"datasets": []string{"a"}, "backend": "https://b"}}}), signaling,
			"public_url is required: there are routes",
		},
		"no edr_refresh":    {withURL, signaling, "no site has edr_refresh: consumers could not renew their tokens; add it to the site of public_url, or remove public_url"},
		"only signaling":    {g.consumerOnly(), signaling, ""},
		"no consumer block": {joined(g.consumerOnly(), object{"consumer": nil}), signaling, "public_url is required: where consumers reach the data"},
		"another participant gives data": {
			joined(withURL, object{"participants": object{userName: object{
				"did": "did:web:user.example", "signing_keys": []object{{"file": g.path("signing.pem")}}, "consumer": object{"renew": "never"},
			}}}), g.servers(), "",
		},
	} {
		err := g.tryLoad(c.app, c.servers)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/consumer"
)

// classicStart is a start message of EDC's classic signaling, with credentials in its source address.
func (g *liveGateway) classicStart(flow string, c *didHolder) answered {
	g.t.Helper()
	property := func(name, value string) object {
		return object{"@type": "dspace:EndpointProperty", "dspace:name": "https://w3id.org/edc/v0.0.1/ns/" + name, "dspace:value": value}
	}
	return g.post("/v1/dataflows/start", object{
		"@type": "DataFlowStartMessage", "processId": flow, "flowType": "PULL", "transferTypeDestination": "HttpData",
		"participantId": c.did, "datasetId": "asset-1", "agreementId": "agreement-1", "callbackAddress": "http://cp:9191/control",
		"properties": object{},
		"sourceDataAddress": object{"@type": "dspace:DataAddress", "dspace:endpointType": "HttpData", "dspace:endpointProperties": []object{
			property("baseUrl", "http://backend:8080/base?key=canary-query"), property("header:X-Api-Key", "canary-header"),
		}},
		"@context": object{"odrl": "http://www.w3.org/ns/odrl/2/", "dspace": "https://w3id.org/dspace/v0.8/", "@vocab": "https://w3id.org/edc/v0.0.1/ns/"},
	})
}

func (g *liveGateway) admin(method, path, body string) answered {
	g.t.Helper()
	return g.send("admin", g.request(method, "http://127.0.0.1"+path, strings.NewReader(body)))
}

func TestAdminAPI(t *testing.T) {
	g := newLiveGateway(t)
	servers := g.servers()
	servers["proxy"] = g.site("proxy", object{"handler": "edr_proxy", "backends": []string{"backend:8080"}})
	g.load(g.app(), servers)
	c := newConsumer(t)
	first := g.start("flow-1", c)
	g.start("flow%2", c)
	if answer := g.classicStart("flow-3", c); answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}

	tests := []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"status", "GET", "/edrgate/status", "", 200, `"store_state":"ok"`},
		{"status names the refresh endpoint", "GET", "/edrgate/status", "", 200, `"refresh_endpoint":"https://data.example/token"`},
		{"all flows", "GET", "/edrgate/flows", "", 200, `"id":"flow-3"`},
		{"first page", "GET", "/edrgate/flows?limit=1", "", 200, `"next":"flow%2"`},
		{"second page", "GET", "/edrgate/flows?limit=1&after=flow%252", "", 200, `"next":"flow-1"`},
		{"behind the last", "GET", "/edrgate/flows?after=flow-3", "", 200, `"flows":[]`},
		{"one flow", "GET", "/edrgate/flows/flow-1", "", 200, `"state":"STARTED"`},
		{"flow with a source address", "GET", "/edrgate/flows/flow-3", "", 200, `"own_backend":true`},
		{"encoded id", "GET", "/edrgate/flows/flow%252", "", 200, `"id":"flow%2"`},
		{"unknown flow", "GET", "/edrgate/flows/nope", "", 404, "flow_unknown"},
		{"keys", "GET", "/edrgate/keys", "", 200, `"alg":"ES256","state":"active"`},
		{"key use", "GET", "/edrgate/keys", "", 200, `:3`},
		{"page of nothing", "GET", "/edrgate/flows?limit=0", "", 400, "limit must be"},
		{"page of too much", "GET", "/edrgate/flows?limit=1001", "", 400, "limit must be"},
		{"unknown resource", "GET", "/edrgate/tokens", "", 404, "no such resource"},
		{"root", "GET", "/edrgate/", "", 404, "no such resource"},
		{"wrong method for a flow", "DELETE", "/edrgate/flows/flow-1", "", 405, "method must be GET"},
		{"wrong method for a revocation", "GET", "/edrgate/flows/flow-1/revoke", "", 405, "method must be POST"},
		{"revoke with a bad body", "POST", "/edrgate/flows/flow-1/revoke", `{"why":"x"}`, 400, "an object with a reason"},
		{"revoke an unknown flow", "POST", "/edrgate/flows/nope/revoke", "", 404, "flow_unknown"},
		{"revoke", "POST", "/edrgate/flows/flow-1/revoke", `{"reason":"key lost"}`, 200, `"outcome":"applied"`},
		{"revoked", "GET", "/edrgate/flows/flow-1", "", 200, `"state":"TERMINATED","reason":"key lost"`},
		{"revoke again", "POST", "/edrgate/flows/flow-1/revoke", "", 200, `"outcome":"already"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer := g.admin(tt.method, tt.path, tt.body)
			if answer.status != tt.status || !strings.Contains(answer.body, tt.want) {
				t.Errorf("%d %s", answer.status, answer.body)
			}
			for _, secret := range []string{"canary", first.access, first.refresh, "baseUrl"} {
				if strings.Contains(answer.body, secret) {
					t.Errorf("%s is in %s", secret, answer.body)
				}
			}
		})
	}
	if answer := g.get(first.access); answer.status != http.StatusUnauthorized {
		t.Errorf("a revoked flow: %d %s", answer.status, answer.body)
	}
}

func TestAdminAPIWithoutApp(t *testing.T) {
	err := new(adminAPI).serve(nil, nil)
	if err == nil || !strings.Contains(err.Error(), "not configured") {
		t.Error(err)
	}
}

// A key that EDRs of other companies are sealed with is shown to be in use: without it nobody could read them.
func TestKeysThatSealEDRs(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["consumer"] = object{"renew": "never"}
	g.load(app, g.servers())
	kept, err := g.participant().EDRs()
	if err != nil {
		t.Fatal(err)
	}
	address, err := consumer.ParseEDR([]byte(`{"endpoint":"https://other.example/data","authorization":"CANARY"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = kept.cache.Put(t.Context(), consumer.Put{ID: "tp-1", EDR: address, Origin: consumer.ByHand})
	if err != nil {
		t.Fatal(err)
	}
	key := g.participant().config.Keys.SigningKeys()[0].SealingKey
	answer := g.admin(http.MethodGet, "/edrgate/keys", "")
	if answer.status != http.StatusOK || !strings.Contains(answer.body, `"edrs_by_secret_key":{"`+string(key)+`":1}`) || key == "" {
		t.Errorf("%d %s, want one EDR sealed with %s", answer.status, answer.body, key)
	}
}

// The commands talk to the admin API of the running gateway over its unix socket.
func TestCommands(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	e := g.start("flow-1", newConsumer(t))
	g.start("flow-2", newConsumer(t))
	address := "unix/" + g.path("admin")

	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := edrCommand()
		cmd.SetArgs(append(args, "--address", address))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.Execute()
		return out.String(), err
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"list"}, "flow-2  STARTED  dps"},
		{[]string{"list", "--limit", "1"}, "--after flow-1"},
		{[]string{"list", "--json", "--after", "flow-1"}, `"id": "flow-2"`},
		{[]string{"show", "flow-1"}, `"dataset": "asset-1"`},
		{[]string{"keys"}, `"flows_by_secret_key"`},
		{[]string{"revoke", "flow-1", "--reason", "test"}, "flow-1: applied\nThe control plane has no callback"},
		{[]string{"show", "flow-1"}, `"reason": "test"`},
		{[]string{"revoke", "flow-2", "--quiet"}, "flow-2: applied\nThe control plane is not told."},
		{[]string{"revoke", "flow-2"}, "flow-2: already\n"},
		{[]string{"show", "flow-2"}, `"reason": "revoked by the operator"`},
	} {
		out, err := run(tt.args...)
		if err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("%v: %v in %q", tt.args, err, out)
		}
		if strings.Contains(out, e.access) || strings.Contains(out, e.refresh) {
			t.Errorf("%v shows a token", tt.args)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"show"}, "accepts 1 arg(s), received 0"},
		{[]string{"list", "flow-1"}, "unknown command"},
		{[]string{"show", "nope"}, "flow_unknown: no flow nope"},
		{[]string{"revoke", "nope"}, "flow_unknown: no flow nope"},
		{[]string{"list", "--limit", "0"}, "bad request: limit must be a number from 1 to 1000"},
	} {
		out, err := run(tt.args...)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v: %v, %q", tt.args, err, out)
		}
	}
	address = "unix/" + g.path("nobody")
	out, err := run("show", "flow-1")
	if err == nil || !strings.Contains(err.Error(), "asking the gateway at "+address) {
		t.Errorf("nobody listens: %v, %q", err, out)
	}
	if answer := g.get(e.access); answer.status != http.StatusUnauthorized {
		t.Errorf("revoked: %d", answer.status)
	}
}

func TestKeysOfTwoStates(t *testing.T) {
	g := newLiveGateway(t)
	err := keygen(&bytes.Buffer{}, deterministic{}, g.path("next.pem"), "EdDSA", "")
	if err != nil {
		t.Fatal(err)
	}
	app := g.app()
	app["signing_keys"] = []object{{"file": "{file." + g.path("next.pem") + "}", "state": "next"}, {"file": g.path("signing.pem")}}
	g.load(app, g.servers())
	var keys keysView
	err = json.Unmarshal([]byte(g.admin("GET", "/edrgate/keys", "").body), &keys)
	if err != nil || len(keys.SigningKeys) != 2 || keys.SigningKeys[0].Algorithm != "EdDSA" || keys.SigningKeys[0].State != "next" {
		t.Errorf("%v, %+v", err, keys)
	}
	// The admin API shows the placeholder, never the key that it stands for.
	if config := g.admin("GET", "/config/", "").body; strings.Contains(config, "PRIVATE KEY") {
		t.Error("the running config has the key")
	}
}

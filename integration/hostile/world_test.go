package hostile

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// world is a gateway between its neighbours, with flows that are good.
type world struct {
	*gateway
	canaries *testkit.Canaries
	hosts    *didHost
	weather  *backend  // behind edr_auth
	orders   *backend  // behind edr_proxy
	provider *provider // of EDRs that the consumer's side holds
	did      string    // of the gateway's participant
	key      *ecdsa.PrivateKey

	dps     *flow // dataset weather at data, of Data Plane Signaling
	rain    *flow // dataset rain at data/rain, of Data Plane Signaling
	classic *flow // dataset orders at proxied, with a source address and its credential
	overH2C *flow // dataset h2c at h2c
	overTLS *flow // dataset secure at secure
	held    string
}

// flow is a flow of one consumer, and what the consumer has of it.
type flow struct {
	id, agreement   string
	wallet          *testkit.Wallet
	access, refresh string
}

// site is the Caddyfile of the world. Every handler, both dialects, both sides.
const site = `{
	admin unix/{dir}/admin.sock
	default_bind 127.0.0.1
	auto_https disable_redirects
	metrics
	servers 127.0.0.1:{h2c port} {
		protocols h1 h2c
	}
	log {
		output file {dir}/log/error.log
		format json
		level DEBUG
	}
	edrgate {
		did {did}
		signing_key {key}
		public_url http://{data}
		token_ttl 1h
		resolver {
			allow_http localhost
			allow_addresses 127.0.0.0/8 ::1/128
		}
		store badger {
			path {dir}/store
			min_free 64MiB
			reserve 1MiB
		}
		consumer {
			kid {did}#key-1
			allow_http 127.0.0.1
			allow_addresses 127.0.0.0/8
		}
		route orders {
			dataset orders
			public_url http://{proxied}/api
			backend http://{orders}/base
		}
		route tenants {
			dataset tenants
			public_url http://{proxied}/tenants
			backend http://{orders}/of/{edr.metadata.tenant}
			header X-Tenant {edr.metadata.tenant}
			header X-On-Behalf-Of {edr.claims.client_id}
		}
		route h2c {
			dataset h2c
			public_url http://{h2c}
		}
		route secure {
			dataset secure
			public_url https://{secure}
		}
	}
}

http://{data} {
	log {
		output file {dir}/log/access.log
		format json
	}
	edr_refresh
	handle /rain/* {
		edr_auth {
			dataset rain
		}
		reverse_proxy {weather}
	}
	handle /ruled/* {
		edr_auth {
			dataset weather
			methods GET POST
			query page size
		}
		reverse_proxy {weather}
	}
	handle {
		edr_auth {
			dataset weather
		}
		reverse_proxy {weather}
	}
}

http://{proxied} {
	log {
		output file {dir}/log/access.log
		format json
	}
	edr_refresh
	edr_proxy {
		backends http://{orders}
	}
}

http://{signaling} {
	log {
		output file {dir}/log/access.log
		format json
	}
	edr_signaling {
		auth network 127.0.0.0/8
	}
}

http://{h2c} {
	log {
		output file {dir}/log/access.log
		format json
	}
	edr_refresh
	edr_auth {
		route h2c
	}
	reverse_proxy {weather}
}

https://{secure} {
	log {
		output file {dir}/log/access.log
		format json
	}
	tls {certificate} {certificate key}
	edr_refresh
	edr_auth {
		route secure
	}
	reverse_proxy {weather}
}

http://:{edrs port} {
	log {
		output file {dir}/log/access.log
		format json
	}
	edr_consumer
	respond "no such path" 404
}

http://:{egress port} {
	log {
		output file {dir}/log/access.log
		format json
	}
	edr_egress
}

http://{health} {
	edr_health
}
`

// backendKey is the credential in the source address of the classic flow.
const backendKey = "a-backend-credential-of-another-company"

// newWorld starts a gateway and three flows, and gives its consumer's side an EDR.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, func(config string) string { return config })
}

// newWorldWith is newWorld with another configuration, made of the usual one.
func newWorldWith(t testing.TB, change func(config string) string) *world {
	t.Helper()
	w := &world{
		gateway: newGateway(t), canaries: testkit.NewCanaries(), hosts: newDIDHost(t),
		weather: newBackend(t, "weather"), orders: newBackend(t, "orders"), provider: newProvider(t),
	}
	w.canaries.Credential("a backend's credential", backendKey)
	key, file := w.newKey("signing", w.canaries)
	w.key, w.did = key, w.hosts.did("gateway")
	own := testkit.NewWallet(w.did)
	own.Key = key
	w.hosts.serve("gateway", document(own.Document()))
	certificate, certificateKey := w.newCertificate()
	w.config = expand(change(site), map[string]string{
		"dir": w.dir, "did": w.did, "key": file, "data": w.data, "proxied": w.proxied, "signaling": w.signaling, "edrs": w.edrs,
		"egress": w.egress, "health": w.health, "weather": w.weather.address(), "orders": w.orders.address(),
		"h2c": w.h2c, "secure": w.secure, "h2c port": port(w.h2c), "edrs port": port(w.edrs), "egress port": port(w.egress),
		"certificate": certificate, "certificate key": certificateKey,
	})
	w.start()
	w.dps = w.startDPS("weather", w.hosts.wallet("consumer"))
	w.rain = w.startDPS("rain", w.hosts.wallet("other"))
	w.classic = w.startClassic("orders", w.hosts.wallet("classic"))
	w.overH2C = w.startDPS("h2c", w.hosts.wallet("over-h2c"))
	w.overTLS = w.startDPS("secure", w.hosts.wallet("over-tls"))
	w.holdEDR()
	return w
}

// dpsStart is a start message as EDC 0.18 sends it, for a test to change.
func (w *world) dpsStart(dataset, consumer string) map[string]any {
	return map[string]any{
		"messageId": rand.Text(), "participantId": w.did, "counterPartyId": consumer,
		"dataspaceContext": "dataspace-protocol-http:2025-1", "processId": "flow-" + rand.Text(), "agreementId": "agreement-" + rand.Text(),
		"datasetId": dataset, "callbackAddress": "http://localhost:9204/api/signaling",
		"transferType": "https://w3id.org/dspace-sig/profile/http-pull", "labels": []any{}, "metadata": map[string]any{},
		"claims": map[string]any{"client_id": consumer},
	}
}

// edc is the namespace of EDC.
const edc = "https://w3id.org/edc/v0.0.1/ns/"

// sourceProperty is one property of a classic source address.
func sourceProperty(name string, value any) map[string]any {
	return map[string]any{"@type": "dspace:EndpointProperty", "dspace:name": name, "dspace:value": value}
}

// classicStart is a start message as Tractus-X 0.12.1 sends it, for a test to change.
func (w *world) classicStart(dataset, consumer, baseURL string, properties ...map[string]any) map[string]any {
	for _, flag := range []string{"proxyPath", "proxyMethod", "proxyQueryParams", "proxyBody"} {
		properties = append(properties, sourceProperty(edc+flag, "true"))
	}
	return map[string]any{
		"@type":    "DataFlowStartMessage",
		"@context": map[string]any{"dspace": "https://w3id.org/dspace/v0.8/", "@vocab": edc},
		"flowType": "PULL", "transferTypeDestination": "HttpData", "processId": "flow-" + rand.Text(), "datasetId": dataset,
		"agreementId": "agreement-" + rand.Text(), "participantId": consumer, "callbackAddress": "http://localhost:16292/control",
		"properties": map[string]any{"https://w3id.org/tractusx/auth/audience": consumer},
		"sourceDataAddress": map[string]any{
			"@type": "dspace:DataAddress", "dspace:endpointType": "HttpData",
			"dspace:endpointProperties": append(properties, sourceProperty(edc+"baseUrl", baseURL)),
		},
	}
}

// message is a POST of JSON to edr_signaling.
func (w *world) message(path string, body any) string {
	return post(w.signaling, path, "application/json", string(testkit.JSON(w.t, body)))
}

func (w *world) startDPS(dataset string, wallet *testkit.Wallet) *flow {
	w.t.Helper()
	start := w.dpsStart(dataset, wallet.DID)
	return w.readEDR(start, wallet, w.want(w.signaling, w.message("/dataflows/start", start), http.StatusOK))
}

func (w *world) startClassic(dataset string, wallet *testkit.Wallet) *flow {
	w.t.Helper()
	start := w.classicStart(dataset, wallet.DID, "http://"+w.orders.address()+"/base",
		sourceProperty(edc+"authKey", "X-Api-Key"), sourceProperty(edc+"authCode", backendKey))
	return w.readEDR(start, wallet, w.want(w.signaling, w.message("/v1/dataflows/start", start), http.StatusOK))
}

// want sends bytes of the harness's own, which have to be answered well.
func (w *world) want(address, raw string, status int) reply {
	w.t.Helper()
	answer, err := exchange(address, raw)
	if err != nil || answer.status != status {
		w.t.Fatalf("status %d, want %d (%v): %s", answer.status, status, err, answer.body)
	}
	return answer
}

// readEDR reads the tokens out of the answer to a start, of either dialect, and notes them as secrets.
func (w *world) readEDR(start map[string]any, wallet *testkit.Wallet, answer reply) *flow {
	w.t.Helper()
	var message struct {
		DataAddress map[string]json.RawMessage `json:"dataAddress"`
	}
	err := json.Unmarshal([]byte(answer.body), &message)
	if err != nil {
		w.t.Fatal(err)
	}
	f := &flow{id: start["processId"].(string), agreement: start["agreementId"].(string), wallet: wallet}
	for member, raw := range message.DataAddress {
		if !strings.HasSuffix(member, "endpointProperties") {
			continue
		}
		var properties []map[string]string
		err = json.Unmarshal(raw, &properties)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, p := range properties {
			switch name := p["name"] + p["dspace:name"]; name[strings.LastIndexByte(name, '/')+1:] {
			case "authorization":
				f.access = p["value"] + p["dspace:value"]
			case "refreshToken":
				f.refresh = p["value"] + p["dspace:value"]
			}
		}
	}
	if f.access == "" || f.refresh == "" {
		w.t.Fatal("the EDR has not both tokens")
	}
	w.canaries.Token("an access token", f.access)
	w.canaries.Token("a refresh token", f.refresh)
	return f
}

// proof is a good authentication token about the flow's access token, noted as a secret.
func (w *world) proof(f *flow) string {
	proof := f.wallet.Proof(w.did, f.access, time.Now())
	w.canaries.Token("a proof", proof)
	return proof
}

// renewal is a good renewal of a flow with another proof.
func (w *world) renewal(f *flow, proof string) string {
	return post(w.data, "/token", formType, refreshForm(f.refresh), bearer(proof))
}

// renew has the flow's tokens replaced.
func (w *world) renew(f *flow) error {
	raw := w.renewal(f, w.proof(f))
	answer, err := exchange(w.data, raw)
	if err != nil || answer.status != http.StatusOK {
		return fmt.Errorf("a good renewal: %d %s, %v", answer.status, answer.body, err)
	}
	return w.takeRenewed(f, answer)
}

// takeRenewed notes the tokens that a renewal was answered with.
func (w *world) takeRenewed(f *flow, answer reply) error {
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	err := json.Unmarshal([]byte(answer.body), &tokens)
	if err != nil {
		return err
	}
	if tokens.Access == "" || tokens.Refresh == "" {
		return fmt.Errorf("a renewal was answered without both tokens")
	}
	w.canaries.Token("a renewed access token", tokens.Access)
	w.canaries.Token("a renewed refresh token", tokens.Refresh)
	f.access, f.refresh = tokens.Access, tokens.Refresh
	return nil
}

// keepRenewed is for shapes that renew the flow dps.
func (w *world) keepRenewed(answer reply) string {
	err := w.takeRenewed(w.dps, answer)
	if err != nil {
		return err.Error()
	}
	return ""
}

// holdEDR puts an EDR into the consumer's side of the same gateway: of a flow of its own provider's side, bound to its own
// DID.
func (w *world) holdEDR() {
	w.t.Helper()
	own := testkit.NewWallet(w.did)
	own.Key = w.key
	f := w.startDPS("weather", own)
	w.held = "transfer-" + rand.Text()
	w.want(w.edrs, w.putEDR(w.held, map[string]any{
		"endpoint": "http://" + w.data, "authorization": f.access, "authType": "bearer", "refreshToken": f.refresh,
		"refreshEndpoint": "http://" + w.data + "/token", "refreshAudience": w.did, "expiresIn": "3600",
	}), http.StatusOK)
}

// putEDR is a request to keep an EDR.
func (w *world) putEDR(transfer string, address map[string]any) string {
	body := string(testkit.JSON(w.t, map[string]any{
		"providerId": w.did, "assetId": "weather", "agreementId": "agreement-" + transfer, "dataAddress": address,
	}))
	return lines("PUT /v3/edrs/"+transfer+" HTTP/1.1", "Host: "+w.edrs, "Connection: close", "Content-Type: application/json",
		fmt.Sprintf("Content-Length: %d", len(body))) + body
}

// works checks that what is good is still served: nothing was ended, blocked or changed by what was sent.
func (w *world) works() []string {
	var problems []string
	expect := func(what, address, raw, body string) {
		answer, err := exchange(address, raw)
		if err != nil || answer.status != http.StatusOK || !strings.Contains(answer.body, body) {
			problems = append(problems, fmt.Sprintf("%s no longer works: %d %.200s, %v", what, answer.status, answer.body, err))
		}
	}
	for name, f := range map[string]*flow{"dps": w.dps, "rain": w.rain, "classic": w.classic, "h2c": w.overH2C, "TLS": w.overTLS} {
		err := w.renew(f)
		if err != nil {
			problems = append(problems, name+": "+err.Error())
		}
	}
	expect("edr_auth", w.data, get(w.data, "/now", bearer(w.dps.access)), "data of weather")
	expect("edr_auth of another dataset", w.data, get(w.data, "/rain/now", bearer(w.rain.access)), "data of weather")
	expect("edr_proxy", w.proxied, get(w.proxied, "/api/1", bearer(w.classic.access)), "data of orders")
	expect("edr_egress", w.egress, get(w.egress, "/"+w.held+"/now"), "data of weather")
	expect("edr_consumer", w.edrs, get(w.edrs, "/v3/edrs/"+w.held+"/dataaddress"), "authorization")
	expect("edr_health", w.health, get(w.health, "/ready"), "")
	return problems
}

package integration

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// terms are what a start message asks for.
type terms struct {
	flow      string // process id
	dataset   string
	consumer  string // DID
	agreement string

	// Of classic messages.
	backend string // base URL of the source address
	apiKey  string // credential for the backend, sent to it as X-Api-Key

	// edcProfile leaves the transfer type of DPS messages as EDC 0.18 sends it, which promises no renewal.
	edcProfile bool
}

// newTerms returns terms with ids of their own.
func newTerms(dataset, consumer string) terms {
	return terms{
		flow: "flow-" + rand.Text(), agreement: "agreement-" + rand.Text(), dataset: dataset, consumer: consumer,
		backend: "http://127.0.0.1:9/base",
	}
}

// plane is a control plane: it sends messages that were recorded from real ones, with other ids.
type plane interface {
	name() string
	// startMessage and terminateMessage return what start and terminate send, for who sends it in another way. Each has a
	// message id of its own, where the dialect has one.
	startMessage(g *gateway, f terms) message
	terminateMessage(g *gateway, flow string) message
	// start sends the start message; a classic control plane resumes with the same.
	start(g *gateway, f terms) reply
	resume(g *gateway, f terms, last edr) reply
	suspend(g *gateway, flow string) reply
	terminate(g *gateway, flow string) reply
	// done is the status of a message that succeeds without a body.
	done() int
	// refused is the status of a data request whose token is no good.
	refused() int
}

// planes are one control plane of each dialect.
var planes = []plane{dpsPlane{}, classicPlane{}}

// edr is an endpoint data reference, as a consumer reads it out of the answer.
type edr struct {
	flow, endpoint, access, refresh, refreshEndpoint, refreshAudience string

	expiresIn int // seconds
}

// startFlow starts a flow and returns its EDR.
func startFlow(g *gateway, p plane, f terms) edr {
	g.t.Helper()
	answer := p.start(g, f).want(g.t, http.StatusOK)
	return readEDR(g, f.flow, answer)
}

// dpsPlane sends what EDC 0.18 sends.
type dpsPlane struct{}

// profilePull is the transfer profile whose consumers renew.
const profilePull = "https://w3id.org/dspace-sig/profile/http-pull"

func (dpsPlane) name() string { return "dps" }
func (dpsPlane) done() int    { return http.StatusOK }
func (dpsPlane) refused() int { return http.StatusUnauthorized }

func (p dpsPlane) start(g *gateway, f terms) reply {
	return p.startMessage(g, f).send(g)
}

func (dpsPlane) startMessage(g *gateway, f terms) message {
	profile := profilePull
	if f.edcProfile {
		profile = "HttpData-PULL"
	}
	return message{"/dataflows/start", recorded(g.t, "dps-edc-0.18/04-pull-start--04-pcp-to-pdp-start.json",
		"033b71ae-53fc-4676-b29d-3b8ac70a56cc", rand.Text(),
		"did:web:localhost%3A9600", g.did,
		"did:web:localhost%3A9601", f.consumer,
		"8a43fc99-918c-4aa1-bfa5-1bcd3cc532c6", f.flow,
		"9776bd41-fd67-4d34-909f-7fd418a8e638", f.agreement,
		`"datasetId":"asset-1"`, `"datasetId":"`+f.dataset+`"`,
		"HttpData-PULL", profile)}
}

// resume sends a resume as EDC does: with the last EDR in it, tokens in clear, and a process id that names nothing.
func (dpsPlane) resume(g *gateway, f terms, last edr) reply {
	const message = "dps-edc-0.18/07-resume-by-consumer--03-pcp-to-pdp-resume.json"
	return signal(g, "/dataflows/"+f.flow+"/resume", recorded(g.t, message,
		"28e32896-6483-4bba-a9a4-22db6af9ea49", rand.Text(),
		recordedProperty(g.t, message, "authorization"), last.access,
		"47baf2a9972bd9f387123d032b603a881e760a9d52688339f0ec622d067f27b8", last.refresh))
}

func (dpsPlane) suspend(g *gateway, flow string) reply {
	const message = "dps-edc-0.18/06-suspend-by-consumer--04-pcp-to-pdp-suspend.json"
	return signal(g, "/dataflows/"+flow+"/suspend", recorded(g.t, message, "6a94e306-1ab8-4b08-8788-4e5888b3f7b3", rand.Text()))
}

func (p dpsPlane) terminate(g *gateway, flow string) reply {
	return p.terminateMessage(g, flow).send(g)
}

func (dpsPlane) terminateMessage(g *gateway, flow string) message {
	const file = "dps-edc-0.18/10-terminate-by-consumer--04-pcp-to-pdp-terminate.json"
	return message{
		"/dataflows/" + flow + "/terminate", recorded(g.t, file, "3ac83725-295d-4201-9147-8ffa8f7fd5ff", rand.Text()),
	}
}

// classicPlane sends what Tractus-X 0.12.1 sends.
type classicPlane struct{}

func (classicPlane) name() string { return "classic" }
func (classicPlane) done() int    { return http.StatusNoContent }
func (classicPlane) refused() int { return http.StatusForbidden }

func (p classicPlane) start(g *gateway, f terms) reply {
	return p.startMessage(g, f).send(g)
}

func (classicPlane) startMessage(g *gateway, f terms) message {
	body := recorded(g.t, "tractusx-0.12.1/003-start.json",
		"2f85b515-97fd-4187-b698-1acfdd0898a4", f.agreement,
		"7167366f-0829-41d2-ac94-b75b1f415496", f.flow,
		"asset-1795419119", f.dataset,
		"did:web:localhost%3A17000:consumer", f.consumer,
		"http://localhost:16500/base", f.backend)
	if f.apiKey != "" {
		body = replaceAll(g.t, body, `"dspace:endpointProperties":[`, `"dspace:endpointProperties":[`+
			property("authKey", "X-Api-Key")+`,`+property("authCode", f.apiKey)+`,`)
	}
	return message{"/v1/dataflows/start", body}
}

// property is one property of a source address, as Tractus-X writes it.
func property(name, value string) string {
	const edc = "https://w3id.org/edc/v0.0.1/ns/"
	return fmt.Sprintf(`{"@type":"dspace:EndpointProperty","dspace:name":%q,"dspace:value":%q}`, edc+name, value)
}

func (p classicPlane) resume(g *gateway, f terms, _ edr) reply { return p.start(g, f) }

func (classicPlane) suspend(g *gateway, flow string) reply {
	return signal(g, "/v1/dataflows/"+flow+"/suspend", recorded(g.t, "tractusx-0.12.1/091-suspend.json"))
}

func (p classicPlane) terminate(g *gateway, flow string) reply {
	return p.terminateMessage(g, flow).send(g)
}

func (classicPlane) terminateMessage(g *gateway, flow string) message {
	return message{"/v1/dataflows/" + flow + "/terminate", recorded(g.t, "tractusx-0.12.1/105-terminate.json")}
}

// exchange is a recorded request and the answer that its sender was content with.
type exchange struct {
	Method      string `json:"method"`
	Path        string `json:"path"`
	ContentType string `json:"contentType"`
	Body        string `json:"body"`
	Answer      struct {
		Status int    `json:"status"`
		Body   string `json:"body"`
	} `json:"answer"`
}

func recordedExchange(t testing.TB, file string) exchange {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(moduleRoot, "signaling", "testdata", "wire", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	var e exchange
	err = json.Unmarshal(data, &e)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// recorded returns the body of a recorded message with each old text replaced by a new one. A text that is not there
// ends the test: the message would not say what the test thinks.
func recorded(t testing.TB, file string, oldNew ...string) string {
	t.Helper()
	return replaceAll(t, recordedExchange(t, file).Body, oldNew...)
}

func replaceAll(t testing.TB, text string, oldNew ...string) string {
	t.Helper()
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("%q is not in the recorded message", oldNew[i])
		}
	}
	return strings.NewReplacer(oldNew...).Replace(text)
}

// recordedProperty returns a property of the data address in a recorded DPS message.
func recordedProperty(t testing.TB, file, name string) string {
	t.Helper()
	var message struct {
		DataAddress map[string]json.RawMessage `json:"dataAddress"`
	}
	err := json.Unmarshal([]byte(recorded(t, file)), &message)
	if err != nil {
		t.Fatal(err)
	}
	return propertiesOf(t, message.DataAddress)[name]
}

// signal posts a message to edr_signaling.
func signal(g *gateway, path, body string) reply {
	g.t.Helper()
	request, err := message{path, body}.request(g.signaling)
	if err != nil {
		g.t.Fatal(err)
	}
	return send(g.t, g.client, request)
}

// message is a message to edr_signaling that can be sent again as it is.
type message struct{ path, body string }

func (m message) send(g *gateway) reply {
	g.t.Helper()
	return signal(g, m.path, m.body)
}

// trySend sends the message where it may fail, for goroutines that must not end the test.
func (m message) trySend(address string, client *http.Client) (reply, error) {
	request, err := m.request(address)
	if err != nil {
		return reply{}, err
	}
	return trySend(client, request)
}

func (m message) request(address string) (*http.Request, error) {
	request, err := http.NewRequest(http.MethodPost, "http://"+address+m.path, strings.NewReader(m.body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	return request, nil
}

// readEDR reads the EDR of either dialect and notes its tokens as secrets.
func readEDR(g *gateway, flow string, answer reply) edr {
	g.t.Helper()
	e, err := tryReadEDR(g, flow, answer)
	if err != nil {
		g.t.Fatal(err)
	}
	return e
}

// tryReadEDR is readEDR for goroutines that must not end the test.
func tryReadEDR(g *gateway, flow string, answer reply) (edr, error) {
	var message struct {
		DataAddress map[string]json.RawMessage `json:"dataAddress"`
	}
	err := json.Unmarshal([]byte(answer.body), &message)
	if err != nil {
		return edr{}, fmt.Errorf("answer to a start: %w: %s", err, answer.body)
	}
	properties, err := tryPropertiesOf(message.DataAddress)
	if err != nil {
		return edr{}, err
	}
	e := edr{
		flow: flow, endpoint: properties["endpoint"], access: properties["authorization"],
		refresh: properties["refreshToken"], refreshEndpoint: properties["refreshEndpoint"],
		refreshAudience: properties["refreshAudience"],
	}
	if e.endpoint == "" { // DPS has it beside the properties
		err = json.Unmarshal(message.DataAddress["endpoint"], &e.endpoint)
		if err != nil {
			return edr{}, fmt.Errorf("endpoint of an EDR: %w", err)
		}
	}
	if e.access == "" || e.refresh == "" || e.refreshEndpoint == "" {
		return edr{}, fmt.Errorf("the EDR is not complete: it has %d properties, access token %t, refresh token %t, refresh endpoint %q",
			len(properties), e.access != "", e.refresh != "", e.refreshEndpoint)
	}
	e.expiresIn, err = strconv.Atoi(properties["expiresIn"])
	if err != nil {
		return edr{}, fmt.Errorf("expiresIn of an EDR: %w", err)
	}
	g.canaries.Token("an access token", e.access)
	g.canaries.Token("a refresh token", e.refresh)
	return e, nil
}

// propertiesOf returns the endpoint properties by the last part of their names.
func propertiesOf(t testing.TB, address map[string]json.RawMessage) map[string]string {
	t.Helper()
	properties, err := tryPropertiesOf(address)
	if err != nil {
		t.Fatal(err)
	}
	return properties
}

func tryPropertiesOf(address map[string]json.RawMessage) (map[string]string, error) {
	properties := map[string]string{}
	for member, raw := range address {
		if !strings.HasSuffix(member, "endpointProperties") {
			continue
		}
		var list []map[string]string
		err := json.Unmarshal(raw, &list)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			name := orDefault(p["name"], p["dspace:name"])
			properties[name[strings.LastIndexByte(name, '/')+1:]] = orDefault(p["value"], p["dspace:value"])
		}
	}
	return properties, nil
}

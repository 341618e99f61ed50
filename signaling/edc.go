package signaling

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// classic is EDC's signaling before DPS: JSON-LD, as EDC 0.11 to 0.17 and Tractus-X send it. Resume is the same start
// again, completed is terminate.
type classic struct{}

// endpointTypeHTTP is the type of every classic EDR. Consumers pick the HTTP client by it.
const endpointTypeHTTP = "https://w3id.org/idsa/v4.1/HTTP"

// Directions of a transfer.
const (
	flowPull = "PULL"
	flowPush = "PUSH"
)

func (classic) readStart(body []byte, x *exchange) (*startMessage, error) {
	node, context, err := readLD(body)
	if err != nil {
		return nil, errNotJSON.because(err)
	}
	if isDPS(node, context) {
		return nil, errForDPS
	}
	if !node.is("DataFlowStartMessage", messageNS) {
		for _, name := range consumerMessages {
			if node.is(name, messageNS) {
				return nil, errConsumer
			}
		}
		return nil, invalid("want a DataFlowStartMessage")
	}
	read := ldReader{node: node}
	m := &startMessage{
		request: tokens.StartRequest{
			Dialect:   tokens.Classic,
			ProcessID: read.text("processId"),
			Terms: tokens.Terms{
				Counterparty: read.text("participantId"),
				Dataset:      read.text("datasetId"),
				Agreement:    read.text("agreementId"),
			},
			Profile:  read.text("transferType"),
			Callback: read.text("callbackAddress"),
		},
	}
	flowType := strings.TrimPrefix(read.text("flowType"), edcNS)
	properties := read.object("properties")
	// A resume of EDC 0.17 has our last EDR as destinationDataAddress, tokens in clear, and is a pull nevertheless. The
	// member is not looked at.
	address := read.object("sourceDataAddress")
	if read.err != nil {
		return nil, read.err
	}
	r := &m.request
	if x.flow != "" { // {id}/start
		if r.ProcessID != "" && r.ProcessID != x.flow {
			return nil, invalid("member processId is not the id in the path")
		}
		r.ProcessID = x.flow
	}
	x.name(r.ProcessID)
	err = checkDirection(flowType, r.Profile)
	if err != nil {
		return nil, err
	}
	err = checkStart(r, "participantId")
	if err != nil {
		return nil, err
	}
	r.Terms.Audience, m.bpn, err = flowProperties(properties)
	if err != nil {
		return nil, err
	}
	x.namespace = dspaceOf(address, context)
	if address == nil {
		return m, nil
	}
	m.address, err = readSource(address)
	if err != nil {
		return nil, err
	}
	x.sourceType = m.address.source.Type
	if r.Profile == "" { // EDC up to 0.15 sends the two parts only
		r.Profile = m.address.source.Type + "-" + flowPull
	}
	return m, nil
}

// consumerMessages are sent to a consumer's data plane; EDC 0.14 posts the first to the path of start.
var consumerMessages = []string{"DataFlowProvisionMessage", "DataFlowPrepareMessage", "DataFlowStartedNotificationMessage"}

// isDPS reports whether a message without any sign of JSON-LD is one of Data Plane Signaling.
func isDPS(node ldNode, context *ldContext) bool {
	if context != nil || len(node["@type"]) > 0 {
		return false
	}
	return len(node["messageId"]) > 0 || len(node["counterPartyId"]) > 0
}

// checkDirection refuses a push, whichever of the two members says so.
func checkDirection(flowType, transferType string) error {
	upper := strings.ToUpper(flowType)
	switch {
	case upper == flowPush, strings.Contains(strings.ToUpper(transferType), flowPush):
		return errPush
	case upper == flowPull:
		return nil
	case flowType != "":
		return invalid("member flowType: want PULL")
	case strings.Contains(strings.ToUpper(transferType), flowPull):
		return nil
	}
	return invalid("member flowType is missing")
}

// flowProperties reads the two properties that Tractus-X sets: the DID that may renew, and the consumer's number.
func flowProperties(node ldNode) (string, string, error) {
	audience, err := node.text(txNS+"audience", []string{""})
	if err != nil {
		return "", "", invalid("member properties: audience: %s", err)
	}
	if audience != "" && !validID(audience) {
		return "", "", invalid("member properties: audience: want at most %d printable characters", maxID)
	}
	bpn, err := node.text(bpnProperty, []string{""})
	if err != nil {
		return "", "", invalid("member properties: bpn: %s", err)
	}
	if bpn != "" && !validID(bpn) {
		return "", "", invalid("member properties: bpn: want at most %d printable characters", maxID)
	}
	return audience, bpn, nil
}

// dspaceOf finds the namespace that the sender reads: a control plane drops or trips over an address in the other one
// (observed on EDC 0.15.1 and 0.17.0).
func dspaceOf(address ldNode, context *ldContext) string {
	old := context.names(dspaceV08)
	for name := range address {
		if strings.HasPrefix(name, dspace2025) {
			return dspace2025
		}
		old = old || strings.HasPrefix(name, dspaceV08)
	}
	if old {
		return dspaceV08
	}
	return dspace2025
}

// ldReader reads members of a message and keeps the first error.
type ldReader struct {
	node ldNode
	err  error
}

func (l *ldReader) text(name string) string {
	s, err := l.node.text(name, messageNS)
	l.keep(name, err)
	return s
}

func (l *ldReader) object(name string) ldNode {
	n, err := l.node.node(name, messageNS)
	l.keep(name, err)
	return n
}

func (l *ldReader) keep(name string, err error) {
	if err != nil && l.err == nil {
		l.err = invalid("member %s: %s", name, err)
	}
}

func (classic) readNotice(body []byte) notice {
	node, _, err := readLD(body)
	if err != nil {
		return notice{}
	}
	reason, err := node.text("reason", messageNS)
	if err != nil {
		return notice{}
	}
	return notice{reason: cleanReason(reason)}
}

// edcContext is the context of an answer. An answer without one starts the transfer on both sides with no EDR at all
// (observed on EDC 0.11 to 0.17).
type edcContext struct {
	Vocab  string `json:"@vocab"`
	EDC    string `json:"edc"`
	DSpace string `json:"dspace,omitempty"`
}

type responseMessage struct {
	Context      edcContext `json:"@context"`
	Type         string     `json:"@type"`
	Provisioning bool       `json:"provisioning"`
	DataAddress  ldAddress  `json:"dataAddress"`
}

type ldAddress struct {
	Type               string       `json:"@type"`
	EndpointType       any          `json:"dspace:endpointType"`
	EndpointProperties []ldProperty `json:"dspace:endpointProperties"`
}

type ldProperty struct {
	Type  string `json:"@type"`
	Name  string `json:"dspace:name"`
	Value string `json:"dspace:value"` // always a string: any other type ends the transfer (observed on EDC 0.15.1)
}

// granted writes the EDR. All names are IRIs: the consumer drops others.
func (classic) granted(w http.ResponseWriter, x *exchange, edr *tokens.EDR) int {
	a := ldAddress{Type: "dspace:DataAddress", EndpointType: endpointTypeHTTP}
	if x.namespace == dspace2025 {
		a.EndpointType = struct {
			ID string `json:"@id"`
		}{endpointTypeHTTP} // each release is answered in the form it sends
	}
	add := func(ns, name, value string) {
		if value != "" {
			a.EndpointProperties = append(a.EndpointProperties, ldProperty{"dspace:EndpointProperty", ns + name, value})
		}
	}
	add(edcNS, "endpoint", edr.Endpoint)
	add(edcNS, "endpointType", endpointTypeHTTP)
	add(edcNS, "authType", "bearer")
	add(edcNS, "authorization", edr.AccessToken.Reveal())
	add(edcNS, "flowType", flowPull)
	add(edcNS, "transferTypeDestination", x.sourceType) // Tractus-X names both in its EDR
	if edr.RefreshToken != "" {
		add(txNS, "refreshToken", edr.RefreshToken.Reveal())
		add(txNS, "expiresIn", seconds(edr.ExpiresIn))
		add(txNS, "refreshEndpoint", edr.RefreshEndpoint)
		add(txNS, "refreshAudience", edr.RefreshAudience)
		add(txNS, "audience", edr.Flow.BoundDID)
	}
	writeJSON(w, http.StatusOK, responseMessage{
		Context:     edcContext{Vocab: edcNS, EDC: edcNS, DSpace: x.namespace},
		Type:        "DataFlowResponseMessage",
		DataAddress: a,
	})
	return http.StatusOK
}

func (classic) done() int { return http.StatusNoContent }

func (classic) status(w http.ResponseWriter, _ *exchange, flow *tokens.Flow) {
	writeJSON(w, http.StatusOK, struct {
		Context edcContext `json:"@context"`
		Type    string     `json:"@type"`
		State   string     `json:"state"`
	}{edcContext{Vocab: edcNS, EDC: edcNS}, "DataFlowState", string(flow.State)})
}

// edcError is one element of EDC's error body, an array.
type edcError struct {
	Message      string  `json:"message"`
	Type         string  `json:"type"`
	Path         *string `json:"path"`
	InvalidValue *string `json:"invalidValue"`
}

// edcErrorTypes are EDC's words for a status. What is not listed is InvalidRequest.
var edcErrorTypes = map[int]string{
	http.StatusUnauthorized:       "AuthenticationFailed",
	http.StatusForbidden:          "NotAuthorized",
	http.StatusNotFound:           "ObjectNotFound",
	http.StatusConflict:           "ObjectConflict",
	http.StatusServiceUnavailable: "ServiceUnavailable",
}

func (classic) refused(w http.ResponseWriter, x *exchange, r *refusal) {
	r.header(w.Header())
	kind, ok := edcErrorTypes[r.status]
	if !ok {
		kind = "InvalidRequest"
	}
	// EDC's body has no member for an id, so it stands in the text.
	writeJSON(w, r.status, []edcError{{Message: fmt.Sprintf("%s (log id %s)", r.text, x.id), Type: kind}})
}

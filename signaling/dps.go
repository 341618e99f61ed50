package signaling

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// dps is Data Plane Signaling: plain JSON (DPS §1). It reads the release candidates RC2, as EDC 0.18 sends it, and RC3.
type dps struct {
	did string // our id, which start messages must name
}

// profilePull is the profile URL of the HTTP pull profile, and the endpointType of every EDR of this dialect
// (DPS HTTP profile). EDC takes it for its own transfer types too (observed on 0.18 and main).
const profilePull = "https://w3id.org/dspace-sig/profile/http-pull"

// pullProfiles are the profiles and transfer types of a pull that we serve: the profile URL, the bare word of the
// conformance kit, and EDC's transfer types.
var pullProfiles = map[string]struct{}{
	profilePull:          {},
	"http-pull":          {},
	"HttpData-PULL":      {},
	"ProxyHttpData-PULL": {},
}

func (d dps) readStart(body []byte, x *exchange) (*startMessage, error) {
	read, request, err := d.readFlow(body, x)
	if err != nil {
		return nil, err
	}
	if read.present("dataAddress") {
		return nil, invalid("a pull start must not have a dataAddress") // DPS §1.2
	}
	return &startMessage{request: *request}, nil
}

// readFlow reads what start and prepare have in common.
func (d dps) readFlow(body []byte, x *exchange) (*dpsReader, *tokens.StartRequest, error) {
	m, err := strictjson.Parse(body, maxDepth)
	if errors.Is(err, strictjson.ErrNotObject) && bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		return nil, nil, errForClassic // the expanded form of JSON-LD
	}
	if err != nil {
		return nil, nil, errNotJSON.because(err)
	}
	if m.Has("@context") || m.Has("@type") {
		return nil, nil, errForClassic
	}
	read := &dpsReader{m: m}
	request := &tokens.StartRequest{
		Dialect:   tokens.DPS,
		MessageID: read.text("messageId"),
		ProcessID: read.text("processId"),
		Terms: tokens.Terms{
			Counterparty: read.text("counterPartyId"),
			Dataset:      read.text("datasetId"),
			Agreement:    read.text("agreementId"),
		},
		Profile:  read.text("profile"),
		Callback: read.text("callbackAddress"),
		Claims:   read.object("claims"),
		Metadata: read.object("metadata"),
		Labels:   read.list("labels"),
	}
	own := read.text("participantId")
	transferType := read.text("transferType")
	if read.err != nil {
		return nil, nil, read.err
	}
	x.name(request.ProcessID)
	if request.Profile == "" {
		request.Profile = transferType // RC2, EDC 0.18
	}
	err = d.check(request, own)
	if err != nil {
		return nil, nil, err
	}
	// Only this profile promises that the consumer renews, and then it demands that it can (DPS token renewal profile).
	request.ProfileRenews = request.Profile == profilePull
	request.RenewalRequired = request.ProfileRenews
	return read, request, nil
}

func (d dps) check(r *tokens.StartRequest, own string) error {
	if r.MessageID == "" {
		return invalid("member messageId is missing")
	}
	if !validID(r.MessageID) {
		return invalid("member messageId: want at most %d printable characters", maxID)
	}
	err := checkStart(r, "counterPartyId")
	if err != nil {
		return err
	}
	// A start meant for somebody else would be answered with tokens in our name (DPS §1.2: participantId is the sender's
	// own participant, and the sender is our control plane).
	if own == "" {
		return invalid("member participantId is missing")
	}
	if own != d.did {
		return invalid("member participantId is not the participant of this data plane")
	}
	if r.Profile == "" {
		return invalid("member profile is missing")
	}
	_, pull := pullProfiles[r.Profile]
	switch {
	case pull:
		return nil
	case strings.Contains(strings.ToLower(r.Profile), "push"):
		return errPush
	}
	return invalid("the profile is not served")
}

// dpsReader reads members and keeps the first error. An absent member and null are the same: EDC writes members it has no
// value for as null (observed on main: "callbackAddress":null).
type dpsReader struct {
	m   strictjson.Members
	err error
}

func (d *dpsReader) present(name string) bool {
	raw, ok := d.m[name]
	return ok && string(raw) != "null"
}

func (d *dpsReader) fail(name, want string) {
	if d.err == nil {
		d.err = invalid("member %s: want %s", name, want)
	}
}

func (d *dpsReader) text(name string) string {
	if !d.present(name) {
		return ""
	}
	s, err := d.m.String(name)
	if err != nil {
		d.fail(name, "a string")
	}
	return s
}

func (d *dpsReader) object(name string) json.RawMessage {
	if !d.present(name) {
		return nil
	}
	_, err := d.m.Object(name)
	if err != nil {
		d.fail(name, "an object")
	}
	return d.m[name]
}

func (d *dpsReader) list(name string) []string {
	if !d.present(name) {
		return nil
	}
	l, err := d.m.StringOrList(name)
	if err != nil || d.m[name][0] != '[' {
		d.fail(name, "an array of strings")
	}
	return l
}

// readNotice reads messageId and reason. A resume also has a processId and a dataAddress: EDC fills the first with a
// random UUID and the second with the EDR of the last start, tokens in clear (observed on 0.18 and main). Neither is
// looked at where the flow is one that we serve.
func (d dps) readNotice(body []byte) notice {
	m, err := strictjson.Parse(body, maxDepth)
	if err != nil {
		return notice{}
	}
	var n notice
	id, err := m.String("messageId")
	if err == nil && validID(id) {
		n.messageID = id
	}
	reason, err := m.String("reason")
	if err == nil {
		n.reason = cleanReason(reason)
	}
	return n
}

// statusMessage is a DataFlowStatusMessage (DPS §1.2).
type statusMessage struct {
	MessageID   string      `json:"messageId"`
	DataFlowID  string      `json:"dataFlowId"`
	State       string      `json:"state"`
	DataAddress *dpsAddress `json:"dataAddress,omitempty"`
}

type dpsAddress struct {
	Type               string        `json:"@type"`
	EndpointType       string        `json:"endpointType"`
	Endpoint           string        `json:"endpoint"`
	EndpointProperties []dpsProperty `json:"endpointProperties"`
}

type dpsProperty struct {
	Type  string `json:"@type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// DataAddress writes an EDR as Data Plane Signaling has it, for an answer or a callback, with every property under its DPS
// name and under its IRI. The IRIs are what an EDC 0.18 consumer gets to see, since its EDR API drops names that are none;
// the plain names are what the profile and the conformance kit ask for. Readers ignore what they do not know (DPS HTTP
// profile). What it returns is for encoding/json, and holds tokens.
func DataAddress(edr *tokens.EDR) any { return addressOf(edr) }

func addressOf(edr *tokens.EDR) *dpsAddress {
	a := &dpsAddress{Type: "DataAddress", EndpointType: profilePull, Endpoint: edr.Endpoint}
	add := func(ns, name, value string) {
		for _, n := range []string{name, ns + name} {
			a.EndpointProperties = append(a.EndpointProperties, dpsProperty{Type: "EndpointProperty", Name: n, Value: value})
		}
	}
	add(edcNS, "authorization", edr.AccessToken.Reveal())
	add(edcNS, "authType", "bearer")
	if edr.RefreshToken != "" {
		add(txNS, "refreshToken", edr.RefreshToken.Reveal())
		add(txNS, "expiresIn", seconds(edr.ExpiresIn))
		add(txNS, "refreshEndpoint", edr.RefreshEndpoint)
		add(txNS, "refreshAudience", edr.RefreshAudience)
	}
	return a
}

// granted answers a start or a resume: with the EDR, or with 202 and the promise of a callback that will have it (DPS §1.1).
// EDC looks at the state alone, the specification has status and Location too.
func (d dps) granted(w http.ResponseWriter, x *exchange, edr *tokens.EDR) int {
	m := statusMessage{MessageID: x.id, DataFlowID: edr.Flow.ID, State: string(edr.Flow.State)}
	status := http.StatusOK
	if edr.Pending {
		m.State = string(tokens.Starting)
		status = http.StatusAccepted
		w.Header().Set("Location", x.statusPath(edr.Flow.ID))
	} else {
		m.DataAddress = addressOf(edr)
	}
	writeJSON(w, status, m)
	return status
}

// seconds writes an expiry the way both dialects have it, as a string.
func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

func (d dps) done() int { return http.StatusOK }

func (d dps) status(w http.ResponseWriter, _ *exchange, flow *tokens.Flow) {
	writeJSON(w, http.StatusOK, struct {
		DataFlowID string `json:"dataFlowId"`
		State      string `json:"state"`
	}{flow.ID, string(flow.State)})
}

// dpsError is the body of a refusal. DPS defines none. Its members are those of a DataFlowStatusMessage, whose "error" is
// where its readers look, and of problem details (RFC 9457).
type dpsError struct {
	MessageID  string `json:"messageId"`
	DataFlowID string `json:"dataFlowId,omitempty"`
	Error      string `json:"error"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	LogID      string `json:"logId"`
}

func (d dps) refused(w http.ResponseWriter, x *exchange, r *refusal) {
	r.header(w.Header())
	flow := x.flow
	if !tokens.ValidFlowID(flow) {
		flow = ""
	}
	writeJSON(w, r.status, dpsError{
		MessageID:  x.id,
		DataFlowID: flow,
		Error:      r.text,
		Title:      http.StatusText(r.status),
		Status:     r.status,
		LogID:      x.id,
	})
}

package demo

import (
	"fmt"
	"net/http"
	"net/url"
)

// Message is what a control plane posts.
type Message struct {
	Path string
	Body any
}

// Dialect is how one kind of control plane speaks, and what it and its consumers are used to be answered.
type Dialect struct {
	Title string

	Start, Suspend, Resume, Terminate Message
	ReadEDR                           func(body []byte) (*EDR, error)

	// parameters returns query and form body of a renewal.
	parameters func(refreshToken string) (query, body url.Values)

	Document  string // what the consumer asks for, below the endpoint
	Elsewhere string // a path that the EDR does not open

	NotBound      string // said of a renewal by another party
	DoneStatus    int    // of a message that is answered without a body
	RefusedStatus int    // of a token that has expired, or whose flow has ended
}

// Profiles and names of the demonstration.
const (
	ProviderDID = "did:web:provider.example"
	consumerBPN = "BPNL00000000DEMO"
	ProfilePull = "https://w3id.org/dspace-sig/profile/http-pull"
)

// ClassicDialect is Eclipse EDC 0.11 to 0.17 and Tractus-X. The start message names the backend, so edr_proxy serves the
// flow.
func ClassicDialect(consumerDID, backend string) Dialect {
	context := map[string]string{"@vocab": edcNamespace, "dspace": "https://w3id.org/dspace/v0.8/"}
	property := func(name, value string) map[string]string {
		return map[string]string{"@type": "dspace:EndpointProperty", "dspace:name": name, "dspace:value": value}
	}
	start := map[string]any{
		"@context":                context,
		"@type":                   "DataFlowStartMessage",
		"processId":               "transfer-1",
		"participantId":           consumerBPN,
		"datasetId":               "orders",
		"agreementId":             "agreement-1",
		"flowType":                "PULL",
		"transferTypeDestination": "HttpData",
		"properties":              map[string]string{tractusXNamespace + "audience": consumerDID},
		"sourceDataAddress": map[string]any{
			"@type":               "dspace:DataAddress",
			"dspace:endpointType": "HttpData",
			"dspace:endpointProperties": []any{
				property(edcNamespace+"baseUrl", backend+"/orders"),
				property(edcNamespace+"proxyPath", "true"),
			},
		},
	}
	notice := func(operation, kind string) Message {
		return Message{
			Path: "/v1/dataflows/transfer-1/" + operation,
			Body: map[string]any{"@context": context, "@type": kind},
		}
	}
	return Dialect{
		Title:     "Eclipse EDC and Tractus-X (classic signaling), backend named by the control plane: edr_proxy",
		Start:     Message{Path: "/v1/dataflows/start", Body: start},
		Suspend:   notice("suspend", "DataFlowSuspendMessage"),
		Resume:    Message{Path: "/v1/dataflows/start", Body: start}, // EDC resumes with the same start again
		Terminate: notice("terminate", "DataFlowTerminateMessage"),
		ReadEDR:   readClassicEDR,
		// Tractus-X up to 0.12.1 sends everything in the query, with an empty form.
		parameters:    func(refreshToken string) (url.Values, url.Values) { return refreshForm(refreshToken), nil },
		Document:      "/today",
		Elsewhere:     "/weather/today",
		NotBound:      "is not authorized to refresh this token",
		DoneStatus:    http.StatusNoContent,
		RefusedStatus: http.StatusForbidden,
	}
}

// DPSDialect is Data Plane Signaling. The dataset has a route with a backend of its own: edr_auth and reverse_proxy.
func DPSDialect(consumerDID, processID string) Dialect {
	sent := 0
	notice := func(operation string) Message {
		sent++
		return Message{
			Path: "/dataflows/" + processID + "/" + operation,
			Body: map[string]any{"messageId": fmt.Sprintf("%s-message-%d", processID, sent)},
		}
	}
	start := map[string]any{
		"messageId":        processID + "-start",
		"participantId":    ProviderDID,
		"counterPartyId":   consumerDID,
		"dataspaceContext": "quickstart",
		"processId":        processID,
		"agreementId":      "agreement-2",
		"datasetId":        "weather",
		"profile":          ProfilePull,
	}
	return Dialect{
		Title:         "Data Plane Signaling, dataset with a route of its own: edr_auth and reverse_proxy",
		Start:         Message{Path: "/dataflows/start", Body: start},
		Suspend:       notice("suspend"),
		Resume:        notice("resume"),
		Terminate:     notice("terminate"),
		ReadEDR:       readDPSEDR,
		parameters:    func(refreshToken string) (url.Values, url.Values) { return nil, refreshForm(refreshToken) },
		Document:      "/today",
		Elsewhere:     "/orders/today",
		NotBound:      "not from the party that the token was issued to",
		DoneStatus:    http.StatusOK,
		RefusedStatus: http.StatusUnauthorized,
	}
}

// refreshForm is the request of RFC 6749 §6.
func refreshForm(refreshToken string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
}

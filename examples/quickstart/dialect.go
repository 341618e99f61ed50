package main

import (
	"fmt"
	"net/http"
	"net/url"
)

// message is what a control plane posts.
type message struct {
	path string
	body any
}

// dialect is how one kind of control plane speaks, and what it and its consumers are used to be answered.
type dialect struct {
	title string

	start, suspend, resume, terminate message
	readEDR                           func(body []byte) (*edr, error)

	// parameters returns query and form body of a renewal.
	parameters func(refreshToken string) (query, body url.Values)

	document  string // what the consumer asks for, below the endpoint
	elsewhere string // a path that the EDR does not open

	notBound      string // said of a renewal by another party
	doneStatus    int    // of a message that is answered without a body
	refusedStatus int    // of a token that has expired, or whose flow has ended
}

// Profiles and names of the demonstration.
const (
	providerDID = "did:web:provider.example"
	consumerBPN = "BPNL00000000DEMO"
	profilePull = "https://w3id.org/dspace-sig/profile/http-pull"
)

// classicDialect is Eclipse EDC 0.11 to 0.17 and Tractus-X. The start message names the backend, so edr_proxy serves the
// flow.
func classicDialect(consumerDID, backend string) dialect {
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
	notice := func(operation, kind string) message {
		return message{
			path: "/v1/dataflows/transfer-1/" + operation,
			body: map[string]any{"@context": context, "@type": kind},
		}
	}
	return dialect{
		title:     "Eclipse EDC and Tractus-X (classic signaling), backend named by the control plane: edr_proxy",
		start:     message{path: "/v1/dataflows/start", body: start},
		suspend:   notice("suspend", "DataFlowSuspendMessage"),
		resume:    message{path: "/v1/dataflows/start", body: start}, // EDC resumes with the same start again
		terminate: notice("terminate", "DataFlowTerminateMessage"),
		readEDR:   readClassicEDR,
		// Tractus-X up to 0.12.1 sends everything in the query, with an empty form.
		parameters:    func(refreshToken string) (url.Values, url.Values) { return refreshForm(refreshToken), nil },
		document:      "/today",
		elsewhere:     "/weather/today",
		notBound:      "is not authorized to refresh this token",
		doneStatus:    http.StatusNoContent,
		refusedStatus: http.StatusForbidden,
	}
}

// dpsDialect is Data Plane Signaling. The dataset has a route with a backend of its own: edr_auth and reverse_proxy.
func dpsDialect(consumerDID, processID string) dialect {
	sent := 0
	notice := func(operation string) message {
		sent++
		return message{
			path: "/dataflows/" + processID + "/" + operation,
			body: map[string]any{"messageId": fmt.Sprintf("%s-message-%d", processID, sent)},
		}
	}
	start := map[string]any{
		"messageId":        processID + "-start",
		"participantId":    providerDID,
		"counterPartyId":   consumerDID,
		"dataspaceContext": "quickstart",
		"processId":        processID,
		"agreementId":      "agreement-2",
		"datasetId":        "weather",
		"profile":          profilePull,
	}
	return dialect{
		title:         "Data Plane Signaling, dataset with a route of its own: edr_auth and reverse_proxy",
		start:         message{path: "/dataflows/start", body: start},
		suspend:       notice("suspend"),
		resume:        notice("resume"),
		terminate:     notice("terminate"),
		readEDR:       readDPSEDR,
		parameters:    func(refreshToken string) (url.Values, url.Values) { return nil, refreshForm(refreshToken) },
		document:      "/today",
		elsewhere:     "/orders/today",
		notBound:      "not from the party that the token was issued to",
		doneStatus:    http.StatusOK,
		refusedStatus: http.StatusUnauthorized,
	}
}

// refreshForm is the request of RFC 6749 §6.
func refreshForm(refreshToken string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
}

package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Flow is what a start message of classic signaling asks for.
type Flow struct {
	ID       string
	Consumer string // DID
	Dataset  string
	Backend  string // base URL of the source address
}

// EDR is what the answer to it has.
type EDR struct {
	Access, Refresh string
}

const edcNamespace = "https://w3id.org/edc/v0.0.1/ns/"

// message is what a control plane of EDC 0.11 to 0.15 sends.
func (f Flow) message() ([]byte, error) {
	property := func(name, value string) map[string]string {
		return map[string]string{"@type": "dspace:EndpointProperty", "dspace:name": edcNamespace + name, "dspace:value": value}
	}
	return json.Marshal(map[string]any{
		"@context": map[string]string{
			"@vocab": edcNamespace, "dspace": "https://w3id.org/dspace/v0.8/", "odrl": "http://www.w3.org/ns/odrl/2/",
		},
		"@type": "DataFlowStartMessage", "transferTypeDestination": "HttpData", "flowType": "PULL",
		"agreementId": "agreement-" + f.ID, "processId": f.ID, "datasetId": f.Dataset, "participantId": f.Consumer,
		"properties": map[string]string{}, "callbackAddress": "http://localhost:9/control",
		"sourceDataAddress": map[string]any{
			"@type": "dspace:DataAddress", "dspace:endpointType": "HttpData",
			"dspace:endpointProperties": []any{
				property("proxyPath", "true"), property("proxyMethod", "true"),
				property("proxyQueryParams", "true"), property("proxyBody", "true"), property("baseUrl", f.Backend),
			},
		},
	})
}

func (f Flow) start(ctx context.Context, url string) (*EDR, error) {
	message, err := f.message()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("start of flow %s: %s: %s", f.ID, response.Status, body)
	}
	return readEDR(body)
}

// readEDR finds the tokens in an answer. Gateways differ in namespaces, so only the last part of a name counts.
func readEDR(answer []byte) (*EDR, error) {
	var response struct {
		DataAddress struct {
			Properties []struct {
				Name  string `json:"dspace:name"`
				Value string `json:"dspace:value"`
			} `json:"dspace:endpointProperties"`
		} `json:"dataAddress"`
	}
	err := json.Unmarshal(answer, &response)
	if err != nil {
		return nil, fmt.Errorf("answer to a start: %w", err)
	}
	edr := new(EDR)
	for _, p := range response.DataAddress.Properties {
		switch p.Name[strings.LastIndexByte(p.Name, '/')+1:] {
		case "authorization":
			edr.Access = p.Value
		case "refreshToken":
			edr.Refresh = p.Value
		}
	}
	if edr.Access == "" {
		return nil, fmt.Errorf("the answer to a start has no access token")
	}
	return edr, nil
}

// StartEDC starts the flow at a data plane of EDC, whose control API is at the URL.
func (f Flow) StartEDC(ctx context.Context, control string) (*EDR, error) {
	return f.start(ctx, control+"/v1/dataflows")
}

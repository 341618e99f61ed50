package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Namespaces of the properties of an EDR.
const (
	edcNamespace      = "https://w3id.org/edc/v0.0.1/ns/"
	tractusXNamespace = "https://w3id.org/tractusx/auth/"
)

// EDR is an endpoint data reference: where the data is, what opens it, and how it is Renewed.
type EDR struct {
	Endpoint        string
	AccessToken     string
	RefreshToken    string
	RefreshEndpoint string
	refreshAudience string
	expiresIn       string // seconds
}

// String tells enough to follow a token through the steps, and not the token.
func (e *EDR) String() string {
	return fmt.Sprintf("EDR: %s, token %s, expires in %s s, refresh token %s",
		e.Endpoint, shorten(e.AccessToken), e.expiresIn, shorten(e.RefreshToken))
}

// shorten keeps the end of a token, where two tokens differ.
func shorten(token string) string {
	const shown = 6
	if len(token) <= 2*shown {
		return "…" // so short that its end would be most of it
	}
	return "…" + token[len(token)-shown:]
}

// newEDR takes the properties by their plain names. Namespaces are cut, so that both dialects read alike.
func newEDR(properties map[string]string) (*EDR, error) {
	e := &EDR{
		Endpoint:        properties["endpoint"],
		AccessToken:     properties["authorization"],
		RefreshToken:    properties["refreshToken"],
		RefreshEndpoint: properties["refreshEndpoint"],
		refreshAudience: properties["refreshAudience"],
		expiresIn:       properties["expiresIn"],
	}
	for _, needed := range []struct{ name, value string }{
		{"endpoint", e.Endpoint},
		{"authorization", e.AccessToken},
		{"refreshToken", e.RefreshToken},
		{"refreshEndpoint", e.RefreshEndpoint},
		{"refreshAudience", e.refreshAudience},
		{"expiresIn", e.expiresIn},
	} {
		if needed.value == "" {
			return nil, fmt.Errorf("the EDR has no %s", needed.name)
		}
	}
	return e, nil
}

// plainName cuts the namespace from the name of a property.
func plainName(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, edcNamespace), tractusXNamespace)
}

// readClassicEDR reads a DataFlowResponseMessage as a control plane of Tractus-X does, whose JSON-LD context has the
// prefix dspace.
func readClassicEDR(body []byte) (*EDR, error) {
	var message struct {
		Type        string `json:"@type"`
		DataAddress struct {
			Properties []struct {
				Name  string `json:"dspace:name"`
				Value string `json:"dspace:value"`
			} `json:"dspace:endpointProperties"`
		} `json:"dataAddress"`
	}
	err := json.Unmarshal(body, &message)
	if err != nil {
		return nil, err
	}
	if message.Type != "DataFlowResponseMessage" {
		return nil, fmt.Errorf("the answer is a %q", message.Type)
	}
	properties := make(map[string]string, len(message.DataAddress.Properties))
	for _, property := range message.DataAddress.Properties {
		properties[plainName(property.Name)] = property.Value
	}
	return newEDR(properties)
}

// readDPSEDR reads a DataFlowStatusMessage (DPS §1.2).
func readDPSEDR(body []byte) (*EDR, error) {
	var message struct {
		State       string `json:"state"`
		DataAddress struct {
			Endpoint   string `json:"endpoint"`
			Properties []struct {
				Name  string `json:"name"`
				Value string `json:"value"`
			} `json:"endpointProperties"`
		} `json:"dataAddress"`
	}
	err := json.Unmarshal(body, &message)
	if err != nil {
		return nil, err
	}
	if message.State != "STARTED" {
		return nil, fmt.Errorf("the flow's state is %q", message.State)
	}
	properties := map[string]string{"endpoint": message.DataAddress.Endpoint}
	for _, property := range message.DataAddress.Properties {
		properties[plainName(property.Name)] = property.Value
	}
	return newEDR(properties)
}

// Renewed is the answer to a renewal (RFC 6749 §5.1).
type Renewed struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    int    `json:"expires_in"`
}

// ReadRenewed reads the answer to a renewal.
func ReadRenewed(body []byte) (*Renewed, error) {
	r := new(Renewed)
	err := json.Unmarshal(body, r)
	if err != nil {
		return nil, err
	}
	if r.AccessToken == "" || r.RefreshToken == "" || r.ExpiresIn < 1 {
		return nil, errors.New("access_token, refresh_token or expires_in is missing")
	}
	return r, nil
}

// String tells enough to follow a token through the steps, and not the token.
func (r *Renewed) String() string {
	return fmt.Sprintf("token %s, expires in %d s, refresh token %s", shorten(r.AccessToken), r.ExpiresIn, shorten(r.RefreshToken))
}

package controlplane

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// Registration says what one control plane is to know of the gateway. All gateways over one store register the same: EDC
// picks one of several data planes at random for every start and resume, and sends suspend and terminate to another one
// (observed on EDC 0.15 and 0.17).
type Registration struct {
	ControlPlane string         // name
	Protocol     tokens.Dialect // what the control plane is to speak with us
	URL          *url.URL       // of the collection of data planes there, ending in /dataplanes
	APIKey       tokens.Secret  // for the header X-Api-Key of EDC's management API; empty: none

	ID            string   // ours, there
	Endpoint      string   // where the control plane sends its messages
	TransferTypes []string // at least one
	SourceTypes   []string // classic: types of source addresses, at least one
	Profiles      []string // DPS
	Labels        []string // DPS

	Authorization *Offer // DPS; nil: it sends us no token, and expects none
}

// Offer is the authorization object of our registration (profiles, Authorization Profiles): by what the control plane gets
// the tokens that it sends us, and verifies those that we send it.
type Offer struct {
	Type                  string        `json:"type"`
	TokenEndpoint         string        `json:"tokenEndpoint,omitempty"`
	ClientID              string        `json:"clientId,omitempty"`
	ClientSecret          tokens.Secret `json:"-"` // written out by onWire
	TokenExchangeEndpoint string        `json:"tokenExchangeEndpoint,omitempty"`
	Issuer                string        `json:"issuer,omitempty"`
	Resource              string        `json:"resource,omitempty"`
	Audience              string        `json:"audience,omitempty"`
	Scope                 string        `json:"scope,omitempty"`

	// JWKSURI is where the keys of our tokens are. Without it EDC checks no signature (observed on EDC 0.18).
	JWKSURI string `json:"jwksUri"`
}

// onWire is the Offer as it is sent, the one place where the secret is written out.
func (o *Offer) onWire() any {
	if o == nil {
		return nil
	}
	return struct {
		*Offer
		ClientSecret string `json:"clientSecret,omitempty"`
	}{o, o.ClientSecret.Reveal()}
}

// The defaults of what is registered: what the gateway serves of a provider's pull.
var (
	DefaultTransferTypes = []string{"HttpData-PULL", "ProxyHttpData-PULL"}
	DefaultSourceTypes   = []string{"HttpData", "ProxyHttpData"}
	DefaultProfiles      = []string{"https://w3id.org/dspace-sig/profile/http-pull"}
)

const edcNS = "https://w3id.org/edc/v0.0.1/ns/"

func (r *Registration) header() http.Header {
	h := http.Header{"Accept": {"application/json"}}
	if r.APIKey != "" {
		h.Set("X-Api-Key", r.APIKey.Reveal())
	}
	return h
}

// lookup asks what is registered.
func (r *Registration) lookup() message {
	return message{method: http.MethodGet, url: r.URL.String(), header: r.header()}
}

// put writes the message that registers, or replaces what is registered under our id.
func (r *Registration) put() (message, error) {
	if r.Protocol == tokens.DPS {
		return r.putDPS()
	}
	return r.postClassic()
}

// postClassic is EDC's data plane selector (observed on EDC 0.11 to 0.17). Without the context EDC sees no members.
func (r *Registration) postClassic() (message, error) {
	body, err := json.Marshal(struct {
		Context       map[string]string `json:"@context"`
		ID            string            `json:"@id"`
		Type          string            `json:"@type"`
		URL           string            `json:"url"`
		SourceTypes   []string          `json:"allowedSourceTypes"`
		TransferTypes []string          `json:"allowedTransferTypes"`
	}{map[string]string{"@vocab": edcNS}, r.ID, "DataPlaneInstance", r.Endpoint, r.SourceTypes, r.TransferTypes})
	return message{method: http.MethodPost, url: r.URL.String(), header: r.header(), body: body}, err
}

// putDPS is the DataPlaneRegistrationMessage of DPS §1.2, whose profiles EDC 0.18 does not select by, with the
// transferTypes that it does.
func (r *Registration) putDPS() (message, error) {
	labels := r.Labels
	if labels == nil {
		labels = []string{}
	}
	body, err := json.Marshal(struct {
		ID            string   `json:"dataplaneId"`
		Endpoint      string   `json:"endpoint"`
		Profiles      []string `json:"profiles"`
		TransferTypes []string `json:"transferTypes"`
		Labels        []string `json:"labels"`
		Authorization any      `json:"authorization,omitempty"`
	}{r.ID, r.Endpoint, r.Profiles, r.TransferTypes, labels, r.Authorization.onWire()})
	return message{method: http.MethodPut, url: r.URL.String(), header: r.header(), body: body}, err
}

// entry is a registered data plane as a control plane lists it.
type entry struct {
	url           string
	state         string
	sourceTypes   []string // sorted
	transferTypes []string // sorted
}

// unregistered is the state of a data plane that was taken out of service at the control plane, where flows go on but none
// starts.
const unregistered = "UNREGISTERED"

var errNotList = errors.New("the list of data planes is not one")

// find reads a list of data planes and returns the one with our id, or nil. EDC writes names plain, under a prefix or as
// IRIs, and an array of one as its element, as its JSON-LD context has it.
func (r *Registration) find(list []byte) (*entry, error) {
	var planes []map[string]json.RawMessage
	err := json.Unmarshal(list, &planes)
	if err != nil {
		return nil, errNotList
	}
	for _, p := range planes {
		if first(words(p["@id"])) != r.ID {
			continue
		}
		return &entry{
			url:           first(words(member(p, "url"))),
			state:         first(words(member(p, "state"))),
			sourceTypes:   sorted(words(member(p, "allowedSourceTypes"))),
			transferTypes: sorted(words(member(p, "allowedTransferTypes"))),
		}, nil
	}
	return nil, nil
}

func member(object map[string]json.RawMessage, name string) json.RawMessage {
	for _, spelling := range []string{name, "edc:" + name, edcNS + name} {
		value, ok := object[spelling]
		if ok {
			return value
		}
	}
	return nil
}

// words reads a string, an array of them, or what JSON-LD makes of either: {"@value": "x"}, {"@id": "x"}.
func words(raw json.RawMessage) []string {
	var one string
	err := json.Unmarshal(raw, &one)
	if err == nil {
		return []string{one}
	}
	var node struct {
		Value *string `json:"@value"`
		ID    *string `json:"@id"`
	}
	err = json.Unmarshal(raw, &node)
	if err == nil {
		switch {
		case node.Value != nil:
			return []string{*node.Value}
		case node.ID != nil:
			return []string{*node.ID}
		}
	}
	var many []json.RawMessage
	err = json.Unmarshal(raw, &many)
	if err != nil {
		return nil
	}
	var all []string
	for _, element := range many {
		var nested []json.RawMessage
		if json.Unmarshal(element, &nested) == nil {
			continue // a list in a list is no list of words, and must not be descended for ever
		}
		all = append(all, words(element)...)
	}
	return all
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// matches reports whether the control plane knows of us what it is to know, as far as it shows it.
func (r *Registration) matches(e *entry) bool {
	if strings.TrimSuffix(e.url, "/") != strings.TrimSuffix(r.Endpoint, "/") || !slices.Equal(e.transferTypes, sorted(r.TransferTypes)) {
		return false
	}
	return r.Protocol == tokens.DPS || slices.Equal(e.sourceTypes, sorted(r.SourceTypes))
}

// same reports whether two looks showed the same, whatever the state was.
func (e *entry) same(o *entry) bool {
	return o != nil && e.url == o.url && slices.Equal(e.sourceTypes, o.sourceTypes) && slices.Equal(e.transferTypes, o.transferTypes)
}

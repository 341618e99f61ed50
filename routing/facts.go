// Package routing chooses the configured route of a flow and fills in the templates of that route. It decides by what the
// start message of the flow said: the message of Data Plane Signaling names no backend (DPS §1.2), so this is all there is
// to tell where the data is.
//
// It knows no Caddy and reads no store. What other parties wrote into a message only ever ends up where the configuration
// has put a placeholder for it, encoded so that it stays there.
package routing

import (
	"encoding/json"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// Facts are what is known of a flow when it is started, and stays as it is for the flow's life. They are for one goroutine.
type Facts struct {
	flow, dataset, agreement, counterparty, bpn, profile string

	labels           []string
	metadata, claims document
}

// FactsOf returns the facts of a flow as it is stored.
func FactsOf(f *tokens.Flow) *Facts {
	return newFacts(&Facts{
		flow: f.ID, dataset: f.Dataset, agreement: f.Agreement, counterparty: f.Counterparty, bpn: f.BPN, profile: f.Profile,
		labels: f.Labels, metadata: document{raw: f.Metadata}, claims: document{raw: f.Claims},
	}, f.AgreementID)
}

// FactsOfStart returns the facts that a flow will have that is started by this request.
func FactsOfStart(r *tokens.StartRequest) *Facts {
	return newFacts(&Facts{
		flow: r.ProcessID, dataset: r.Terms.Dataset, agreement: r.Terms.Agreement, counterparty: r.Terms.Counterparty,
		bpn: r.BPN, profile: r.Profile,
		labels: r.Labels, metadata: document{raw: r.Metadata}, claims: document{raw: r.Claims},
	}, r.AgreementID)
}

// newFacts sets the agreement's id as it is asserted to the backend, if that differs.
func newFacts(f *Facts, asserted string) *Facts {
	if asserted != "" {
		f.agreement = asserted
	}
	return f
}

// Dataset returns the dataset's id.
func (f *Facts) Dataset() string { return f.dataset }

// document is a member of a start message that holds an object. It is parsed when it is first looked at.
type document struct {
	raw     json.RawMessage
	members strictjson.Members
	parsed  bool
}

// find returns the member at a path; nil if there is none. null is no value: EDC writes members so that it has none for
// (observed on 0.18 and main). Lists are not walked through.
func (d *document) find(path Path) json.RawMessage {
	if !d.parsed {
		d.parsed = true
		members, err := strictjson.Parse(d.raw, 0)
		if err == nil {
			d.members = members
		}
	}
	members := d.members
	last := len(path) - 1
	for _, name := range path[:last] {
		inner, err := members.Object(name)
		if err != nil {
			return nil
		}
		members = inner
	}
	raw := members[path[last]]
	if string(raw) == "null" {
		return nil
	}
	return raw
}

package policy

import (
	"bytes"
	"encoding/json"

	"github.com/edrgate/edrgate/tokens"
)

// actions are the names of what is asked for. A recheck asks about the start again.
var actions = map[tokens.PolicyOccasion]string{
	tokens.PolicyStart:   "start",
	tokens.PolicyRecheck: "start",
	tokens.PolicyRenew:   "renew",
}

// evaluation is an Access Evaluation request (AuthZEN Authorization API 1.0 §6.1).
type evaluation struct {
	Subject  entity            `json:"subject"`
	Action   action            `json:"action"`
	Resource entity            `json:"resource"`
	Context  evaluationContext `json:"context"`
}

// entity is a subject (§5.1) or a resource (§5.2).
type entity struct {
	Type       string     `json:"type"`
	ID         string     `json:"id"`
	Properties properties `json:"properties,omitzero"`
}

type properties struct {
	DID       string          `json:"did,omitempty"`
	BPN       string          `json:"bpn,omitempty"`
	Claims    json.RawMessage `json:"claims,omitempty"`
	Agreement string          `json:"agreement,omitempty"`
}

func (p properties) IsZero() bool {
	return p.DID == "" && p.BPN == "" && p.Claims == nil && p.Agreement == ""
}

type action struct {
	Name string `json:"name"`
}

type evaluationContext struct {
	Participant    string `json:"participant"`
	ParticipantDID string `json:"participant_did"`
	ControlPlane   string `json:"control_plane"`
	Flow           string `json:"flow"`
	Dialect        string `json:"dialect"`
	Profile        string `json:"profile,omitempty"`
}

// hook is the question of a webhook.
type hook struct {
	Action       string          `json:"action"`
	Counterparty string          `json:"counterparty"`
	DID          string          `json:"did,omitempty"`
	BPN          string          `json:"bpn,omitempty"`
	Claims       json.RawMessage `json:"claims,omitempty"`
	Dataset      string          `json:"dataset"`
	Agreement    string          `json:"agreement,omitempty"`
	evaluationContext
}

// encode writes a question. The same question is the same text, which the cache relies on.
func (f Form) encode(q tokens.PolicyQuestion) ([]byte, error) {
	about := evaluationContext{
		Participant: q.Participant, ParticipantDID: q.DID, ControlPlane: q.ControlPlane,
		Flow: q.Flow, Dialect: string(q.Dialect), Profile: q.Profile,
	}
	var question any = evaluation{
		Subject:  entity{"participant", q.Counterparty, properties{DID: q.BoundDID, BPN: q.BPN, Claims: q.Claims}},
		Action:   action{actions[q.Occasion]},
		Resource: entity{"dataset", q.Dataset, properties{Agreement: q.Agreement}},
		Context:  about,
	}
	if f == Webhook {
		question = hook{
			Action: actions[q.Occasion], Counterparty: q.Counterparty, DID: q.BoundDID, BPN: q.BPN, Claims: q.Claims,
			Dataset: q.Dataset, Agreement: q.Agreement, evaluationContext: about,
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // it is not HTML, and policies compare texts
	err := encoder.Encode(question)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}

package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/edrgate/edrgate/store"
)

// State is the state of a flow (DPS §4.3). Classic signaling uses the same names for the states it has.
type State string

// The states of Data Plane Signaling. A provider's pull flow is only ever Started, Suspended, Completed or Terminated, and
// before that Starting, if its start is asynchronous.
const (
	Preparing  State = "PREPARING"
	Prepared   State = "PREPARED"
	Starting   State = "STARTING"
	Started    State = "STARTED"
	Suspended  State = "SUSPENDED"
	Completed  State = "COMPLETED"
	Terminated State = "TERMINATED"
)

var knownStates = map[State]bool{
	Preparing: true, Prepared: true, Starting: true, Started: true, Suspended: true, Completed: true, Terminated: true,
}

// Ended reports whether the state is final.
func (s State) Ended() bool { return s == Completed || s == Terminated }

// Dialect is the signaling protocol a flow was created in. It decides how the flow's EDR and refusals are written.
type Dialect string

// The dialects.
const (
	DPS     Dialect = "dps" // Data Plane Signaling, plain JSON
	Classic Dialect = "edc" // Eclipse EDC's classic signaling, JSON-LD
)

// Source is the backend address that a classic start message carries, with the credentials in it.
type Source struct {
	Type       string            // HttpData or ProxyHttpData
	Properties map[string]string // names without the EDC namespace: baseUrl, proxyPath, header:X-Key, ...
}

// String returns the type only: properties hold credentials.
func (s *Source) String() string {
	if s == nil {
		return "none"
	}
	return s.Type + " (redacted)"
}

// Equal reports whether both have the same type and the same set of names and values.
func (s *Source) Equal(o *Source) bool {
	if s == nil || o == nil {
		return s == o
	}
	if s.Type != o.Type || len(s.Properties) != len(o.Properties) {
		return false
	}
	same := true
	for name, value := range s.Properties {
		other, ok := o.Properties[name]
		same = same && ok && equalSecret(value, other)
	}
	return same
}

// Terms are, with the control plane that asked, the binding fields of a flow: what a repeated start must have in common
// with the first one. They never change (docs/decisions: identity of a flow).
type Terms struct {
	Counterparty string  // DPS counterPartyId, classic participantId
	Audience     string  // Tractus-X property https://w3id.org/tractusx/auth/audience; empty if absent
	Dataset      string  // datasetId
	Agreement    string  // agreementId: the control plane's internal id, not comparable across parties
	Source       *Source // classic sourceDataAddress; nil for DPS
}

// Flow is everything about one data flow: one record of the store, so that every operation on it is one
// compare-and-swap.
type Flow struct {
	Participant string  `json:"participant"` // our participant context
	ID          string  `json:"id"`          // DPS processId = dataFlowId, classic processId
	Dialect     Dialect `json:"dialect,omitempty"`
	State       State   `json:"state"`
	Reason      string  `json:"reason,omitempty"` // why it ended or was suspended, if the caller said so

	ControlPlane string `json:"control_plane"`
	Callback     string `json:"callback,omitempty"` // where the control plane takes notifications
	Counterparty string `json:"counterparty,omitempty"`
	Audience     string `json:"audience,omitempty"`
	BoundDID     string `json:"bound_did,omitempty"` // who may renew; empty: nobody
	Agreement    string `json:"agreement,omitempty"`
	Dataset      string `json:"dataset,omitempty"`

	Profile     string          `json:"profile,omitempty"`      // DPS profile, or the transfer type of older dialects
	Renewable   bool            `json:"renewable,omitempty"`    // renewal can be expected, so tokens are short-lived
	BPN         string          `json:"bpn,omitempty"`          // business partner number asserted to the backend
	AgreementID string          `json:"agreement_id,omitempty"` // agreement id asserted to the backend
	Claims      json.RawMessage `json:"claims,omitempty"`
	Metadata    json.RawMessage `json:"metadata,omitempty"`
	Labels      []string        `json:"labels,omitempty"`

	Endpoint string  `json:"endpoint,omitempty"` // the URL that the EDR named
	Route    string  `json:"route,omitempty"`    // the configured route that serves the flow
	Source   *Sealed `json:"source,omitempty"`   // the classic source address

	StartMessage string    `json:"start_message,omitempty"` // message id of the start, kept for life
	Messages     []message `json:"messages,omitempty"`      // the last eight other messages

	Generation  uint64  `json:"generation,omitempty"` // of the current refresh token; the first is 1
	Salt        []byte  `json:"salt,omitempty"`       // 32 random bytes; need not be secret
	CurrentKey  KeyID   `json:"current_key,omitempty"`
	PreviousKey KeyID   `json:"previous_key,omitempty"`
	FirstKey    KeyID   `json:"first_key,omitempty"`
	Proofs      []proof `json:"proofs,omitempty"` // the last eight proofs that rotated

	Created time.Time `json:"created,omitzero"`
	Changed time.Time `json:"changed,omitzero"` // last change of state
	Opened  time.Time `json:"opened,omitzero"`  // last resume, also of a flow that was open, where gateways share the store
	Renewed time.Time `json:"renewed,omitzero"` // last rotation
	Used    time.Time `json:"used,omitzero"`    // first data request or renewal; written once

	Report *Promise `json:"report,omitempty"` // what its control plane has still to be told

	// Unchecked is since when the policy could not tell about the start; zero: it has answered, or there is none. While it is
	// set, a started flow opens nothing.
	Unchecked time.Time `json:"unchecked,omitzero"`
}

// message is one signaling message that was carried out, so that a repeat of it is not (DPS messageId).
type message struct {
	ID        string `json:"id"`
	Operation string `json:"op"`
}

// proof is one authentication token that rotated a refresh token.
type proof struct {
	Digest     []byte    `json:"sha256"`     // of the whole proof
	Generation uint64    `json:"generation"` // the refresh token it came with
	Expires    time.Time `json:"expires"`
}

// Tombstone reports whether the record only keeps a process id from being used: it was ended before it was ever
// started here.
func (f *Flow) Tombstone() bool { return f.State.Ended() && f.Dialect == "" }

// key is the id of the flow's record. Process ids hold no "/", so it is unambiguous.
func (f *Flow) key() string { return flowKey(f.Participant, f.ID) }

func flowKey(participant, id string) string { return participant + "/" + id }

const flowKind = "flow"

// errUndecodable is wrapped by the error for a record that nobody can read. It opens nothing.
var errUndecodable = errors.New("decoding flow record")

// decodeFlow reads a record. One that is not whole, or not the one that was asked for, says nothing about any flow: the
// caller answers that it cannot tell, and never by what is left of it.
func decodeFlow(record store.Record) (*Flow, error) {
	f := new(Flow)
	err := json.Unmarshal(record.Data, f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUndecodable, err)
	}
	if f.key() != record.ID {
		return nil, fmt.Errorf("%w: it is damaged: it is of another flow", errUndecodable)
	}
	if !knownStates[f.State] {
		return nil, fmt.Errorf("%w: it is damaged: its state is none", errUndecodable)
	}
	if f.State.Ended() {
		return f, nil // a tombstone has no more
	}
	if f.Dialect != DPS && f.Dialect != Classic {
		return nil, fmt.Errorf("%w: it is damaged: its dialect is none", errUndecodable)
	}
	if len(f.Salt) != saltBytes { // every refresh token of the flow would be refused for good
		return nil, fmt.Errorf("%w: it is damaged: its salt is none", errUndecodable)
	}
	return f, nil
}

// recorded is a record and the flow in it. A renewal reads the record twice, to let the renewal in and to carry it out, and
// mostly nobody has written it in between.
type recorded struct {
	id   string
	data []byte
	flow *Flow // nil once somebody has it
}

// recordedAs remembers what a record was decoded to. f may be changed afterwards, but nothing that it points to.
func recordedAs(record store.Record, f *Flow) *recorded {
	decoded := *f
	return &recorded{id: record.ID, data: record.Data, flow: &decoded}
}

// decode is decodeFlow. The caller may change all of the flow, and the one that was kept must not be used any more.
func (r *recorded) decode(record store.Record) (*Flow, error) {
	if r.flow == nil || record.ID != r.id || !bytes.Equal(record.Data, r.data) {
		return decodeFlow(record)
	}
	f := r.flow
	r.flow = nil
	return f, nil
}

func (f *Flow) encode() ([]byte, error) {
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encoding flow record: %w", err)
	}
	return data, nil
}

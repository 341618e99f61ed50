package consumer

import (
	"errors"
	"time"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// MaxEventBytes is the size of the largest event that is read.
const MaxEventBytes = 256 << 10

// latestYear is the last one that can be written (RFC 3339 §1), and so be kept.
const latestYear = 9999

// EventKind says what an event of EDC means for an EDR.
type EventKind string

// The kinds of an Event. Other events of a transfer mean nothing here.
const (
	KindStarted   EventKind = "started"
	KindSuspended EventKind = "suspended"
	KindEnded     EventKind = "ended" // completed or terminated
	KindOther     EventKind = "other"
)

// eventKinds are the types of EDC's envelopes (observed on EDC 0.11 to 0.17).
var eventKinds = map[string]EventKind{
	"TransferProcessStarted": KindStarted, "TransferProcessSuspended": KindSuspended,
	"TransferProcessCompleted": KindEnded, "TransferProcessTerminated": KindEnded,
}

// Event is what EDC's callback tells of a transfer. It does not say who the counterparty is.
type Event struct {
	Kind      EventKind
	ID        string // of the transfer process
	Asset     string
	Agreement string    // contractId: the id of the agreement at our own control plane
	Consumer  bool      // our control plane is the transfer's consumer; only its EDRs are ours to use
	At        time.Time // when our control plane wrote it
	EDR       *EDR      // of KindStarted; nil for a transfer that has none
}

// ParseEvent reads the event envelope that EDC posts to a callback address. An error has CodeInvalid, names the field, and
// quotes nothing.
func ParseEvent(data []byte) (*Event, error) {
	if len(data) > MaxEventBytes {
		return nil, refuse(CodeInvalid, "event is larger than %d bytes", MaxEventBytes)
	}
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		return nil, invalid("event", err)
	}
	kind, err := m.String("type")
	if err != nil {
		return nil, invalid("event", err)
	}
	e := &Event{Kind: KindOther}
	if known, ok := eventKinds[kind]; ok {
		e.Kind = known
	}
	if m.Has("at") {
		at, err := m.Int("at")
		if err != nil {
			return nil, invalid("event", err)
		}
		e.At = time.UnixMilli(at)
		if at < 0 || e.At.UTC().Year() > latestYear {
			return nil, refuse(CodeInvalid, "event: member \"at\": not a time of this world")
		}
	}
	if e.Kind == KindOther {
		return e, nil // payloads of other events have other members
	}
	payload, err := m.Object("payload")
	if err != nil {
		return nil, invalid("event", err)
	}
	e.ID, err = payload.String("transferProcessId")
	if err != nil {
		return nil, invalid("payload", err)
	}
	side := ""
	for _, optional := range []struct {
		name string
		to   *string
	}{{"assetId", &e.Asset}, {"contractId", &e.Agreement}, {"type", &side}} {
		*optional.to, err = payload.String(optional.name)
		if err != nil && !errors.Is(err, strictjson.ErrMissing) && !isNull(payload, optional.name) {
			return nil, invalid("payload", err)
		}
	}
	e.Consumer = side == "CONSUMER"
	if e.Kind != KindStarted || !e.Consumer || !payload.Has("dataAddress") || isNull(payload, "dataAddress") {
		return e, nil
	}
	address, err := payload.Object("dataAddress")
	if err != nil {
		return nil, invalid("payload", err)
	}
	e.EDR, err = readAddress(address)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func isNull(m strictjson.Members, name string) bool { return string(m[name]) == "null" }

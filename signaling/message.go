package signaling

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/edrgate/edrgate/tokens"
)

// codec is one dialect: how its messages are read and how its answers are written. Errors of readers are *refusal.
type codec interface {
	// readStart reads a start message. It notes in x what the answer and the log need, of a refused message too.
	readStart(body []byte, x *exchange) (*startMessage, error)

	// readNotice reads what every other message may carry: its own id and a reason. What cannot be read is left out,
	// since an ending must not fail for want of it.
	readNotice(body []byte) notice

	// done is the status of an answer without a body.
	done() int

	// granted, status and refused write an answer with one. granted returns the status it has written.
	granted(w http.ResponseWriter, x *exchange, edr *tokens.EDR) int
	status(w http.ResponseWriter, x *exchange, flow *tokens.Flow)
	refused(w http.ResponseWriter, x *exchange, r *refusal)
}

// startMessage is a start message in the words of no dialect.
type startMessage struct {
	request tokens.StartRequest
	address *sourceAddress // classic only; nil: none
	bpn     string         // classic only: what Tractus-X sets as a property of the flow
}

// notice is what a message other than start may carry.
type notice struct {
	messageID string
	reason    string
}

// Limits of texts that other systems choose. They end up in tokens, header fields and records.
const (
	maxID     = 1024 // bytes
	maxURL    = 2048 // bytes
	maxReason = 512  // characters
)

// validID reports whether s can be an id that we pass on: in a claim, in a header field, in a log line.
func validID(s string) bool {
	return s != "" && len(s) <= maxID && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// validCallback reports whether s can be called back. Whether it may be is decided where calls are made.
func validCallback(s string) bool {
	if len(s) > maxURL {
		return false
	}
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

// cleanReason keeps a reason readable: no line breaks that forge log lines, and no essay in every record.
func cleanReason(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, s)
	runes := []rune(strings.TrimSpace(s))
	return string(runes[:min(len(runes), maxReason)])
}

// checkStart checks what start messages of both dialects must have.
func checkStart(r *tokens.StartRequest, counterpartyMember string) error {
	if r.ProcessID == "" {
		return invalid("member processId is missing")
	}
	if !tokens.ValidFlowID(r.ProcessID) {
		return invalid("member processId: want 1 to %d visible ASCII characters without /", tokens.MaxFlowIDBytes)
	}
	for _, id := range []struct{ member, value string }{
		{counterpartyMember, r.Terms.Counterparty},
		{"agreementId", r.Terms.Agreement},
		{"datasetId", r.Terms.Dataset},
	} {
		if id.value == "" {
			return invalid("member %s is missing", id.member)
		}
		if !validID(id.value) {
			return invalid("member %s: want at most %d printable characters", id.member, maxID)
		}
	}
	if r.Profile != "" && !validID(r.Profile) {
		return invalid("the transfer type or profile: want at most %d printable characters", maxID)
	}
	if r.Callback != "" && !validCallback(r.Callback) {
		return invalid("member callbackAddress is no absolute http or https URL")
	}
	return nil
}

var (
	errPush = &refusal{
		status: http.StatusBadRequest, outcome: outcomePush, text: "push transfers are not served",
	}
	errConsumer = &refusal{
		status: http.StatusBadRequest, outcome: outcomeConsumer,
		text: "this data plane serves providers: it does not prepare or receive a consumer's data flow",
	}
	errNotJSON = &refusal{
		status: http.StatusBadRequest, outcome: outcomeInvalid, text: "the body is not one JSON object",
	}
	errForDPS = &refusal{
		status: http.StatusBadRequest, outcome: outcomeDialect,
		text: "this is a Data Plane Signaling message: send it to " + dpsRoot + ", not to " + classicRoot,
	}
	errForClassic = &refusal{
		status: http.StatusBadRequest, outcome: outcomeDialect,
		text: "this is a message of EDC's classic signaling: send it to " + classicRoot + ", not to " + dpsRoot,
	}
)

// because returns a copy of r with a cause for the log.
func (r *refusal) because(err error) *refusal {
	c := *r
	c.cause = err
	return &c
}

// writeJSON writes an answer. Answers hold tokens, so that nothing on the way may keep them.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false) // URLs and DIDs stay readable in the control plane's log
	err := e.Encode(v)
	if err != nil { // nothing that is answered can bring that about
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len())) // whole for the client before the handler has ended
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the control plane has gone; it will ask again
}

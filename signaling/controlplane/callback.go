package controlplane

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// reasons are the texts that go with a report. The other company reads them (classic: EDC copies errorMessage into the
// reason of its termination), so they are fixed and say nothing of the inside.
var reasons = map[string]string{
	tokens.CauseRevoked: "the data plane ended the data flow",
	tokens.CauseUnused:  "the data flow was never used",
	tokens.CauseDenied:  "the policy of the data plane does not permit the data flow",
}

// statusMessage is a DataFlowStatusMessage (DPS §1.2).
type statusMessage struct {
	MessageID  string `json:"messageId"`
	DataFlowID string `json:"dataFlowId"`
	State      string `json:"state"`
	Error      string `json:"error,omitempty"`

	DataAddress any `json:"dataAddress,omitempty"`
}

// errDots refuses a flow whose id a server would take for a step up in the path: it would turn the callback into another
// request.
var errDots = errors.New("the flow's id cannot stand in a path")

// callback writes the message that delivers a report to a control plane below base. address is the data address of the
// report's EDR, if it has one.
func callback(base *url.URL, r *tokens.Report, address any) (message, error) {
	if r.Flow == "." || r.Flow == ".." {
		return message{}, errDots
	}
	if r.Dialect == tokens.DPS {
		return dpsCallback(base, r, address)
	}
	return classicCallback(base, r)
}

// classicCallback is that of EDC's classic signaling: complete without a body, or fail with a text (observed on EDC 0.11
// to 0.17; neither needs a JSON-LD context).
func classicCallback(base *url.URL, r *tokens.Report) (message, error) {
	path := below(base, "transferprocess", r.Flow)
	if r.Event == tokens.ReportCompleted {
		return message{method: http.MethodPost, url: path + "/complete"}, nil
	}
	body, err := json.Marshal(struct {
		ErrorMessage string `json:"errorMessage"`
	}{reasons[r.Cause]})
	return message{method: http.MethodPost, url: path + "/fail", body: body}, err
}

// dpsCallback is that of Data Plane Signaling (DPS §1.1). The state of the message is that of the event: the gateway's
// own record may say terminated where the control plane is told completed.
func dpsCallback(base *url.URL, r *tokens.Report, address any) (message, error) {
	path := below(base, "transfers", r.Flow) + "/dataflow/"
	event, status := "completed", statusMessage{MessageID: messageID(r), DataFlowID: r.Flow, State: string(tokens.Completed)}
	switch r.Event {
	case tokens.ReportFailed:
		event, status.State, status.Error = "errored", string(tokens.Terminated), reasons[r.Cause]
	case tokens.ReportStarted:
		event, status.State, status.DataAddress = "started", string(tokens.Started), address
	case tokens.ReportPrepared:
		event, status.State = "prepared", string(tokens.Prepared)
	}
	body, err := json.Marshal(status)
	return message{method: http.MethodPost, url: path + event, body: body}, err
}

// below appends a collection and an id to a URL. The id may hold any visible character but a slash.
func below(base *url.URL, collection, id string) string {
	return strings.TrimSuffix(base.String(), "/") + "/" + collection + "/" + url.PathEscape(id)
}

// messageID is the same for every attempt, so that a receiver can tell a repeat (DPS messageId), although each attempt to
// tell of a start has an access token of its own.
func messageID(r *tokens.Report) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{r.Flow, string(r.Event), r.Since.UTC().String()}, "\x00")))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])
}

// sameOrigin reports whether both URLs are on one server: scheme, host and port are equal.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	p := u.Port()
	if p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// baseFor returns where a report goes: the callback address of the flow's own start message, or the endpoint that the
// control plane registered, where it is on the server that the operator named, which matters where one server has several
// control planes; else the one that he named.
func baseFor(configured *url.URL, r *tokens.Report) *url.URL {
	for _, said := range []string{r.Callback, r.Registered} {
		own, err := ParseBase(said)
		if err == nil && sameOrigin(configured, own) {
			return own
		}
	}
	return configured
}

// errElsewhere is what an address gets that is not on the server that the operator named.
var errElsewhere = errors.New("not on the server of the configured callback")

// CheckCallback returns nil if a control plane whose configured callback is configured may be called at address. nil for
// configured: it may not be called at all.
func CheckCallback(configured *url.URL, address string) error {
	if configured == nil {
		return errors.New("no callback is configured for the control plane")
	}
	own, err := ParseBase(address)
	if err != nil {
		return err
	}
	if !sameOrigin(configured, own) {
		return errElsewhere
	}
	return nil
}

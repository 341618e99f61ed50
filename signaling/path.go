package signaling

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// operation is what a message asks for. The values are metric labels.
type operation string

const (
	opStart     operation = "start"
	opResume    operation = "resume"
	opSuspend   operation = "suspend"
	opTerminate operation = "terminate"
	opComplete  operation = "complete"
	opStatus    operation = "status"
	opCheck     operation = "check"                // is the data plane there? (EDC data plane selector)
	opPrepare   operation = "prepare"              // of a consumer's transfer
	opStarted   operation = "started"              // of a consumer's transfer, with the provider's EDR
	opPutPlane  operation = "put_control_plane"    // a control plane registers itself (DPS §1.1)
	opDelPlane  operation = "delete_control_plane" // and takes that back
	opUnknown   operation = "unknown"              // below our path, but nothing the protocol knows
)

// reads reports whether the operation is a GET.
func (o operation) reads() bool { return o == opStatus || o == opCheck }

// method is the one that the operation has.
func (o operation) method() string {
	switch o {
	case opStatus, opCheck:
		return http.MethodGet
	case opPutPlane:
		return http.MethodPut
	case opDelPlane:
		return http.MethodDelete
	}
	return http.MethodPost
}

// ends reports whether the operation takes access away. Such an operation is refused for nothing but a request that is
// none: the control plane does not repeat it, and leaves its counterparty's side open (observed on EDC 0.11 to 0.18).
func (o operation) ends() bool { return o == opSuspend || o == opTerminate || o == opComplete }

// target is what the path of a request names.
type target struct {
	dialect   tokens.Dialect
	operation operation
	flow      string // decoded; empty where the operation names its flow in the body, or none
	plane     string // decoded id of a control plane, of opDelPlane
}

// Where the two dialects live. EDC's classic client appends to the url that the data plane registered, which by
// convention ends in /v1/dataflows; DPS §1.1 fixes /dataflows.
const (
	classicRoot = "/v1/dataflows"
	dpsRoot     = "/dataflows"
	planesRoot  = "/controlplanes"
)

// flowOperations are the operations on one flow, by the last segment of the path.
var flowOperations = map[tokens.Dialect]map[string]operation{
	tokens.DPS: {
		"started":   opStarted,
		"suspend":   opSuspend,
		"resume":    opResume,
		"terminate": opTerminate,
		"completed": opComplete,
		"status":    opStatus,
	},
	tokens.Classic: {
		"start":     opStart,
		"suspend":   opSuspend,
		"terminate": opTerminate,
		"state":     opStatus,
	},
}

// target finds what a request is for. It reports false if the path is none of ours.
func (h *Handler) target(r *http.Request) (target, bool) {
	// Segments are taken from the path as it was sent: an encoded "/" in a flow id must not make two of one.
	path := r.URL.EscapedPath()
	if !h.belowName {
		t, ok := targetOf(path)
		if ok || h.participant == "" {
			return t, ok
		}
	}
	below, ok := strings.CutPrefix(path, "/"+h.participant)
	if !ok {
		return target{}, false
	}
	return targetOf(below)
}

// validParticipant matches names that are their own percent-encoding, so that a path has one spelling.
var validParticipant = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// CheckParticipant refuses the name of a participant context that cannot be a first path segment of its own. Empty is no name.
func CheckParticipant(name string) error {
	if name == "" {
		return nil
	}
	if !validParticipant.MatchString(name) {
		return fmt.Errorf("participant %q: want 1 to 64 of A-Z a-z 0-9 . _ -", name)
	}
	if name == "v1" || name == "dataflows" || name == "controlplanes" || strings.Trim(name, ".") == "" {
		return fmt.Errorf("participant %q: the name has a meaning of its own in paths", name)
	}
	return nil
}

func targetOf(path string) (target, bool) {
	below, ok := cutRoot(path, classicRoot)
	if ok {
		return classify(tokens.Classic, below), true
	}
	below, ok = cutRoot(path, dpsRoot)
	if ok {
		return classify(tokens.DPS, below), true
	}
	below, ok = cutRoot(path, planesRoot)
	if ok {
		return classifyPlane(below), true
	}
	return target{}, false
}

func classifyPlane(segments []string) target {
	switch len(segments) {
	case 0:
		return target{dialect: tokens.DPS, operation: opPutPlane}
	case 1:
		id, err := url.PathUnescape(segments[0])
		if err == nil && validID(id) {
			return target{dialect: tokens.DPS, operation: opDelPlane, plane: id}
		}
	}
	return target{dialect: tokens.DPS, operation: opUnknown}
}

// cutRoot returns the segments below root.
func cutRoot(path, root string) ([]string, bool) {
	below, ok := strings.CutPrefix(path, root)
	if !ok {
		return nil, false
	}
	if below == "" || below == "/" {
		return nil, true
	}
	if below[0] != '/' {
		return nil, false // /dataflows-old
	}
	return strings.Split(below[1:], "/"), true
}

func classify(d tokens.Dialect, segments []string) target {
	unknown := target{dialect: d, operation: opUnknown}
	switch len(segments) {
	case 0:
		// Control planes up to EDC 0.14 post a start to the bare path (observed on 0.11.1, 0.13.2, 0.14.0).
		if d == tokens.Classic {
			return target{dialect: d, operation: opStart}
		}
	case 1:
		switch {
		case segments[0] == "start":
			return target{dialect: d, operation: opStart}
		case segments[0] == "prepare":
			return target{dialect: d, operation: opPrepare}
		case segments[0] == "check" && d == tokens.Classic:
			return target{dialect: d, operation: opCheck}
		}
	case 2:
		op, ok := flowOperations[d][segments[1]]
		if !ok || segments[0] == "" {
			return unknown
		}
		id, err := url.PathUnescape(segments[0])
		if err != nil {
			return unknown
		}
		return target{dialect: d, operation: op, flow: id}
	}
	return unknown
}

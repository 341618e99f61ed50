package history

import (
	"fmt"
	"sync"
	"time"
)

// Kind is what a client asks for.
type Kind string

// The kinds of operations.
const (
	Start     Kind = "start"
	Renew     Kind = "renew"
	Suspend   Kind = "suspend"
	Resume    Kind = "resume"
	Terminate Kind = "terminate"
	Data      Kind = "data"
)

// Outcome is what a client knows afterwards.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // a definite no
	Unknown Outcome = "unknown" // no answer, or "cannot tell"
)

// The reasons of a refused data request. Any other is an error by itself.
const (
	IsSuspended = "suspended"
	HasEnded    = "ended"
)

// Tokens are what a consumer holds of a flow.
type Tokens struct{ Access, Refresh string }

// Answer is what a node answers.
type Answer struct {
	Outcome Outcome
	Tokens  Tokens // of a start, renewal or resume that is done
	Reason  string // of a refusal
}

// Operation is one request and its answer.
type Operation struct {
	Client, Node, Flow int
	Kind               Kind
	Classic            bool   // the flow's dialect: the first refresh token of others stays good for life
	Presented          string // refresh token of a renewal
	Answer             Answer

	// Late says that an ending or suspension was acknowledged before the store had it: it holds at its node at once, and
	// elsewhere when the node can write again.
	Late bool

	Call, Return time.Duration // since the beginning of the history
}

// String shows an operation in messages. Of tokens it shows the end.
func (o Operation) String() string {
	text := fmt.Sprintf("%s–%s client %d at node %d: %s flow %d", o.Call.Round(time.Millisecond), o.Return.Round(time.Millisecond), o.Client, o.Node, o.Kind, o.Flow)
	if o.Presented != "" {
		text += " with " + short(o.Presented)
	}
	text += ": " + string(o.Answer.Outcome)
	if o.Late {
		text += ", late"
	}
	if o.Answer.Tokens.Refresh != "" {
		text += ", got " + short(o.Answer.Tokens.Refresh)
	}
	return text + " " + o.Answer.Reason
}

func short(token string) string { return token[max(0, len(token)-6):] }

// open reports whether the operation may take effect after its return, or never.
func (o Operation) open() bool { return o.Answer.Outcome == Unknown || o.Late }

// History is what happened. Its methods may be called by many goroutines at once.
type History struct {
	Began time.Time

	mu         sync.Mutex
	operations []Operation
}

// Record asks and notes what comes of it.
func (h *History) Record(o Operation, ask func() Answer) Answer {
	o.Call = time.Since(h.Began)
	o.Answer = ask()
	o.Return = time.Since(h.Began)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, o)
	return o.Answer
}

// Operations returns what was recorded, in the order of returns.
func (h *History) Operations() []Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Operation(nil), h.operations...)
}

// Count returns how many operations of a kind had an outcome.
func Count(operations []Operation, kind Kind, outcome Outcome) int {
	n := 0
	for _, o := range operations {
		if o.Kind == kind && o.Answer.Outcome == outcome {
			n++
		}
	}
	return n
}

package signaling

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/tokens"
)

// Flows is the token core, as far as signaling needs it. *tokens.Service is one.
type Flows interface {
	// Start creates a flow, or answers a repeated start again.
	Start(ctx context.Context, caller tokens.Caller, r tokens.StartRequest) (*tokens.EDR, error)
	// Resume unblocks a suspended flow.
	Resume(ctx context.Context, caller tokens.Caller, m tokens.Message) (*tokens.EDR, error)
	// Suspend, Terminate and Complete take access away. They fail only where nobody can tell, or for an impossible id.
	Suspend(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error)
	Terminate(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error)
	Complete(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error)
	// Status returns a flow of the caller's.
	Status(ctx context.Context, caller tokens.Caller, processID string) (*tokens.Flow, error)
}

var _ Flows = (*tokens.Service)(nil)

// machine decides what becomes of a message, in the words of no dialect. The states are DPS's (DPS §1.3); classic
// signaling has a part of them.
type machine struct {
	flows       Flows
	received    Received // nil: this data plane serves providers only
	serving     func() *Serving
	checkSource func(*tokens.Source) error
	checkRoute  func(route string, f *routing.Facts) error
	turns       *turns

	asyncPrepare func(dataset string) bool
}

// result is what became of a message that was carried out, or had nothing to change.
type result struct {
	outcome string
	edr     *tokens.EDR  // of start and resume
	flow    *tokens.Flow // of status

	// transfer is what a consumer's prepare or resume is answered with.
	transfer *tokens.Flow

	// warn says that the message did not find what its sender believes is there.
	warn bool

	// ignoredSource says that the start's source address is not used, as the operator wants it.
	ignoredSource bool

	// noContent says that the answer is 204 in either dialect.
	noContent bool
}

func granted(edr *tokens.EDR) *result {
	r := &result{outcome: string(tokens.Applied), edr: edr}
	if edr.Repeated {
		r.outcome = string(tokens.Already)
	}
	return r
}

func (m *machine) start(ctx context.Context, caller tokens.Caller, msg *startMessage) (*result, error) {
	request := msg.request
	serving := m.serving()
	if serving == nil {
		return nil, &refusal{
			status: http.StatusServiceUnavailable, outcome: outcomeUnavailable, text: textUnavailable,
			detail: "the sites are not known yet",
		}
	}
	var fromAddress string
	if msg.address != nil {
		fromAddress = msg.address.bpn
		request.AgreementID = msg.address.agreement
	}
	request.BPN = assertedBPN(fromAddress, msg.bpn, request.Terms.Counterparty)
	facts := routing.FactsOfStart(&request)
	at, err := serving.place(facts, msg.address != nil)
	if err != nil {
		return nil, err
	}
	request.Route, request.Endpoint, request.Async = at.route, at.endpoint, at.async
	switch {
	case at.usesSource:
		err = m.admit(msg.address)
		// An address that is not used is not kept either: it holds credentials.
		request.Terms.Source = &msg.address.source
	case at.route != "":
		err = m.admitRoute(at.route, facts)
	}
	if err != nil {
		return nil, err
	}

	done, err := m.turn(ctx, caller)
	if err != nil {
		return nil, err
	}
	defer done()
	err = m.notUsed(ctx, caller, &request)
	if err != nil {
		return nil, err
	}
	edr, err := m.flows.Start(ctx, caller, request)
	if err != nil {
		return nil, refusalOf(err, true)
	}
	r := granted(edr)
	r.ignoredSource = msg.address != nil && !at.usesSource
	return r, nil
}

// turn waits until the caller may create another flow. If there is no error, the function must be called at its end.
func (m *machine) turn(ctx context.Context, caller tokens.Caller) (func(), error) {
	done, ok := m.turns.take(ctx, caller)
	if !ok {
		return nil, &refusal{
			status: http.StatusServiceUnavailable, outcome: outcomeBusy, text: textUnavailable,
			detail: "too many starts of this control plane at once",
		}
	}
	return done, nil
}

// admit decides whether a source address may be used. It is looked at here because a refusal now ends the transfer with a
// reason, while a refusal at the first data request leaves a consumer with a token that opens nothing.
func (m *machine) admit(a *sourceAddress) error {
	err := a.check()
	if err != nil {
		return err
	}
	if m.checkSource == nil {
		return unserved("no backends are configured for source addresses")
	}
	err = m.checkSource(&a.source)
	if err != nil {
		// What is wrong tells of the operator's network.
		return &refusal{
			status: http.StatusBadRequest, outcome: outcomeUnserved,
			text: "this data plane does not serve the source address", cause: err,
		}
	}
	return nil
}

// admitRoute decides whether a route can serve a flow, for the same reason: what the route makes of the message is tried
// out before anybody is promised data.
func (m *machine) admitRoute(route string, f *routing.Facts) error {
	if m.checkRoute == nil {
		return nil
	}
	err := m.checkRoute(route, f)
	if err != nil {
		return unserved("route " + route).because(err)
	}
	return nil
}

// resume carries out a resume. address is the EDR that it brings, if the flow is one that we use.
func (m *machine) resume(ctx context.Context, caller tokens.Caller, msg tokens.Message, address json.RawMessage) (*result, error) {
	if m.receives(msg.Dialect) {
		flow, repeated, err := m.received.Resume(ctx, caller, msg, address)
		if err == nil {
			return received(flow, repeated), nil
		}
		if !elsewhere(err) {
			return nil, refusalOf(err, false)
		}
	}
	edr, err := m.flows.Resume(ctx, caller, msg)
	if err != nil {
		return nil, refusalOf(err, false)
	}
	return granted(edr), nil
}

// end carries out suspend, terminate and complete.
//
// Terminate and complete succeed whatever is there: a control plane that is refused ends its own side and leaves its
// counterparty's open (observed on EDC 0.11 to 0.18), and nothing is left open here in either case. A suspend of classic
// signaling likewise. DPS §1.1 has 404 for a suspend of what is unknown, and EDC then terminates both sides, which is
// what a flow that is gone deserves.
func (m *machine) end(ctx context.Context, op operation, caller tokens.Caller, msg tokens.Message) (*result, error) {
	act := m.flows.Terminate
	switch op {
	case opSuspend:
		act = m.flows.Suspend
	case opComplete:
		act = m.flows.Complete
	}
	ending, known, err := m.endReceived(ctx, op, caller, msg)
	if err != nil {
		// Whose side it is about cannot be told. If it is a flow that we serve, it ends here and now all the same.
		ending, endErr := act(ctx, caller, msg)
		if endErr == nil && ending.Outcome == tokens.Journaled {
			return &result{outcome: string(ending.Outcome), warn: true}, nil
		}
		return nil, refusalOf(err, false)
	}
	if !known {
		ending, err = act(ctx, caller, msg)
	}
	if err != nil {
		return nil, refusalOf(err, false)
	}
	r := &result{outcome: string(ending.Outcome)}
	switch ending.Outcome {
	case tokens.Applied, tokens.Already:
		return r, nil
	case tokens.Journaled:
		// A refusal would be final at the control plane, and what was asked for holds here.
		r.warn = true
		return r, nil
	}
	if op == opSuspend && msg.Dialect == tokens.DPS {
		return nil, refusedSuspend(ending.Outcome)
	}
	r.warn = true
	return r, nil
}

// refusedSuspend answers a DPS suspend that found no flow to suspend. A foreign flow reads like an unknown one.
func refusedSuspend(o tokens.Outcome) *refusal {
	if o == tokens.OutOfState {
		return &refusal{status: http.StatusConflict, outcome: outcomeEnded, text: textState}
	}
	return &refusal{status: http.StatusNotFound, outcome: string(o), text: textUnknown}
}

func (m *machine) status(ctx context.Context, d tokens.Dialect, caller tokens.Caller, id string) (*result, error) {
	if m.receives(d) {
		flow, err := m.received.Status(ctx, caller, id)
		if err == nil {
			return &result{outcome: string(tokens.Applied), flow: flow}, nil
		}
		if !elsewhere(err) {
			return nil, refusalOf(err, false)
		}
	}
	flow, err := m.flows.Status(ctx, caller, id)
	if err != nil {
		return nil, refusalOf(err, false)
	}
	return &result{outcome: string(tokens.Applied), flow: flow}, nil
}

// level is the level of the log line for a result.
func (r *result) level() slog.Level {
	if r.warn {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// level is the level of the log line for a refusal: trouble of ours is an error; a flow that two parties see differently
// needs somebody to look; the rest is the caller's.
func (r *refusal) level() slog.Level {
	switch {
	case r.status >= http.StatusInternalServerError:
		return slog.LevelError
	case r.outcome == string(tokens.CodeConflict), r.outcome == string(tokens.CodeForeign):
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

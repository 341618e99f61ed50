package signaling

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// Received keeps the transfers in which our participant is the consumer, with the EDRs that providers gave. *consumer.Transfers
// is one. Errors are *tokens.Error: tokens.CodeFlowUnknown and CodeForeign mean that the transfer is not one of the caller's,
// any other error than a *tokens.Error that nobody can tell. Details of tokens.CodeInvalid are read by other companies.
type Received interface {
	// Prepare remembers a transfer whose EDR is to come. It reports whether it was there already. Its state is
	// tokens.Preparing where the caller is going to be told that it is prepared, as StartRequest.Async asks.
	Prepare(ctx context.Context, caller tokens.Caller, r tokens.StartRequest) (*tokens.Flow, bool, error)
	// Started and Resume take the EDR, as the member dataAddress of the message has it; nil: none. They report whether the
	// message changed nothing.
	Started(ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage) (*tokens.Flow, bool, error)
	Resume(ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage) (*tokens.Flow, bool, error)
	// Suspend, Terminate and Complete write nothing where the outcome is tokens.Unknown or NotOwned.
	Suspend(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error)
	Terminate(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error)
	Complete(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error)
	// Status returns a transfer of the caller's.
	Status(ctx context.Context, caller tokens.Caller, processID string) (*tokens.Flow, error)
}

// receive carries out the messages that only a consumer's data plane gets.
func (h *Handler) receive(ctx context.Context, x *exchange, body []byte) (*result, error) {
	c, ok := h.codecs[x.dialect].(dps)
	if !ok || !h.machine.receives(x.dialect) {
		return nil, errConsumer
	}
	if x.operation == opPrepare {
		request, err := c.readPrepare(body, x)
		if err != nil {
			return nil, err
		}
		return h.machine.prepare(ctx, x.caller, request)
	}
	n, address, err := c.readStarted(body)
	if err != nil {
		return nil, err
	}
	msg := tokens.Message{ProcessID: x.flow, MessageID: n.messageID, Dialect: x.dialect}
	return h.machine.started(ctx, x.caller, msg, address)
}

// receives reports whether a message may be about a transfer of a consumer's. Classic signaling has nothing for consumers.
func (m *machine) receives(d tokens.Dialect) bool { return m.received != nil && d == tokens.DPS }

// elsewhere reports whether a transfer is not one that the caller has here, so that a message about it may mean the other
// side.
func elsewhere(err error) bool {
	code := tokens.CodeOf(err)
	return code == tokens.CodeFlowUnknown || code == tokens.CodeForeign
}

// prepare carries out a prepare. One process id never names a flow that we serve and one that we use: nobody could tell
// which of them a later message is about.
func (m *machine) prepare(ctx context.Context, caller tokens.Caller, request *tokens.StartRequest) (*result, error) {
	done, err := m.turn(ctx, caller)
	if err != nil {
		return nil, err
	}
	defer done()
	served, err := m.flows.Status(ctx, caller, request.ProcessID)
	switch {
	case err == nil && served.State.Ended():
		return nil, refusalOf(&tokens.Error{Code: tokens.CodeState, Detail: "a flow of that id has ended"}, true)
	case err == nil:
		return nil, refusalOf(&tokens.Error{Code: tokens.CodeConflict, Detail: "the id is that of a flow that is served"}, true)
	case !elsewhere(err):
		return nil, refusalOf(err, true)
	}
	request.Async = m.asyncPrepare(request.Terms.Dataset)
	flow, repeated, err := m.received.Prepare(ctx, caller, *request)
	if err != nil {
		return nil, refusalOf(err, true)
	}
	return received(flow, repeated), nil
}

// notUsed refuses the start of a flow whose id is that of a transfer that we use.
func (m *machine) notUsed(ctx context.Context, caller tokens.Caller, request *tokens.StartRequest) error {
	if !m.receives(request.Dialect) {
		return nil
	}
	_, err := m.received.Status(ctx, caller, request.ProcessID)
	if err == nil {
		err = &tokens.Error{Code: tokens.CodeConflict, Detail: "the id is that of a transfer that was prepared"}
	}
	if elsewhere(err) {
		return nil
	}
	return refusalOf(err, true)
}

// started carries out a started.
func (m *machine) started(ctx context.Context, caller tokens.Caller, msg tokens.Message, address json.RawMessage) (*result, error) {
	flow, repeated, err := m.received.Started(ctx, caller, msg, address)
	if err != nil {
		return nil, refusalOf(err, false)
	}
	r := received(flow, repeated)
	r.transfer = nil // DPS §1.1: no body
	return r, nil
}

// endReceived suspends or ends a transfer of a consumer's. It reports false if the caller has none of that id here.
func (m *machine) endReceived(ctx context.Context, op operation, caller tokens.Caller, msg tokens.Message) (tokens.Ending, bool, error) {
	if !m.receives(msg.Dialect) {
		return tokens.Ending{}, false, nil
	}
	act := m.received.Terminate
	switch op {
	case opSuspend:
		act = m.received.Suspend
	case opComplete:
		act = m.received.Complete
	}
	ending, err := act(ctx, caller, msg)
	return ending, ending.Outcome != tokens.Unknown && ending.Outcome != tokens.NotOwned, err
}

func received(flow *tokens.Flow, repeated bool) *result {
	r := &result{outcome: string(tokens.Applied), transfer: flow}
	if repeated {
		r.outcome = string(tokens.Already)
	}
	return r
}

// readPrepare reads a prepare message, which has the members of a start (DPS §1.2).
func (d dps) readPrepare(body []byte, x *exchange) (*tokens.StartRequest, error) {
	read, request, err := d.readFlow(body, x)
	if err != nil {
		return nil, err
	}
	if read.present("dataAddress") {
		return nil, invalid("a pull prepare must not have a dataAddress")
	}
	return request, nil
}

// readStarted reads a started message (DPS §1.1: its body is optional), and the dataAddress of a resume.
func (d dps) readStarted(body []byte) (notice, json.RawMessage, error) {
	if len(body) == 0 {
		return notice{}, nil, nil
	}
	m, err := strictjson.Parse(body, maxDepth)
	if err != nil {
		return notice{}, nil, errNotJSON.because(err)
	}
	read := dpsReader{m: m}
	address := read.object("dataAddress")
	if read.err != nil {
		return notice{}, nil, read.err
	}
	return d.readNotice(body), address, nil
}

// writeTransfer answers a prepare, or a resume of the consumer's side: the data address is the provider's to give. A transfer
// that is not prepared yet is answered with 202 and where its status is (DPS §1.1).
func writeTransfer(w http.ResponseWriter, x *exchange, flow *tokens.Flow) int {
	status := http.StatusOK
	if flow.State == tokens.Preparing {
		status = http.StatusAccepted
		w.Header().Set("Location", x.statusPath(flow.ID))
	}
	writeJSON(w, status, statusMessage{MessageID: x.id, DataFlowID: flow.ID, State: string(flow.State)})
	return status
}

package signaling

import (
	"context"
	"sync"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

const (
	ourDID   = "did:web:provider.example"
	theirDID = "did:web:consumer.example"
)

// fakeFlows is a token core without cryptography and store: the same decisions, tokens that say which flow and which
// call they come from.
type fakeFlows struct {
	mu    sync.Mutex
	flows map[string]*fakeFlow

	starts   []tokens.StartRequest
	messages []tokens.Message
	callers  []tokens.Caller
	err      error // what every call fails with, if set

	// entered and leave, if set, make Start wait in the middle.
	entered chan struct{}
	leave   chan struct{}
}

type fakeFlow struct {
	flow    tokens.Flow
	request tokens.StartRequest
	minted  int
}

func newFakeFlows() *fakeFlows { return &fakeFlows{flows: make(map[string]*fakeFlow)} }

func (f *fakeFlows) edr(x *fakeFlow, repeated bool) *tokens.EDR {
	x.minted++
	flow := x.flow
	e := &tokens.EDR{
		Flow: &flow, Endpoint: "https://data.provider.example", Repeated: repeated,
		AccessToken: tokens.Secret("access-token-" + string(rune('0'+x.minted))), ExpiresIn: 365 * 24 * time.Hour,
	}
	if x.request.Endpoint != "" {
		e.Endpoint = x.request.Endpoint
	}
	if flow.BoundDID != "" {
		e.ExpiresIn = 5 * time.Minute
		e.RefreshToken = "refresh-token-1"
		e.RefreshEndpoint = e.Endpoint + "/token"
		e.RefreshAudience = ourDID
	}
	return e
}

func refusedWith(code tokens.Code) error {
	return &tokens.Error{Code: code, Detail: "detail of the core"}
}

func (f *fakeFlows) Start(ctx context.Context, caller tokens.Caller, r tokens.StartRequest) (*tokens.EDR, error) {
	if f.entered != nil {
		f.entered <- struct{}{}
		select {
		case <-f.leave:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts, f.callers = append(f.starts, r), append(f.callers, caller)
	if f.err != nil {
		return nil, f.err
	}
	x, ok := f.flows[r.ProcessID]
	if !ok {
		x = &fakeFlow{request: r, flow: tokens.Flow{
			ID: r.ProcessID, Dialect: r.Dialect, State: tokens.Started, ControlPlane: string(caller), BoundDID: r.Terms.Audience,
		}}
		if x.flow.BoundDID == "" && len(r.Terms.Counterparty) > 4 && r.Terms.Counterparty[:4] == "did:" {
			x.flow.BoundDID = r.Terms.Counterparty
		}
		f.flows[r.ProcessID] = x
		if r.Async && r.Dialect == tokens.DPS {
			flow := x.flow
			return &tokens.EDR{Flow: &flow, Pending: true}, nil
		}
		return f.edr(x, false), nil
	}
	switch {
	case x.flow.ControlPlane != string(caller):
		return nil, refusedWith(tokens.CodeForeign)
	case x.flow.State.Ended():
		return nil, refusedWith(tokens.CodeState)
	case x.request.Terms.Dataset != r.Terms.Dataset || !x.request.Terms.Source.Equal(r.Terms.Source):
		return nil, refusedWith(tokens.CodeConflict)
	case x.flow.State == tokens.Suspended && r.Dialect == tokens.DPS:
		return nil, refusedWith(tokens.CodeState)
	case x.flow.State == tokens.Suspended:
		x.flow.State = tokens.Started
		return f.edr(x, false), nil
	}
	return f.edr(x, true), nil
}

func (f *fakeFlows) note(caller tokens.Caller, m tokens.Message) (*fakeFlow, error) {
	f.messages, f.callers = append(f.messages, m), append(f.callers, caller)
	if f.err != nil {
		return nil, f.err
	}
	return f.flows[m.ProcessID], nil
}

func (f *fakeFlows) Resume(_ context.Context, caller tokens.Caller, m tokens.Message) (*tokens.EDR, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x, err := f.note(caller, m)
	switch {
	case err != nil:
		return nil, err
	case x == nil || x.flow.ControlPlane != string(caller):
		return nil, refusedWith(tokens.CodeFlowUnknown)
	case x.flow.State == tokens.Started:
		return f.edr(x, true), nil
	case x.flow.State != tokens.Suspended:
		return nil, refusedWith(tokens.CodeState)
	}
	x.flow.State = tokens.Started
	return f.edr(x, false), nil
}

func (f *fakeFlows) end(caller tokens.Caller, m tokens.Message, to tokens.State) (tokens.Ending, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x, err := f.note(caller, m)
	switch {
	case err != nil:
		return tokens.Ending{}, err
	case x == nil && to == tokens.Suspended:
		return tokens.Ending{Outcome: tokens.Unknown}, nil
	case x == nil:
		f.flows[m.ProcessID] = &fakeFlow{flow: tokens.Flow{ID: m.ProcessID, State: to, ControlPlane: string(caller)}}
		return tokens.Ending{Outcome: tokens.Unknown}, nil
	case x.flow.ControlPlane != string(caller):
		return tokens.Ending{Outcome: tokens.NotOwned}, nil
	case x.flow.State == to, to != tokens.Suspended && x.flow.State.Ended():
		return tokens.Ending{Outcome: tokens.Already}, nil
	case x.flow.State.Ended():
		return tokens.Ending{Outcome: tokens.OutOfState}, nil
	}
	x.flow.State = to
	return tokens.Ending{Outcome: tokens.Applied}, nil
}

func (f *fakeFlows) Suspend(_ context.Context, c tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	return f.end(c, m, tokens.Suspended)
}

func (f *fakeFlows) Terminate(_ context.Context, c tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	return f.end(c, m, tokens.Terminated)
}

func (f *fakeFlows) Complete(_ context.Context, c tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	return f.end(c, m, tokens.Completed)
}

func (f *fakeFlows) Status(_ context.Context, caller tokens.Caller, id string) (*tokens.Flow, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x, ok := f.flows[id]
	switch {
	case f.err != nil:
		return nil, f.err
	case !ok || x.flow.ControlPlane != string(caller):
		return nil, refusedWith(tokens.CodeFlowUnknown)
	}
	flow := x.flow
	return &flow, nil
}

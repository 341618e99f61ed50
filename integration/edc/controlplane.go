package edc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// ControlPlane is one running EDC control plane, seen through its management API. Its methods may be used by many
// goroutines at once.
type ControlPlane struct {
	management, control string
	client              *http.Client
}

// NewControlPlane returns the control plane with these base URLs, for example http://localhost:19193/management and
// http://localhost:19192/control.
func NewControlPlane(management, control string) *ControlPlane {
	return &ControlPlane{management: management, control: control, client: &http.Client{Timeout: callTimeout}}
}

func (p *ControlPlane) get(ctx context.Context, path string, answer any) error {
	return call(ctx, p.client, http.MethodGet, p.management+path, nil, answer)
}

func (p *ControlPlane) post(ctx context.Context, path string, body, answer any) error {
	return call(ctx, p.client, http.MethodPost, p.management+path, body, answer)
}

// create posts an object and returns the id that the control plane gave it.
func (p *ControlPlane) create(ctx context.Context, path string, body node) (string, error) {
	var created node
	err := p.post(ctx, path, body, &created)
	if err != nil {
		return "", err
	}
	return created.text("@id"), nil
}

// Agreement returns this side's own id of the agreement that a transfer is made under. From 0.15 on the two sides have
// different ones.
func (p *ControlPlane) Agreement(ctx context.Context, transfer string) (string, error) {
	var found node
	err := p.get(ctx, "/v3/transferprocesses/"+transfer, &found)
	if err != nil {
		return "", err
	}
	return found.text("contractId"), nil
}

// Await waits until a transfer process is in one of some states. It does not wait for what cannot come any more: it
// fails at once if the transfer has been terminated, and that was not waited for.
func (p *ControlPlane) Await(ctx context.Context, transfer string, states ...string) error {
	return await(ctx, func() error {
		var found node
		err := p.get(ctx, "/v3/transferprocesses/"+transfer, &found)
		if err != nil {
			return err
		}
		state := found.text("state")
		if slices.Contains(states, state) {
			return nil
		}
		if state == "TERMINATED" || state == "DEPROVISIONED" {
			return fmt.Errorf("transfer process %s is %s, want %v: %s", transfer, state, states, found.text("errorDetail"))
		}
		return fmt.Errorf("%w: transfer process %s is %s, want %v", errIdle, transfer, state, states)
	})
}

// Suspend asks for a suspension. It takes effect later; see Await.
func (p *ControlPlane) Suspend(ctx context.Context, transfer string) error {
	return p.post(ctx, "/v3/transferprocesses/"+transfer+"/suspend", newNode("SuspendTransfer", node{"reason": "a test"}), nil)
}

// Resume asks for a suspended transfer to go on.
func (p *ControlPlane) Resume(ctx context.Context, transfer string) error {
	return p.post(ctx, "/v3/transferprocesses/"+transfer+"/resume", nil, nil)
}

// Terminate asks for a transfer to end for good.
func (p *ControlPlane) Terminate(ctx context.Context, transfer string) error {
	return p.post(ctx, "/v3/transferprocesses/"+transfer+"/terminate", newNode("TerminateTransfer", node{"reason": "a test"}), nil)
}

// Counterpart returns the id that this side gave to a transfer which the other side knows by peer.
func (p *ControlPlane) Counterpart(ctx context.Context, peer string) (string, error) {
	query := newNode("QuerySpec", node{"filterExpression": []node{{
		"@type": "Criterion", "operandLeft": "correlationId", "operator": "=", "operandRight": peer,
	}}})
	var id string
	err := await(ctx, func() error {
		var found []node
		err := p.post(ctx, "/v3/transferprocesses/request", query, &found)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("%w: no transfer process for %s", errIdle, peer)
		}
		id = found[0].text("@id")
		return nil
	})
	return id, err
}

// isNotFound reports whether a control plane has answered that it does not know what was asked for.
func isNotFound(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Status == http.StatusNotFound
}

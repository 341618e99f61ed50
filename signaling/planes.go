package signaling

import (
	"context"
	"net/http"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// Planes keeps what control planes say of themselves. *tokens.Service is one.
type Planes interface {
	// PutControlPlane keeps it in place of what the caller said before.
	PutControlPlane(ctx context.Context, caller tokens.Caller, p tokens.ControlPlane) error
	// DeleteControlPlane forgets it, and reports whether the caller was registered under that id.
	DeleteControlPlane(ctx context.Context, caller tokens.Caller, id string) (bool, error)
}

var _ Planes = (*tokens.Service)(nil)

// putPlane carries out a registration of the caller (DPS §1.1, PUT /controlplanes; replaces). It gives nobody any right:
// who may signal, and on which server he is called back, stays what the operator says.
func (h *Handler) putPlane(ctx context.Context, x *exchange, body []byte) (*result, error) {
	m, err := strictjson.Parse(body, maxDepth)
	if err != nil {
		return nil, errNotJSON.because(err)
	}
	read := dpsReader{m: m}
	p := tokens.ControlPlane{ID: read.text("controlplaneId"), Endpoint: read.text("endpoint")}
	if read.err != nil {
		return nil, read.err
	}
	if !validID(p.ID) {
		return nil, invalid("member controlplaneId: want 1 to %d printable characters", maxID)
	}
	if !validCallback(p.Endpoint) {
		return nil, invalid("member endpoint is no absolute http or https URL")
	}
	if read.present("authorization") {
		// Calling back without the credential that was asked for would fail each time, and nobody would know why.
		return nil, invalid("member authorization: no authorization profile is served")
	}
	err = h.checkCallback(x.caller, p.Endpoint)
	if err != nil {
		return nil, &refusal{
			status: http.StatusBadRequest, outcome: outcomeUnserved,
			text: "this data plane does not call back to the endpoint", cause: err,
		}
	}
	err = h.planes.PutControlPlane(ctx, x.caller, p)
	if err != nil {
		return nil, refusalOf(err, false)
	}
	return &result{outcome: string(tokens.Applied)}, nil
}

// deletePlane takes a registration back (DPS §1.1, DELETE /controlplanes/{id}: 204, or 404).
func (h *Handler) deletePlane(ctx context.Context, x *exchange) (*result, error) {
	known, err := h.planes.DeleteControlPlane(ctx, x.caller, x.plane)
	if err != nil {
		return nil, refusalOf(err, false)
	}
	if !known {
		return nil, &refusal{status: http.StatusNotFound, outcome: outcomeUnknown, text: "no such control plane"}
	}
	return &result{outcome: string(tokens.Applied), noContent: true}, nil
}

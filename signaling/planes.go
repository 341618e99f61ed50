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
		p.Authorization, err = h.readAuthorization(x.caller, m)
		if err != nil {
			return nil, err
		}
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

// maxCredential is the length of a client's id or secret in bytes.
const maxCredential = 4 << 10

// readAuthorization reads the authorization object of a registration: what we are to get the tokens with that we send to
// the control plane (profiles, Authorization Profiles). The operator's configuration has to agree with it, whatever it says:
// calling back without the token that was asked for would fail each time, and whoever may register must not choose to whom
// secrets are sent. jwks and jwksUri are left alone: by which keys a control plane is told is the operator's too.
func (h *Handler) readAuthorization(caller tokens.Caller, registration strictjson.Members) (*tokens.PlaneAuthorization, error) {
	m, err := registration.Object("authorization")
	if err != nil {
		return nil, invalid("member authorization: want an object")
	}
	read := dpsReader{m: m}
	a := &tokens.PlaneAuthorization{Type: read.text("type")}
	if a.Type == "oauth2_token_exchange" {
		a.TokenEndpoint = read.text("tokenExchangeEndpoint")
		a.Resource, a.Audience, a.Scope = read.text("resource"), read.text("audience"), read.text("scope")
	} else {
		a.TokenEndpoint = read.text("tokenEndpoint")
		a.ClientID, a.ClientSecret = read.text("clientId"), tokens.Secret(read.text("clientSecret"))
	}
	if read.err != nil {
		return nil, invalid("member authorization: a member is not a string")
	}
	if h.differs == nil {
		return nil, errOtherAuthorization("type")
	}
	member := h.differs(caller, a)
	if member != "" {
		return nil, errOtherAuthorization(member)
	}
	if a.Type == "oauth2_token_exchange" {
		return a, nil
	}
	for _, credential := range []struct{ name, value string }{{"clientId", a.ClientID}, {"clientSecret", a.ClientSecret.Reveal()}} {
		if credential.value == "" || len(credential.value) > maxCredential {
			return nil, invalid("member authorization: %s is missing or too long", credential.name)
		}
	}
	return a, nil
}

func errOtherAuthorization(member string) error {
	return invalid("member authorization: %s is not what this data plane has configured", member)
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

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/tokens"
)

// backendToken returns the token that the backend of a flow wants, empty if it wants none. It is got before the request
// is handed on: what the authorization server answers must not be taken for the backend's.
func (h *Proxy) backendToken(ctx context.Context, to *target) (tokens.Secret, error) {
	if to.oauth2 == nil {
		return "", nil
	}
	token, _, err := h.transport.tokens.Token(ctx, *to.oauth2)
	return token, err
}

// refuseBackendToken answers a request for whose backend there is no token. It is never 401 or 403: the consumer's own
// token is good, and renewing it changes nothing (docs/decisions: statuses on the data path). A server that does not
// know us is like a backend that does not (502); one that cannot be asked may be there again in a moment (503).
func (h *Proxy) refuseBackendToken(w http.ResponseWriter, r *http.Request, access *tokens.Access, err error) error {
	if r.Context().Err() != nil {
		w.WriteHeader(statusClientGone)
		return nil
	}
	leaveBody(w, r)
	var failure *authserver.Error
	known := errors.As(err, &failure)
	result := backendTokenMissing
	switch {
	case isDenied(err):
		result = backendDenied
	case known && failure.Refused:
		result = backendTokenRefused
	}
	h.gate.observer.Backend(result)
	if result != backendTokenMissing {
		return caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("backend of flow %s: %w", access.FlowID(), err))
	}
	var after time.Duration
	if known {
		after = failure.After
	}
	writeUnavailable(w, after, "The data cannot be fetched at the moment")
	c := h.gate.logger.Check(zap.ErrorLevel, "no token for the backend of a flow")
	if c != nil {
		c.Write(zap.String("flow_id", access.FlowID()), zap.Error(err))
	}
	return nil
}

package caddymodule

import (
	"errors"
	"net/http"

	"github.com/edrgate/edrgate/oauth"
	"github.com/edrgate/edrgate/tokens"
)

// bearerToken returns the request's one token: with the scheme Bearer (RFC 6750 §2.1), or bare, as Eclipse EDC's
// consumers send it. limit is in bytes. Tokens in the query or in a form are not looked at (RFC 6750 §5.3).
func bearerToken(h http.Header, limit int) (string, *refusal) {
	values := h["Authorization"]
	if len(values) == 1 && values[0] == "" {
		// A token that is empty, as the Tractus-X data plane takes it, and not a missing one.
		return "", &refusal{reason: string(tokens.CodeTokenMalformed)}
	}
	token, err := oauth.Bearer(h, limit)
	if err == nil {
		return token.Reveal(), nil
	}
	if errors.Is(err, oauth.Missing) {
		return "", &refusal{reason: reasonMissing}
	}
	return "", &refusal{reason: reasonMalformed, detail: err.Error()}
}

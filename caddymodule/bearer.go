package caddymodule

import (
	"errors"
	"net/http"
	"strings"

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

// maskedByCaddy are the headers whose values Caddy leaves out of its access log.
var maskedByCaddy = map[string]bool{"Authorization": true, "Proxy-Authorization": true, "Cookie": true, "Set-Cookie": true}

// takeOutRepeats deletes the headers that hold the token once more, where the access log and a backend would show it, and
// reports whether there was one.
func takeOutRepeats(h http.Header, token string) bool {
	found := false
	for name, values := range h {
		if maskedByCaddy[name] {
			continue
		}
		for _, value := range values {
			if len(value) >= len(token) && strings.Contains(value, token) {
				delete(h, name)
				found = true
			}
		}
	}
	return found
}

// hasJWS reports whether a header that the access log shows holds what may be a token, of a client that has written it
// where nobody looks for it.
func hasJWS(h http.Header) bool {
	for name, values := range h {
		if maskedByCaddy[name] {
			continue
		}
		for _, value := range values {
			_, rest, found := strings.Cut(value, jwsStart)
			if found && strings.Count(rest, ".") >= 2 { // RFC 7515 §7.1
				return true
			}
		}
	}
	return false
}

// jwsStart is how a JSON object begins in base64url.
const jwsStart = "eyJ"

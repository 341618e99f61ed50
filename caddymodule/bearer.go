package caddymodule

import (
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// bearerToken returns the request's one token: with the scheme Bearer (RFC 6750 §2.1), or bare, as Eclipse EDC's
// consumers send it. Tokens in the query or in a form are not looked at (RFC 6750 §5.3).
func bearerToken(h http.Header) (string, *refusal) {
	values := h["Authorization"]
	if len(values) == 0 {
		return "", &refusal{reason: reasonMissing}
	}
	if len(values) > 1 {
		// Whatever else looks at the request may take the other one (RFC 9110 §11.6.2 has one set of credentials).
		return "", malformedRequest("more than one Authorization header")
	}
	value := values[0]
	if value == "" {
		return "", &refusal{reason: string(tokens.CodeTokenMalformed)}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' {
			return "", malformedRequest("the Authorization header holds a character other than printable ASCII")
		}
	}
	scheme, rest, spaced := strings.Cut(value, " ")
	isBearer := strings.EqualFold(scheme, "Bearer") // RFC 9110 §11.1: the scheme's case does not matter
	if !spaced && !isBearer {
		return value, nil
	}
	if !isBearer {
		// Credentials of another scheme are no token: RFC 6750 §3.1 has no error code for it.
		return "", &refusal{reason: reasonMissing}
	}
	rest = strings.TrimLeft(rest, " ")
	if rest == "" || strings.Contains(rest, " ") {
		return "", malformedRequest("the Authorization header does not hold exactly one token")
	}
	return rest, nil
}

func malformedRequest(detail string) *refusal {
	return &refusal{reason: reasonMalformed, detail: detail}
}

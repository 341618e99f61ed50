package oauth

import (
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// DefaultTokenLimit is the longest token, in bytes, where a caller passes 0.
const DefaultTokenLimit = 16 << 10 // 16 KiB

// Bearer returns the token of a request's Authorization header. It is accepted with the scheme Bearer in any case and
// one or more spaces (RFC 6750 §2.1), and also without a scheme: an EDR's authorization is sent as it is by the consumers of
// Tractus-X. The limit is in bytes; 0 means DefaultTokenLimit.
//
// The error is Missing if there is no header, an empty one, or one of another scheme, and otherwise a Refusal with
// invalid_request. The form and query methods of RFC 6750 §2.2 and §2.3 are not supported: such parameters are not looked
// at, and pass for no token.
func Bearer(h http.Header, limit int) (tokens.Secret, error) {
	if limit <= 0 {
		limit = DefaultTokenLimit
	}
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", Missing
	}
	if len(values) > 1 {
		// One server takes the first, another one the last: the token that is checked need not be the one that is used.
		return "", badRequest("more than one Authorization header")
	}
	value := values[0]
	if value == "" {
		return "", Missing
	}
	scheme, token, found := strings.Cut(value, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		token = strings.TrimLeft(token, " ")
	case !found:
		token = value
	case !isVisible(value):
		return "", notVisible
	case strings.Contains(scheme, "."):
		// Two tokens, or one and something: not a scheme that anybody registered (RFC 9110 §11.1).
		return "", badRequest("Authorization header has more than one token")
	default:
		return "", Missing // credentials for somebody else, such as Basic
	}
	// A good request's characters are looked at once: what a token may have is visible.
	if len(token) <= limit && isToken68(token) {
		return tokens.Secret(token), nil
	}
	switch {
	case !isVisible(value):
		return "", notVisible
	case len(token) > limit:
		return "", badRequest("token is too large")
	}
	// Also a second token, and a comma and another scheme behind the first.
	return "", badRequest("Authorization header does not have exactly one token")
}

// notVisible refuses a tab too: RFC 6750 §2.1 wants SP.
var notVisible = badRequest("Authorization header has characters that are not allowed")

// isToken68 reports whether s is a b64token (RFC 6750 §2.1), called token68 in RFC 9110 §11.2.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !token68[s[i]] {
			return false
		}
	}
	return s != ""
}

var token68 = func() [256]bool {
	var t [256]bool
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") {
		t[c] = true
	}
	return t
}()

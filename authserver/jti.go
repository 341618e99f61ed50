package authserver

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/edrgate/edrgate/tokens"
)

// hasJTI reports whether a token is a JWT with a jti (RFC 7519 §4.1.7). The token is somebody else's to verify; what
// cannot be read counts as a token without.
func hasJTI(token tokens.Secret) bool {
	_, rest, found := strings.Cut(token.Reveal(), ".")
	payload, _, signed := strings.Cut(rest, ".")
	if !found || !signed {
		return false
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return false
	}
	var claims struct {
		JTI any `json:"jti"`
	}
	err = json.Unmarshal(data, &claims)
	return err == nil && claims.JTI != nil
}

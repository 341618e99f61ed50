package authserver

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// claims are what a JWT says of its own use. The token is somebody else's to verify; what cannot be read is not there.
type claims struct {
	JTI any     `json:"jti"`
	Exp float64 `json:"exp"`
}

func claimsOf(token tokens.Secret) claims {
	_, rest, found := strings.Cut(token.Reveal(), ".")
	payload, _, signed := strings.Cut(rest, ".")
	if !found || !signed {
		return claims{}
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return claims{}
	}
	var c claims
	err = json.Unmarshal(data, &c)
	if err != nil {
		return claims{}
	}
	return c
}

// expires is the exp of the token (RFC 7519 §4.1.4); zero: it has none.
func (c claims) expires() time.Time {
	if c.Exp <= 0 || c.Exp > maxNumericDate {
		return time.Time{}
	}
	return time.Unix(int64(c.Exp), 0)
}

// maxNumericDate is far in the future, and what is beyond no date.
const maxNumericDate = 1 << 40

package integration

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// jwsParts returns the header and the payload of a compact JWS, unverified.
func jwsParts(t testing.TB, token string) (map[string]any, []byte) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token has %d parts", len(parts))
	}
	header := map[string]any{}
	err := json.Unmarshal(decode(t, parts[0]), &header)
	if err != nil {
		t.Fatal(err)
	}
	return header, decode(t, parts[1])
}

func decode(t testing.TB, text string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// verifyPublished checks an access token with the key set that the gateway publishes, and returns its claims.
func verifyPublished(g *gateway, token string) map[string]any {
	g.t.Helper()
	request, err := http.NewRequest(http.MethodGet, g.publicURL()+"/jwks.json", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	err = json.Unmarshal([]byte(send(g.t, g.client, request).want(g.t, http.StatusOK).body), &set)
	if err != nil {
		g.t.Fatal(err)
	}
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA})
	if err != nil {
		g.t.Fatal(err)
	}
	keys := set.Key(signed.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		g.t.Fatalf("the key set has %d keys with the token's key id", len(keys))
	}
	if !keys[0].IsPublic() {
		g.t.Fatal("the key set has a private key")
	}
	payload, err := signed.Verify(keys[0])
	if err != nil {
		g.t.Fatal(err)
	}
	claims := map[string]any{}
	err = json.Unmarshal(payload, &claims)
	if err != nil {
		g.t.Fatal(err)
	}
	return claims
}

package rig

import (
	"crypto/elliptic"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// TestSign: another library verifies the tokens, each has an id of its own, and of the two signatures that verify it is the one
// that the gateway takes.
func TestSign(t *testing.T) {
	t.Parallel()
	s, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	kind := s.NewToken(map[string]any{"sub": "consumer"}).With(map[string]any{"iss": "issuer"})
	half := new(big.Int).Rsh(elliptic.P256().Params().N, 1)
	seen := map[string]bool{}
	for range 20 {
		token, err := s.Sign(kind)
		if err != nil {
			t.Fatal(err)
		}
		if seen[token] {
			t.Fatal("the same token again")
		}
		seen[token] = true
		parsed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := parsed.Verify(&s.key.PublicKey)
		if err != nil || !strings.Contains(string(payload), `"iss":"issuer"`) || !strings.Contains(string(payload), `"sub":"consumer"`) {
			t.Fatalf("%s, %v", payload, err)
		}
		signature, err := base64.RawURLEncoding.DecodeString(token[strings.LastIndexByte(token, '.')+1:])
		if err != nil || new(big.Int).SetBytes(signature[32:]).Cmp(half) > 0 {
			t.Errorf("the larger signature, or none: %v", err)
		}
	}
}

func TestReadEDR(t *testing.T) {
	t.Parallel()
	edr, err := readEDR([]byte(`{"dataAddress":{"dspace:endpointProperties":[
		{"dspace:name":"https://w3id.org/edc/v0.0.1/ns/authorization","dspace:value":"access"},
		{"dspace:name":"https://w3id.org/tractusx/auth/refreshToken","dspace:value":"refresh"}]}}`))
	if err != nil || *edr != (EDR{Access: "access", Refresh: "refresh"}) {
		t.Errorf("got %+v, %v", edr, err)
	}
	_, err = readEDR([]byte(`{"dataAddress":{}}`))
	if err == nil {
		t.Error("an answer without a token passes")
	}
}

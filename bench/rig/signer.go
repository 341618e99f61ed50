package rig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Signer makes access tokens without asking a gateway for each: many are needed for requests that all come with another one.
type Signer struct {
	key *ecdsa.PrivateKey
	kid string
}

// NewSigner returns a signer with a new P-256 key.
func NewSigner() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, kid: "bench"}, nil
}

// PEM returns the private key (PKCS #8).
func (s *Signer) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// PublicPEM returns the public key.
func (s *Signer) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// JWKS returns the public key as a JSON Web Key Set.
func (s *Signer) JWKS() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &s.key.PublicKey, KeyID: s.kid, Algorithm: "ES256", Use: "sig"}}})
}

// Token is what tokens are made like: the header and claims of one.
type Token struct {
	header string // encoded
	claims map[string]any
}

// LikeToken returns the header and claims of a token.
func LikeToken(token string) (*Token, error) {
	header, rest, _ := strings.Cut(token, ".")
	payload, _, found := strings.Cut(rest, ".")
	if !found {
		return nil, fmt.Errorf("not a token of three parts")
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil, err
	}
	t := &Token{header: header}
	return t, json.Unmarshal(data, &t.claims)
}

// NewToken returns what tokens with these claims are made like, for a peer whose keys come from JWKS.
func (s *Signer) NewToken(claims map[string]any) *Token {
	header := fmt.Sprintf(`{"alg":"ES256","typ":"JWT","kid":%q}`, s.kid)
	return &Token{header: base64.RawURLEncoding.EncodeToString([]byte(header)), claims: claims}
}

// With returns it with other values of some claims.
func (t *Token) With(claims map[string]any) *Token {
	changed := &Token{header: t.header, claims: map[string]any{}}
	for _, from := range []map[string]any{t.claims, claims} {
		for name, value := range from {
			changed.claims[name] = value
		}
	}
	return changed
}

// Sign returns another token of the kind: it has an id of its own.
func (s *Signer) Sign(t *Token) (string, error) {
	t.claims["jti"] = rand.Text()
	payload, err := json.Marshal(t.claims)
	if err != nil {
		return "", err
	}
	text := t.header + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	r, sum, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		return "", err
	}
	// Of the two signatures that verify, the gateway issues, and takes, the one with the smaller s.
	order := s.key.Params().N
	if sum.Cmp(new(big.Int).Rsh(order, 1)) > 0 {
		sum.Sub(order, sum)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	sum.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// Claims returns the claims.
func (t *Token) Claims() map[string]any { return t.claims }

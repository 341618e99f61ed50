package testkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Wallet is a consumer's identity: a DID and the key by which it proves to be the one the DID names.
type Wallet struct {
	DID string
	Key crypto.Signer
	Alg jose.SignatureAlgorithm
	KID string // of the key: DID + "#key-1" unless changed
}

// NewWallet returns a wallet with a new P-256 key.
func NewWallet(did string) *Wallet {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return &Wallet{DID: did, Key: key, Alg: jose.ES256, KID: did + "#key-1"}
}

// NewWalletFor returns a wallet with a new key for an algorithm.
func NewWalletFor(did string, alg jose.SignatureAlgorithm) *Wallet {
	w := &Wallet{DID: did, Alg: alg, KID: did + "#key-1"}
	var err error
	switch alg {
	case jose.ES256:
		w.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		w.Key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.EdDSA:
		_, w.Key, err = ed25519.GenerateKey(rand.Reader)
	case jose.PS256, jose.RS256:
		w.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("algorithm %s", alg)
	}
	if err != nil {
		panic(err)
	}
	return w
}

var proofs atomic.Int64

// Claims returns the claims of an authentication token about an access token.
func (w *Wallet) Claims(audience, accessToken string, now time.Time) map[string]any {
	return map[string]any{
		"iss": w.DID, "sub": w.DID, "aud": audience, "token": accessToken,
		"jti": fmt.Sprintf("proof-%d", proofs.Add(1)),
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
}

// Proof returns a signed authentication token.
func (w *Wallet) Proof(audience, accessToken string, now time.Time) string {
	return w.Sign(w.Claims(audience, accessToken, now))
}

// Sign returns claims signed with the wallet's key.
func (w *Wallet) Sign(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return w.SignBytes(payload, map[string]any{"kid": w.KID, "typ": "JWT"})
}

// SignBytes returns any payload signed with the wallet's key and any header parameters beside alg.
func (w *Wallet) SignBytes(payload []byte, header map[string]any) string {
	options := &jose.SignerOptions{}
	for name, value := range header {
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: w.Alg, Key: w.Key}, options)
	if err != nil {
		panic(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return token
}

// Document returns the DID document with the wallet's key.
func (w *Wallet) Document() []byte {
	jwk := jose.JSONWebKey{Key: w.Key.Public()}
	document, err := json.Marshal(map[string]any{
		"@context": []string{"https://www.w3.org/ns/did/v1"},
		"id":       w.DID,
		"verificationMethod": []any{map[string]any{
			"id": w.KID, "type": "JsonWebKey2020", "controller": w.DID, "publicKeyJwk": jwk,
		}},
		"authentication":  []string{w.KID},
		"assertionMethod": []string{w.KID},
	})
	if err != nil {
		panic(err)
	}
	return document
}

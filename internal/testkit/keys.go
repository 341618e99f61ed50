package testkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// ECKey returns a new public key of P-256.
func ECKey(t testing.TB) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

// EdKey returns a new public key of Ed25519.
func EdKey(t testing.TB) ed25519.PublicKey {
	t.Helper()
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// JWK returns the members of a public key's JWK (RFC 7517), for a test to change.
func JWK(t testing.TB, key crypto.PublicKey) map[string]any {
	t.Helper()
	var members map[string]any
	err := json.Unmarshal(JSON(t, jose.JSONWebKey{Key: key}), &members)
	if err != nil {
		t.Fatal(err)
	}
	return members
}

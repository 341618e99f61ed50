package demo

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issue makes a wallet stand in for the gateway: it signs an access token and publishes the key.
func issue(t *testing.T, issuer string) (string, []byte) {
	t.Helper()
	gateway, err := NewWallet("1", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	token, err := gateway.sign("at+jwt", "key-of-the-gateway", map[string]any{
		"iss": issuer, "sub": "did:web:consumer.example", "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: gateway.key.Public(), KeyID: "key-of-the-gateway"}}})
	if err != nil {
		t.Fatal(err)
	}
	return token, keys
}

func TestVerifiedClaims(t *testing.T) {
	token, keys := issue(t, ProviderDID)
	subject, err := VerifiedClaims(token, keys)
	if err != nil || subject != "did:web:consumer.example" {
		t.Errorf("subject %q, error %v", subject, err)
	}
	foreign, foreignKeys := issue(t, "did:web:other.example")
	_, err = VerifiedClaims(foreign, foreignKeys)
	if err == nil {
		t.Error("the token of another issuer passes")
	}
}

// The gateway that is given the key must sign what the wallet's DID document vouches for.
func TestWriteKey(t *testing.T) {
	w, err := NewWallet("1", "consumer")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "signing.pem")
	err = w.WriteKey(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file has the mode %v", info.Mode())
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(written)
	if block == nil {
		t.Fatal("the file is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !w.key.Equal(key) {
		t.Error("the file has another key")
	}
}

// A forged token must be wrong in its signature only, or its refusal would show nothing.
func TestForge(t *testing.T) {
	token, keys := issue(t, ProviderDID)
	thief, err := NewWallet("1", "thief")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := thief.Forge(token)
	if err != nil {
		t.Fatal(err)
	}
	_, err = VerifiedClaims(forged, keys)
	if err == nil {
		t.Error("the forged token verifies with the gateway's key")
	}
	own, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: thief.key.Public(), KeyID: "key-of-the-gateway"}}})
	if err != nil {
		t.Fatal(err)
	}
	subject, err := VerifiedClaims(forged, own)
	if err != nil || subject != "did:web:consumer.example" {
		t.Errorf("the forged token has lost its claims: subject %q, error %v", subject, err)
	}
}

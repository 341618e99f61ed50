package tokens

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func TestParseKey(t *testing.T) {
	p256, p384 := newKey(t), must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	pkcs8 := func(key any) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
	}
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(p256.(*ecdsa.PrivateKey)))})
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(p256.Public()))})
	jwk := func(key any) []byte { return must(json.Marshal(jose.JSONWebKey{Key: key})) }
	for name, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"PKCS #8 P-256":     {pkcs8(p256), true},
		"PKCS #8 Ed25519":   {pkcs8(ed), true},
		"SEC 1 P-256":       {sec1, true},
		"JWK P-256":         {jwk(p256), true},
		"JWK Ed25519":       {jwk(ed), true},
		"P-384":             {pkcs8(p384), false},
		"RSA":               {pkcs8(rsaKey), false},
		"JWK RSA":           {jwk(rsaKey), false},
		"public PEM":        {public, false},
		"public JWK":        {jwk(p256.Public()), false},
		"broken PEM":        {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), false},
		"a certificate":     {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), false},
		"symmetric JWK":     {[]byte(`{"kty":"oct","k":"CANARYCANARYCANARYCANARYCANARYCANARYCANARYA"}`), false},
		"empty":             {nil, false},
		"something private": {[]byte("CANARY"), false},
	} {
		key, err := ParseKey(c.data)
		if (err == nil) != c.ok || (key != nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
}

func TestRing(t *testing.T) {
	one, two := newKey(t), newKey(t)
	key := func(k crypto.Signer, s KeyState) RingKey { return RingKey{Signer: k, State: s, Name: "k"} }
	secret := bytes.Repeat([]byte{7}, 32)
	for name, c := range map[string]struct {
		keys    []RingKey
		refresh [][]byte
		sealing [][]byte
		ok      bool
	}{
		"one key":                     {[]RingKey{key(one, KeyActive)}, nil, nil, true},
		"all states":                  {[]RingKey{key(one, KeyActive), key(two, KeyNext), key(newKey(t), KeyVerify)}, nil, nil, true},
		"none":                        {nil, nil, nil, false},
		"none active":                 {[]RingKey{key(one, KeyVerify)}, nil, nil, false},
		"two active":                  {[]RingKey{key(one, KeyActive), key(two, KeyActive)}, nil, nil, false},
		"one twice":                   {[]RingKey{key(one, KeyActive), key(one, KeyVerify)}, nil, nil, false},
		"unknown state":               {[]RingKey{key(one, "retired")}, nil, nil, false},
		"no key":                      {[]RingKey{key(nil, KeyActive)}, nil, nil, false},
		"opaque key":                  {[]RingKey{key(opaque{one}, KeyActive)}, nil, nil, false},
		"opaque key, refresh key":     {[]RingKey{key(opaque{one}, KeyActive)}, [][]byte{secret}, nil, false},
		"opaque key with both beside": {[]RingKey{key(opaque{one}, KeyActive)}, [][]byte{secret}, [][]byte{secret}, true},
		"short refresh key":           {[]RingKey{key(one, KeyActive)}, [][]byte{secret[:31]}, nil, false},
		"short sealing key":           {[]RingKey{key(one, KeyActive)}, nil, [][]byte{secret[:31]}, false},
	} {
		_, err := NewRing(c.keys, c.refresh, c.sealing)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// opaque is a key whose bytes cannot be had, as in a hardware module.
type opaque struct{ key crypto.Signer }

func (o opaque) Public() crypto.PublicKey { return o.key.Public() }

func (o opaque) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return o.key.Sign(r, digest, opts)
}

func TestOpaqueKeySignsAndRenews(t *testing.T) {
	ring := must(NewRing([]RingKey{{Signer: opaque{newKey(t)}, State: KeyActive}}, [][]byte{bytes.Repeat([]byte{1}, 32)}, [][]byte{bytes.Repeat([]byte{2}, 40)}))
	x := newFixture(t, func(c *Config) { c.Keys = ring })
	edr := x.start(classicStart("flow-1"))
	r := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	err := x.verify(r.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
}

// Naming secrets of their own must not cut off the tokens and values made with the derived ones, and the other way round.
func TestSecretsOfTheirOwnCanBeAdded(t *testing.T) {
	key := newKey(t)
	x := newFixture(t, func(c *Config) { c.Keys = newRing(t, key) })
	edr := x.start(classicStart("flow-1"))
	own := must(NewRing([]RingKey{{Signer: key, State: KeyActive}}, [][]byte{bytes.Repeat([]byte{1}, 32)}, [][]byte{bytes.Repeat([]byte{2}, 32)}))
	changed := x.other(func(c *Config) { c.Keys = own })
	again, err := changed.Start(t.Context(), controlPlane, classicStart("flow-1")) // compares with the sealed source
	if err != nil || again.RefreshToken != edr.RefreshToken {
		t.Fatalf("%v", err)
	}
	r, err := changed.Renew(t.Context(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	if err != nil || r.Outcome != Rotated {
		t.Fatal(err)
	}
}

func TestJWKSHasNoPrivateParts(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := must(NewRing([]RingKey{{Signer: newKey(t), State: KeyVerify}, {Signer: ed, State: KeyActive}}, nil, nil))
	raw := must(ring.JWKS())
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	err = json.Unmarshal(raw, &set)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 2 || set.Keys[0]["kid"] != ring.active.kid || set.Keys[0]["alg"] != "EdDSA" || set.Keys[1]["use"] != "sig" {
		t.Fatalf("%s", raw)
	}
	for _, key := range set.Keys {
		if _, private := key["d"]; private {
			t.Fatal("the set has a private key")
		}
	}
	if strings.Contains(ring.String(), ring.active.kid) {
		t.Fatal("printing a ring says more than it must")
	}
}

func TestRingIDChangesWithUse(t *testing.T) {
	one, two := newKey(t), newKey(t)
	a := must(NewRing([]RingKey{{Signer: one, State: KeyActive}, {Signer: two, State: KeyNext}}, nil, nil))
	b := must(NewRing([]RingKey{{Signer: one, State: KeyVerify}, {Signer: two, State: KeyActive}}, nil, nil))
	if a.ID() == b.ID() || a.ID() != must(NewRing([]RingKey{{Signer: one, State: KeyActive}, {Signer: two, State: KeyNext}}, nil, nil)).ID() {
		t.Fatal("fingerprint")
	}
}

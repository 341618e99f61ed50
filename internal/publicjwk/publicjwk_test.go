package publicjwk

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/internal/testkit"
)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func b64(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }

func TestParseAccepts(t *testing.T) {
	certificate := newCertificate(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		key     crypto.PublicKey
		members map[string]any
	}{
		{"P-256", testkit.ECKey(t), nil},
		{"P-384", &p384.PublicKey, nil},
		{"Ed25519", testkit.EdKey(t), nil},
		{"RSA", &rsaKey().PublicKey, nil},
		{"use sig", testkit.ECKey(t), map[string]any{"use": "sig"}},
		{"key_ops verify", testkit.ECKey(t), map[string]any{"key_ops": []string{"verify"}}},
		{"key_ops with verify", testkit.ECKey(t), map[string]any{"key_ops": []string{"sign", "verify"}}},
		{"alg ES256", testkit.ECKey(t), map[string]any{"alg": "ES256"}},
		{"alg EdDSA", testkit.EdKey(t), map[string]any{"alg": "EdDSA"}},
		{"alg PS256", &rsaKey().PublicKey, map[string]any{"alg": "PS256"}},
		{"unknown member", testkit.ECKey(t), map[string]any{"x-vendor": map[string]any{"a": 1}}},
		{"own certificate", certificate.PublicKey, map[string]any{
			"x5c": []string{base64.StdEncoding.EncodeToString(certificate.Raw)},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := testkit.JWK(t, c.key)
			for name, v := range c.members {
				m[name] = v
			}
			got, err := Parse(testkit.JSON(t, m))
			wantKey(t, got, err, c.key)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	certificate := newCertificate(t)
	ec, ed, other := testkit.ECKey(t), testkit.EdKey(t), testkit.ECKey(t)
	pub := &rsaKey().PublicKey
	even := new(big.Int).Sub(pub.N, big.NewInt(1))
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	with := func(key crypto.PublicKey, name string, v any) map[string]any {
		m := testkit.JWK(t, key)
		if v == nil {
			delete(m, name)
			return m
		}
		m[name] = v
		return m
	}
	for name, v := range map[string]any{
		"private EC":          with(ec, "d", "AQ"),
		"private Ed25519":     with(ed, "d", "AQ"),
		"private RSA":         with(pub, "d", "AQ"),
		"RSA with a prime":    with(pub, "p", "AQ"),
		"RSA with oth":        with(pub, "oth", []any{}),
		"null private member": []byte(`{"kty":"EC","d":null}`),
		"symmetric":           map[string]any{"kty": "oct", "k": "c2VjcmV0"},
		"use enc":             with(ec, "use", "enc"),
		"use of another case": with(ec, "use", "SIG"),
		"use no string":       with(ec, "use", 1),
		"key_ops sign":        with(ec, "key_ops", []string{"sign"}),
		"key_ops empty":       with(ec, "key_ops", []string{}),
		"key_ops a string":    with(ec, "key_ops", "verify"),
		"key_ops with null":   with(ec, "key_ops", []any{nil, "verify"}),
		"alg of other curve":  with(ec, "alg", "ES384"),
		"alg of encryption":   with(pub, "alg", "RSA-OAEP"),
		"alg HS256":           with(pub, "alg", "HS256"),
		"alg none":            with(ec, "alg", "none"),
		"alg no string":       with(ec, "alg", 5),
		"P-521":               testkit.JWK(t, &p521.PublicKey),
		"secp256k1":           with(ec, "crv", "secp256k1"),
		"wrong curve":         with(ec, "crv", "P-384"),
		"no curve":            with(ec, "crv", nil),
		"no type":             with(ec, "kty", nil),
		"wrong type":          with(ec, "kty", "OKP"),
		"X25519":              with(ed, "crv", "X25519"),
		"Ed448":               with(ed, "crv", "Ed448"),
		"no x":                with(ec, "x", nil),
		"no y":                with(ec, "y", nil),
		"off the curve":       with(ec, "y", testkit.JWK(t, other)["y"]),
		"zero point":          map[string]any{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
		"coordinate too long": with(ec, "x", base64.RawURLEncoding.EncodeToString(make([]byte, 1000))),
		"Ed25519 short":       with(ed, "x", "AAAA"),
		"RSA 1024":            with(pub, "n", b64(new(big.Int).SetBit(big.NewInt(1), 1023, 1))),
		"RSA 16384":           with(pub, "n", b64(new(big.Int).SetBit(big.NewInt(1), 16383, 1))),
		"RSA even modulus":    with(pub, "n", b64(even)),
		"RSA e 1":             with(pub, "e", "AQ"),
		"RSA e 2":             with(pub, "e", "Ag"),
		"RSA e 0":             with(pub, "e", "AA"),
		"RSA e huge":          with(pub, "e", b64(pub.N)),
		"RSA no n":            with(pub, "n", nil),
		"foreign certificate": with(ec, "x5c", []string{base64.StdEncoding.EncodeToString(certificate.Raw)}),
		"broken certificate":  with(ec, "x5c", []string{"AAAA"}),
		"empty chain":         with(ec, "x5c", []string{}),
		"chain no list":       with(ec, "x5c", "AAAA"),
		"no object":           []byte(`[]`),
		"null":                []byte(`null`),
		"string":              []byte(`"key"`),
		"absent":              []byte(nil),
	} {
		t.Run(name, func(t *testing.T) {
			key, err := Parse(testkit.JSON(t, v))
			if err == nil {
				t.Errorf("accepted: %T", key)
			}
		})
	}
}

// newCertificate returns a certificate with a key of its own.
func newCertificate(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func wantKey(t *testing.T, got crypto.PublicKey, err error, want crypto.PublicKey) {
	t.Helper()
	if err != nil {
		t.Fatalf("no key: %v", err)
	}
	k, ok := got.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !k.Equal(want) {
		t.Fatal("another key")
	}
}

// FuzzParse: no JWK makes the reader fail otherwise than by an error, and none with a secret is accepted.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA","use":"sig"}`))
	f.Add([]byte(`{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"RS256"}`))
	f.Add([]byte(`{"kty":"oct","k":"c2VjcmV0"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		members, err := strictjson.Parse(raw, strictjson.DefaultDepth)
		if err != nil {
			return
		}
		key, err := Parse(raw)
		if (err == nil) != (key != nil) {
			t.Errorf("key %v, error %v", key, err)
		}
		if err == nil && (members.Has("d") || members.Has("k")) {
			t.Error("a key with a secret is accepted")
		}
	})
}

package did

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/publicjwk"
	"github.com/edrgate/edrgate/internal/testkit"
)

// Examples of the did:key and did:jwk specifications.
const (
	keyEd25519 = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
	keyP256    = "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"
	jwkP256    = "did:jwk:eyJjcnYiOiJQLTI1NiIsImt0eSI6IkVDIiwieCI6ImFjYklRaXVNczNpOF91c3pFakoydHBUdFJNNEVVM3l6OTFQSDZDZEgyVjAi" +
		"LCJ5IjoiX0tjeUxqOXZXTXB0bm1LdG00NkdxRHo4d2Y3NEk1TEtncmwyR3pIM25TRSJ9"
)

// encodeBase58 is the plain definition: the number in base 58, a "1" for each leading zero byte.
func encodeBase58(b []byte) string {
	n, base, digit := new(big.Int).SetBytes(b), big.NewInt(58), new(big.Int)
	var out []byte
	for n.Sign() > 0 {
		n.DivMod(n, base, digit)
		out = append([]byte{base58Alphabet[digit.Int64()]}, out...)
	}
	for _, c := range b {
		if c != 0 {
			break
		}
		out = append([]byte{'1'}, out...)
	}
	return string(out)
}

// compress writes a point as SEC 1 §2.3.3 with compression.
func compress(t *testing.T, key *ecdsa.PublicKey) []byte {
	t.Helper()
	b, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	size := (len(b) - 1) / 2
	return append([]byte{2 | b[len(b)-1]&1}, b[1:1+size]...)
}

func keyDID(codec string, raw []byte) string {
	return "did:key:z" + encodeBase58(append([]byte(codec), raw...))
}

func TestSelfContained(t *testing.T) {
	ed, ec := testkit.EdKey(t), testkit.ECKey(t)
	compressed := compress(t, ec)
	jwkDID := func(key crypto.PublicKey) string {
		return "did:jwk:" + base64.RawURLEncoding.EncodeToString(testkit.JSON(t, testkit.JWK(t, key)))
	}
	b := newBench(t, nil)
	for _, c := range []struct {
		name, did string
		fragment  string
		want      crypto.PublicKey // nil: any
	}{
		{"did:key Ed25519 of the specification", keyEd25519, keyEd25519[len("did:key:"):], nil},
		{"did:key P-256 of the specification", keyP256, keyP256[len("did:key:"):], nil},
		{"did:jwk P-256 of the specification", jwkP256, "0", nil},
		{"did:key Ed25519", keyDID(codecEd25519, ed), keyDID(codecEd25519, ed)[len("did:key:"):], ed},
		{"did:key P-256", keyDID(codecP256, compressed), keyDID(codecP256, compressed)[len("did:key:"):], ec},
		{"did:jwk P-256", jwkDID(ec), "0", ec},
		{"did:jwk Ed25519", jwkDID(ed), "0", ed},
		{"did:jwk RSA", jwkDID(&rsaKey().PublicKey), "0", &rsaKey().PublicKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, kid := range []string{c.did + "#" + c.fragment, "#" + c.fragment, c.fragment, c.did} {
				got, err := b.ResolveKey(context.Background(), c.did, kid)
				if err != nil {
					t.Fatal(err)
				}
				again, err := b.RefetchKey(context.Background(), c.did, kid)
				wantKey(t, again, err, got)
				if c.want != nil {
					wantKey(t, got, err, c.want)
				}
			}
			_, err := b.ResolveKey(context.Background(), c.did, "#other")
			wantCode(t, err, CodeNoKey)
		})
	}
	if len(b.results.all()) != 0 {
		t.Error("something was fetched")
	}
}

func TestSelfContainedIsDecodedOnce(t *testing.T) {
	b := newBench(t, nil)
	first, err := b.ResolveKey(context.Background(), jwkP256, "#0")
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.ResolveKey(context.Background(), jwkP256, "#0")
	if err != nil {
		t.Fatal(err)
	}
	if first.(*ecdsa.PublicKey) != second.(*ecdsa.PublicKey) {
		t.Error("the key was parsed twice")
	}
}

func TestSelfContainedRefuses(t *testing.T) {
	ec := testkit.ECKey(t)
	compressed := compress(t, ec)
	uncompressed, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	offCurve := bytes.Clone(compressed)
	for { // half of all x have no point
		offCurve[32]++
		x, _ := elliptic.UnmarshalCompressed(elliptic.P256(), offCurve)
		if x == nil {
			break
		}
	}
	raw := func(s string) string { return "did:jwk:" + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	private := testkit.JWK(t, ec)
	private["d"] = "AQ"
	b := newBench(t, nil)
	for name, did := range map[string]string{
		"did:key empty":              "did:key:",
		"did:key without value":      "did:key:z",
		"did:key other base":         "did:key:f" + "ed01",
		"did:key upper Z":            "did:key:Z" + keyEd25519[len("did:key:z"):],
		"did:key foreign character":  keyEd25519[:len(keyEd25519)-1] + "0",
		"did:key space":              keyEd25519 + " ",
		"did:key fragment":           keyEd25519 + "#x",
		"did:key leading one":        "did:key:z1" + keyEd25519[len("did:key:z"):],
		"did:key short":              keyDID(codecEd25519, make([]byte, 31)),
		"did:key long":               keyDID(codecEd25519, make([]byte, 33)),
		"did:key varint not minimal": keyDID("\xed\x81\x00", make([]byte, 32)),
		"did:key X25519":             keyDID("\xec\x01", make([]byte, 32)),
		"did:key secp256k1":          keyDID("\xe7\x01", compressed),
		"did:key P-384":              keyDID("\x81\x24", compressed),
		"did:key uncompressed":       keyDID(codecP256, uncompressed),
		"did:key off the curve":      keyDID(codecP256, offCurve),
		"did:key infinity":           keyDID(codecP256, []byte{0}),
		"did:key very long":          "did:key:z" + strings.Repeat("2", 4000),
		"did:key over the limit":     "did:key:z" + strings.Repeat("2", 5000),

		"did:jwk empty":          "did:jwk:",
		"did:jwk no base64":      "did:jwk:***",
		"did:jwk padded":         jwkP256 + "=",
		"did:jwk standard base":  "did:jwk:" + base64.RawStdEncoding.EncodeToString([]byte(`{"kty":"EC","~~~":"???"}`)),
		"did:jwk line break":     jwkP256 + "\n",
		"did:jwk spare bits":     "did:jwk:e31",
		"did:jwk no JSON":        raw("x"),
		"did:jwk array":          raw("[]"),
		"did:jwk null":           raw("null"),
		"did:jwk two values":     raw("{}{}"),
		"did:jwk duplicate":      raw(`{"kty":"EC","kty":"OKP"}`),
		"did:jwk deep":           raw(strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20)),
		"did:jwk private":        raw(string(testkit.JSON(t, private))),
		"did:jwk over the limit": raw(strings.Repeat(" ", 4000) + "{}"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.ResolveKey(context.Background(), did, did)
			wantCode(t, err, CodeMalformed)
		})
	}
	if len(b.cache.records) != 0 {
		t.Error("a bad DID is remembered")
	}
}

// FuzzKeyDID: what decodes has exactly one encoding, and that is the DID.
func FuzzKeyDID(f *testing.F) {
	for _, s := range []string{keyEd25519, keyP256, "did:key:z", "did:key:z1", "did:key:z6Mk"} {
		f.Add(strings.TrimPrefix(s, "did:key:"))
	}
	f.Fuzz(func(t *testing.T, value string) {
		key, err := decodeKey(value)
		if err != nil {
			return
		}
		var again string
		switch k := key.(type) {
		case ed25519.PublicKey:
			again = keyDID(codecEd25519, k)
		case *ecdsa.PublicKey:
			_, err := k.ECDH()
			if err != nil {
				t.Fatalf("%q: %v", value, err)
			}
			again = keyDID(codecP256, compress(t, k))
		default:
			t.Fatalf("%q: key of type %T", value, key)
		}
		if again != "did:key:"+value {
			t.Fatalf("%q is written %q", value, again)
		}
	})
}

// FuzzJWKDID: no input panics, and what is accepted is one of the supported kinds.
func FuzzJWKDID(f *testing.F) {
	f.Add(strings.TrimPrefix(jwkP256, "did:jwk:"))
	for _, s := range []string{`{}`, `{"kty":"RSA","n":"AQ","e":"AQAB"}`, `{"kty":"OKP","crv":"Ed25519","x":"AA"}`, `{"kty":"EC","crv":"P-256"}`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(s)))
	}
	f.Fuzz(func(t *testing.T, value string) {
		key, err := decodeJWK(value)
		if err != nil {
			return
		}
		_, err = publicjwk.Check(key)
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
	})
}

func FuzzBase58(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 1})
	f.Add([]byte("\xed\x01"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 64)]
		got, err := decodeBase58(encodeBase58(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%x comes back as %x, %v", b, got, err)
		}
	})
}

func TestBase58RefusesForeignCharacters(t *testing.T) {
	for _, s := range []string{"0", "O", "I", "l", "2 ", "ü", "2\x00"} {
		_, err := decodeBase58(s)
		if err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

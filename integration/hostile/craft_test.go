package hostile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// b64 is base64url without padding.
func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// crafter makes compact JWS by hand, byte for byte, so that none of its faults is mended by a library. Its good token is
// one that the gateway takes.
type crafter struct {
	t      testing.TB
	key    *ecdsa.PrivateKey
	header map[string]any
	claims map[string]any
}

// accessCrafter makes tokens like the flow's access token, signed with the gateway's own key: what is refused is refused
// for its shape.
func (w *world) accessCrafter(f *flow) *crafter {
	w.t.Helper()
	parts := strings.Split(f.access, ".")
	c := &crafter{t: w.t, key: w.key}
	for i, to := range []*map[string]any{&c.header, &c.claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, to)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for _, name := range []string{"exp", "iat"} { // not as 1.7e+09
		c.claims[name] = int64(c.claims[name].(float64))
	}
	return c
}

// absent leaves a member out.
type absent struct{}

// rawJSON is put in as it is.
type rawJSON = json.RawMessage

func with(members map[string]any, changes ...any) map[string]any {
	changed := maps.Clone(members)
	for i := 0; i < len(changes); i += 2 {
		name := changes[i].(string)
		if changes[i+1] == (absent{}) {
			delete(changed, name)
			continue
		}
		changed[name] = changes[i+1]
	}
	return changed
}

// headerWith and claimsWith are the good ones, changed. They are JSON text.
func (c *crafter) headerWith(changes ...any) string {
	return string(testkit.JSON(c.t, with(c.header, changes...)))
}

func (c *crafter) claimsWith(changes ...any) string {
	return string(testkit.JSON(c.t, with(c.claims, changes...)))
}

// sign signs any header and payload with ES256, whatever they say.
func (c *crafter) sign(header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(c.es256(c.key, input))
}

// es256 returns r and s, with the smaller of the two values that s can have.
func (c *crafter) es256(key *ecdsa.PrivateKey, input string) []byte {
	c.t.Helper()
	hash := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, hash[:])
	if err != nil {
		c.t.Fatal(err)
	}
	n := key.Params().N
	if s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		s.Sub(n, s)
	}
	size := (n.BitLen() + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

// parts are the three parts of the good token, encoded.
func (c *crafter) parts() (header, payload, signature string) {
	parts := strings.Split(c.sign(c.headerWith(), c.claimsWith()), ".")
	return parts[0], parts[1], parts[2]
}

// withSignature is the good token with another signature over it.
func (c *crafter) withSignature(header string, signature func(input string) []byte) string {
	input := b64([]byte(header)) + "." + b64([]byte(c.claimsWith()))
	return input + "." + b64(signature(input))
}

// changeSignature is the good token whose signature's bytes were changed.
func (c *crafter) changeSignature(change func([]byte) []byte) string {
	return c.withSignature(c.headerWith(), func(input string) []byte { return change(c.es256(c.key, input)) })
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedWith returns a function that signs with a new key of another kind, as a forger does.
func signedWith(t testing.TB, alg string) func(input string) []byte {
	t.Helper()
	return func(input string) []byte {
		var signature []byte
		var err error
		sum := sha256.Sum256([]byte(input))
		switch alg {
		case "RS256":
			signature, err = rsa.SignPKCS1v15(rand.Reader, rsaKey(t, 2048), crypto.SHA256, sum[:])
		case "PS256":
			signature, err = rsa.SignPSS(rand.Reader, rsaKey(t, 2048), crypto.SHA256, sum[:], nil)
		case "EdDSA":
			var key ed25519.PrivateKey
			_, key, err = ed25519.GenerateKey(rand.Reader)
			signature = ed25519.Sign(key, []byte(input))
		case "ES384":
			hash := sha512.Sum384([]byte(input))
			var r, s *big.Int
			r, s, err = ecdsa.Sign(rand.Reader, ecKey(t, elliptic.P384()), hash[:])
			signature = append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...)
		default:
			t.Fatalf("algorithm %s", alg)
		}
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
}

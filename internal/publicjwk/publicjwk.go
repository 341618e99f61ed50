// Package publicjwk reads the public keys that other parties publish as JSON Web Keys (RFC 7517), in DID documents and in
// key sets, and accepts only those with which a signature can safely be checked.
package publicjwk

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// Sizes of RSA keys that are accepted. Below, they can be forged; above, one signature costs the verifier too much.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// privateMembers are the members of a JWK that carry secrets (RFC 7518 §6.2.2, §6.3.2, §6.4.1; RFC 8037 §2).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// Parse reads a JWK (RFC 7517) that has passed strictjson.Check and returns a key with which signatures can be
// checked: EC P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bit.
func Parse(raw json.RawMessage) (crypto.PublicKey, error) {
	var m strictjson.Members
	err := json.Unmarshal(raw, &m)
	if err != nil || m == nil {
		return nil, errors.New("key is not a JSON object")
	}
	for _, name := range privateMembers {
		// Whoever published the private key has lost it: everybody can sign with it.
		if m.Has(name) {
			return nil, fmt.Errorf("key has the private member %q", name)
		}
	}
	err = checkPurpose(m)
	if err != nil {
		return nil, err
	}
	algorithms, err := checkKind(m)
	if err != nil {
		return nil, err
	}
	// RFC 7517 §4.4: the algorithm intended for the key. A key for encryption or for another curve is none of ours.
	if m.Has("alg") {
		alg, err := m.String("alg")
		if err != nil || !slices.Contains(algorithms, alg) {
			return nil, errors.New("key is for another algorithm")
		}
	}
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return nil, errors.New("key is not a valid JWK")
	}
	var key any
	err = parsed.Raw(&key)
	if err != nil {
		return nil, errors.New("key is not a valid JWK")
	}
	checked, err := Check(key)
	if err != nil {
		return nil, err
	}
	err = checkExponent(m, checked)
	if err != nil {
		return nil, err
	}
	err = checkCertificate(m, checked)
	if err != nil {
		return nil, err
	}
	return checked, nil
}

// checkPurpose: RFC 7517 §4.2 and §4.3. A key for encryption must not vouch for anybody.
func checkPurpose(m strictjson.Members) error {
	if m.Has("use") {
		use, err := m.String("use")
		if err != nil || use != "sig" {
			return errors.New("key is not for signatures")
		}
	}
	if m.Has("key_ops") {
		ops, err := stringList(m["key_ops"])
		if err != nil || !slices.Contains(ops, "verify") {
			return errors.New("key is not for verification")
		}
	}
	return nil
}

// checkKind accepts a key type and curve, and returns the algorithms it is good for.
func checkKind(m strictjson.Members) ([]string, error) {
	kty, err := m.String("kty")
	if err != nil {
		return nil, errors.New("key has no type")
	}
	if kty == "RSA" {
		return []string{"PS256", "RS256"}, nil
	}
	crv, err := m.String("crv")
	if err != nil {
		return nil, errors.New("key has neither a supported type nor a curve")
	}
	switch kty + " " + crv {
	case "EC P-256":
		return []string{"ES256"}, nil
	case "EC P-384":
		return []string{"ES384"}, nil
	case "OKP Ed25519":
		return []string{"EdDSA", "Ed25519"}, nil // RFC 8037 §3.1, RFC 9864 §2.2
	}
	return nil, errors.New("key has an unsupported type or curve")
}

// Check returns the key if it is one that Parse accepts: of a supported kind, on its curve, of a bearable size.
func Check(key any) (crypto.PublicKey, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, errors.New("key is on an unsupported curve")
		}
		// ECDH refuses points that are not on the curve (RFC 7518 §6.2.1).
		_, err := k.ECDH()
		if err != nil {
			return nil, errors.New("key is not a point of its curve")
		}
		return k, nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, errors.New("key has a wrong length")
		}
		return k, nil
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		if bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("RSA key has %d bits, not %d to %d", bits, minRSABits, maxRSABits)
		}
		// With an exponent of 1 the signature is the message itself; an even modulus or exponent is no RSA key at all.
		if k.N.Bit(0) == 0 || k.E < 3 || k.E&1 == 0 {
			return nil, errors.New("RSA key has an impossible modulus or exponent")
		}
		return k, nil
	}
	return nil, errors.New("key is of an unsupported type")
}

// checkExponent refuses an RSA exponent that was cut down to fit: the JOSE library keeps the low bits of a long one, and
// the key would be another than the document says.
func checkExponent(m strictjson.Members, key crypto.PublicKey) error {
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil
	}
	text, err := m.String("e")
	if err != nil {
		return errors.New("RSA key has no exponent")
	}
	e, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || new(big.Int).SetBytes(e).Cmp(big.NewInt(int64(k.E))) != 0 {
		return errors.New("RSA key has an impossible modulus or exponent")
	}
	return nil
}

// checkCertificate: the first certificate of x5c must hold the key itself (RFC 7517 §4.7). Nothing else of the chain is
// trusted or looked at.
func checkCertificate(m strictjson.Members, key crypto.PublicKey) error {
	if !m.Has("x5c") {
		return nil
	}
	mismatch := errors.New("key and its certificate differ")
	chain, err := stringList(m["x5c"])
	if err != nil || len(chain) == 0 {
		return mismatch
	}
	der, err := base64.StdEncoding.DecodeString(chain[0])
	if err != nil {
		return mismatch
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return mismatch
	}
	own, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(certificate.PublicKey) {
		return mismatch
	}
	return nil
}

func stringList(raw json.RawMessage) ([]string, error) {
	var list []*string
	err := json.Unmarshal(raw, &list)
	if err != nil {
		return nil, err
	}
	values := make([]string, len(list))
	for i, s := range list {
		if s == nil {
			return nil, errors.New("null in a list of strings")
		}
		values[i] = *s
	}
	return values, nil
}

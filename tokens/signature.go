package tokens

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwa"
)

// Of a valid ECDSA signature (r, s) anybody can make another one, (r, n-s). So that our tokens have one spelling only, we
// issue and accept the one with the smaller s.
var (
	p256Order     = elliptic.P256().Params().N
	p256HalfOrder = new(big.Int).Rsh(p256Order, 1).FillBytes(make([]byte, p256Bytes))
)

const p256Bytes = 32

// isSmaller reports whether the signature is the one of the two that we issue (RFC 7518 §3.4: r and s, 32 bytes each).
func isSmaller(alg jwa.SignatureAlgorithm, signature []byte) bool {
	if alg != jwa.ES256 {
		return true // EdDSA has one signature for each message (RFC 8032 §5.1.7)
	}
	return len(signature) == 2*p256Bytes && bytes.Compare(signature[p256Bytes:], p256HalfOrder) <= 0
}

// smaller returns the one of the two signatures that we issue.
func smaller(alg jwa.SignatureAlgorithm, signature []byte) ([]byte, error) {
	if isSmaller(alg, signature) {
		return signature, nil
	}
	if len(signature) != 2*p256Bytes {
		return nil, errors.New("the signature does not have the length of its algorithm")
	}
	other := slices.Clone(signature)
	s := new(big.Int).SetBytes(signature[p256Bytes:])
	s.Sub(p256Order, s).FillBytes(other[p256Bytes:])
	return other, nil
}

// sign returns an access token with these claims (RFC 7515 §7.1).
func (k *signingKey) sign(claims []byte) (string, error) {
	input := k.header + "." + base64.RawURLEncoding.EncodeToString(claims)
	signature, err := k.make.Sign([]byte(input), k.signer)
	if err != nil {
		return "", err
	}
	signature, err = smaller(k.alg, signature)
	if err != nil {
		return "", err
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

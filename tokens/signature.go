package tokens

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"

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

// withSmaller returns a compact JWS of ours with the smaller of its two signatures.
func withSmaller(alg jwa.SignatureAlgorithm, token string) (string, error) {
	dot := strings.LastIndexByte(token, '.')
	signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		return "", errors.New("the signature is not base64url")
	}
	if isSmaller(alg, signature) {
		return token, nil
	}
	if len(signature) != 2*p256Bytes {
		return "", errors.New("the signature does not have the length of its algorithm")
	}
	s := new(big.Int).SetBytes(signature[p256Bytes:])
	s.Sub(p256Order, s).FillBytes(signature[p256Bytes:])
	return token[:dot+1] + base64.RawURLEncoding.EncodeToString(signature), nil
}

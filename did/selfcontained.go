package did

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/edrgate/edrgate/internal/publicjwk"
	"github.com/edrgate/edrgate/internal/strictjson"
)

// maxJWKDepth bounds the nesting of a JWK; the deepest member in use is an array.
const maxJWKDepth = 4

// selfContained decodes a DID that is its own document. It has exactly one key, which never changes.
func selfContained(id identifier) (*document, *Error) {
	decode, fragment := decodeKey, id.value
	if id.method == methodJWK {
		decode, fragment = decodeJWK, "0" // did:jwk method specification: the only method is "#0"
	}
	key, err := decode(id.value)
	if err != nil {
		return nil, id.fail(CodeMalformed, err)
	}
	return &document{
		id:      id,
		methods: map[string]method{fragment: {key: key}},
		count:   1,
	}, nil
}

// decodeJWK reads the identifier of a did:jwk: the base64url form of a JWK, without padding and with no second spelling.
func decodeJWK(value string) (crypto.PublicKey, error) {
	// The decoder of the standard library skips line breaks.
	if strings.ContainsAny(value, "\r\n") {
		return nil, errors.New("did:jwk is not base64url")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, errors.New("did:jwk is not base64url")
	}
	err = strictjson.Check(raw, maxJWKDepth)
	if err != nil {
		return nil, errors.New("did:jwk is not strict JSON")
	}
	return publicjwk.Parse(raw)
}

// Multicodec prefixes of did:key, as unsigned varints.
const (
	codecEd25519 = "\xed\x01" // 0xed
	codecP256    = "\x80\x24" // 0x1200
)

// maxMultibaseBytes is above the longest accepted did:key value (49 characters) and bounds the quadratic decoder.
const maxMultibaseBytes = 64

// decodeKey reads the identifier of a did:key: multibase base58btc of a multicodec prefix and the raw public key. The
// two curves are those of ES256 and EdDSA.
func decodeKey(value string) (crypto.PublicKey, error) {
	encoded, ok := strings.CutPrefix(value, "z")
	if !ok || len(encoded) > maxMultibaseBytes {
		return nil, errors.New("did:key is not of a supported form")
	}
	raw, err := decodeBase58(encoded)
	if err != nil {
		return nil, err
	}
	ed, ok := strings.CutPrefix(string(raw), codecEd25519)
	if ok {
		if len(ed) != ed25519.PublicKeySize {
			return nil, errors.New("did:key has a wrong length")
		}
		return ed25519.PublicKey(ed), nil
	}
	point, ok := strings.CutPrefix(string(raw), codecP256)
	if ok {
		// SEC 1 §2.3.4, compressed form only. It refuses a wrong length and an x that is on no point of the curve.
		x, y := elliptic.UnmarshalCompressed(elliptic.P256(), []byte(point))
		if x == nil {
			return nil, errors.New("did:key is not a point of its curve")
		}
		const size = 32
		uncompressed := make([]byte, 1+2*size)
		uncompressed[0] = 4 // SEC 1 §2.3.3
		x.FillBytes(uncompressed[1 : 1+size])
		y.FillBytes(uncompressed[1+size:])
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), uncompressed)
	}
	return nil, errors.New("did:key has an unsupported key type")
}

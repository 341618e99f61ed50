// Package compactjws takes a compact JWS (RFC 7515 §7.1) apart before any key is looked at.
//
// A token must have exactly one spelling. Otherwise a revoked or remembered token is a stranger again once its spelling
// changes: the base64 decoder of the standard library skips line breaks, and by default accepts any value in the bits
// that the last character does not need. And a signature library offers more than an access token or a proof needs: keys
// named by the token itself, extensions, unsigned payloads. Parse refuses all of that in one linear pass; what it lets
// through is then verified by the JOSE library.
//
// Nothing here proves anything: a Token is parsed, not verified. No error quotes a byte of the token.
package compactjws

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// DefaultLimit is the size limit, in bytes, used when a caller passes 0.
const DefaultLimit = 16 << 10 // 16 KiB

// Depth limits of the two JSON objects. Header parameters are flat but for keys, which are refused.
const (
	headerDepth  = 8
	payloadDepth = strictjson.DefaultDepth
)

var (
	// ErrTooLarge is returned for a token longer than the limit. Nothing else of it has been looked at.
	ErrTooLarge = errors.New("token is too large")
	// ErrMalformed is wrapped when the token is not three non-empty parts of base64url in their only spelling.
	ErrMalformed = errors.New("token is not a compact JWS")
	// ErrHeader is wrapped when the header is not a strict JSON object, names no algorithm, or has a parameter that is
	// refused.
	ErrHeader = errors.New("token header refused")
	// ErrPayload is wrapped when the payload is not a strict JSON object, as the claims of a JWT are (RFC 7519 §7.2).
	ErrPayload = errors.New("token payload refused")
)

// Header holds the header parameters that a verifier may act on. Absent strings are empty.
type Header struct {
	Alg string // never empty, never "none"
	Typ string
	Kid string
	Cty string
}

// Token is a parsed token whose signature has not been verified.
type Token struct {
	Header       Header
	Payload      []byte // decoded
	Claims       strictjson.Members
	SigningInput string // what the signature covers, part of the token given to Parse
	Signature    []byte // decoded
}

// Parse takes a token apart. The limit is in bytes, 0 means DefaultLimit. The error wraps one of the sentinels above.
func Parse(token string, limit int) (*Token, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	if len(token) > limit {
		return nil, ErrTooLarge
	}
	// Cut at the dots without building a list: the list of a token that is a million dots is what exhausted other programs
	// (CVE-2025-30204, CVE-2025-22868).
	header, rest, _ := strings.Cut(token, ".")
	payload, signature, found := strings.Cut(rest, ".")
	if !found || strings.IndexByte(signature, '.') >= 0 {
		// One or two parts, four, or the five of a JWE (RFC 7516 §9).
		return nil, fmt.Errorf("%w: want three parts", ErrMalformed)
	}
	rawHeader, err := decode("header", header)
	if err != nil {
		return nil, err
	}
	t := &Token{SigningInput: token[:len(header)+1+len(payload)]}
	t.Header, err = parseHeader(rawHeader)
	if err != nil {
		return nil, err
	}
	t.Payload, err = decode("payload", payload)
	if err != nil {
		return nil, err
	}
	t.Signature, err = decode("signature", signature)
	if err != nil {
		return nil, err
	}
	t.Claims, err = strictjson.Parse(t.Payload, payloadDepth)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return t, nil
}

// alphabet marks the characters of base64url (RFC 4648 §5).
var alphabet = func() [256]bool {
	var t [256]bool
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		t[c] = true
	}
	return t
}()

var encoding = base64.RawURLEncoding.Strict()

// decode decodes one part. Base64url without padding, white space or line breaks (RFC 7515 §2), and with zeros in the bits
// that the last character does not need (RFC 4648 §3.5).
func decode(what, part string) ([]byte, error) {
	if part == "" {
		return nil, fmt.Errorf("%w: %s is empty", ErrMalformed, what)
	}
	// The decoder skips CR and LF even in strict mode, so the alphabet is checked first.
	for i := range len(part) {
		if !alphabet[part[i]] {
			return nil, fmt.Errorf("%w: %s is not base64url", ErrMalformed, what)
		}
	}
	data, err := encoding.DecodeString(part)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not canonical base64url", ErrMalformed, what)
	}
	return data, nil
}

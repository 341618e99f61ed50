package tokens

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
)

const (
	refreshFormat = 1       // first byte of a refresh token
	keyTagBytes   = 8       // a secret key's fingerprint
	saltBytes     = 32      // of each flow
	tagBytes      = 32      // of HMAC-SHA-256
	maxRefresh    = 1 << 10 // longest refresh token we ever look at, in characters

	maxParticipantIDBytes = 64
)

var errRefreshToken = errors.New("not a refresh token of this gateway")

// dummySalt takes the place of the salt of a flow that does not exist, so that such a token costs the same steps as one
// with a wrong tag.
var dummySalt = make([]byte, saltBytes)

// refreshToken is the content of a refresh token. It is derived, never stored: any replica recomputes the token of a
// generation from the flow's salt, and whoever steals the store but not the key has nothing.
//
// On the wire it is base64url without padding (its alphabet survives peers that do not percent-decode) of
//
//	format(1) key(8) generation(8) len(1) participant len(1) flow tag(32)
type refreshToken struct {
	key         KeyID
	generation  uint64
	participant string
	flow        string
	tag         []byte
}

// parseRefreshToken accepts exactly one spelling of a token: the one that encode gives.
func parseRefreshToken(s string) (*refreshToken, error) {
	if s == "" || len(s) > maxRefresh {
		return nil, errRefreshToken
	}
	// Strict refuses spare bits in the last character (RFC 4648 §3.5); line breaks, which Go's decoder skips, are
	// refused by the comparison below.
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errRefreshToken
	}
	if len(b) < 1+keyTagBytes+8 || b[0] != refreshFormat {
		return nil, errRefreshToken
	}
	t := &refreshToken{key: KeyID(hex.EncodeToString(b[1 : 1+keyTagBytes]))}
	b = b[1+keyTagBytes:]
	t.generation = binary.BigEndian.Uint64(b)
	b = b[8:]
	var ok bool
	t.participant, b, ok = cutField(b)
	if !ok {
		return nil, errRefreshToken
	}
	t.flow, b, ok = cutField(b)
	if !ok || len(b) != tagBytes || t.generation == 0 {
		return nil, errRefreshToken
	}
	t.tag = b
	if t.encode() != s {
		return nil, errRefreshToken
	}
	return t, nil
}

func cutField(b []byte) (string, []byte, bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) || b[0] == 0 {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

func (t *refreshToken) encode() string {
	key, err := hex.DecodeString(string(t.key))
	if err != nil || len(key) != keyTagBytes {
		return ""
	}
	b := make([]byte, 0, 1+keyTagBytes+8+2+len(t.participant)+len(t.flow)+tagBytes)
	b = append(b, refreshFormat)
	b = append(b, key...)
	b = binary.BigEndian.AppendUint64(b, t.generation)
	b = append(b, byte(len(t.participant)))
	b = append(b, t.participant...)
	b = append(b, byte(len(t.flow)))
	b = append(b, t.flow...)
	b = append(b, t.tag...)
	return base64.RawURLEncoding.EncodeToString(b)
}

// refreshTag computes the tag of a generation. Every field is length-prefixed, so that no two inputs run together.
func refreshTag(key []byte, participant, flow string, salt []byte, generation uint64) []byte {
	h := hmac.New(sha256.New, key)
	field := func(b []byte) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field([]byte("edrgate rt1"))
	field([]byte(participant))
	field([]byte(flow))
	field(salt)
	var g [8]byte
	binary.BigEndian.PutUint64(g[:], generation)
	field(g[:])
	return h.Sum(nil)
}

// refreshTokenOf recomputes the current refresh token of a flow.
func (r *Ring) refreshTokenOf(f *Flow) (Secret, error) {
	key := r.refresh[f.CurrentKey]
	if key == nil {
		return "", unavailable(nil, "refresh token key %s of flow %s is not configured", f.CurrentKey, f.ID)
	}
	t := refreshToken{key: f.CurrentKey, generation: f.Generation, participant: f.Participant, flow: f.ID}
	t.tag = refreshTag(key, f.Participant, f.ID, f.Salt, f.Generation)
	return Secret(t.encode()), nil
}

// genuine reports whether the token was issued by a holder of one of our keys for the flow with this salt.
func (r *Ring) genuine(t *refreshToken, salt []byte) bool {
	key, known := r.refresh[t.key]
	if !known {
		// The same work for an unknown key, so that key ids cannot be told apart by time.
		key = dummySalt
	}
	tag := refreshTag(key, t.participant, t.flow, salt, t.generation)
	return hmac.Equal(tag, t.tag) && known
}

package tokens

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

func issuedToken(t testing.TB) (*Ring, *Flow, string) {
	t.Helper()
	ring := newRing(t, newKey(t))
	f := &Flow{
		Participant: "default", ID: "flow-1", Generation: 7, Salt: bytes.Repeat([]byte{5}, saltBytes),
		CurrentKey: ring.activeRefresh,
	}
	token, err := ring.refreshTokenOf(f)
	if err != nil {
		t.Fatal(err)
	}
	return ring, f, token.Reveal()
}

func TestRefreshTokenIsRecomputedAndGenuine(t *testing.T) {
	ring, f, token := issuedToken(t)
	again, err := ring.refreshTokenOf(f)
	if err != nil || again.Reveal() != token {
		t.Fatalf("recomputed token differs: %v", err)
	}
	if strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Fatal("token has characters that peers would have to percent-encode")
	}
	parsed, err := parseRefreshToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.flow != f.ID || parsed.participant != f.Participant || parsed.generation != 7 {
		t.Fatalf("parsed %+v", parsed)
	}
	if !ring.genuine(parsed, f.Salt) {
		t.Fatal("own token is not genuine")
	}
	if ring.genuine(parsed, dummySalt) {
		t.Fatal("genuine under another salt")
	}
	if newRing(t, newKey(t)).genuine(parsed, f.Salt) {
		t.Fatal("genuine for a ring without the key")
	}
}

// Every changed byte must be noticed: by the parser, or by the tag.
func TestRefreshTokenWithAnyByteChangedIsRefused(t *testing.T) {
	ring, f, token := issuedToken(t)
	for i := range len(token) {
		for _, c := range []byte("Aa0-_=+/ \n") {
			if token[i] == c {
				continue
			}
			changed := token[:i] + string(c) + token[i+1:]
			parsed, err := parseRefreshToken(changed)
			if err != nil {
				continue
			}
			if ring.genuine(parsed, f.Salt) {
				t.Fatalf("byte %d changed to %q is still genuine", i, c)
			}
		}
	}
}

func TestRefreshTokenSpellings(t *testing.T) {
	_, _, token := issuedToken(t)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	generation0 := bytes.Clone(raw)
	copy(generation0[1+keyTagBytes:], make([]byte, 8))
	format2 := bytes.Clone(raw)
	format2[0] = 2
	for name, spelling := range map[string]string{
		"empty":             "",
		"padded":            token + "=",
		"trailing newline":  token + "\n",
		"newline inside":    token[:9] + "\n" + token[9:],
		"leading space":     " " + token,
		"trailing data":     base64.RawURLEncoding.EncodeToString(append(bytes.Clone(raw), 0)),
		"truncated":         token[:len(token)-4],
		"one byte":          "AQ",
		"standard alphabet": strings.NewReplacer("-", "+", "_", "/").Replace(token) + "+/",
		"percent-encoded":   strings.Replace(token, token[:1], "%41", 1),
		"byte order mark":   "\ufeff" + token,
		"generation 0":      base64.RawURLEncoding.EncodeToString(generation0),
		"other format":      base64.RawURLEncoding.EncodeToString(format2),
		"too long":          strings.Repeat("A", maxRefresh+1),
		"a JWT":             "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiJ4In0.AAAA",
	} {
		_, err := parseRefreshToken(spelling)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRefreshTagFieldsDoNotRunTogether(t *testing.T) {
	key, salt := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	if bytes.Equal(refreshTag(key, "ab", "c", salt, 1), refreshTag(key, "a", "bc", salt, 1)) {
		t.Fatal("two flows share a tag")
	}
}

func FuzzParseRefreshToken(f *testing.F) {
	_, _, token := issuedToken(f)
	f.Add(token)
	f.Add("")
	f.Add("AQ")
	f.Add(token[:len(token)-1])
	f.Add(strings.Repeat("_", 200))
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := parseRefreshToken(s)
		if err != nil {
			return
		}
		if parsed.encode() != s {
			t.Fatalf("two spellings of one token")
		}
		if len(parsed.tag) != tagBytes || parsed.generation == 0 || parsed.flow == "" || parsed.participant == "" {
			t.Fatalf("accepted an incomplete token")
		}
	})
}

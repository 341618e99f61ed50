package did

import (
	"strings"
	"testing"
)

func TestKeyID(t *testing.T) {
	const did = "did:web:a.example:b"
	for _, c := range []struct {
		name, kid, want string // want "-" where it is refused
	}{
		{"absolute", did + "#key-1", "key-1"},
		{"relative", "#key-1", "key-1"},
		{"bare fragment", "key-1", "key-1"},
		{"bare DID", did, ""},
		{"fragment of a thumbprint URN", did + "#urn:ietf:params:oauth:jwk-thumbprint:sha-256:Nz", "urn:ietf:params:oauth:jwk-thumbprint:sha-256:Nz"},
		{"case is kept", "Key-1", "Key-1"},
		{"percent-encoding is kept", "#a%2Fb", "a%2Fb"},
		{"empty", "", "-"},
		{"empty fragment", did + "#", "-"},
		{"lone hash", "#", "-"},
		{"two fragments", did + "#a#b", "-"},
		{"other DID", "did:web:evil.example#key-1", "-"},
		{"other case of the DID", "did:web:A.example:b#key-1", "-"},
		{"longer DID", did + ":c#key-1", "-"},
		{"longer host", "did:web:a.example:bb#key-1", "-"},
		{"path", did + "/p#key-1", "-"},
		{"query", did + "?versionId=1#key-1", "-"},
		{"other method", "did:key:z6Mk#z6Mk", "-"},
		{"space", "#a b", "-"},
		{"NUL", "#a\x00", "-"},
		{"line break", "a\r\nb", "-"},
		{"not ASCII", "#schlüssel", "-"},
		{"quote", `#a"b`, "-"},
		{"too long", strings.Repeat("k", 513), "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parsed(t, did).fragment(c.kid)
			if c.want == "-" {
				if err == nil {
					t.Fatalf("accepted as %q", got)
				}
				wantCode(t, err, CodeMalformed)
				return
			}
			if err != nil || got != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// What a DID says beyond its host belongs to the counterparty's business and not into a log line.
func TestErrorsNameTheHostOnly(t *testing.T) {
	err := parsed(t, "did:web:a.example%3A8443:secret-path").fail(CodeNoKey, nil)
	if got, want := err.Error(), "resolve did:web:a.example:8443: no_key"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	_, err = parse("did:web:user:hunter2@a.example")
	if strings.Contains(err.Error(), "hunter2") || err.DID != "" {
		t.Errorf("a malformed DID is quoted: %v", err)
	}
	_, err = selfContained(parsed(t, "did:jwk:c2VjcmV0"))
	if strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("a key is quoted: %v", err)
	}
}

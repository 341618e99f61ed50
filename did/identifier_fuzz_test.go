package did

import (
	"strings"
	"testing"
)

// FuzzKeyID: a key id of one DID is none of another, and its fragment is what is written in it.
func FuzzKeyID(f *testing.F) {
	for _, did := range []string{"did:web:a.example", "did:web:a.example%3A1:x", "did:key:z6Mk", "did:jwk:e30", "did:ion:x", "did:", "did:web:", "web:a", ""} {
		for _, kid := range []string{did, did + "#k", "#k", "k", "#", "", did + "#", did + "#a#b", did + "?x#k", "did:web:b.example#k", did + "%23k", "#%zz", "k\x00", did + ":y#k"} {
			f.Add(did, kid)
		}
	}
	f.Fuzz(func(t *testing.T, did, kid string) {
		id, failure := parse(did)
		if failure != nil {
			if !failure.Refused() {
				t.Errorf("%q: nobody has to be asked: %v", did, failure)
			}
			return
		}
		fragment, failure := id.fragment(kid)
		if failure != nil {
			if !failure.Refused() {
				t.Errorf("%q: nobody has to be asked: %v", kid, failure)
			}
			return
		}
		if kid == did && fragment == "" {
			return
		}
		if fragment == "" || strings.Contains(fragment, "#") || !strings.HasSuffix(kid, fragment) {
			t.Errorf("%q of %q is fragment %q", kid, did, fragment)
		}
		if strings.HasPrefix(kid, "did:") && kid != did+"#"+fragment {
			t.Errorf("%q is taken for a key of %q", kid, did)
		}
	})
}

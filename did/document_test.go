package did

import (
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/publicjwk"
	"github.com/edrgate/edrgate/internal/testkit"
)

const docDID = "did:web:wallet.example:alice"

// The document that the test kit of Data Plane Signaling serves, as recorded.
func TestRecordedDocument(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "dps-tck.json"))
	if err != nil {
		t.Fatal(err)
	}
	const did, fragment = "did:web:localhost%3A8083", "fbc415f9-ffdd-4a56-b5ac-d1370344fadd"
	for _, policy := range []Relationship{RelationshipAny, RelationshipCapabilityInvocation, RelationshipNone} {
		doc, err := parseDocument(data, parsed(t, did), policy)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{fragment, ""} {
			key, failure := doc.key(f)
			if failure != nil {
				t.Errorf("%s: %v", policy, failure)
				continue
			}
			if got := testkit.JWK(t, key)["x"]; got != "3IlIbRvk-wJkGjPQa5f4jrqtn59qJmwq4MpoFtitWEM" {
				t.Errorf("%s: x is %v", policy, got)
			}
		}
	}
}

// change returns the document of one key "k" with some members replaced; nil removes one.
func change(t *testing.T, key crypto.PublicKey, members map[string]any) []byte {
	t.Helper()
	doc := documentOf(t, docDID, "k", key)
	apply(doc, members)
	return testkit.JSON(t, doc)
}

// changeMethod does the same in its verification method.
func changeMethod(t *testing.T, key crypto.PublicKey, members map[string]any) []byte {
	t.Helper()
	m := methodOf(t, docDID, "k", key)
	apply(m, members)
	return change(t, key, map[string]any{"verificationMethod": []any{m}})
}

func apply(to, members map[string]any) {
	for name, v := range members {
		if v == nil {
			delete(to, name)
			continue
		}
		to[name] = v
	}
}

func TestDocumentRules(t *testing.T) {
	ec, ed := testkit.ECKey(t), testkit.EdKey(t)
	own := methodOf(t, docDID, "k", ec)
	second := methodOf(t, docDID, "k2", ed)
	relative := methodOf(t, docDID, "k", ec)
	relative["id"] = "#k"
	bare := methodOf(t, docDID, "k", ec)
	bare["id"] = "k"
	foreign := methodOf(t, "did:web:other.example", "k2", ed)
	foreign["controller"] = docDID
	privateKey := testkit.JWK(t, ec)
	privateKey["d"] = "AQ"

	const unparsable Code = CodeUnparsable
	for _, c := range []struct {
		name   string
		data   []byte
		policy Relationship // any where empty
		kid    string       // docDID#k where empty
		want   Code         // empty: the key
	}{
		{"plain", change(t, ec, nil), "", "", ""},
		{"sole key", change(t, ec, nil), "", docDID, ""},
		{"other fragment", change(t, ec, nil), "", "#k2", CodeNoKey},
		{"fragments have a case", change(t, ec, nil), "", "#K", CodeNoKey},
		{"no methods", change(t, ec, map[string]any{"verificationMethod": nil}), "", "", CodeNoKey},
		{"methods null", []byte(`{"id":"` + docDID + `","verificationMethod":null,"authentication":null}`), "", "", CodeNoKey},

		{"id of another", change(t, ec, map[string]any{"id": "did:web:other.example"}), "", "", CodeOtherID},
		{"id in another case", change(t, ec, map[string]any{"id": strings.ToUpper(docDID)}), "", "", CodeOtherID},
		{"id with a fragment", change(t, ec, map[string]any{"id": docDID + "#"}), "", "", CodeOtherID},
		{"no id", change(t, ec, map[string]any{"id": nil}), "", "", unparsable},
		{"id no string", change(t, ec, map[string]any{"id": []string{docDID}}), "", "", unparsable},
		{"id only in another case of the name", change(t, ec, map[string]any{"id": nil, "ID": docDID}), "", "", unparsable},

		{"relative id", change(t, ec, map[string]any{"verificationMethod": []any{relative}}), "", "", ""},
		{"relative id and reference", change(t, ec, map[string]any{"verificationMethod": []any{relative}, "authentication": []string{"#k"}}), "", "", ""},
		{"bare id", change(t, ec, map[string]any{"verificationMethod": []any{bare}}), "", "", ""},
		{"absolute and relative id", change(t, ec, map[string]any{"verificationMethod": []any{own, relative}}), "", "", unparsable},
		{"twice", change(t, ec, map[string]any{"verificationMethod": []any{own, own}}), "", "", unparsable},
		{"method without id", changeMethod(t, ec, map[string]any{"id": nil}), "", "", unparsable},
		{"method a string", change(t, ec, map[string]any{"verificationMethod": []string{docDID + "#k"}}), "", "", unparsable},
		{"method a number", change(t, ec, map[string]any{"verificationMethod": []int{1}}), "", "", unparsable},
		{"methods an object", change(t, ec, map[string]any{"verificationMethod": own}), "", "", unparsable},
		{"method of another DID", change(t, ec, map[string]any{"verificationMethod": []any{own, foreign}}), "", "did:web:other.example#k2", CodeMalformed},
		{"its fragment", change(t, ec, map[string]any{"verificationMethod": []any{own, foreign}}), "", "#k2", CodeNoKey},
		{"it counts for the sole key", change(t, ec, map[string]any{"verificationMethod": []any{own, foreign}}), "", docDID, CodeNoKey},
		{"two keys, none named", change(t, ec, map[string]any{"verificationMethod": []any{own, second}}), "", docDID, CodeNoKey},

		{"controller of another", changeMethod(t, ec, map[string]any{"controller": "did:web:other.example"}), "", "", CodeOtherController},
		{"no controller", changeMethod(t, ec, map[string]any{"controller": nil}), "", "", CodeOtherController},
		{"list of controllers", changeMethod(t, ec, map[string]any{"controller": []string{docDID}}), "", "", CodeOtherController},

		{"JsonWebKey", changeMethod(t, ec, map[string]any{"type": "JsonWebKey"}), "", "", ""},
		{"Ed25519VerificationKey2018", changeMethod(t, ec, map[string]any{"type": "Ed25519VerificationKey2018"}), "", "", ""},
		{"Multikey", changeMethod(t, ec, map[string]any{"type": "Multikey"}), "", "", CodeBadKey},
		{"no type", changeMethod(t, ec, map[string]any{"type": nil}), "", "", CodeBadKey},
		{"no JWK", changeMethod(t, ec, map[string]any{"publicKeyJwk": nil, "publicKeyMultibase": keyP256[8:]}), "", "", CodeBadKey},
		{"private JWK", changeMethod(t, ec, map[string]any{"publicKeyJwk": privateKey}), "", "", CodeBadKey},
		{"bad key beside", change(t, ec, map[string]any{"verificationMethod": []any{own, map[string]any{"id": "#bad"}}}), "", "", ""},

		{"listed nowhere", change(t, ec, map[string]any{"authentication": []string{"#other"}}), "", "", CodeNotListed},
		{"empty lists", change(t, ec, map[string]any{"authentication": []string{}}), "", "", ""},
		{"no lists at all", change(t, ec, map[string]any{"authentication": nil}), "", "", ""},
		{"listed by another DID", change(t, ec, map[string]any{"authentication": []string{"did:web:other.example#k"}}), "", "", CodeNotListed},
		{"listed for encryption", change(t, ec, map[string]any{"authentication": nil, "keyAgreement": []string{"#k"}}), "", "", CodeNotListed},
		{"listed for delegation", change(t, ec, map[string]any{"authentication": nil, "capabilityDelegation": []string{"#k"}}), "", "", CodeNotListed},
		{"listed for assertion", change(t, ec, map[string]any{"authentication": nil, "assertionMethod": []string{"#k"}}), "", "", ""},
		{"listed for invocation", change(t, ec, map[string]any{"authentication": nil, "capabilityInvocation": []string{"#k"}}), "", "", ""},
		{"list no array", change(t, ec, map[string]any{"authentication": "#k"}), "", "", unparsable},
		{"list of numbers", change(t, ec, map[string]any{"authentication": []int{1}}), "", "", unparsable},
		{"invocation wanted", change(t, ec, nil), RelationshipCapabilityInvocation, "", CodeNotListed},
		{"invocation wanted, no lists", change(t, ec, map[string]any{"authentication": nil}), RelationshipCapabilityInvocation, "", CodeNotListed},
		{"invocation given", change(t, ec, map[string]any{"capabilityInvocation": []string{docDID + "#k"}}), RelationshipCapabilityInvocation, "", ""},
		{"nothing wanted", change(t, ec, map[string]any{"authentication": []string{"#other"}}), RelationshipNone, "", ""},

		{"embedded", change(t, ec, map[string]any{"verificationMethod": nil, "authentication": []any{own}}), "", "", ""},
		{"embedded, sole key", change(t, ec, map[string]any{"verificationMethod": nil, "authentication": []any{own}}), "", docDID, ""},
		{"embedded elsewhere", change(t, ec, map[string]any{"verificationMethod": nil, "authentication": []any{own}}), RelationshipCapabilityInvocation, "", CodeNotListed},
		{"embedded for encryption", change(t, ec, map[string]any{"verificationMethod": nil, "authentication": nil, "keyAgreement": []any{own}}), "", "", CodeNoKey},
		{"embedded and listed", change(t, ec, map[string]any{"assertionMethod": []any{own}}), "", "", unparsable},
		{"embedded twice", change(t, ec, map[string]any{"verificationMethod": nil, "authentication": []any{own}, "assertionMethod": []any{own}}), "", "", unparsable},
		{"embedded without id", change(t, ec, map[string]any{"authentication": []any{map[string]any{"type": "x"}}}), "", "", unparsable},

		{"64 methods", change(t, ec, map[string]any{"verificationMethod": many(t, own, 64)}), "", "", ""},
		{"65 methods", change(t, ec, map[string]any{"verificationMethod": many(t, own, 65)}), "", "", unparsable},
		{"65 with embedded", change(t, ec, map[string]any{"verificationMethod": many(t, own, 64), "assertionMethod": []any{second}}), "", "", unparsable},

		{"empty", nil, "", "", unparsable},
		{"HTML", []byte("<html></html>"), "", "", unparsable},
		{"array", []byte("[]"), "", "", unparsable},
		{"null", []byte("null"), "", "", unparsable},
		{"two documents", append(change(t, ec, nil), change(t, ec, nil)...), "", "", unparsable},
		{"byte order mark", append([]byte("\ufeff"), change(t, ec, nil)...), "", "", unparsable},
		{"member twice", []byte(`{"id":"` + docDID + `","id":"` + docDID + `"}`), "", "", unparsable},
		{"deep", []byte(`{"id":"` + docDID + `","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`), "", "", unparsable},
		{"not UTF-8", []byte("{\"id\":\"" + docDID + "\",\"x\":\"\xff\"}"), "", "", unparsable},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy, kid := c.policy, c.kid
			if policy == "" {
				policy = RelationshipAny
			}
			if kid == "" {
				kid = docDID + "#k"
			}
			id := parsed(t, docDID)
			key, code := keyIn(c.data, id, policy, kid)
			if code != c.want {
				t.Fatalf("code %q, want %q", code, c.want)
			}
			if code == "" && !equal(key, ec) {
				t.Error("another key")
			}
		})
	}
}

func keyIn(data []byte, id identifier, policy Relationship, kid string) (crypto.PublicKey, Code) {
	fragment, failure := id.fragment(kid)
	if failure != nil {
		return nil, failure.Code
	}
	doc, err := parseDocument(data, id, policy)
	if err != nil {
		return nil, CodeUnparsable
	}
	key, failure := doc.key(fragment)
	if failure != nil {
		return nil, failure.Code
	}
	return key, ""
}

// many returns n methods, the first of which is m.
func many(t *testing.T, m map[string]any, n int) []any {
	t.Helper()
	list := []any{m}
	for i := 1; i < n; i++ {
		list = append(list, map[string]any{"id": fmt.Sprintf("#n%d", i), "type": "JsonWebKey2020"})
	}
	return list
}

// FuzzDocument: no input panics; a document of another DID never gives a key; and every key given is one that could be
// checked with.
func FuzzDocument(f *testing.F) {
	data, err := os.ReadFile(filepath.Join("testdata", "dps-tck.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, s := range []string{
		`{}`, `{"id":"did:web:localhost%3A8083"}`, `{"id":"did:web:localhost%3A8083","verificationMethod":[{}]}`,
		`{"id":"did:web:localhost%3A8083","authentication":[{"id":"#a","controller":"did:web:localhost%3A8083"}]}`,
		`{"id":"did:web:other","verificationMethod":[null,1,"x"]}`,
	} {
		f.Add([]byte(s))
	}
	id, failure := parse("did:web:localhost%3A8083")
	if failure != nil {
		f.Fatal(failure)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseDocument(data, id, RelationshipAny)
		if err != nil {
			return
		}
		if len(doc.methods) > maxMethods || doc.bytes() <= 0 {
			t.Fatalf("%d methods, %d bytes", len(doc.methods), doc.bytes())
		}
		for fragment := range doc.methods {
			key, failure := doc.key(fragment)
			if failure != nil {
				if !failure.Refused() {
					t.Fatalf("a document leaves it open whether %q is a key: %v", fragment, failure)
				}
				continue
			}
			_, err = publicjwk.Check(key)
			if err != nil || !strings.Contains(string(data), "localhost") {
				t.Fatalf("key %q: %v", fragment, err)
			}
		}
	})
}

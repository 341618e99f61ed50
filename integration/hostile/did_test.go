package hostile

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/edrgate/edrgate/internal/testkit"
)

// didShapes are renewals of flows that are bound to a DID of the worst kind, or to one whose host answers with a document
// of that kind. Only the consumer's control plane could have named such a DID; the gateway must neither be led to another
// address nor take a wrong key.
func didShapes(w *world) []shape {
	return append(didStrings(w), didDocuments(w)...)
}

// cannotTell is the answer to trouble with a DID's host (docs/decisions: proof of possession).
const cannotTell = `"temporarily_unavailable"`

// renewalFor starts a flow for the wallet's DID and returns a renewal of it.
func (w *world) renewalFor(wallet *testkit.Wallet) string {
	f := w.startDPS("weather", wallet)
	return w.renewal(f, w.proof(f))
}

// didStrings are refused without a look at any host, or lead to one that cannot be reached.
func didStrings(w *world) []shape {
	var shapes []shape
	host := strings.TrimPrefix(w.hosts.did(""), "did:web:")
	host = strings.TrimSuffix(host, ":") // localhost%3APORT
	add := func(did string, status int, code string) {
		wallet := testkit.NewWallet(did)
		shapes = append(shapes, shape{
			name: "DID " + printable(strings.ReplaceAll(did, host, "host")), status: status, code: code,
			send: func(w *world) string { return w.renewalFor(wallet) },
		})
	}
	for _, place := range []string{
		"user@" + host + ":x", "user:secret@" + host, "user%40" + host, "localhost%2fx", "localhost%2Fx", "localhost%00", "localhost%40attacker.invalid", "%6cocalhost", "localhost%3A",
		"localhost%3A0", "localhost%3A65536", "localhost%3A-1", "localhost%3A080", "localhost%3Ax", "localhost%3A80%3A80", "localhost%3A80%2F", "localhost%253A80", "localhost%3F", "localhost%23",
		"127.0.0.1", "127.0.0.1%3A80", "127.1", "0177.0.0.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.0x1", "0", "0.0.0.0", "[::1]", "%5B%3A%3A1%5D", "::1",
		"[::ffff:127.0.0.1]", "169.254.169.254", "169.254.169.254:latest:meta-data", "2852039166", "0xa9fea9fe", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "224.0.0.1",
		"255.255.255.255", "localhost.", ".localhost", "-localhost", "localhost-", "loc_alhost", "loc*lhost", "a..b", "", "%3A80", "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
		"lo\u0441alhost", "xn--\u00e4", strings.Repeat("a", 64) + ".invalid", strings.Repeat("a.", 127) + "invalid", host + ":..:x", host + ":.", host + ":", host + "::x", host + ":x:",
		host + ":%2e%2e:x", host + ":%2F", host + ":a%2Fb", host + ":a/b", host + ":a;b", host + ":a?b", host + ":a\\b", host + ":a%00", host + ":a@b", host + ":...%", host + "/x", host + "?x", host + "\\x",
		host + ":" + strings.Repeat("a", 512), "localhost%3A80@attacker.invalid", "attacker.invalid%2F.localhost", "localhost;x", "local host",
	} {
		add("did:web:"+place, http.StatusUnauthorized, invalidClient)
	}
	for _, did := range []string{
		"did:", "did:web", "did:web2:localhost", "did:WEB:localhost", "did:example:123", "did:tdw:localhost", "did:webvh:x:localhost", "did:ion:x", "did:ethr:0x0", "did:peer:2", "did:plc:x", "did::x",
		"did:file:///etc/passwd", "did:http://169.254.169.254/", "did:urn:x",
		"did:key:", "did:key:z", "did:key:x", "did:key:f8024", "did:key:zDnae", "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2do", "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",
		"did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme", "did:key:z0OIl", "did:key:z" + strings.Repeat("1", 65), "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv" + "1",
	} {
		add(did, http.StatusUnauthorized, invalidClient)
	}
	for _, jwk := range []string{
		"", "{", "[]", "null", `"x"`, `{"kty":"oct","k":"c2VjcmV0"}`, `{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, `{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}`,
		`{"kty":"OKP","crv":"X25519","x":"AA"}`, `{"kty":"RSA","n":"AQAB","e":"AQAB"}`, `{"kty":"EC","kty":"EC"}`, `{"kty":"EC"}x`, `{"kty":` + string(deepJSON(20)) + `}`, `{"jku":"http://169.254.169.254/"}`,
	} {
		add("did:jwk:"+b64([]byte(jwk)), http.StatusUnauthorized, invalidClient)
	}
	padded := base64.URLEncoding.EncodeToString([]byte(`{"kty":"EC","crv":"P-256"}x`))
	add("did:jwk:"+padded+"=", http.StatusUnauthorized, invalidClient)
	add("did:jwk:!", http.StatusUnauthorized, invalidClient)
	for _, place := range []string{"localhost%3A1", "localhost%3A1:x", "no-such-host.invalid"} {
		add("did:web:"+place, http.StatusServiceUnavailable, cannotTell)
	}
	// The host compares names without case, DIDs are compared byte for byte.
	capital := "did:web:" + strings.ToUpper(host) + ":consumer"
	shapes = append(shapes, shape{
		name: "DID of a document that names itself in small letters", status: http.StatusUnauthorized, code: invalidClient, fetches: anyFetches,
		send: func(w *world) string { return w.renewalFor(testkit.NewWallet(capital)) },
	})
	return shapes
}

// didDocuments are what a DID's host may answer.
func didDocuments(w *world) []shape {
	var shapes []shape
	serve := func(name string, status int, code string, answer func(*testkit.Wallet) http.HandlerFunc) {
		place := strings.Map(func(r rune) rune {
			if r < 'a' || r > 'z' {
				return '-'
			}
			return r
		}, strings.ToLower(name)) + "-" + b64([]byte{byte(len(shapes) >> 8), byte(len(shapes))})
		shapes = append(shapes, shape{name: "document " + name, status: status, code: code, fetches: anyFetches, send: func(w *world) string {
			wallet := testkit.NewWallet(w.hosts.did(place))
			w.hosts.serve(place, answer(wallet))
			return w.renewalFor(wallet)
		}})
	}
	for name, change := range otherDocuments() {
		serve(name, http.StatusUnauthorized, invalidClient, func(wallet *testkit.Wallet) http.HandlerFunc {
			d := documentOf(w, wallet)
			change(d)
			return document(testkit.JSON(w.t, d.members))
		})
	}
	for name, text := range unreadableDocuments() {
		serve(name, http.StatusServiceUnavailable, cannotTell, func(wallet *testkit.Wallet) http.HandlerFunc {
			return document([]byte(text(string(wallet.Document()), wallet.DID)))
		})
	}
	for name, answer := range badAnswers(w) {
		serve(name, http.StatusServiceUnavailable, cannotTell, func(wallet *testkit.Wallet) http.HandlerFunc { return answer(wallet.Document()) })
	}
	return shapes
}

// didDocument is a document that is good, for a change. method is its one verification method, key its JWK.
type didDocument struct {
	did                  string
	members, method, key map[string]any
}

func documentOf(w *world, wallet *testkit.Wallet) *didDocument {
	d := &didDocument{did: wallet.DID}
	err := json.Unmarshal(wallet.Document(), &d.members)
	if err != nil {
		w.t.Fatal(err)
	}
	d.method = d.members["verificationMethod"].([]any)[0].(map[string]any)
	d.key = d.method["publicKeyJwk"].(map[string]any)
	return d
}

// otherDocuments are clear answers: this document does not have the key, so the proof is refused.
func otherDocuments() map[string]func(*didDocument) {
	set := func(name string, value any) func(*didDocument) {
		return func(d *didDocument) { d.members[name] = value }
	}
	method := func(name string, value any) func(*didDocument) {
		return func(d *didDocument) { d.method[name] = value }
	}
	key := func(changes ...any) func(*didDocument) {
		return func(d *didDocument) { d.method["publicKeyJwk"] = with(d.key, changes...) }
	}
	none := func(d *didDocument) {
		delete(d.members, "authentication")
		delete(d.members, "assertionMethod")
	}
	attacker := testkit.NewWallet("did:web:attacker.example")
	return map[string]func(*didDocument){
		"of another DID":                 set("id", "did:web:attacker.example"),
		"of its DID in capitals":         func(d *didDocument) { d.members["id"] = strings.ToUpper(d.did) },
		"of its DID with a slash":        func(d *didDocument) { d.members["id"] = d.did + "/" },
		"of its DID with a fragment":     func(d *didDocument) { d.members["id"] = d.did + "#key-1" },
		"of its DID decoded":             func(d *didDocument) { d.members["id"] = strings.ReplaceAll(d.did, "%3A", ":") },
		"of an empty DID":                set("id", ""),
		"without methods":                set("verificationMethod", []any{}),
		"with methods null":              set("verificationMethod", nil),
		"with another controller":        method("controller", "did:web:attacker.example"),
		"with a list of controllers":     method("controller", []string{"did:web:attacker.example"}),
		"without a controller":           method("controller", nil),
		"with another type":              method("type", "Multikey"),
		"without a type":                 method("type", nil),
		"with a type that is a list":     method("type", []string{"JsonWebKey2020"}),
		"with the method of another DID": method("id", "did:web:attacker.example#key-1"),
		"with another fragment":          func(d *didDocument) { d.method["id"] = d.did + "#key-2" },
		"with an empty fragment":         func(d *didDocument) { d.method["id"] = d.did + "#" },
		"with a relative id of a path":   method("id", "/x#key-1"),
		"with a key for agreement only":  func(d *didDocument) { none(d); d.members["keyAgreement"] = []string{d.did + "#key-1"} },
		"with a key for delegation only": func(d *didDocument) { none(d); d.members["capabilityDelegation"] = []string{d.did + "#key-1"} },
		"with another key listed":        func(d *didDocument) { none(d); d.members["authentication"] = []string{d.did + "#key-2"} },
		"with a stranger's key listed": func(d *didDocument) {
			none(d)
			d.members["authentication"] = []string{"did:web:attacker.example#key-1"}
		},
		"embedded, of agreement": func(d *didDocument) {
			none(d)
			d.members["verificationMethod"] = nil
			d.members["keyAgreement"] = []any{d.method}
		},
		"without a key":                 method("publicKeyJwk", nil),
		"with a key that is text":       method("publicKeyJwk", "x"),
		"with a list of keys":           method("publicKeyJwk", []any{map[string]any{}}),
		"with an empty key":             method("publicKeyJwk", map[string]any{}),
		"with publicKeyMultibase":       func(d *didDocument) { delete(d.method, "publicKeyJwk"); d.method["publicKeyMultibase"] = "zDnaerx9" },
		"with the key elsewhere":        func(d *didDocument) { d.method["publicKey"] = d.key; delete(d.method, "publicKeyJwk") },
		"with the private key":          key("d", "AQAB"),
		"with a symmetric member":       key("k", "c2VjcmV0"),
		"with a shared secret":          method("publicKeyJwk", map[string]any{"kty": "oct", "k": "c2VjcmV0"}),
		"with a kty in small letters":   key("kty", "ec"),
		"without kty":                   key("kty", absent{}),
		"with a kty of another kind":    key("kty", "RSA"),
		"with another curve":            key("crv", "P-384"),
		"with the curve of Bitcoin":     key("crv", "secp256k1"),
		"with a curve of no name":       key("crv", ""),
		"without y":                     key("y", absent{}),
		"with x zero":                   key("x", strings.Repeat("A", 43), "y", strings.Repeat("A", 43)),
		"with x off the curve":          key("x", strings.Repeat("A", 42)+"E"),
		"with x too short":              key("x", "AQAB"),
		"with x too long":               key("x", strings.Repeat("A", 86)),
		"with x not base64":             key("x", "!!!"),
		"with x a number":               key("x", 1),
		"with a key for encryption":     key("use", "enc"),
		"with a use of no meaning":      key("use", 1),
		"with a key to sign only":       key("key_ops", []string{"sign"}),
		"with operations that are text": key("key_ops", "verify"),
		"with a key for ES384":          key("alg", "ES384"),
		"with a key for HS256":          key("alg", "HS256"),
		"with a key for none":           key("alg", "none"),
		"with a certificate of another": key("x5c", []string{"MIIB"}),
		"with RSA of 512 bits":          method("publicKeyJwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": b64(append([]byte{0x80}, make([]byte, 63)...))}),
		"with RSA and e 1":              method("publicKeyJwk", map[string]any{"kty": "RSA", "e": "AQ", "n": b64(append(append([]byte{0x80}, make([]byte, 254)...), 1))}),
		"with RSA and an even modulus":  method("publicKeyJwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": b64(append([]byte{0x80}, make([]byte, 255)...))}),
		"with RSA and e too long":       method("publicKeyJwk", map[string]any{"kty": "RSA", "e": b64(make([]byte, 64)), "n": b64(append(append([]byte{0x80}, make([]byte, 254)...), 1))}),
		"with RSA of 64 KiB bits":       method("publicKeyJwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": b64(append(append([]byte{0x80}, make([]byte, 8190)...), 1))}),
		"with the key of somebody else": func(d *didDocument) { d.method["publicKeyJwk"] = jwkOf(attacker) },
	}
}

// jwkOf is the JWK of a wallet, as its document has it.
func jwkOf(wallet *testkit.Wallet) json.RawMessage {
	var d struct {
		VerificationMethod []struct{ PublicKeyJwk json.RawMessage }
	}
	err := json.Unmarshal(wallet.Document(), &d)
	if err != nil {
		panic(err)
	}
	return d.VerificationMethod[0].PublicKeyJwk
}

// unreadableDocuments say nothing about the key, made of a document that is good.
func unreadableDocuments() map[string]func(document, did string) string {
	fixed := func(text string) func(string, string) string { return func(string, string) string { return text } }
	first := func(member string) func(string, string) string {
		return func(document, _ string) string { return "{" + member + "," + document[1:] }
	}
	only := func(members string) func(string, string) string {
		return func(_, did string) string { return `{"id":"` + did + `",` + members + `}` }
	}
	return map[string]func(document, did string) string{
		"nothing": fixed(""), "HTML": fixed("<!doctype html><title>login</title>"), "a list": func(d, _ string) string { return "[" + d + "]" }, "null": fixed("null"),
		"text": fixed(`"x"`), "not closed": func(d, _ string) string { return d[:len(d)-1] }, "with something behind": func(d, _ string) string { return d + "x" },
		"twice": func(d, _ string) string { return d + d }, "with a byte order mark": func(d, _ string) string { return "\xef\xbb\xbf" + d }, "with id twice": first(`"id":"did:web:attacker.example"`),
		"with methods twice": first(`"verificationMethod":[]`), "with a member twice in escapes": first(`"\u0069d":"x"`), "not UTF-8": first("\"x\":\"\xff\""), "with a lone surrogate": first(`"x":"\ud800"`),
		"nested 20 deep": first(`"x":` + string(deepJSON(20))), "nested 20,000 deep": first(`"x":` + string(deepJSON(20_000))), "with NaN": first(`"x":NaN`), "with a comment": first("/**/\"x\":1"),
		"of 200 KiB": first(`"x":"` + strings.Repeat("a", 200<<10) + `"`), "of 10 MB": first(`"x":"` + strings.Repeat("a", 10<<20) + `"`), "without id": fixed(`{"verificationMethod":[]}`),
		"with an id that is a number": fixed(`{"id":1}`), "with an id that is null": fixed(`{"id":null}`), "with methods that are an object": only(`"verificationMethod":{}`),
		"with methods that are text": only(`"verificationMethod":"x"`), "with a method that is a reference": only(`"verificationMethod":["#key-1"]`), "with a method that is null": only(`"verificationMethod":[null]`),
		"with a method that is a number": only(`"verificationMethod":[1]`), "with a method without id": only(`"verificationMethod":[{}]`), "with two methods of one id": only(`"verificationMethod":[{"id":"#key-1"},{"id":"#key-1"}]`),
		"with two methods of one id in two spellings": func(_, did string) string {
			return `{"id":"` + did + `","verificationMethod":[{"id":"#key-1"},{"id":"` + did + `#key-1"}]}`
		},
		"with 65 methods": func(_, did string) string {
			return `{"id":"` + did + `","verificationMethod":[` + strings.TrimSuffix(strings.Repeat(`{"id":"did:web:x#y"},`, 65), ",") + `]}`
		},
		"with 1,000 methods":               only(`"verificationMethod":[` + strings.TrimSuffix(strings.Repeat(`{"id":"did:web:x#y"},`, 1000), ",") + `]`),
		"with a relationship that is text": only(`"authentication":"#key-1"`), "with a relationship of numbers": only(`"authentication":[1]`), "embedded without id": only(`"authentication":[{}]`),
	}
}

// badAnswers are a host that does not hand its document out as it should.
func badAnswers(w *world) map[string]func(document []byte) http.HandlerFunc {
	answers := map[string]func(document []byte) http.HandlerFunc{}
	for _, status := range []int{201, 204, 206, 300, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503} {
		answers["with status "+http.StatusText(status)] = func(text []byte) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(status)
				_, _ = rw.Write(text)
			}
		}
	}
	for name, place := range map[string]string{
		"to itself": "did.json", "to another host": "http://127.0.0.1:9/did.json", "to the metadata": "http://169.254.169.254/latest/meta-data", "to a file": "file:///etc/passwd",
		"to the good document": w.hosts.server.URL + "/consumer/did.json",
	} {
		answers["by a redirect "+name] = func([]byte) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Location", place)
				rw.WriteHeader(http.StatusFound)
			}
		}
	}
	header := func(name, value string) func([]byte) http.HandlerFunc {
		return func(text []byte) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set(name, value)
				_, _ = rw.Write(text)
			}
		}
	}
	answers["compressed"] = header("Content-Encoding", "gzip")
	answers["with 20 KiB of headers"] = header("X-Large", strings.Repeat("a", 20<<10))
	answers["cut off"] = header("Content-Length", "100000")
	answers["not at all"] = func([]byte) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	}
	answers["never"] = func([]byte) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	}
	return answers
}

package hostile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"hash"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
)

// What the refresh endpoint answers in the form of Tractus-X, the default where both dialects are enabled.
const (
	authenticationFailed = `"type":"AuthenticationFailed"`
	invalidRequest       = `"type":"InvalidRequest"`
	// And in that of RFC 6749 §5.2, once it is known that the flow is one of Data Plane Signaling.
	invalidClient = `{"error":"invalid_client"`
	invalidGrant  = `{"error":"invalid_grant"`
)

// notOneToken are what the Authorization header cannot hold: RFC 6750 §3.1, invalid_request.
type notOneToken string

// unverified are tokens that are well-formed, so that it takes their signature to refuse them.
type unverified string

// jwsShapes are access tokens whose structure is wrong (RFC 7515, RFC 8725), at the data path, and the same structures as
// proofs at the refresh endpoint. All but the forged ones are signed with the right key.
func jwsShapes(w *world) []shape {
	var shapes []shape
	access := w.accessCrafter(w.dps)
	proof := w.proofCrafter(w.dps)
	for name, token := range jwsTable(access) {
		s := shape{name: "access token: " + name, status: http.StatusUnauthorized, code: `error="invalid_token"`}
		text := fmt.Sprint(token)
		if _, ok := token.(notOneToken); ok {
			s.status, s.code = http.StatusBadRequest, `error="invalid_request"`
		}
		s.send = raw(get(w.data, "/x", bearer(text)))
		shapes = append(shapes, s)
	}
	for name, token := range jwsTable(proof) {
		s := shape{name: "proof: " + name, status: http.StatusUnauthorized, code: authenticationFailed}
		text := fmt.Sprint(token)
		switch token.(type) {
		case notOneToken:
			s.status, s.code = http.StatusBadRequest, invalidRequest
		case unverified:
			s.code, s.fetches = invalidClient, anyFetches
		}
		s.send = func(w *world) string { return w.renewal(w.dps, text) }
		shapes = append(shapes, s)
	}
	return append(shapes,
		shape{
			name: "control: an access token made by hand", send: raw(get(w.data, "/x", bearer(access.sign(access.headerWith(), access.claimsWith())))),
			status: http.StatusOK, backend: true,
		},
		shape{
			name: "control: a proof made by hand", status: http.StatusOK, hands: true,
			send: func(w *world) string { return w.renewal(w.dps, proof.sign(proof.headerWith(), proof.claimsWith())) },
			also: (*world).keepRenewed,
		})
}

// proofCrafter makes tokens like the authentication token that a flow's consumer signs.
func (w *world) proofCrafter(f *flow) *crafter {
	key, ok := f.wallet.Key.(*ecdsa.PrivateKey)
	if !ok {
		w.t.Fatal("the wallet has a key of another kind")
	}
	return &crafter{
		t: w.t, key: key, header: map[string]any{"alg": "ES256", "typ": "JWT", "kid": f.wallet.KID},
		claims: f.wallet.Claims(w.did, f.access, time.Now()),
	}
}

// jwsTable is the structures, made of a token that is good.
func jwsTable(c *crafter) map[string]any {
	table := map[string]any{}
	claims := c.claimsWith()
	header, payload, signature := c.parts()
	for name, text := range jwsHeaders(c) {
		table["header "+name] = c.sign(text, claims)
		if name == `alg "RS256"` { // which proofs may have, with a key of that kind
			table["header "+name] = unverified(c.sign(text, claims))
		}
	}
	for name, text := range jwsPayloads(c) {
		table["payload "+name] = c.sign(c.headerWith(), text)
	}
	for name, token := range jwsSignatures(c) {
		table["signature "+name] = unverified(token)
	}
	for name, token := range jwsForgeries(c) {
		table["forgery "+name] = unverified(token)
		if strings.HasPrefix(name, "HS") && !strings.HasSuffix(name, "called ES256") || strings.Contains(name, "jwk") {
			table["forgery "+name] = token // that is seen in the header
		}
	}
	for name, token := range map[string]string{
		"one part": header, "two parts": header + "." + payload, "three parts, the last empty": header + "." + payload + ".",
		"four parts": header + "." + payload + "." + signature + ".x", "five parts, as a JWE": header + ".." + payload + "." + signature + ".x",
		"empty header": "." + payload + "." + signature, "empty payload": header + ".." + signature, "dots alone": "..", "one dot": ".",
		"no dots": strings.ReplaceAll(header+payload+signature, ".", ""), "three dots": "...", "16,000 dots": strings.Repeat(".", 16000),
		"parts in another order": payload + "." + header + "." + signature, "a dot in front": "." + header + "." + payload + "." + signature,
		"a dot behind": header + "." + payload + "." + signature + ".", "the token twice": strings.Repeat(header+"."+payload+"."+signature, 2),
		"signature only": ".." + signature, "padded header": header + "=." + payload + "." + signature,
		"plus and slash": header + "." + payload + "." + signature[:80] + "+/" + signature[82:], "tilde": header + "." + payload + "." + signature[:85] + "~",
		"padded at the end":           header + "." + payload + "." + signature + "==",
		"spare bits of the signature": header + "." + payload + "." + spareBits(signature),
		"standard alphabet":           base64.RawStdEncoding.EncodeToString([]byte("\xfb\xff\xfe")) + "." + payload + "." + signature,
		"encoded twice":               b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64([]byte(signature)),
		"hexadecimal":                 fmt.Sprintf("%x.%x.%x", header, payload, signature), "header not encoded": "alg.typ.kid",
	} {
		table[name] = token
		if name == "padded header" {
			table[name] = notOneToken(token) // b64token has its padding at the end only (RFC 6750 §2.1)
		}
	}
	table["one byte too many"] = unverified(header + "." + payload + "." + signature + "A") // 65 bytes
	good := header + "." + payload + "." + signature
	for name, token := range map[string]string{
		"space inside": header + " ." + payload + "." + signature, "space behind": good + " x", "percent-encoded dots": strings.ReplaceAll(good, ".", "%2E"),
		"in quotes": `"` + good + `"`, "in brackets": "<" + good + ">", "JSON, flattened": fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, header, payload, signature),
		"JSON, general": fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, payload, header, signature),
		"JSON, a list":  fmt.Sprintf(`[%q]`, good), "two tokens": good + " " + good, "two tokens and a comma": good + ", Bearer " + good,
		"tab inside": header + "\t." + payload + "." + signature, "not ASCII": good + "\xc3\xa4", "semicolon": good + ";q=1",
		"one byte over the limit": strings.Repeat("a", 16<<10+1), "byte order mark": "\xef\xbb\xbf" + good, "colon": "x:" + good, "NBSP": good + "\xc2\xa0",
		"scheme twice": "Bearer " + good, "full-width dot": header + "\xef\xbc\x8e" + payload + "." + signature,
	} {
		table[name] = notOneToken(token)
	}
	return table
}

// spareBits sets a bit of the last character that no byte needs (RFC 4648 §3.5): 86 characters for 64 bytes leave four.
func spareBits(part string) string {
	last := strings.IndexByte(base64Alphabet, part[len(part)-1])
	return part[:len(part)-1] + base64Alphabet[last|1:][:1]
}

func jwsHeaders(c *crafter) map[string]string {
	good := c.headerWith()
	jwk := jose.JSONWebKey{Key: &c.key.PublicKey}
	headers := map[string]string{
		"empty": "{}", "a list": "[]", "a string": `"ES256"`, "null": "null", "a number": "1", "true": "true", "no JSON": "alg=ES256",
		"with something behind": good + "x", "twice": good + good, "with a comma at the end": good[:len(good)-1] + ",}",
		"with a comment": good + "/**/", "with a byte order mark": "\xef\xbb\xbf" + good, "with NUL": good + "\x00",
		"in single quotes": strings.ReplaceAll(good, `"`, "'"), "not UTF-8": strings.Replace(good, "{", "{\"x\":\"\xff\",", 1),
		"with a lone surrogate": strings.Replace(good, "{", `{"x":"\ud800",`, 1), "in UTF-16": "{\x00}\x00",
		"alg twice": strings.Replace(good, "{", `{"alg":"none",`, 1), "kid twice": strings.Replace(good, "{", `{"kid":"x",`, 1),
		"alg twice, one in escapes": strings.Replace(good, "{", `{"\u0061lg":"none",`, 1), "an unknown member twice": strings.Replace(good, "{", `{"x":1,"x":2,`, 1),
		"nested 9 deep":     strings.Replace(good, "{", `{"x":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)+",", 1),
		"nested 2,000 deep": strings.Replace(good, "{", `{"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+",", 1),
		"not closed":        good[:len(good)-1], "a control character": strings.Replace(good, "{", "{\"x\":\"\x01\",", 1), "NaN": strings.Replace(good, "{", `{"x":NaN,`, 1),
	}
	for _, alg := range []any{
		"none", "None", "nOnE", "NONE", "", "es256", "ES256 ", " ES256", "ES256K", "ES512", "RSA1_5", "dir", "A128KW", "ES256\u0000", "HS256", "RS256",
		"PBES2-HS256+A128KW", "ECDH-ES",
		absent{},
		nil, 256, true,
		[]string{"ES256"},
		map[string]string{"ES256": ""},
	} {
		headers[fmt.Sprintf("alg %#v", alg)] = c.headerWith("alg", alg)
	}
	for _, kid := range []any{nil, 1, []string{"x"}, map[string]any{}, true, 1.5} {
		headers[fmt.Sprintf("kid %#v", kid)] = c.headerWith("kid", kid)
	}
	for name, value := range map[string]any{
		"crit": []string{"exp"}, "b64": false, "zip": "DEF", "enc": "A256GCM", "jwk": jwk, "jku": "http://169.254.169.254/latest/meta-data",
		"x5u": "file:///etc/passwd", "x5c": []string{"MIIB"},
	} {
		headers["with "+name] = c.headerWith(name, value)
	}
	for name, value := range map[string]any{
		"crit": []string{}, "b64": true, "jwk": nil, "jku": "", "crit ": 1, "zip": nil,
	} {
		headers[fmt.Sprintf("with %s %v", name, value)] = c.headerWith(strings.TrimSpace(name), value)
	}
	for name, value := range map[string]any{"typ null": nil, "typ a number": 1, "typ a list": []string{"JWT"}} {
		headers[name] = c.headerWith("typ", value)
	}
	return headers
}

func jwsPayloads(c *crafter) map[string]string {
	good := c.claimsWith()
	return map[string]string{
		"empty object": "{}", "a list": "[" + good + "]", "a string": `"x"`, "null": "null", "a number": "1", "true": "true", "no JSON": "iss=x",
		"with something behind": good + "x", "twice": good + good, "with a comma at the end": good[:len(good)-1] + ",}", "with NUL": good + "\x00",
		"with a byte order mark": "\xef\xbb\xbf" + good, "in single quotes": strings.ReplaceAll(good, `"`, "'"),
		"not UTF-8": strings.Replace(good, "{", "{\"x\":\"\xff\",", 1), "with a lone surrogate": strings.Replace(good, "{", `{"x":"\udfff",`, 1),
		"iss twice": strings.Replace(good, "{", `{"iss":"x",`, 1), "exp twice": strings.Replace(good, "{", `{"exp":9999999999,`, 1),
		"exp twice, one in escapes": strings.Replace(good, "{", `{"\u0065xp":9999999999,`, 1), "an unknown member twice": strings.Replace(good, "{", `{"x":1,"x":1,`, 1),
		"twice, deep inside": strings.Replace(good, "{", `{"x":{"y":[{"z":1,"z":2}]},`, 1),
		"nested 5,000 deep":  strings.Replace(good, "{", `{"x":`+strings.Repeat("[", 4000)+strings.Repeat("]", 4000)+",", 1),
		"nested objects":     strings.Replace(good, "{", `{"x":`+strings.Repeat(`{"a":`, 1000)+"1"+strings.Repeat("}", 1000)+",", 1),
		"not closed":         good[:len(good)-1], "a control character": strings.Replace(good, "{", "{\"x\":\"\n\",", 1),
		"NaN": strings.Replace(good, "{", `{"x":NaN,`, 1), "a number with a leading zero": strings.Replace(good, "{", `{"x":01,`, 1),
		"a hexadecimal number": strings.Replace(good, "{", `{"x":0x1,`, 1), "a broken escape": strings.Replace(good, "{", `{"x":"\q",`, 1),
		"a claim without quotes": strings.Replace(good, "{", `{x:1,`, 1), "compressed": "\x78\x9c\xab\x56\x4a\x2c", "a JWS inside": c.sign(c.headerWith(), good),
	}
}

func jwsSignatures(c *crafter) map[string]string {
	order := elliptic.P256().Params().N
	half := func(b []byte, second bool, value []byte) []byte {
		out := append([]byte(nil), b...)
		at := 0
		if second {
			at = 32
		}
		copy(out[at:at+32], value)
		return out
	}
	zero, n := make([]byte, 32), order.FillBytes(make([]byte, 32))
	return map[string]string{
		"all zero":        c.changeSignature(func([]byte) []byte { return make([]byte, 64) }), // CVE-2022-21449
		"r zero":          c.changeSignature(func(b []byte) []byte { return half(b, false, zero) }),
		"s zero":          c.changeSignature(func(b []byte) []byte { return half(b, true, zero) }),
		"r the order":     c.changeSignature(func(b []byte) []byte { return half(b, false, n) }),
		"s the order":     c.changeSignature(func(b []byte) []byte { return half(b, true, n) }),
		"all ones":        c.changeSignature(func([]byte) []byte { return []byte(strings.Repeat("\xff", 64)) }),
		"halves switched": c.changeSignature(func(b []byte) []byte { return append(append([]byte(nil), b[32:]...), b[:32]...) }),
		"63 bytes":        c.changeSignature(func(b []byte) []byte { return b[:63] }),
		"65 bytes":        c.changeSignature(func(b []byte) []byte { return append(b, 0) }),
		"a zero before each half": c.changeSignature(func(b []byte) []byte {
			return append(append(append([]byte{0}, b[:32]...), 0), b[32:]...)
		}),
		"one byte": c.changeSignature(func([]byte) []byte { return []byte{0} }), "twice": c.changeSignature(func(b []byte) []byte { return append(b, b...) }),
		"8 KiB":           c.changeSignature(func([]byte) []byte { return make([]byte, 8<<10) }),
		"one bit changed": c.changeSignature(func(b []byte) []byte { b[40] ^= 1; return b }),
		"in DER": c.changeSignature(func(b []byte) []byte {
			der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(b[:32]), new(big.Int).SetBytes(b[32:])})
			if err != nil {
				c.t.Fatal(err)
			}
			return der
		}),
		"of another header": c.withSignature(c.headerWith(), func(string) []byte {
			return c.es256(c.key, b64([]byte(`{"alg":"ES256"}`))+"."+b64([]byte(c.claimsWith())))
		}),
		"of another payload": c.withSignature(c.headerWith(), func(string) []byte { return c.es256(c.key, b64([]byte(c.headerWith()))+"."+b64([]byte("{}"))) }),
		"of the text":        c.withSignature(c.headerWith(), func(string) []byte { return c.es256(c.key, c.headerWith()+"."+c.claimsWith()) }),
	}
}

// jwsForgeries are signed by whoever does not have the key.
func jwsForgeries(c *crafter) map[string]string {
	der, err := x509.MarshalPKIXPublicKey(&c.key.PublicKey)
	if err != nil {
		c.t.Fatal(err)
	}
	point, err := c.key.PublicKey.Bytes()
	if err != nil {
		c.t.Fatal(err)
	}
	forgeries := map[string]string{
		"with another key": c.withSignature(c.headerWith(), func(input string) []byte { return c.es256(ecKey(c.t, elliptic.P256()), input) }),
		"with another key, its jwk in the header": func() string {
			key := ecKey(c.t, elliptic.P256())
			return c.withSignature(c.headerWith("jwk", jose.JSONWebKey{Key: &key.PublicKey}), func(input string) []byte { return c.es256(key, input) })
		}(),
		"with the key of a longer curve": c.withSignature(c.headerWith(), func(input string) []byte { return c.es256(ecKey(c.t, elliptic.P521()), input) }),
	}
	// The public key taken for a shared secret (RFC 8725 §2.1).
	for name, secret := range map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "point": point, "empty": nil, "secret": []byte("secret"),
		"JWK": testkit.JSON(c.t, jose.JSONWebKey{Key: &c.key.PublicKey}), "kid": []byte(fmt.Sprint(c.header["kid"])),
	} {
		forgeries["HS256 with "+name] = c.withSignature(c.headerWith("alg", "HS256"), func(input string) []byte { return mac(sha256.New, secret, input) })
	}
	forgeries["HS384 with DER"] = c.withSignature(c.headerWith("alg", "HS384"), func(input string) []byte { return mac(sha512.New384, der, input) })
	forgeries["HS512 with PEM"] = c.withSignature(c.headerWith("alg", "HS512"), func(input string) []byte {
		return mac(sha512.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), input)
	})
	forgeries["HS256, called ES256"] = c.withSignature(c.headerWith(), func(input string) []byte { return mac(sha256.New, der, input) })
	for _, alg := range []string{"RS256", "PS256", "EdDSA", "ES384"} {
		forgeries[alg] = c.withSignature(c.headerWith("alg", alg), signedWith(c.t, alg))
		forgeries[alg+", called ES256"] = c.withSignature(c.headerWith(), signedWith(c.t, alg))
	}
	return forgeries
}

func mac(newHash func() hash.Hash, secret []byte, input string) []byte {
	h := hmac.New(newHash, secret)
	h.Write([]byte(input))
	return h.Sum(nil)
}

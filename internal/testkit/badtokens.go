package testkit

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"time"
)

// BadTokens returns JWTs that a verifier must refuse or at least survive, made of the claims of a good one of the wallet:
// other spellings, compact forms that are none, tricks with algorithms and key parameters, and claims that cannot be read.
// They are the seeds of fuzz tests.
func (w *Wallet) BadTokens(claims map[string]any) []string {
	good := w.Sign(claims)
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	header := func(text string) string { return b64([]byte(text)) + "." + parts[1] + "." + parts[2] }
	payload := func(text string) string { return w.SignBytes([]byte(text), map[string]any{"kid": w.KID, "typ": "JWT"}) }
	with := func(name string, value any) string {
		changed := maps.Clone(claims)
		changed[name] = value
		return w.Sign(changed)
	}
	whole, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	twice := strings.TrimSuffix(string(whole), "}")
	kid := `,"kid":"` + w.KID + `"}`
	last := good[:len(good)-1]

	list := []string{
		// The compact form (RFC 7515 §7.1).
		"", ".", "..", parts[0], parts[0] + "." + parts[1], good + ".", good + "." + parts[2], strings.Repeat(".", 10_000),
		good + "=", parts[0] + "=." + parts[1] + "." + parts[2], strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+/",
		last + "B", last + "_", " " + good, good + "\n", "\t" + good, good + "\x00", parts[0] + "." + parts[1] + ".",
		`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		`{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,

		// The payload (RFC 7519 §7.2, RFC 8725 §3).
		payload(""), payload("[]"), payload(`"x"`), payload("1"), payload("null"), payload(string(whole) + "{}"), payload(string(whole) + "x"),
		payload(twice + `,"iss":"did:web:thief.example"}`), payload(twice + `,"is\u0073":"did:web:thief.example"}`),
		payload(twice + `,"x":"` + "\xff\xfe" + `"}`), payload(twice + `,"x":"\ud800"}`), payload(twice + `,"x":` + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + "}"),
		payload(twice + strings.Repeat(`,"x":1`, 500) + "}"),

		// Algorithms and keys (RFC 8725 §3.1, RFC 7515 §4.1).
		header(`{"alg":"none"` + kid), header(`{"alg":"nOnE"` + kid), header(`{"alg":""` + kid), header(`{` + kid[1:]), header(`{"alg":"HS256"` + kid),
		header(`{"alg":"RS256"` + kid), header(`{"alg":"ES384"` + kid), header(`{"alg":"dir","enc":"A256GCM","zip":"DEF"` + kid),
		header(`{"alg":"PBES2-HS256+A128KW","p2c":2147483647` + kid), header(`{"alg":"ES256","alg":"none"` + kid), header(`{"alg":["ES256"]` + kid),
		parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)), parts[0] + "." + parts[1] + "." + b64([]byte("\x30\x06\x02\x01\x01\x02\x01\x01")),
		header(`{"alg":"ES256","kid":"../../etc/passwd"}`), header(`{"alg":"ES256","kid":"' OR 1=1 --"}`), header(`{"alg":"ES256","kid":"` + "\x00" + `"}`),
		header(`{"alg":"ES256","kid":"` + strings.Repeat("k", 10_000) + `"}`), header(`{"alg":"ES256","kid":null}`),
		header(`{"alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}` + kid), header(`{"alg":"ES256","jku":"http://169.254.169.254/"` + kid),
		header(`{"alg":"ES256","x5u":"file:///etc/passwd"` + kid), header(`{"alg":"ES256","x5c":["AA"]` + kid), header(`{"alg":"ES256","crit":["exp"]` + kid),
		header(`{"alg":"ES256","crit":[],"b64":false` + kid), header(`{"alg":"ES256","b64":false,"crit":["b64"]` + kid),
	}
	// Claims (RFC 7519 §4.1).
	for _, value := range []any{nil, true, "", "1", -1, 0, 1.5, 1e300, json.Number("99999999999999999999"), []any{}, map[string]any{}} {
		list = append(list, with("exp", value), with("iat", value), with("nbf", value))
	}
	for _, value := range []any{nil, 1, "", []any{}, []any{1}, []string{"a", "b"}, "did:web:thief.example", "did:web:a\r\nX-Injected: b", strings.Repeat("a", 8_000)} {
		list = append(list, with("iss", value), with("sub", value), with("aud", value), with("jti", value), with("token", value))
	}
	return append(list, with("exp", time.Now().Add(100*365*24*time.Hour).Unix()), with("nbf", time.Now().Add(time.Hour).Unix()))
}

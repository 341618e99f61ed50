package compactjws

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/internal/testkit"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

const header, payload = `{"alg":"ES256","typ":"at+jwt","kid":"did:web:p#1"}`, `{"iss":"did:web:p","exp":1700000000}`

func token(header, payload string) string {
	return b64(header) + "." + b64(payload) + "." + b64(strings.Repeat("s", 64))
}

func TestParse(t *testing.T) {
	in := token(header, payload)
	got, err := Parse(in, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got.Header != (Header{Alg: "ES256", Typ: "at+jwt", Kid: "did:web:p#1"}) {
		t.Errorf("header %+v", got.Header)
	}
	if string(got.Payload) != payload || got.SigningInput != b64(header)+"."+b64(payload) || len(got.Signature) != 64 {
		t.Errorf("got %+v", got)
	}
	iss, err := got.Claims.String("iss")
	if err != nil || iss != "did:web:p" {
		t.Errorf("iss %q, %v", iss, err)
	}
}

func TestParseVerifiesWithLibrary(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jws.Sign([]byte(payload), jws.WithKey(jwa.ES256, key))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(string(signed), 0)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := jws.NewVerifier(jwa.ES256)
	if err != nil {
		t.Fatal(err)
	}
	err = verifier.Verify([]byte(got.SigningInput), got.Signature, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
}

func TestParseRefusals(t *testing.T) {
	sig := b64(strings.Repeat("s", 64))
	good := token(header, payload)
	with := func(param string) string { return token(`{"alg":"ES256",`+param+`}`, payload) }
	tests := []struct {
		name  string
		token string
		want  error
	}{
		// Structure.
		{"empty", "", ErrMalformed},
		{"one part", b64(header), ErrMalformed},
		{"two parts", b64(header) + "." + b64(payload), ErrMalformed},
		{"four parts", good + "." + sig, ErrMalformed},
		{"five parts", good + "." + sig + "." + sig, ErrMalformed},
		{"dots only", "..", ErrMalformed},
		{"trailing dot", good + ".", ErrMalformed},
		{"leading dot", "." + good, ErrMalformed},
		{"empty header", "." + b64(payload) + "." + sig, ErrMalformed},
		{"empty payload", b64(header) + ".." + sig, ErrMalformed},
		{"empty signature", b64(header) + "." + b64(payload) + ".", ErrMalformed},
		{"a million dots", strings.Repeat(".", 1_000_000), ErrTooLarge},
		{"over the limit", b64(header) + "." + b64(payload) + "." + strings.Repeat("A", DefaultLimit), ErrTooLarge},
		{"padding", token(header, payload) + "=", ErrMalformed},
		{"padding in the payload", b64(header) + "." + base64.URLEncoding.EncodeToString([]byte(payload+" ")) + "=." + sig, ErrMalformed},
		{"plus", b64(header) + "." + b64(payload) + ".++++", ErrMalformed},
		{"slash", b64(header) + "." + b64(payload) + ".////", ErrMalformed},
		{"spare bits in the signature", b64(header) + "." + b64(payload) + ".AB", ErrMalformed},
		{"spare bits in the header", spare(header) + "." + b64(payload) + "." + sig, ErrMalformed},
		{"one character too many", b64(header) + "." + b64(payload) + ".AAAAA", ErrMalformed},
		{"leading space", " " + good, ErrMalformed},
		{"trailing space", good + " ", ErrMalformed},
		{"trailing line break", good + "\n", ErrMalformed},
		{"line break inside", good[:10] + "\r\n" + good[10:], ErrMalformed},
		{"line break in the signature", good[:len(good)-4] + "\n" + good[len(good)-4:], ErrMalformed},
		{"tab", good[:10] + "\t" + good[10:], ErrMalformed},
		{"NUL", good + "\x00", ErrMalformed},
		{"non-ASCII", good + "é", ErrMalformed},
		{"Bearer left in front", "Bearer " + good, ErrMalformed},
		{"flattened JSON", `{"protected":"` + b64(header) + `","payload":"` + b64(payload) + `","signature":"` + sig + `"}`, ErrMalformed},
		{"general JSON", `{"payload":"` + b64(payload) + `","signatures":[{"protected":"` + b64(header) + `","signature":"` + sig + `"}]}`, ErrMalformed},

		// Payload.
		{"payload array", token(header, `[]`), ErrPayload},
		{"payload string", token(header, `"a"`), ErrPayload},
		{"payload number", token(header, `1`), ErrPayload},
		{"payload null", token(header, `null`), ErrPayload},
		{"payload with trailing JSON", token(header, `{"a":1}{"a":2}`), ErrPayload},
		{"duplicate claim", token(header, `{"sub":"a","sub":"b"}`), ErrPayload},
		{"duplicate claim in another spelling", token(header, `{"sub":"a","s\u0075b":"b"}`), ErrPayload},
		{"payload not UTF-8", token(header, "{\"sub\":\"\xff\"}"), ErrPayload},
		{"payload with half a pair", token(header, `{"sub":"\ud800"}`), ErrPayload},
		{"payload with a byte order mark", token(header, "\ufeff{}"), ErrPayload},
		{"payload nested 5,000 times", token(header, `{"a":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`), ErrPayload},

		// Header.
		{"header not JSON", token(`alg`, payload), ErrHeader},
		{"header array", token(`["alg"]`, payload), ErrHeader},
		{"header with trailing JSON", token(header+`{}`, payload), ErrHeader},
		{"duplicate parameter", token(`{"alg":"ES256","alg":"none"}`, payload), ErrHeader},
		{"duplicate parameter in another spelling", token(`{"alg":"ES256","\u0061lg":"none"}`, payload), ErrHeader},
		{"no alg", token(`{"typ":"JWT"}`, payload), ErrHeader},
		{"Alg for alg", token(`{"Alg":"ES256"}`, payload), ErrHeader},
		{"alg empty", token(`{"alg":""}`, payload), ErrHeader},
		{"alg null", token(`{"alg":null}`, payload), ErrHeader},
		{"alg number", token(`{"alg":1}`, payload), ErrHeader},
		{"alg list", token(`{"alg":["ES256"]}`, payload), ErrHeader},
		{"alg none", token(`{"alg":"none"}`, payload), ErrHeader},
		{"alg None", token(`{"alg":"None"}`, payload), ErrHeader},
		{"alg nOnE", token(`{"alg":"nOnE"}`, payload), ErrHeader},
		{"alg none escaped", token(`{"alg":"\u006eone"}`, payload), ErrHeader},
		{"crit", with(`"crit":["exp"]`), ErrHeader},
		{"crit empty", with(`"crit":[]`), ErrHeader},
		{"crit null", with(`"crit":null`), ErrHeader},
		{"b64 false", with(`"b64":false`), ErrHeader},
		{"b64 true", with(`"b64":true`), ErrHeader},
		{"zip", with(`"zip":"DEF"`), ErrHeader},
		{"enc", with(`"enc":"A256GCM"`), ErrHeader},
		{"jwk", with(`"jwk":{"kty":"EC"}`), ErrHeader},
		{"jku", with(`"jku":"http://169.254.169.254/"`), ErrHeader},
		{"x5c", with(`"x5c":["AA=="]`), ErrHeader},
		{"x5u", with(`"x5u":"file:///etc/passwd"`), ErrHeader},
		{"kid not a string", with(`"kid":1`), ErrHeader},
		{"kid null", with(`"kid":null`), ErrHeader},
		{"typ not a string", with(`"typ":["at+jwt"]`), ErrHeader},
		{"cty not a string", with(`"cty":{}`), ErrHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.token, 0)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// spare encodes s and sets a bit of the last character that decoding throws away. len(s) must not be a multiple of 3.
func spare(s string) string {
	for len(s)%3 != 1 {
		s += " "
	}
	e := b64(s)
	const order = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(order, e[len(e)-1])
	return e[:len(e)-1] + string(order[last|1])
}

func TestSpareBitsAreLenientlyDecodable(t *testing.T) {
	// Without this the case above could pass for another reason.
	data, err := base64.RawURLEncoding.DecodeString(spare(header))
	if err != nil || !strings.HasPrefix(string(data), header) {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestParseAcceptsWhatIsHarmless(t *testing.T) {
	var claims strings.Builder
	claims.WriteString(`{"m":0`)
	for i := range 1000 {
		fmt.Fprintf(&claims, `,"c%d":0`, i)
	}
	claims.WriteString("}")
	for name, tok := range map[string]string{
		"white space in the header": token("{\"alg\" :\r\n \"ES256\"}", payload),
		"unknown parameter":         token(`{"alg":"ES256","x":{"y":[1]}}`, payload),
		"thumbprint":                token(`{"alg":"ES256","x5t#S256":"AA"}`, payload),
		"long kid of any bytes":     token(`{"alg":"ES256","kid":"../'; --\u0000`+strings.Repeat("k", 8000)+`"}`, payload),
		"no claims":                 token(header, `{}`),
		"a thousand claims":         token(header, claims.String()),
		"short signature":           b64(header) + "." + b64(payload) + ".AA",
	} {
		_, err := Parse(tok, 32<<10)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The limit is raised so that it is the count of dots that refuses.
func TestDotsCostNothing(t *testing.T) {
	dots := strings.Repeat(".", 1_000_000)
	allocs := testing.AllocsPerRun(100, func() {
		_, err := Parse(dots, 2_000_000)
		if !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
	if allocs > 3 { // the error itself
		t.Fatalf("%v allocations", allocs)
	}
}

func TestLimitIsInclusive(t *testing.T) {
	tok := token(header, payload)
	_, err := Parse(tok, len(tok))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(tok, len(tok)-1)
	if !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
}

func TestErrorsDoNotQuote(t *testing.T) {
	const canary = "canary"
	for _, tok := range []string{
		canary, canary + ".=.x", token(`{"alg":"ES256","kid":7,"canary":1}`, payload), token(`{"alg":"ES256","canary":1,"canary":2}`, payload),
		token(header, `{"canary":1,"canary":2}`), token(header, `canary`), token(`{"alg":"none","kid":"canary"}`, payload),
	} {
		_, err := Parse(tok, 0)
		if err == nil || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), b64(canary)) {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		token(header, payload), token(`{"alg":"nOnE"}`, payload), token(header, `{"a":1,"a":2}`), "..", "a.b.c", token(header, payload) + "=",
		token(`{"alg":"EdDSA","kid":"k","cty":"c"}`, `{"exp":1e300}`), spare(header) + ".e30.AA", "e30.e30.AA",
	} {
		f.Add(s)
	}
	wallet := testkit.NewWallet("did:web:p")
	for _, bad := range wallet.BadTokens(wallet.Claims("did:web:q", "t", testkit.NewClock().Now())) {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Parse(in, 4096)
		if err != nil {
			if got != nil {
				t.Fatal("token beside an error")
			}
			return
		}
		head, err := base64.RawURLEncoding.DecodeString(strings.SplitN(in, ".", 2)[0])
		if err != nil {
			t.Fatal(err)
		}
		enc := base64.RawURLEncoding.EncodeToString
		if enc(head)+"."+enc(got.Payload)+"."+enc(got.Signature) != in {
			t.Fatal("the token has another spelling")
		}
		if got.SigningInput != enc(head)+"."+enc(got.Payload) {
			t.Fatal("signing input is not the first two parts")
		}
		err = strictjson.Check(got.Payload, payloadDepth)
		if err != nil {
			t.Fatal(err)
		}
		// The library may refuse more (an algorithm it does not know), but must not read anything else.
		msg, err := jws.Parse([]byte(in))
		if err != nil {
			return
		}
		h := msg.Signatures()[0].ProtectedHeaders()
		if len(msg.Signatures()) != 1 || string(msg.Payload()) != string(got.Payload) ||
			string(msg.Signatures()[0].Signature()) != string(got.Signature) {
			t.Fatal("the library reads other parts")
		}
		if h.Algorithm().String() != got.Header.Alg || h.KeyID() != got.Header.Kid || h.Type() != got.Header.Typ || h.ContentType() != got.Header.Cty {
			t.Fatalf("the library reads another header: %+v", got.Header)
		}
	})
}

package hostile

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// claimShapes are claims that are missing, of the wrong type, of somebody else or of another time, in access tokens and
// in proofs. All are signed with the right key.
func claimShapes(w *world) []shape {
	return append(append(accessClaims(w), proofClaims(w)...), timesOfProofs(w)...)
}

// wrongTypes are what a claim that is a string must not be.
var wrongTypes = map[string]any{
	"null": nil, "a number": 1, "true": true, "a list": []string{"x"}, "an object": map[string]any{}, "missing": absent{},
}

// lookAlikes are texts that a reader takes for the given one: case, Unicode, escapes, white space (RFC 8725 §3.8: compare
// exactly).
func lookAlikes(text string) map[string]string {
	return map[string]string{
		"empty": "", "in capitals": strings.ToUpper(text), "with a slash": text + "/", "with a space": text + " ", "with a fragment": text + "#",
		"with a query": text + "?x", "decoded": strings.ReplaceAll(text, "%3A", ":"), "encoded twice": strings.ReplaceAll(text, "%", "%25"),
		"in lower hex": strings.ReplaceAll(text, "%3A", "%3a"), "with a Cyrillic o": strings.Replace(text, "o", "\u043e", 1),
		"with a zero-width space": text + "\u200b", "with NUL": text + "\x00", "cut": text[:len(text)-1], "with a line break": text + "\r\nX: y",
		"doubled": text + text, "of another method": strings.Replace(text, "did:web:", "did:jwk:", 1), "a URL": strings.Replace(text, "did:web:", "https://", 1),
		"with a path parameter": text + ";x", "with a prefix": "x" + text, "right to left": "\u202e" + text,
	}
}

func accessClaims(w *world) []shape {
	c := w.accessCrafter(w.dps)
	var shapes []shape
	add := func(name string, s shape, changes ...any) {
		s.name = "access token: " + name
		s.send = raw(get(w.data, "/x", bearer(c.sign(c.headerWith(), c.claimsWith(changes...)))))
		shapes = append(shapes, s)
	}
	refused := shape{status: http.StatusUnauthorized, code: `error="invalid_token"`}
	for _, claim := range []string{"iss", "aud", "sub", "client_id", "jti", "flow_id"} {
		for name, value := range wrongTypes {
			add(claim+" "+name, refused, claim, value)
		}
	}
	for _, claim := range []string{"agreement_id", "dataset_id"} {
		for name, value := range wrongTypes {
			add(claim+" "+name, refused, claim, value) // missing: not the claims that we sign for this flow
		}
	}
	for _, claim := range []string{"iss", "aud", "sub"} {
		for name, value := range lookAlikes(c.claims[claim].(string)) {
			add(claim+" "+name, refused, claim, value)
		}
	}
	add("aud a list with ours", refused, "aud", []string{w.did, "did:web:other.example"})
	add("iss and aud of another participant", refused, "iss", "did:web:other.example", "aud", "did:web:other.example")
	for name, value := range map[string]any{
		"null": nil, "a string": fmt.Sprint(time.Now().Add(time.Hour).Unix()), "true": true, "missing": absent{}, "a list": []int{1}, "negative": -1, "zero": 0,
		"past": time.Now().Add(-time.Second).Unix(), "long past": 1, "2^63": rawJSON("9223372036854775808"), "2^64": rawJSON("18446744073709551616"),
		"2^53+1": rawJSON("9007199254740993"), "1e300": rawJSON("1e300"), "1e999": rawJSON("1e999"), "-1e300": rawJSON("-1e300"), "1e19": rawJSON("1e19"),
		"an empty string": "", "a date": "2030-01-01T00:00:00Z", "a very long number": rawJSON(strings.Repeat("9", 400)), "0.5": 0.5, "negative zero": rawJSON("-0"),
	} {
		add("exp "+name, refused, "exp", value)
	}
	for name, value := range map[string]any{
		"null": nil, "a string": "1", "missing": absent{}, "1e999": rawJSON("1e999"), "2^63": rawJSON("9223372036854775808"), "true": true,
	} {
		add("iat "+name, refused, "iat", value)
	}
	for name, value := range map[string]string{
		"of no flow": "flow-unheard-of", "empty": "", "with a slash": "a/b", "with dots": "../x", "with NUL": "a\x00", "too long": strings.Repeat("f", 256),
		"with a space": "a b", "not ASCII": "fl\u00f6w", "with a line break": w.dps.id + "\n", "of another dataset's flow": w.rain.id,
		"of another dialect's flow": w.classic.id, "in capitals": strings.ToUpper(w.dps.id), "a placeholder": "{env.HOME}",
	} {
		add("flow_id "+name, refused, "flow_id", value)
	}
	for name, value := range map[string]string{"of another flow": w.rain.agreement, "empty": "", "with a space": w.dps.agreement + " "} {
		add("agreement_id "+name, refused, "agreement_id", value)
	}
	for name, value := range map[string]string{"of another flow": "rain", "empty": "", "in capitals": "WEATHER", "with a dot": "weather."} {
		add("dataset_id "+name, refused, "dataset_id", value)
	}
	for typ, name := range map[any]string{
		"JWT": "JWT", "": "empty", "at+JWT": "in capitals", "application/at+jwt": "as a media type", "logout+jwt": "of a logout token", "id_token": "of an ID token",
		"at+jwt ": "with a space", absent{}: "missing",
	} {
		shapes = append(shapes, shape{
			name: "access token: typ " + name, status: refused.status, code: refused.code,
			send: raw(get(w.data, "/x", bearer(c.sign(c.headerWith("typ", typ), c.claimsWith())))),
		})
	}
	for name, kid := range map[string]any{
		"missing": absent{}, "empty": "", "of nobody": "unheard-of", "a path": "../../../../etc/passwd", "SQL": "' OR 1=1 --", "with NUL": "x\x00", "a DID URL": w.did + "#key-1",
		"a URL": "http://169.254.169.254/", "10 kB": strings.Repeat("k", 10_000), "with a line break": "x\r\nSet-Cookie: a=b", "a placeholder": "{env.HOME}",
		"with a space": fmt.Sprint(c.header["kid"]) + " ", "in capitals": strings.ToUpper(fmt.Sprint(c.header["kid"])),
	} {
		shapes = append(shapes, shape{
			name: "access token: kid " + name, status: refused.status, code: refused.code,
			send: raw(get(w.data, "/x", bearer(c.sign(c.headerWith("kid", kid), c.claimsWith())))),
		})
	}
	for name, token := range map[string]func(*world) string{
		"a proof": func(w *world) string { return w.proof(w.dps) }, "a refresh token": func(w *world) string { return w.dps.refresh },
	} {
		shapes = append(shapes, shape{
			name: "access token: " + name, status: refused.status, code: refused.code,
			send: func(w *world) string { return get(w.data, "/x", bearer(token(w))) },
		})
	}
	return shapes
}

// proofClaims are refused before anything is resolved (docs/decisions: proof of possession).
func proofClaims(w *world) []shape {
	var shapes []shape
	add := func(name string, s shape, changes ...any) {
		s.name = "proof: " + name
		s.send = func(w *world) string {
			c := w.proofCrafter(w.dps)
			return w.renewal(w.dps, c.sign(c.headerWith(), c.claimsWith(changes...)))
		}
		shapes = append(shapes, s)
	}
	early := shape{status: http.StatusUnauthorized, code: authenticationFailed}
	late := shape{status: http.StatusUnauthorized, code: invalidClient}
	for _, claim := range []string{"iss", "sub", "aud", "token", "exp"} {
		for name, value := range wrongTypes {
			switch {
			case claim == "aud" && name == "a list":
				add("aud a list without us", late, claim, value)
			case claim == "exp" && name == "a number":
				add("exp 1", late, claim, value)
			default:
				add(claim+" "+name, early, claim, value)
			}
		}
	}
	for name, value := range lookAlikes(w.dps.wallet.DID) {
		add("iss and sub "+name, late, "iss", value, "sub", value)
		add("sub "+name, early, "sub", value)
	}
	for name, value := range lookAlikes(w.did) {
		add("aud "+name, late, "aud", value)
	}
	for name, value := range map[string]any{
		"an empty list": []string{}, "the consumer itself": w.dps.wallet.DID, "1,000 others": strings.Split(strings.Repeat("did:web:x,", 500), ","),
		"the endpoint": "http://" + w.data, "the refresh endpoint": "http://" + w.data + "/token",
	} {
		add("aud "+name, late, "aud", value)
	}
	for name, value := range map[string]any{"a list in a list": []any{[]string{"x"}}, "a list with null": []any{nil}, "a list with a number": []any{1}} {
		add("aud "+name, early, "aud", value)
	}
	victim := w.accessCrafter(w.dps)
	for name, token := range map[string]string{
		"no JWT": "x", "empty": "", "dots": "..", "cut": w.dps.access[:len(w.dps.access)-1], "with Bearer": "Bearer " + w.dps.access,
		"signed by the consumer": w.dps.wallet.SignBytes([]byte(victim.claimsWith()), map[string]any{"typ": "at+jwt", "kid": victim.header["kid"]}),
		"a refresh token":        w.dps.refresh, "itself unsecured": b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(victim.claimsWith())) + ".",
		"of a flow that is not there": victim.sign(victim.headerWith(), victim.claimsWith("flow_id", "flow-unheard-of")),
		"of another participant":      victim.sign(victim.headerWith(), victim.claimsWith("iss", "did:web:other.example", "aud", "did:web:other.example")),
		"without jti":                 victim.sign(victim.headerWith(), victim.claimsWith("jti", absent{})),
		"of another subject":          victim.sign(victim.headerWith(), victim.claimsWith("sub", w.rain.wallet.DID)),
		"JSON":                        `{"token":"x"}`, "a placeholder": "{env.HOME}",
	} {
		add("token "+name, early, "token", token)
	}
	add("token of another flow", late, "token", w.rain.access) // bound to another DID
	for name, token := range map[string]string{"with one byte changed": w.dps.access[:30] + "A" + w.dps.access[31:]} {
		add("token "+name, early, "token", token)
	}
	for name, kid := range map[string]string{
		"of another DID": w.rain.wallet.KID, "of another DID and a path": "did:web:attacker.example:" + w.dps.wallet.KID, "with a port": "did:web:127.0.0.1%3A1#key-1",
		"metadata": "did:web:169.254.169.254#key-1", "of another method": "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv",
		"with a query": w.dps.wallet.DID + "?x#key-1", "with a path": w.dps.wallet.DID + "/x#key-1", "in capitals": strings.ToUpper(w.dps.wallet.KID),
	} {
		shapes = append(shapes, shape{
			name: "proof: kid " + name, status: http.StatusUnauthorized, code: invalidClient,
			send: func(w *world) string {
				c := w.proofCrafter(w.dps)
				return w.renewal(w.dps, c.sign(c.headerWith("kid", kid), c.claimsWith()))
			},
		})
	}
	for name, kid := range map[string]any{"missing": absent{}, "empty": ""} {
		shapes = append(shapes, shape{
			name: "proof: kid " + name, status: http.StatusUnauthorized, code: authenticationFailed,
			send: func(w *world) string {
				c := w.proofCrafter(w.dps)
				return w.renewal(w.dps, c.sign(c.headerWith("kid", kid), c.claimsWith()))
			},
		})
	}
	return append(shapes, shape{
		name: "proof: the access token itself", status: http.StatusUnauthorized, code: authenticationFailed,
		send: func(w *world) string { return w.renewal(w.dps, w.dps.access) },
	}, shape{
		name: "proof: no jti, in a classic flow", status: http.StatusUnauthorized, code: `Required claim 'jti' not present on token.`,
		send: func(w *world) string {
			c := w.proofCrafter(w.classic)
			return w.renewal(w.classic, c.sign(c.headerWith(), c.claimsWith("jti", absent{})))
		},
	})
}

// timesOfProofs are relative to now.
func timesOfProofs(*world) []shape {
	at := func(d time.Duration) json.RawMessage { return fmt.Append(nil, time.Now().Add(d).Unix()) }
	var shapes []shape
	for name, c := range map[string]struct {
		code    string
		changes func() []any
	}{
		"expired an hour ago":         {invalidClient, func() []any { return []any{"exp", at(-time.Hour), "iat", at(-2 * time.Hour)} }},
		"expired beyond the skew":     {invalidClient, func() []any { return []any{"exp", at(-70 * time.Second), "iat", at(-80 * time.Second)} }},
		"lives for a day":             {invalidClient, func() []any { return []any{"exp", at(24 * time.Hour)} }},
		"lives for a year":            {invalidClient, func() []any { return []any{"exp", at(365 * 24 * time.Hour)} }},
		"lives long, without iat":     {invalidClient, func() []any { return []any{"exp", at(time.Hour), "iat", absent{}} }},
		"issued in an hour":           {invalidClient, func() []any { return []any{"iat", at(time.Hour), "exp", at(time.Hour + time.Minute)} }},
		"not before an hour from now": {invalidClient, func() []any { return []any{"nbf", at(time.Hour)} }},
		"iat long ago":                {invalidClient, func() []any { return []any{"iat", 1} }},
		"iat negative":                {invalidClient, func() []any { return []any{"iat", -1} }},
		"exp before iat":              {invalidClient, func() []any { return []any{"exp", at(-time.Hour)} }},
		"exp negative":                {invalidClient, func() []any { return []any{"exp", -5} }},
		"exp at the end of time":      {invalidClient, func() []any { return []any{"exp", rawJSON("9007199254740992")} }},
		"exp 2^63":                    {authenticationFailed, func() []any { return []any{"exp", rawJSON("9223372036854775808")} }},
		"exp 1e300":                   {authenticationFailed, func() []any { return []any{"exp", rawJSON("1e300")} }},
		"iat a string":                {authenticationFailed, func() []any { return []any{"iat", "1"} }},
		"iat null":                    {authenticationFailed, func() []any { return []any{"iat", nil} }},
		"iat 1e999":                   {authenticationFailed, func() []any { return []any{"iat", rawJSON("1e999")} }},
		"nbf a string":                {authenticationFailed, func() []any { return []any{"nbf", "1"} }},
		"nbf null":                    {authenticationFailed, func() []any { return []any{"nbf", nil} }},
		"nbf 2^64":                    {authenticationFailed, func() []any { return []any{"nbf", rawJSON("18446744073709551616")} }},
		"nbf a list":                  {authenticationFailed, func() []any { return []any{"nbf", []int{1}} }},
	} {
		shapes = append(shapes, shape{
			name: "proof: " + name, status: http.StatusUnauthorized, code: c.code,
			send: func(w *world) string {
				proof := w.proofCrafter(w.dps)
				return w.renewal(w.dps, proof.sign(proof.headerWith(), proof.claimsWith(c.changes()...)))
			},
		})
	}
	return shapes
}

package hostile

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
)

// refreshTokenShapes are refresh tokens that we did not issue, or not for this flow, or no longer: in the body to a flow
// of Data Plane Signaling, as the DPS profile has it, and in the query to a classic one, as consumers of Tractus-X do.
func refreshTokenShapes(w *world) []shape {
	var shapes []shape
	for name, token := range refreshTokens(w, w.dps, w.rain) {
		status, code := http.StatusBadRequest, invalidGrant
		if !isVisibleText(token) {
			code = invalidRequest
		}
		if token == "" {
			code = "Parameter 'refresh_token' cannot be null"
		}
		shapes = append(shapes, shape{
			name: "in the body: " + name, status: status, code: code,
			send: func(w *world) string {
				return post(w.data, "/token", formType, refreshForm(token), bearer(w.proof(w.dps)))
			},
		})
	}
	for name, token := range refreshTokens(w, w.classic, w.dps) {
		status, code := http.StatusUnauthorized, authenticationFailed
		switch {
		case !isVisibleText(token):
			status, code = http.StatusBadRequest, invalidRequest
		case token == "":
			status, code = http.StatusBadRequest, "Parameter 'refresh_token' cannot be null"
		}
		if len(token) > 8<<10 {
			continue // the head of a request has no room for it
		}
		shapes = append(shapes, shape{
			name: "in the query: " + name, status: status, code: code,
			send: func(w *world) string {
				return post(w.proxied, "/api/token?"+refreshForm(token), formType, "", bearer(w.proof(w.classic)))
			},
		})
	}
	return append(shapes, supersededTokens(w)...)
}

// isVisibleText reports whether the text has no other characters than tokens have (RFC 6749 appendix A.17).
func isVisibleText(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}

// layout is a refresh token taken apart: format(1) key(8) generation(8) len(1) participant len(1) flow tag(32).
type layout struct {
	format            byte
	key               []byte
	generation        uint64
	participant, flow string
	tag               []byte

	participantBytes, flowBytes int // what the lengths say; -1: the truth
}

func parseLayout(w *world, token string) layout {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		w.t.Fatal(err)
	}
	p := 18 + int(b[17])
	f := p + 1 + int(b[p])
	return layout{
		b[0], b[1:9], binary.BigEndian.Uint64(b[9:17]), string(b[18:p]), string(b[p+1 : f]), b[f:], -1, -1,
	}
}

func (l layout) encode() string {
	b := append([]byte{l.format}, l.key...)
	b = binary.BigEndian.AppendUint64(b, l.generation)
	length := func(said int, text string) byte {
		if said < 0 {
			return byte(len(text))
		}
		return byte(said)
	}
	b = append(append(b, length(l.participantBytes, l.participant)), l.participant...)
	b = append(append(b, length(l.flowBytes, l.flow)), l.flow...)
	return b64(append(b, l.tag...))
}

// refreshTokens are made of the flow's own token and of another flow's.
func refreshTokens(w *world, f, other *flow) map[string]string {
	good := f.refresh
	table := map[string]string{
		"none": "", "padded": good + "=", "padded twice": good + "==", "space behind": good + " ", "space in front": " " + good, "a line break behind": good + "\n",
		"a line break inside": good[:20] + "\r\n" + good[20:], "NUL behind": good + "\x00", "a byte order mark": "\xef\xbb\xbf" + good, "not ASCII": good + "\xc3\xa4",
		"a tab inside": good[:9] + "\t" + good[9:], "in capitals": strings.ToUpper(good), "in small letters": strings.ToLower(good), "twice": good + good,
		"twice and a comma": good + "," + good, "backwards": backwards(good), "in quotes": `"` + good + `"`, "with Bearer": "Bearer " + good,
		"encoded twice": b64([]byte(good)), "in hexadecimal": hex.EncodeToString([]byte(good)), "percent-encoded twice": "%" + hex.EncodeToString([]byte(good[:1])) + good[1:],
		"plus": good[:10] + "+" + good[11:], "slash": good[:10] + "/" + good[11:], "tilde": good[:10] + "~" + good[11:], "dots": good[:10] + "." + good[10:],
		"spare bits": strings.TrimRight(good[:len(good)-1], "=") + spare(good), "without the first character": good[1:], "without the last character": good[:len(good)-1],
		"first half": good[:len(good)/2], "second half": good[len(good)/2:], "one character": good[:1], "null": "null", "undefined": "undefined", "zero": "0",
		"a UUID": "033b71ae-53fc-4676-b29d-3b8ac70a56cc", "JSON": `{"refresh_token":"x"}`, "SQL": "' OR '1'='1", "a path": "../../../../etc/passwd", "a format": "%s%n%x",
		"a placeholder": "{env.HOME}", "a script": "<script>alert(1)</script>", "an access token": f.access, "another flow's access token": other.access,
		"another flow's token": other.refresh, "1,025 characters": strings.Repeat("A", 1025), "7,000 characters": strings.Repeat("A", 7000),
		"60,000 characters": strings.Repeat("A", 60_000), "a JWT without signature": "eyJhbGciOiJub25lIn0.e30.", "zeros": strings.Repeat("A", len(good)),
		"a glob": "*", "an emoji": "\xf0\x9f\x94\x91", "one bit of each end": changedAt(changedAt(good, 0), len(good)-1),
	}
	for name, change := range map[string]func(*layout){
		"format 0":                     func(l *layout) { l.format = 0 },
		"format 2":                     func(l *layout) { l.format = 2 },
		"format 255":                   func(l *layout) { l.format = 255 },
		"key zero":                     func(l *layout) { l.key = make([]byte, 8) },
		"key unheard of":               func(l *layout) { l.key = bytes.Repeat([]byte{0xab}, 8) },
		"key one bit off":              func(l *layout) { l.key[7] ^= 1 },
		"generation 0":                 func(l *layout) { l.generation = 0 },
		"generation next, old tag":     func(l *layout) { l.generation++ },
		"generation before, new tag":   func(l *layout) { l.generation-- },
		"generation 2^32":              func(l *layout) { l.generation = 1 << 32 },
		"generation 2^63":              func(l *layout) { l.generation = 1 << 63 },
		"generation 2^64-1":            func(l *layout) { l.generation = 1<<64 - 1 },
		"generation 1,001 ahead":       func(l *layout) { l.generation += 1001 },
		"participant empty":            func(l *layout) { l.participant = "" },
		"participant of another":       func(l *layout) { l.participant = "somebody" },
		"participant in capitals":      func(l *layout) { l.participant = strings.ToUpper(l.participant) + "X" },
		"participant too long":         func(l *layout) { l.participant = strings.Repeat("p", 255) },
		"participant with NUL":         func(l *layout) { l.participant += "\x00" },
		"participant and flow changed": func(l *layout) { l.participant, l.flow = l.flow, l.participant },
		"participant says 0":           func(l *layout) { l.participantBytes = 0 },
		"participant says 255":         func(l *layout) { l.participantBytes = 255 },
		"participant says one more":    func(l *layout) { l.participantBytes = len(l.participant) + 1 },
		"participant says one less":    func(l *layout) { l.participantBytes = len(l.participant) - 1 },
		"flow empty":                   func(l *layout) { l.flow = "" },
		"flow of another":              func(l *layout) { l.flow = other.id },
		"flow unheard of":              func(l *layout) { l.flow = "flow-unheard-of" },
		"flow too long":                func(l *layout) { l.flow = strings.Repeat("f", 255) },
		"flow with a slash":            func(l *layout) { l.flow += "/.." },
		"flow in capitals":             func(l *layout) { l.flow = strings.ToUpper(l.flow) },
		"flow says 0":                  func(l *layout) { l.flowBytes = 0 },
		"flow says 255":                func(l *layout) { l.flowBytes = 255 },
		"flow says one more":           func(l *layout) { l.flowBytes = len(l.flow) + 1 },
		"flow says one less":           func(l *layout) { l.flowBytes = len(l.flow) - 1 },
		"no tag":                       func(l *layout) { l.tag = nil },
		"tag zero":                     func(l *layout) { l.tag = make([]byte, 32) },
		"tag 16 bytes":                 func(l *layout) { l.tag = l.tag[:16] },
		"tag 31 bytes":                 func(l *layout) { l.tag = l.tag[:31] },
		"tag and one byte":             func(l *layout) { l.tag = append(bytes.Clone(l.tag), 0) },
		"tag twice":                    func(l *layout) { l.tag = append(bytes.Clone(l.tag), l.tag...) },
		"tag first bit":                func(l *layout) { l.tag = bytes.Clone(l.tag); l.tag[0] ^= 128 },
		"tag last bit":                 func(l *layout) { l.tag = bytes.Clone(l.tag); l.tag[31] ^= 1 },
		"tag of another flow":          func(l *layout) { l.tag = parseLayout(w, other.refresh).tag },
		"key and tag of another flow":  func(l *layout) { o := parseLayout(w, other.refresh); l.key, l.tag = o.key, o.tag },
	} {
		l := parseLayout(w, good)
		l.key = bytes.Clone(l.key)
		change(&l)
		table[name] = l.encode()
	}
	return table
}

func backwards(text string) string {
	b := []byte(text)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// changedAt returns the token with one character replaced by the next of the alphabet.
func changedAt(token string, i int) string {
	at := strings.IndexByte(base64Alphabet, token[i])
	return token[:i] + base64Alphabet[(at+1)%64:][:1] + token[i+1:]
}

// spare is the last character of a token with its lowest bit set, which no byte needs unless the token fills up.
func spare(token string) string {
	at := strings.IndexByte(base64Alphabet, token[len(token)-1])
	return base64Alphabet[at^1:][:1]
}

// supersededTokens were good once, or are good with another proof (docs/decisions: renewal).
func supersededTokens(w *world) []shape {
	generations := func(f *flow) []flow {
		var all []flow
		for range 4 {
			all = append(all, *f)
			err := w.renew(f)
			if err != nil {
				w.t.Fatal(err)
			}
		}
		return append(all, *f)
	}
	dps := generations(w.startDPS("weather", w.hosts.wallet("superseded")))
	classic := generations(w.startClassic("orders", w.hosts.wallet("superseded-classic")))
	shapes := []shape{
		{
			name: "older than superseded, second generation", status: http.StatusBadRequest, code: invalidGrant, fetches: anyFetches,
			send: func(w *world) string { return w.renewal(&dps[1], w.proof(&dps[4])) },
		},
		{
			name: "older than superseded, third generation", status: http.StatusBadRequest, code: invalidGrant, fetches: anyFetches,
			send: func(w *world) string { return w.renewal(&dps[2], w.proof(&dps[4])) },
		},
		{
			name: "superseded: the answer was lost", status: http.StatusOK, hands: true, fetches: anyFetches,
			send: func(w *world) string { return w.renewal(&dps[3], w.proof(&dps[3])) },
		},
		{
			name: "a proof that has rotated, with another token", status: http.StatusUnauthorized, code: invalidClient, fetches: anyFetches,
			send: func(w *world) string {
				proof := w.proof(w.dps)
				answer := w.want(w.data, w.renewal(w.dps, proof), http.StatusOK)
				err := w.takeRenewed(w.dps, answer)
				if err != nil {
					w.t.Fatal(err)
				}
				return w.renewal(w.dps, proof)
			},
		},
	}
	for i, name := range []string{"first", "second", "third"} {
		shapes = append(shapes, shape{
			name: "classic, older than superseded, " + name + " generation", status: http.StatusUnauthorized, code: authenticationFailed, fetches: anyFetches,
			send: func(w *world) string {
				query := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {classic[i].refresh}}.Encode()
				return post(w.proxied, "/api/token?"+query, "", "", bearer(w.proof(&classic[4])))
			},
		})
	}
	return shapes
}

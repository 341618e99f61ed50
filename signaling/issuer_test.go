package signaling

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/jwks"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

const (
	testIssuer  = "https://login.example/realms/edc"
	testSubject = "control-plane-1"
)

// keyring is Keys with the keys of wallets, or an error.
type keyring struct {
	keys  map[string][]crypto.PublicKey
	err   error
	asked int
	delay func() // nil: none
}

func (k *keyring) Keys(_ context.Context, kid string) ([]crypto.PublicKey, error) {
	k.asked++
	if k.delay != nil {
		k.delay()
	}
	if k.err != nil {
		return nil, k.err
	}
	found, ok := k.keys[kid]
	if !ok {
		return nil, jwks.ErrUnknownKey
	}
	return found, nil
}

func ringOf(wallets ...*testkit.Wallet) *keyring {
	k := &keyring{keys: map[string][]crypto.PublicKey{}}
	for _, w := range wallets {
		k.keys[w.KID] = append(k.keys[w.KID], w.Key.Public())
	}
	return k
}

func mustIssuer(t *testing.T, c IssuerConfig) *Issuer {
	t.Helper()
	if c.Issuer == "" {
		c.Issuer, c.Audience, c.Subjects = testIssuer, []string{"did:web:provider.example", "dataplane-1"}, []string{testSubject, "control-plane-2"}
	}
	i, err := NewIssuer(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func issuedClaims(now time.Time) map[string]any {
	return map[string]any{
		"iss": testIssuer, "sub": testSubject, "aud": "dataplane-1", "jti": "1",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
}

func identify(a *AccessList, authorization string, peer string) (tokens.Caller, *refusal) {
	return identifyRequest(a, httptest.NewRequest(http.MethodPost, "/dataflows/start", nil), authorization, peer)
}

func identifyRequest(a *AccessList, r *http.Request, authorization, peer string) (tokens.Caller, *refusal) {
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	if peer != "" {
		r.RemoteAddr = peer
	}
	caller, err := a.Identify(r)
	var refused *refusal
	errors.As(err, &refused)
	return caller, refused
}

func TestAccessByIssuer(t *testing.T) {
	clock := testkit.NewClock()
	now := clock.Now()
	signer, stranger := testkit.NewWallet("did:web:login.example"), testkit.NewWallet("did:web:login.example")
	rsa := testkit.NewWalletFor("did:web:login.example", jose.RS256)
	rsa.KID = "rsa"
	with := func(edits map[string]any) map[string]any {
		claims := issuedClaims(now)
		for name, value := range edits {
			claims[name] = value
			if value == nil {
				delete(claims, name)
			}
		}
		return claims
	}
	signed := func(edits map[string]any) string { return signer.Sign(with(edits)) }
	typed := func(header map[string]any) string {
		payload, err := json.Marshal(issuedClaims(now))
		if err != nil {
			t.Fatal(err)
		}
		return signer.SignBytes(payload, header)
	}
	symmetric := func() string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: make([]byte, 32)}, (&jose.SignerOptions{}).WithHeader("kid", signer.KID))
		if err != nil {
			t.Fatal(err)
		}
		payload, err := json.Marshal(issuedClaims(now))
		if err != nil {
			t.Fatal(err)
		}
		object, err := s.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		token, err := object.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := signed(nil)
	tests := []struct {
		name   string
		token  string
		detail string // of the refusal; empty: let in
		asks   bool   // the refusal needs the key
	}{
		{name: "good", token: good},
		{name: "RSA", token: rsa.Sign(issuedClaims(now))},
		{name: "other subject of the control plane", token: signed(map[string]any{"sub": "control-plane-2"})},
		{name: "own DID among the audience", token: signed(map[string]any{"aud": []string{"x", "did:web:provider.example"}})},
		{name: "no jti", token: signed(map[string]any{"jti": nil})},
		{name: "clock of the issuer ahead", token: signed(map[string]any{"iat": now.Unix() + 50, "nbf": now.Unix() + 50})},
		{name: "expired within the skew", token: signed(map[string]any{"exp": now.Unix() - 59})},
		{name: "access token type", token: typed(map[string]any{"kid": signer.KID, "typ": "at+JWT"})},
		{name: "no type", token: typed(map[string]any{"kid": signer.KID})},

		{name: "another issuer", token: signed(map[string]any{"iss": "https://login.example/realms/other"}), detail: "no control plane"},
		{name: "another subject", token: signed(map[string]any{"sub": "control-plane-3"}), detail: "no control plane"},
		{name: "longer subject", token: signed(map[string]any{"sub": testSubject + "0"}), detail: "no control plane"},
		{name: "subject a list", token: signed(map[string]any{"sub": []string{testSubject}}), detail: "sub"},
		{name: "another audience", token: signed(map[string]any{"aud": "dataplane-2"}), detail: "aud"},
		{name: "empty audience", token: signed(map[string]any{"aud": []string{}}), detail: "aud"},
		{name: "no issuer", token: signed(map[string]any{"iss": nil}), detail: "iss"},
		{name: "no subject", token: signed(map[string]any{"sub": nil}), detail: "sub"},
		{name: "no audience", token: signed(map[string]any{"aud": nil}), detail: "aud"},
		{name: "no expiry", token: signed(map[string]any{"exp": nil}), detail: "exp"},
		{name: "no time of issue", token: signed(map[string]any{"iat": nil}), detail: "iat"},
		{name: "expiry a string", token: signed(map[string]any{"exp": strconv.FormatInt(now.Unix()+60, 10)}), detail: "exp"},
		{name: "expired", token: signed(map[string]any{"exp": now.Unix() - 60}), detail: "expired"},
		{name: "issued in the future", token: signed(map[string]any{"iat": now.Unix() + 61}), detail: "future"},
		{name: "not valid yet", token: signed(map[string]any{"nbf": now.Unix() + 61}), detail: "not valid yet"},
		{name: "lives too long", token: signed(map[string]any{"exp": now.Unix() + 86401}), detail: "lives longer"},
		{name: "jti a number", token: signed(map[string]any{"jti": 1}), detail: "jti"},
		{name: "jti empty", token: signed(map[string]any{"jti": ""}), detail: "jti"},
		{name: "jti too long", token: signed(map[string]any{"jti": strings.Repeat("x", maxTokenID+1)}), detail: "jti"},
		{name: "ID for logout", token: typed(map[string]any{"kid": signer.KID, "typ": "logout+jwt"}), detail: "typ"},
		{name: "no key named", token: typed(nil), detail: "names no key"},
		{name: "symmetric algorithm", token: symmetric(), detail: "algorithm"},
		{name: "unsecured", token: "eyJhbGciOiJub25lIn0." + strings.Split(good, ".")[1] + ".", detail: "token"},
		{name: "not a JWT", token: "abc", detail: "token"},
		{name: "too large", token: signed(map[string]any{"x": strings.Repeat("x", issuedLimit)}), detail: "too large"},

		{name: "unknown key", token: typed(map[string]any{"kid": "other"}), detail: "no key of this id", asks: true},
		{name: "key of somebody else", token: stranger.Sign(issuedClaims(now)), detail: "does not verify", asks: true},
		{name: "key of another kind", token: typed(map[string]any{"kid": "rsa"}), detail: "does not verify", asks: true},
		{
			name: "changed", detail: "does not verify", asks: true,
			token: strings.Split(good, ".")[0] + "." + strings.Split(signed(map[string]any{"jti": "2"}), ".")[1] + "." + strings.Split(good, ".")[2],
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ring := ringOf(signer, rsa)
			a := mustAccess(t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ring, ClockSkew: time.Minute, Now: clock.Now})})
			caller, refused := identify(a, "bearer "+tt.token, "")
			if tt.detail == "" {
				if caller != "edc" || refused != nil {
					t.Errorf("%q, %+v", caller, refused)
				}
				return
			}
			if caller != "" || refused == nil || refused.status != http.StatusUnauthorized ||
				refused.challenge != `Bearer error="invalid_token"` || !strings.Contains(refused.detail, tt.detail) {
				t.Fatalf("%q, %+v, want 401 for %q", caller, refused, tt.detail)
			}
			if (ring.asked > 0) != tt.asks {
				t.Errorf("keys were asked for %d times", ring.asked)
			}
			if tt.token != "abc" && strings.Contains(refused.Error(), tt.token[:20]) {
				t.Error("the error has the token")
			}
		})
	}
}

func TestIssuedTokenOnce(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	a := mustAccess(t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ringOf(signer), ClockSkew: time.Minute, Now: clock.Now})})
	token := signer.Sign(issuedClaims(clock.Now()))

	// What is refused uses nothing up.
	forged := testkit.NewWallet("did:web:login.example").Sign(issuedClaims(clock.Now()))
	_, refused := identify(a, "Bearer "+forged, "")
	if refused == nil {
		t.Fatal("forged token is let in")
	}
	caller, refused := identify(a, "Bearer "+token, "")
	if caller != "edc" {
		t.Fatalf("first: %+v", refused)
	}
	for _, after := range []time.Duration{0, 5 * time.Minute, 59 * time.Second} { // up to the end of its life, skew included
		clock.Advance(after)
		_, refused = identifyRequest(a, httptest.NewRequest(http.MethodPost, "/dataflows/f/terminate", nil), "Bearer "+token, "")
		if refused == nil || refused.status != 401 || !strings.Contains(refused.detail, "used before") {
			t.Errorf("again: %+v", refused)
		}
	}
	clock.Advance(time.Second)
	_, refused = identify(a, "Bearer "+token, "")
	if refused == nil || !strings.Contains(refused.detail, "expired") {
		t.Errorf("expired: %+v", refused)
	}
}

// TestRequestThatComesAgain: EDC sends a request whose connection broke off again, with the same token, and gives the
// transfer up for a 401.
func TestRequestThatComesAgain(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	a := mustAccess(t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ringOf(signer), ClockSkew: time.Minute, Now: clock.Now})})
	claims := issuedClaims(clock.Now())
	claims["exp"] = clock.Now().Add(time.Hour).Unix()
	token := signer.Sign(claims)
	const message = `{"messageId":"1"}`
	start := func(method, path, body string) *http.Request {
		return httptest.NewRequest(method, path, strings.NewReader(body))
	}
	for range 8 {
		r := start(http.MethodPost, "/dataflows/start", message)
		caller, refused := identifyRequest(a, r, "Bearer "+token, "")
		body, err := io.ReadAll(r.Body)
		if caller != "edc" || err != nil || string(body) != message {
			t.Fatalf("%q, %+v; the body is %q, %v", caller, refused, body, err)
		}
		clock.Advance(30 * time.Second)
	}
	for name, r := range map[string]*http.Request{
		"another body":   start(http.MethodPost, "/dataflows/start", `{"messageId":"2"}`),
		"another path":   start(http.MethodPost, "/dataflows/f/resume", message),
		"another method": start(http.MethodPut, "/dataflows/start", message),
		"another query":  start(http.MethodPost, "/dataflows/start?x", message),
	} {
		_, refused := identifyRequest(a, r, "Bearer "+token, "")
		if refused == nil || refused.status != http.StatusUnauthorized || !strings.Contains(refused.detail, "used before") {
			t.Errorf("%s: %+v", name, refused)
		}
	}
	// Another token with the jti is another use of it, whatever it comes with.
	_, refused := identifyRequest(a, start(http.MethodPost, "/dataflows/start", message), "Bearer "+signer.Sign(claims), "")
	if refused == nil || !strings.Contains(refused.detail, "used before") {
		t.Errorf("another token: %+v", refused)
	}
	clock.Advance(time.Minute)
	_, refused = identifyRequest(a, start(http.MethodPost, "/dataflows/start", message), "Bearer "+token, "")
	if refused == nil || !strings.Contains(refused.detail, "used before") {
		t.Errorf("after five minutes: %+v", refused)
	}
}

// A message that breaks off uses its token up for nothing, and nobody is refused for it.
func TestTokenOfABrokenMessage(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	a := mustAccess(t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ringOf(signer), Now: clock.Now})})
	token := "Bearer " + signer.Sign(issuedClaims(clock.Now()))
	broken := httptest.NewRequest(http.MethodPost, "/dataflows/start", io.MultiReader(strings.NewReader("{"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	_, refused := identifyRequest(a, broken, token, "")
	if refused == nil || refused.status != http.StatusServiceUnavailable {
		t.Errorf("broken off: %+v", refused)
	}
	caller, refused := identifyRequest(a, httptest.NewRequest(http.MethodPost, "/dataflows/start", strings.NewReader("{}")), token, "")
	if caller != "edc" {
		t.Errorf("whole: %+v", refused)
	}
}

// A used token is not good for a second time since it expires, and its id is forgotten, while its key is fetched.
func TestUsedTokenExpiresDuringFetch(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	ring := ringOf(signer)
	a := mustAccess(t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ring, Now: clock.Now})})
	claims := issuedClaims(clock.Now())
	claims["exp"] = clock.Now().Add(time.Minute).Unix()
	token := signer.Sign(claims)
	caller, refused := identify(a, "Bearer "+token, "")
	if caller != "edc" {
		t.Fatalf("first: %+v", refused)
	}
	ring.delay = func() { clock.Advance(time.Hour) }
	caller, refused = identify(a, "Bearer "+token, "")
	if caller != "" || refused == nil || refused.status != http.StatusServiceUnavailable {
		t.Errorf("again: %q %+v, want 503", caller, refused)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	clock := testkit.NewClock()
	r := newReplays(2)
	requests := 0
	use := func(id string) error {
		requests++
		return r.use(id, sha256.Sum256([]byte{byte(requests)}), clock.Now(), clock.Now().Add(time.Minute))
	}
	for _, id := range []string{"a", "b"} {
		err := use(id)
		if err != nil {
			t.Fatal(err)
		}
	}
	err := use("c")
	if !errors.Is(err, errReplaysFull) || errors.Is(err, errRefused) {
		t.Errorf("full: %v", err)
	}
	err = use("a")
	if !errors.Is(err, errRefused) {
		t.Errorf("used: %v", err)
	}
	clock.Advance(time.Minute)
	for _, id := range []string{"c", "a"} {
		err = use(id)
		if err != nil {
			t.Errorf("after the others expired: %v", err)
		}
	}
	if len(r.uses) != 2 {
		t.Errorf("%d are remembered", len(r.uses))
	}
}

// Whoever cannot be asked refuses nobody: control planes give up for a 401.
func TestKeysThatCannotBeHad(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	ring := &keyring{err: &jwks.UnavailableError{After: 7 * time.Second}}
	a := mustAccess(
		t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ring, Now: clock.Now})},
		Rule{ControlPlane: "net", Networks: networks("10.0.0.0/8")},
	)
	caller, refused := identify(a, "Bearer "+signer.Sign(issuedClaims(clock.Now())), "10.0.0.1:1")
	if caller != "" || refused == nil || refused.status != http.StatusServiceUnavailable {
		t.Fatalf("%q, %+v", caller, refused)
	}
	header := http.Header{}
	refused.header(header)
	if header.Get("Retry-After") != "7" || header.Get("WWW-Authenticate") != "" {
		t.Errorf("%v", header)
	}
}

func TestIssuerBesideOtherWays(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	second := testkit.NewWallet("did:web:login2.example")
	a := mustAccess(
		t, Rule{ControlPlane: "edc", Issuer: mustIssuer(t, IssuerConfig{Keys: ringOf(signer), Now: clock.Now})},
		Rule{ControlPlane: "second", Issuer: mustIssuer(t, IssuerConfig{
			Issuer: "https://login2.example", Subjects: []string{testSubject}, Audience: []string{"dataplane-1"}, Keys: ringOf(second), Now: clock.Now,
		})},
		Rule{ControlPlane: "static", Bearer: []Digest{DigestOf(tokenA)}},
		Rule{ControlPlane: "net", Networks: networks("10.0.0.0/8")},
	)
	claims := issuedClaims(clock.Now())
	first := signer.Sign(claims)
	claims["iss"] = "https://login2.example"
	for name, tt := range map[string]struct {
		authorization, peer string
		want                tokens.Caller
	}{
		"issuer":                    {"Bearer " + first, "", "edc"},
		"other issuer, same jti":    {"Bearer " + second.Sign(claims), "", "second"},
		"key of the other issuer":   {"Bearer " + signer.Sign(claims), "", ""},
		"static token":              {"Bearer " + tokenA, "", "static"},
		"network":                   {"", "10.0.0.1:1", "net"},
		"network and refused token": {"Bearer x.y.z", "10.0.0.1:1", "net"},
		"nothing":                   {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			caller, refused := identify(a, tt.authorization, tt.peer)
			if caller != tt.want || (refused == nil) != (tt.want != "") {
				t.Errorf("%q, %+v", caller, refused)
			}
		})
	}
}

func TestIssuerConfigRefused(t *testing.T) {
	good := IssuerConfig{Issuer: testIssuer, Keys: ringOf(), Audience: []string{"a"}, Subjects: []string{"s"}}
	for name, edit := range map[string]func(c *IssuerConfig){
		"no issuer":      func(c *IssuerConfig) { c.Issuer = "" },
		"no keys":        func(c *IssuerConfig) { c.Keys = nil },
		"no audience":    func(c *IssuerConfig) { c.Audience = nil },
		"empty audience": func(c *IssuerConfig) { c.Audience = []string{""} },
		"no subject":     func(c *IssuerConfig) { c.Subjects = nil },
		"empty subject":  func(c *IssuerConfig) { c.Subjects = []string{""} },
		"negative skew":  func(c *IssuerConfig) { c.ClockSkew = -1 },
	} {
		c := good
		edit(&c)
		_, err := NewIssuer(c)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	issuer := mustIssuer(t, good)
	_, err := NewAccessList([]Rule{{ControlPlane: "a", Issuer: issuer}, {ControlPlane: "b", Issuer: mustIssuer(t, good)}})
	if err == nil || !strings.Contains(err.Error(), "also that of") {
		t.Errorf("subject of two: %v", err)
	}
}

func FuzzIssuedToken(f *testing.F) {
	signer := testkit.NewWallet("did:web:login.example")
	now := testkit.NewClock().Now()
	f.Add(signer.Sign(issuedClaims(now)))
	f.Add(signer.Sign(map[string]any{"iss": 1}))
	for _, bad := range signer.BadTokens(issuedClaims(now)) {
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		token, err := readIssued(raw)
		if err != nil {
			return
		}
		if token.kid == "" || token.alg == "" {
			t.Error("a token without key or algorithm is read")
		}
		if fmt.Sprint(token) != "redacted" {
			t.Error("a token can be printed")
		}
	})
}

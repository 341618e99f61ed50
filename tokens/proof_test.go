package tokens

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestProofIsRefused(t *testing.T) {
	tests := map[string]struct {
		change func(x *fixture, claims map[string]any)
		kid    string
		code   Code
		claim  string
	}{
		"no iss":                 {change: without("iss"), code: CodeProofClaims, claim: "iss"},
		"no sub":                 {change: without("sub"), code: CodeProofClaims, claim: "sub"},
		"no aud":                 {change: without("aud"), code: CodeProofClaims, claim: "aud"},
		"no token":               {change: without("token"), code: CodeProofClaims, claim: "token"},
		"no exp":                 {change: without("exp"), code: CodeProofClaims, claim: "exp"},
		"no jti, classic":        {change: without("jti"), code: CodeProofClaims, claim: "jti"},
		"exp a string":           {change: with("exp", "1795600000"), code: CodeProofClaims, claim: "exp"},
		"exp huge":               {change: with("exp", 1e300), code: CodeProofClaims, claim: "exp"},
		"iat a string":           {change: with("iat", "now"), code: CodeProofClaims, claim: "iat"},
		"aud a number":           {change: with("aud", 7), code: CodeProofClaims, claim: "aud"},
		"token a number":         {change: with("token", 7), code: CodeProofClaims, claim: "token"},
		"iss is not sub":         {change: with("sub", "did:web:other.example"), code: CodeProofIssuer},
		"foreign aud":            {change: with("aud", "did:web:other.example"), code: CodeProofAudience},
		"aud is the consumer":    {change: with("aud", consumerDID), code: CodeProofAudience},
		"aud in other case":      {change: with("aud", strings.ToUpper(providerDID)), code: CodeProofAudience},
		"expired":                {change: times(-time.Hour, -time.Minute-time.Second), code: CodeProofExpired},
		"expired at the skew":    {change: times(-5*time.Minute, -time.Minute), code: CodeProofExpired},
		"issued in the future":   {change: times(time.Minute+time.Second, 5*time.Minute), code: CodeProofTime},
		"lives too long":         {change: times(0, 661*time.Second), code: CodeProofTime},
		"lives too long, no iat": {change: func(x *fixture, c map[string]any) { times(0, 661*time.Second)(x, c); delete(c, "iat") }, code: CodeProofTime},
		"not yet valid": {change: func(x *fixture, c map[string]any) {
			c["nbf"] = x.clock.Now().Add(61 * time.Second).Unix()
		}, code: CodeProofTime},
		"another DID": {change: func(_ *fixture, c map[string]any) {
			c["iss"], c["sub"] = "did:web:thief.example", "did:web:thief.example"
		}, code: CodeProofNotBound},
		"look-alike DID": {change: func(_ *fixture, c map[string]any) {
			c["iss"], c["sub"] = "did:web:consumer.ехample", "did:web:consumer.ехample"
		}, code: CodeProofNotBound},
		"DID in other case": {change: func(_ *fixture, c map[string]any) {
			c["iss"], c["sub"] = "did:web:Consumer.example", "did:web:Consumer.example"
		}, code: CodeProofNotBound},
		"kid of another DID":            {kid: "did:web:thief.example#key-1", code: CodeProofNotBound},
		"kid of a DID that starts like": {kid: consumerDID + ":x#key-1", code: CodeProofNotBound},
		"kid with a query":              {kid: consumerDID + "?x#key-1", code: CodeProofNotBound},
		"no kid":                        {kid: "-", code: CodeProofKey, claim: "kid"},
		"unknown kid":                   {kid: consumerDID + "#key-2", code: CodeProofKey},
		"token is no JWT":               {change: with("token", "abc"), code: CodeProofToken},
		"token is empty":                {change: with("token", ""), code: CodeProofToken},
		"token of another signer": {change: func(x *fixture, c map[string]any) {
			c["token"] = testkit.NewWallet(providerDID).Sign(map[string]any{"iss": providerDID})
		}, code: CodeProofToken},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			edr := x.start(classicStart("flow-1"))
			claims := x.wallet.Claims(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
			if c.change != nil {
				c.change(x, claims)
			}
			switch c.kid {
			case "":
			case "-":
				x.wallet.KID = ""
			default:
				x.wallet.KID = c.kid
			}
			_, err := x.Renew(context.Background(), RenewRequest{RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Sign(claims)})
			wantCode(t, err, c.code)
			var e *Error
			if !errors.As(err, &e) || e.Claim != c.claim {
				t.Fatalf("claim %q, want %q", e.Claim, c.claim)
			}
			// Bind before resolve: nothing is fetched for a proof that fails anything but the key itself.
			want := 0
			if c.code == CodeProofKey && c.kid != "-" {
				want = 1
			}
			if x.resolver.asked() != want {
				t.Fatalf("%d resolutions, want %d", x.resolver.asked(), want)
			}
			if x.generation("flow-1") != 1 {
				t.Fatal("state changed")
			}
		})
	}
}

func without(claim string) func(*fixture, map[string]any) {
	return func(_ *fixture, c map[string]any) { delete(c, claim) }
}

func with(claim string, value any) func(*fixture, map[string]any) {
	return func(_ *fixture, c map[string]any) { c[claim] = value }
}

func times(issued, expires time.Duration) func(*fixture, map[string]any) {
	return func(x *fixture, c map[string]any) {
		c["iat"], c["exp"] = x.clock.Now().Add(issued).Unix(), x.clock.Now().Add(expires).Unix()
	}
}

func TestProofIsAccepted(t *testing.T) {
	tests := map[string]func(x *fixture, claims map[string]any){
		"aud in a list":                       with("aud", []string{"did:web:other.example", providerDID}),
		"lives exactly as long as allowed":    times(0, 600*time.Second),
		"lives as long as allowed with skew":  times(0, 660*time.Second),
		"expired within the skew":             times(-5*time.Minute, -59*time.Second),
		"issued within the skew":              times(60*time.Second, 300*time.Second),
		"no iat":                              without("iat"),
		"fractional times":                    func(x *fixture, c map[string]any) { c["exp"] = float64(x.clock.Now().Unix()) + 60.5 },
		"further claims":                      with("scope", "x"),
		"nbf within the skew":                 func(x *fixture, c map[string]any) { c["nbf"] = x.clock.Now().Add(59 * time.Second).Unix() },
		"kid is a bare fragment with a hash":  func(x *fixture, _ map[string]any) { x.alias("#key-1") },
		"kid is a bare fragment":              func(x *fixture, _ map[string]any) { x.alias("key-1") },
		"kid is the DID, for the only method": func(x *fixture, _ map[string]any) { x.alias(consumerDID) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			edr := x.start(classicStart("flow-1"))
			claims := x.wallet.Claims(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
			change(x, claims)
			_, err := x.Renew(context.Background(), RenewRequest{RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Sign(claims)})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// alias has the wallet name its key otherwise, and the resolver know that name.
func (x *fixture) alias(kid string) {
	x.wallet.KID = kid
	x.resolver.publish(x.wallet)
}

func TestProofWithoutJTIIsAcceptedForDPS(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	claims := x.wallet.Claims(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
	delete(claims, "jti")
	_, err := x.Renew(context.Background(), RenewRequest{RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Sign(claims)})
	if err != nil {
		t.Fatal(err)
	}
}

func TestProofAlgorithms(t *testing.T) {
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256, jose.RS256} {
		t.Run(string(alg), func(t *testing.T) {
			x := newFixture(t)
			x.wallet = testkit.NewWalletFor(consumerDID, alg)
			x.resolver.publish(x.wallet)
			edr := x.start(dpsStart("flow-1"))
			x.mustRenew(edr.RefreshToken, edr.AccessToken)
		})
	}
}

func TestProofAlgorithmsRefused(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	sign := func(header, payload string) string {
		encode := base64.RawURLEncoding.EncodeToString
		return encode([]byte(header)) + "." + encode([]byte(payload)) + "." + encode(make([]byte, 64))
	}
	payload := `{"iss":"` + consumerDID + `","sub":"` + consumerDID + `","aud":"` + providerDID + `","token":"x","exp":1}`
	hmac := jose.SigningKey{Algorithm: jose.HS256, Key: []byte("0123456789abcdef0123456789abcdef")}
	signer, err := jose.NewSigner(hmac, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	symmetric, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		proof string
		code  Code
	}{
		"none":         {sign(`{"alg":"none","kid":"`+consumerDID+`#key-1"}`, payload), CodeProofMalformed},
		"nOnE":         {sign(`{"alg":"nOnE","kid":"x"}`, payload), CodeProofMalformed},
		"HS256":        {symmetric, CodeProofAlgorithm},
		"ES512":        {sign(`{"alg":"ES512","kid":"x"}`, payload), CodeProofAlgorithm},
		"lower case":   {sign(`{"alg":"es256","kid":"x"}`, payload), CodeProofAlgorithm},
		"key inside":   {sign(`{"alg":"ES256","kid":"x","jwk":{"kty":"EC"}}`, payload), CodeProofMalformed},
		"critical":     {sign(`{"alg":"ES256","kid":"x","crit":["exp"],"exp":1}`, payload), CodeProofMalformed},
		"access token": {edr.AccessToken.Reveal(), CodeProofMalformed},
		"empty":        {"", CodeProofMalformed},
		"too long":     {strings.Repeat("a", 16<<10+1), CodeProofMalformed},
	} {
		_, err := x.Renew(context.Background(), RenewRequest{RefreshToken: edr.RefreshToken.Reveal(), Proof: c.proof})
		if CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if x.resolver.asked() != 0 {
		t.Error("something was fetched")
	}
}

// The algorithm of the header must fit the key that the DID document has, not the other way round.
func TestProofKeyOfAnotherKind(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x.resolver.keys[x.wallet.KID] = p384.Public()
	_, err = x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeProofSignature)
	x.resolver.keys[x.wallet.KID] = testkit.NewWalletFor(consumerDID, jose.EdDSA).Key.Public()
	_, err = x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeProofSignature)
}

func TestProofWithANewKeyUnderTheOldName(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.wallet = testkit.NewWallet(consumerDID)
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeProofSignature)
	if x.resolver.refetched != 1 {
		t.Fatal("the document was not fetched once more")
	}
	x.resolver.fresh = map[string]crypto.PublicKey{x.wallet.KID: x.wallet.Key.Public()}
	x.mustRenew(edr.RefreshToken, edr.AccessToken)
}

type later struct{ error }

func (later) RetryAfter() time.Duration { return 7 * time.Second }

func TestDIDTroubleIsNotARefusal(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	x.resolver.err = later{errors.New("connection refused")}
	_, err := x.renewWith(edr.RefreshToken, edr.AccessToken)
	wantCode(t, err, CodeUnavailable)
	if RetryAfterOf(err) != 7*time.Second {
		t.Fatalf("retry after %s", RetryAfterOf(err))
	}
}

// Every changed byte of the proof must be noticed.
func TestProofWithAnyByteChangedIsRefused(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	proof := x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now())
	for i := range len(proof) {
		changed := []byte(proof)
		changed[i] = 'A'
		if proof[i] == 'A' {
			changed[i] = 'B'
		}
		_, err := x.Renew(context.Background(), RenewRequest{RefreshToken: edr.RefreshToken.Reveal(), Proof: string(changed)})
		if err == nil || CodeOf(err) == CodeUnavailable {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	if x.generation("flow-1") != 1 {
		t.Fatal("state changed")
	}
}

func TestRenewalOfAFlowBoundToNobody(t *testing.T) {
	x := newFixture(t)
	request := classicStart("flow-1")
	request.Terms.Counterparty, request.Terms.Audience = "BPNL000000000001", ""
	edr := x.start(request)
	if edr.RefreshToken != "" || edr.RefreshEndpoint != "" || edr.RefreshAudience != "" {
		t.Fatal("renewal properties although nobody can renew")
	}
	_, err := x.renewWith("AQ", edr.AccessToken)
	wantCode(t, err, CodeRenewalForbidden)
}

func TestProofAboutATokenOfAFlowThatIsGone(t *testing.T) {
	x := newFixture(t)
	edr := x.start(dpsStart("flow-1"))
	elsewhere := x.other(func(c *Config) { c.Participant = "second" })
	_, err := elsewhere.Renew(context.Background(), RenewRequest{
		RefreshToken: edr.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
	})
	wantCode(t, err, CodeProofTokenFlow)
	var e *Error
	if !errors.As(err, &e) || e.TokenID == "" {
		t.Fatal("the token's id is not known, which EDC's answer names")
	}
}

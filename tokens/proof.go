package tokens

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/edrgate/edrgate/internal/compactjws"
)

// proofAlgorithms are what a wallet may sign with. Symmetric ones are not among them: there is no shared secret, and
// with one in the list a public key would be taken for it (RFC 8725 §2.1).
var proofAlgorithms = map[string]jwa.SignatureAlgorithm{
	"ES256": jwa.ES256, "ES384": jwa.ES384, "EdDSA": jwa.EdDSA, "PS256": jwa.PS256, "RS256": jwa.RS256,
}

// The sizes of RSA keys that are accepted: smaller ones can be factored, larger ones cost a verifier too much.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// authentication is an authentication token: the JWT by which a consumer proves with its DID's key that it is the one
// the flow is bound to (Tractus-X token refresh; DPS token renewal profile; DCP §4.3 self-issued ID token).
type authentication struct {
	parsed    *compactjws.Token
	issuer    string
	kid       string
	alg       jwa.SignatureAlgorithm
	audience  []string
	expires   time.Time
	issuedAt  time.Time // zero if absent
	notBefore time.Time // zero if absent
	hasID     bool      // has a jti
	token     string    // the access token it is about
	digest    []byte    // SHA-256 of the whole
}

// String prints nothing of it.
func (*authentication) String() string { return "redacted" }

// readProof takes an authentication token apart. Nothing in it is proven yet.
func readProof(raw string, limit int) (*authentication, error) {
	t, err := compactjws.Parse(raw, limit)
	if err != nil {
		return nil, &Error{Code: CodeProofMalformed, cause: err}
	}
	alg, ok := proofAlgorithms[t.Header.Alg]
	if !ok {
		return nil, refuse(CodeProofAlgorithm, "algorithm is not accepted")
	}
	// An access token of ours is signed by a key that a DID document may well hold; it proves nothing (RFC 8725 §3.11).
	if strings.EqualFold(t.Header.Typ, accessTokenType) {
		return nil, refuse(CodeProofMalformed, "an access token is no authentication token")
	}
	a := &authentication{parsed: t, alg: alg, kid: t.Header.Kid}
	signature := t.Signature
	if alg == jwa.ES256 || alg == jwa.ES384 {
		// If (r, s) is a signature then so is (r, n-s), and anybody can make one of the other.
		signature = signature[:len(signature)/2]
	}
	digest := sha256.Sum256(append([]byte(t.SigningInput+"."), signature...))
	a.digest = digest[:]
	a.issuer, err = t.Claims.String("iss")
	if err != nil {
		return nil, claimError("iss", err)
	}
	subject, err := t.Claims.String("sub")
	if err != nil {
		return nil, claimError("sub", err)
	}
	if a.issuer != subject { // DCP §4.3.3 step 1: iss and sub are the same
		return nil, refuse(CodeProofIssuer, "iss and sub differ")
	}
	a.audience, err = t.Claims.StringOrList("aud")
	if err != nil {
		return nil, claimError("aud", err)
	}
	a.token, err = t.Claims.String("token")
	if err != nil {
		return nil, claimError("token", err)
	}
	a.hasID = t.Claims.Has("jti")
	a.expires, err = t.Claims.NumericDate("exp")
	if err != nil {
		return nil, claimError("exp", err)
	}
	for _, optional := range []struct {
		name string
		to   *time.Time
	}{{"iat", &a.issuedAt}, {"nbf", &a.notBefore}} {
		if !t.Claims.Has(optional.name) {
			continue
		}
		*optional.to, err = t.Claims.NumericDate(optional.name)
		if err != nil {
			return nil, claimError(optional.name, err)
		}
	}
	if a.kid == "" {
		return nil, &Error{Code: CodeProofKey, Claim: "kid", Detail: "header names no key"}
	}
	return a, nil
}

func claimError(claim string, cause error) *Error {
	return &Error{Code: CodeProofClaims, Claim: claim, cause: cause}
}

// didOfKey returns the DID of a kid that is an absolute DID URL. A bare fragment names a method of the issuer's own
// document, so its DID is the issuer.
func (a *authentication) didOfKey() string {
	if !isDID(a.kid) {
		return a.issuer
	}
	did, _, _ := strings.Cut(a.kid, "#")
	return did
}

// checkBinding compares the DIDs byte for byte, before anything is fetched: iss, and the DID of kid, must be the DID
// that the flow is bound to. This alone stops a thief who renews a leaked token with the key of his own DID, and
// everybody who would have us fetch an address of his choice.
func (a *authentication) checkBinding(f *Flow) error {
	if f.BoundDID == "" {
		return refuse(CodeRenewalForbidden, "flow %s is bound to no DID", f.ID)
	}
	if a.issuer != f.BoundDID || a.didOfKey() != f.BoundDID {
		return refuse(CodeProofNotBound, "flow %s is bound to another DID", f.ID)
	}
	return nil
}

// checkClaims compares the audience and the times. Skew is the tolerance for the consumer's clock.
func (s *Service) checkClaims(a *authentication, f *Flow) error {
	if f.Dialect == Classic && !a.hasID { // Tractus-X: jti must be present; it need not be unique
		return claimError("jti", errors.New("missing"))
	}
	named := false
	for _, audience := range a.audience {
		named = named || audience == s.c.DID
	}
	if !named { // DCP §4.3.3 step 2, DPS token renewal: aud is the provider's DID, which is the refreshAudience we issue
		return refuse(CodeProofAudience, "aud does not name this participant")
	}
	now := s.c.Now()
	skew := s.c.ClockSkew
	if !now.Before(a.expires.Add(skew)) { // RFC 7519 §4.1.4
		return refuse(CodeProofExpired, "expired %s ago", now.Sub(a.expires).Truncate(time.Second))
	}
	if !a.notBefore.IsZero() && a.notBefore.After(now.Add(skew)) { // RFC 7519 §4.1.5
		return refuse(CodeProofTime, "not valid before %s from now", a.notBefore.Sub(now).Truncate(time.Second))
	}
	if a.issuedAt.After(now.Add(skew)) { // RFC 7519 §4.1.6
		return refuse(CodeProofTime, "issued %s in the future", a.issuedAt.Sub(now).Truncate(time.Second))
	}
	// A proof that lives long is a password. Without iat it is measured from now.
	from := a.issuedAt
	if from.IsZero() {
		from = now
	}
	if a.expires.After(from.Add(s.c.ProofLifetime + skew)) {
		return refuse(CodeProofTime, "lives longer than %s", s.c.ProofLifetime)
	}
	return nil
}

// verifySignature resolves the key and checks the signature. If the key that is known does not verify it, the document
// is fetched once more: a wallet may have put a new key under an old name.
func (s *Service) verifySignature(ctx context.Context, a *authentication) error {
	key, err := s.resolve(ctx, a, s.c.Resolver.ResolveKey)
	if err != nil {
		return err
	}
	if a.verifies(key) {
		return nil
	}
	fresh, err := s.resolve(ctx, a, s.c.Resolver.RefetchKey)
	if err != nil {
		return err // the key may have been replaced under its name: nobody can tell now
	}
	if !a.verifies(fresh) {
		return refuse(CodeProofSignature, "the signature does not verify")
	}
	return nil
}

func (s *Service) resolve(ctx context.Context, a *authentication, with func(ctx context.Context, did, kid string) (crypto.PublicKey, error)) (crypto.PublicKey, error) {
	start := s.c.Now()
	key, err := with(ctx, a.issuer, a.kid)
	s.c.Observer.Stage("renew", "did", s.c.Now().Sub(start))
	if err == nil {
		return key, nil
	}
	var definite interface{ Refused() bool }
	if errors.As(err, &definite) && definite.Refused() {
		return nil, &Error{Code: CodeProofKey, cause: err}
	}
	return nil, unavailable(err, "key of the proof")
}

// verifies checks that the key is of the kind that the algorithm names (RFC 8725 §3.1), and the signature.
func (a *authentication) verifies(key crypto.PublicKey) bool {
	fits := false
	switch public := key.(type) {
	case *ecdsa.PublicKey:
		fits = a.alg == jwa.ES256 && public.Curve == elliptic.P256() || a.alg == jwa.ES384 && public.Curve == elliptic.P384()
	case ed25519.PublicKey:
		fits = a.alg == jwa.EdDSA
	case *rsa.PublicKey:
		bits := public.N.BitLen()
		fits = (a.alg == jwa.PS256 || a.alg == jwa.RS256) && bits >= minRSABits && bits <= maxRSABits
	}
	if !fits {
		return false
	}
	verifier, err := jws.NewVerifier(a.alg)
	if err != nil {
		return false
	}
	// The proof has been taken apart already, by rules stricter than those of jws.Verify, which would do so again.
	return verifier.Verify([]byte(a.parsed.SigningInput), a.parsed.Signature, key) == nil
}

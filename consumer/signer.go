package consumer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/edrgate/edrgate/internal/compactjws"
	"github.com/edrgate/edrgate/tokens"
)

// ProofLifetime is the longest life of a proof that we sign.
const ProofLifetime = 5 * time.Minute

// ProofRequest says what is to be proven, and to whom.
type ProofRequest struct {
	Issuer      string // our own DID: iss and sub
	Audience    string // aud
	AccessToken tokens.Secret
}

// Signer makes authentication tokens: the JWT by which a consumer proves with its DID's key that it is the one to whom an
// access token was issued (Tractus-X token refresh; DPS token renewal profile; DCP §4.3 self-issued ID token).
//
// An error means that the signer could not tell, and the renewal is tried again later: trouble of our own must never
// mark an EDR as refused by its provider. It must hold no token. Proof may be called by many goroutines at once.
type Signer interface {
	Proof(ctx context.Context, r ProofRequest) (tokens.Secret, error)
}

// KeySignerConfig is what NewKeySigner needs. Fields without a stated default are required.
type KeySignerConfig struct {
	// Key is a P-256 (signs ES256) or an Ed25519 key (signs EdDSA). Its public key stands in our DID's document.
	Key crypto.Signer

	// KeyID is the verification method of the DID document that has the key, a DID URL such as did:web:me.example#key-1.
	KeyID string

	Lifetime time.Duration    // of a proof; default and most: ProofLifetime
	Now      func() time.Time // default: time.Now
	Rand     io.Reader        // for ids; default: crypto/rand
}

// KeySigner signs proofs with a key of our own.
type KeySigner struct {
	c   KeySignerConfig
	alg jwa.SignatureAlgorithm
}

// NewKeySigner returns a signer with a key.
func NewKeySigner(c KeySignerConfig) (*KeySigner, error) {
	s := &KeySigner{c: c}
	if c.Key == nil {
		return nil, refuse(CodeInvalid, "signer: key is needed")
	}
	switch public := c.Key.Public().(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, refuse(CodeInvalid, "signer: curve %s cannot be used, only P-256", public.Curve.Params().Name)
		}
		s.alg = jwa.ES256
	case ed25519.PublicKey:
		s.alg = jwa.EdDSA
	default:
		return nil, refuse(CodeInvalid, "signer: a %T cannot be used, only P-256 and Ed25519 keys", public)
	}
	did, fragment, _ := strings.Cut(c.KeyID, "#")
	if !isDID(did) || fragment == "" {
		return nil, refuse(CodeInvalid, "signer: key id must be a DID URL with a fragment, such as did:web:me.example#key-1")
	}
	if c.Lifetime == 0 {
		s.c.Lifetime = ProofLifetime
	}
	if s.c.Lifetime < time.Second || s.c.Lifetime > ProofLifetime {
		return nil, refuse(CodeInvalid, "signer: proofs must live from 1s to %s", ProofLifetime)
	}
	if c.Now == nil {
		s.c.Now = time.Now
	}
	if c.Rand == nil {
		s.c.Rand = rand.Reader
	}
	return s, nil
}

// String names the key.
func (s *KeySigner) String() string { return "signer with key " + s.c.KeyID }

// GoString is String, so that no verb of package fmt prints the key.
func (s *KeySigner) GoString() string { return s.String() }

// proofClaims are those that the two specifications want, and jti, which Tractus-X wants.
type proofClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Token    string `json:"token"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// Proof implements Signer.
func (s *KeySigner) Proof(_ context.Context, r ProofRequest) (tokens.Secret, error) {
	// Providers compare the DID of kid with iss: another one can only be a mistake of configuration.
	did, _, _ := strings.Cut(s.c.KeyID, "#")
	if did != r.Issuer {
		return "", fmt.Errorf("signer: key id is not of the DID %s", r.Issuer)
	}
	id := make([]byte, 16)
	_, err := io.ReadFull(s.c.Rand, id)
	if err != nil {
		return "", fmt.Errorf("signer: reading random bytes: %w", err)
	}
	now := s.c.Now()
	payload, err := json.Marshal(proofClaims{
		Issuer: r.Issuer, Subject: r.Issuer, Audience: r.Audience, Token: r.AccessToken.Reveal(),
		ID: base64.RawURLEncoding.EncodeToString(id), IssuedAt: now.Unix(), Expires: now.Add(s.c.Lifetime).Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("signer: encoding claims: %w", err)
	}
	header := jws.NewHeaders()
	for name, value := range map[string]any{jws.TypeKey: "JWT", jws.KeyIDKey: s.c.KeyID} {
		err = header.Set(name, value)
		if err != nil {
			return "", fmt.Errorf("signer: building the header: %w", err)
		}
	}
	proof, err := jws.Sign(payload, jws.WithKey(s.alg, s.c.Key, jws.WithProtectedHeaders(header)))
	if err != nil {
		return "", fmt.Errorf("signer: signing with key %s: %w", s.c.KeyID, err)
	}
	return tokens.Secret(proof), nil
}

// checkProof compares a proof that another service signed with what was asked for. A service that is set up for another
// participant would have us show its proof to our providers.
func checkProof(raw string, r ProofRequest) error {
	t, err := compactjws.Parse(raw, 0)
	if err != nil {
		return err
	}
	for _, claim := range []struct{ name, want string }{{"iss", r.Issuer}, {"sub", r.Issuer}, {"token", r.AccessToken.Reveal()}} {
		got, err := t.Claims.String(claim.name)
		if err != nil {
			return err
		}
		if got != claim.want {
			return fmt.Errorf("claim %s is not the one asked for", claim.name)
		}
	}
	audience, err := t.Claims.StringOrList("aud")
	if err != nil {
		return err
	}
	if !slices.Contains(audience, r.Audience) {
		return fmt.Errorf("claim aud is not the one asked for")
	}
	return nil
}

package tokens

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// KeyID names a key in records: the RFC 7638 thumbprint of a signing key, a fingerprint of a refresh or sealing key.
type KeyID string

// KeyState says what a signing key is used for.
type KeyState string

// The states of a signing key. A new key is listed as next on every gateway first, then made active while the old one
// becomes verify, and the old one is dropped when no token of it can be presented any more.
const (
	KeyNext   KeyState = "next"   // published and accepted, not yet used for signing
	KeyActive KeyState = "active" // signs; exactly one
	KeyVerify KeyState = "verify" // published and accepted, no longer used for signing
)

// Secret keys shorter than this are refused.
const minSecretKeyBytes = 32

// The info strings of HKDF (RFC 5869 §3.2) keep the keys that are derived from one signing key apart.
const (
	infoRefresh     = "edrgate refresh token key"
	infoSealing     = "edrgate sealing key"
	infoFingerprint = "edrgate key fingerprint"
)

// RingKey is one signing key as configured.
type RingKey struct {
	Signer crypto.Signer // P-256 (signs ES256) or Ed25519 (signs EdDSA)
	State  KeyState
	Name   string // for messages, for example the file it came from
}

// Ring holds the keys of one participant. It never changes.
type Ring struct {
	id      string
	active  *signingKey
	signing map[string]*signingKey // by kid
	order   []*signingKey          // as configured

	refresh       map[KeyID][]byte
	activeRefresh KeyID
	sealer        *Sealer
}

type signingKey struct {
	kid    string
	alg    jwa.SignatureAlgorithm
	header string       // of the tokens that it signs, encoded
	check  jws.Verifier // of alg
	make   jws.Signer   // of alg
	signer crypto.Signer
	public crypto.PublicKey
	state  KeyState

	// The secrets derived from it; empty if its bytes cannot be read.
	refresh, sealing KeyID
}

// String says how many keys there are.
func (r *Ring) String() string { return fmt.Sprintf("ring of %d signing keys", len(r.order)) }

// Sealer returns the sealer of the ring's sealing keys.
func (r *Ring) Sealer() *Sealer { return r.sealer }

// ID is a fingerprint of all keys and their use.
func (r *Ring) ID() string { return r.id }

// NewRing builds a ring. From each signing key a key for refresh tokens and one for sealing stored secrets is derived.
// refreshKeys and sealingKeys (at least 32 bytes each) take their place where a signing key's bytes cannot be had, or
// where these are to be rotated on their own: the first of each is used for new tokens and values, all of them and the
// derived ones for old.
func NewRing(keys []RingKey, refreshKeys, sealingKeys [][]byte) (*Ring, error) {
	r := &Ring{
		signing: map[string]*signingKey{},
		refresh: map[KeyID][]byte{},
		sealer:  newSealer(),
	}
	for _, secret := range refreshKeys {
		id, err := r.addRefresh(secret)
		if err != nil {
			return nil, fmt.Errorf("refresh key: %w", err)
		}
		setDefault(&r.activeRefresh, id)
	}
	for _, secret := range sealingKeys {
		id, err := r.sealer.add(secret)
		if err != nil {
			return nil, fmt.Errorf("sealing key: %w", err)
		}
		setDefault(&r.sealer.active, id)
	}
	for _, key := range keys {
		err := r.addSigning(key, len(refreshKeys) > 0 && len(sealingKeys) > 0)
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", key.Name, err)
		}
	}
	if r.active == nil {
		return nil, errors.New("no signing key is active: list one without a state, or as active")
	}
	setDefault(&r.activeRefresh, r.active.refresh)
	setDefault(&r.sealer.active, r.active.sealing)
	r.id = r.fingerprint()
	return r, nil
}

func (r *Ring) addSigning(key RingKey, otherSecrets bool) error {
	k, err := newSigningKey(key)
	if err != nil {
		return err
	}
	if r.signing[k.kid] != nil {
		return errors.New("the same key is listed twice")
	}
	if k.state == KeyActive {
		if r.active != nil {
			return errors.New("a second active key: make one of them next or verify")
		}
		r.active = k
	}
	r.signing[k.kid] = k
	r.order = append(r.order, k)

	secret, err := privateBytes(key.Signer)
	if err != nil {
		if otherSecrets {
			return nil
		}
		return fmt.Errorf("%w: refresh_key and sealing_key are needed beside it", err)
	}
	k.refresh, err = derive(secret, infoRefresh, r.addRefresh)
	if err != nil {
		return err
	}
	k.sealing, err = derive(secret, infoSealing, r.sealer.add)
	return err
}

// derive draws a secret from a signing key (RFC 5869) and adds it to the ring.
func derive(secret []byte, info string, add func([]byte) (KeyID, error)) (KeyID, error) {
	derived, err := hkdf.Key(sha256.New, secret, nil, info, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving a secret: %w", err)
	}
	return add(derived)
}

func (r *Ring) addRefresh(secret []byte) (KeyID, error) {
	id, err := secretKeyID(secret)
	if err != nil {
		return "", err
	}
	r.refresh[id] = secret
	return id, nil
}

// fingerprint changes when a key is added, removed or put to another use.
func (r *Ring) fingerprint() string {
	h := sha256.New()
	for _, k := range r.order {
		fmt.Fprintf(h, "%s %s\n", k.kid, k.state)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
}

// secretKeyID names a secret without giving anything of it away.
func secretKeyID(secret []byte) (KeyID, error) {
	if len(secret) < minSecretKeyBytes {
		return "", fmt.Errorf("%d bytes are too few, at least %d are needed", len(secret), minSecretKeyBytes)
	}
	id, err := hkdf.Key(sha256.New, secret, nil, infoFingerprint, keyTagBytes)
	if err != nil {
		return "", err
	}
	return KeyID(hex.EncodeToString(id)), nil
}

func newSigningKey(key RingKey) (*signingKey, error) {
	if key.Signer == nil {
		return nil, errors.New("no key")
	}
	k := &signingKey{signer: key.Signer, public: key.Signer.Public(), state: key.State}
	switch k.state {
	case KeyNext, KeyActive, KeyVerify:
	default:
		return nil, fmt.Errorf("state %q is none of next, active, verify", k.state)
	}
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, fmt.Errorf("curve %s cannot be used, only P-256", public.Curve.Params().Name)
		}
		k.alg = jwa.ES256
	case ed25519.PublicKey:
		k.alg = jwa.EdDSA
	default:
		return nil, fmt.Errorf("a %T cannot be used, only P-256 and Ed25519 keys", public)
	}
	var err error
	k.check, err = jws.NewVerifier(k.alg)
	if err != nil {
		return nil, err
	}
	k.make, err = jws.NewSigner(k.alg)
	if err != nil {
		return nil, err
	}
	set, err := jwk.FromRaw(k.public)
	if err != nil {
		return nil, err
	}
	thumbprint, err := set.Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return nil, err
	}
	k.kid = base64.RawURLEncoding.EncodeToString(thumbprint)
	header, err := json.Marshal(map[string]string{"alg": k.alg.String(), "kid": k.kid, "typ": accessTokenType})
	k.header = base64.RawURLEncoding.EncodeToString(header)
	return k, err
}

func privateBytes(signer crypto.Signer) ([]byte, error) {
	switch key := signer.(type) {
	case *ecdsa.PrivateKey:
		return key.Bytes()
	case ed25519.PrivateKey:
		return key.Seed(), nil
	}
	return nil, errors.New("the private key cannot be read")
}

// JWKS returns the public keys as a JSON Web Key Set (RFC 7517 §5), the active one first.
func (r *Ring) JWKS() ([]byte, error) {
	keys := []jwk.Key{}
	for _, k := range r.order {
		key, err := jwk.FromRaw(k.public)
		if err != nil {
			return nil, err
		}
		for name, value := range map[string]any{jwk.KeyIDKey: k.kid, jwk.AlgorithmKey: k.alg, jwk.KeyUsageKey: "sig"} {
			err = key.Set(name, value)
			if err != nil {
				return nil, err
			}
		}
		if k == r.active {
			keys = append([]jwk.Key{key}, keys...)
			continue
		}
		keys = append(keys, key)
	}
	return json.Marshal(map[string]any{"keys": keys})
}

// KeyInfo describes a signing key without its secret.
type KeyInfo struct {
	KeyID     KeyID    `json:"kid"`
	Algorithm string   `json:"alg"`
	State     KeyState `json:"state"`

	// Fingerprints of the secrets derived from it, which KeyUse counts by; empty if nothing can be derived.
	RefreshKey KeyID `json:"refresh_key,omitempty"`
	SealingKey KeyID `json:"sealing_key,omitempty"`
}

// SigningKeys lists the signing keys as configured.
func (r *Ring) SigningKeys() []KeyInfo {
	list := make([]KeyInfo, 0, len(r.order))
	for _, k := range r.order {
		list = append(list, KeyInfo{KeyID(k.kid), k.alg.String(), k.state, k.refresh, k.sealing})
	}
	return list
}

// ParseKey reads a private key: PKCS #8 or SEC 1 in PEM, or a private JSON Web Key. It must be a P-256 or an Ed25519
// key. Errors never quote the input.
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return parseJWK(data)
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PUBLIC KEY":
		return nil, errors.New("this is a public key: the private key is needed, also for a key that only verifies, since the keys of refresh tokens and sealed values are derived from it")
	default:
		return nil, fmt.Errorf("PEM type %q is none of PRIVATE KEY, EC PRIVATE KEY", block.Type)
	}
	if err != nil {
		return nil, errors.New("the PEM block holds no readable private key")
	}
	return checkSigner(key)
}

func parseJWK(data []byte) (crypto.Signer, error) {
	key, err := jwk.ParseKey(data)
	if err != nil {
		return nil, errors.New("neither PEM nor a JSON Web Key")
	}
	var raw any
	err = key.Raw(&raw)
	if err != nil {
		return nil, errors.New("the JSON Web Key cannot be used")
	}
	return checkSigner(raw)
}

func checkSigner(key any) (crypto.Signer, error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		if key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("curve %s cannot be used, only P-256", key.Curve.Params().Name)
		}
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, errors.New("only P-256 and Ed25519 private keys can be used")
}

package demo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// proofLife is well below the ten minutes that a gateway accepts.
const proofLife = time.Minute

// Wallet is an identity: a DID, the key it stands for, and the document that says so.
type Wallet struct {
	DID     string
	key     *ecdsa.PrivateKey
	Fetches atomic.Int64 // of its DID document
}

// NewWallet returns a wallet whose document is below a path of a did:web host.
func NewWallet(hostPort, name string) (*Wallet, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	// did:web method specification: the colon before a port is percent-encoded, and colons stand for slashes.
	return &Wallet{DID: "did:web:localhost%3A" + hostPort + ":" + name, key: key}, nil
}

// WriteKey gives the wallet's key to a gateway that signs in its name: PKCS #8 in PEM, as `caddy edr keygen` writes it.
func (w *Wallet) WriteKey(file string) error {
	der, err := x509.MarshalPKCS8PrivateKey(w.key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (w *Wallet) keyID() string { return w.DID + "#key-1" }

// prove signs an authentication token: "I, the holder of this DID, hold this access token and may renew it"
// (Tractus-X refresh token decision record; DPS token renewal profile).
func (w *Wallet) prove(audience, accessToken string) (string, error) {
	now := time.Now()
	return w.sign("JWT", w.keyID(), map[string]any{
		"iss": w.DID, "sub": w.DID, "aud": audience, "token": accessToken, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(proofLife).Unix(),
	})
}

// Forge makes an access token that says what another one says, signed with the wallet's own key instead of the
// gateway's.
func (w *Wallet) Forge(accessToken string) (string, error) {
	token, err := jwt.ParseSigned(accessToken, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", err
	}
	var claims map[string]any
	err = token.UnsafeClaimsWithoutVerification(&claims)
	if err != nil {
		return "", err
	}
	return w.sign("at+jwt", token.Headers[0].KeyID, claims)
}

func (w *Wallet) sign(typ, keyID string, claims map[string]any) (string, error) {
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("kid", keyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: w.key}, options)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// Document is the wallet's DID document (DID Core 1.0 §5).
func (w *Wallet) document() any {
	return map[string]any{
		"@context": []string{"https://www.w3.org/ns/did/v1"},
		"id":       w.DID,
		"verificationMethod": []any{map[string]any{
			"id": w.keyID(), "type": "JsonWebKey2020", "controller": w.DID,
			"publicKeyJwk": jose.JSONWebKey{Key: w.key.Public()},
		}},
		"authentication":  []string{w.keyID()},
		"assertionMethod": []string{w.keyID()},
	}
}

// ServeHTTP serves the wallet's DID document.
func (w *Wallet) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	w.Fetches.Add(1)
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(w.document()) // a gateway that has gone asks again
}

// ServeProofs signs an authentication token for the access token in the body, so that a renewal can be tried with curl.
// A real wallet signs for its own connector only.
func (w *Wallet) ServeProofs(rw http.ResponseWriter, r *http.Request) {
	token, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxAnswerBytes))
	if err != nil {
		http.Error(rw, "want an access token", http.StatusBadRequest)
		return
	}
	proof, err := w.prove(ProviderDID, string(token))
	if err != nil {
		http.Error(rw, "cannot sign", http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(rw, proof) // curl that has gone asks again
}

// VerifiedClaims reads an access token with the keys that the gateway publishes, and returns the DID that it was issued
// to. A consumer need not do this, the token is opaque to it; here another JOSE library has a look at ours.
func VerifiedClaims(accessToken string, keySet []byte) (string, error) {
	var keys jose.JSONWebKeySet
	err := json.Unmarshal(keySet, &keys)
	if err != nil {
		return "", fmt.Errorf("key set: %w", err)
	}
	token, err := jwt.ParseSigned(accessToken, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", err
	}
	var claims jwt.Claims
	err = token.Claims(keys, &claims)
	if err != nil {
		return "", err
	}
	if claims.Issuer != ProviderDID {
		return "", errors.New("the issuer is not the provider")
	}
	return claims.Subject, nil
}

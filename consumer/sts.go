package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/tokens"
)

// TokenServiceConfig is what NewTokenService needs. All of it but Scope is required.
type TokenServiceConfig struct {
	TokenURL     string // of the Secure Token Service: https, or http on a loopback host
	ClientID     string
	ClientSecret tokens.Secret

	// Scope is a list with spaces between (RFC 6749 §3.3). Default: not sent.
	Scope string

	// Transport sends the requests. The operator chose the address, so it may reach inside.
	Transport http.RoundTripper
}

// TokenService is a Signer that has proofs signed by a Secure Token Service, as EDC's RemoteSecureTokenService does: a
// client credentials request with the parameters audience and token, whose access token is the proof (observed on
// Tractus-X 0.12.1). Each proof is asked for anew.
type TokenService struct {
	c TokenServiceConfig
}

// NewTokenService returns a signer over a Secure Token Service.
func NewTokenService(c TokenServiceConfig) (*TokenService, error) {
	err := authserver.CheckEndpoint(c.TokenURL)
	if err != nil {
		return nil, &Error{Code: CodeInvalid, Detail: "secure token service: token URL", cause: err}
	}
	if c.ClientID == "" || c.ClientSecret == "" || c.Transport == nil {
		return nil, refuse(CodeInvalid, "secure token service: client id, client secret and transport are needed")
	}
	return &TokenService{c: c}, nil
}

// Proof implements Signer. The client's credentials stand in the body, where EDC's OAuth2 client has them.
func (s *TokenService) Proof(ctx context.Context, r ProofRequest) (tokens.Secret, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {s.c.ClientID}, "client_secret": {s.c.ClientSecret.Reveal()},
		"audience": {r.Audience}, "token": {r.AccessToken.Reveal()},
	}
	if s.c.Scope != "" {
		form.Set("scope", s.c.Scope) // RFC 6749 §4.4.2; EDC's bearer_access_scope is another parameter, of presentations
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("secure token service: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	m, err := fetch(req, s.c.Transport, http.StatusOK)
	if err != nil {
		return "", fmt.Errorf("secure token service: %w", err)
	}
	proof, err := m.String("access_token")
	if err != nil {
		return "", fmt.Errorf("secure token service: %w", err)
	}
	err = checkProof(proof, r)
	if err != nil {
		return "", fmt.Errorf("secure token service: proof: %w", err)
	}
	return tokens.Secret(proof), nil
}

// WalletConfig is what NewWallet needs. All of it is required.
type WalletConfig struct {
	URL string // where signToken is posted: https, or http on a loopback host

	// Tokens and Grant give the bearer token that the wallet is called with, by client credentials.
	Tokens *authserver.Source
	Grant  authserver.Grant

	// Transport sends the requests to the wallet. The operator chose the address, so it may reach inside.
	Transport http.RoundTripper
}

// Wallet is a Signer that has proofs signed by a managed wallet with the DIM interface, as Tractus-X's
// DivSecureTokenService does: {"signToken":{…}} is posted with a bearer token of the client, and answered with {"jwt":…}.
type Wallet struct {
	c WalletConfig
}

// NewWallet returns a signer over a wallet.
func NewWallet(c WalletConfig) (*Wallet, error) {
	for name, text := range map[string]string{"URL": c.URL, "token URL": c.Grant.Endpoint} {
		err := authserver.CheckEndpoint(text) // what is posted to the wallet is worth a secret as well
		if err != nil {
			return nil, &Error{Code: CodeInvalid, Detail: "wallet: " + name, cause: err}
		}
	}
	if c.Tokens == nil || c.Grant.ClientID == "" || c.Grant.ClientSecret == "" || c.Transport == nil {
		return nil, refuse(CodeInvalid, "wallet: tokens, client id, client secret and transport are needed")
	}
	return &Wallet{c: c}, nil
}

type signToken struct {
	Audience string `json:"audience"`
	Issuer   string `json:"issuer"`
	Subject  string `json:"subject"`
	Token    string `json:"token"`
}

// Proof implements Signer.
func (w *Wallet) Proof(ctx context.Context, r ProofRequest) (tokens.Secret, error) {
	access, _, err := w.c.Tokens.Token(ctx, w.c.Grant)
	if err != nil {
		return "", fmt.Errorf("wallet: %w", err)
	}
	body, err := json.Marshal(map[string]signToken{"signToken": {r.Audience, r.Issuer, r.Issuer, r.AccessToken.Reveal()}})
	if err != nil {
		return "", fmt.Errorf("wallet: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.c.URL, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("wallet: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+access.Reveal())
	m, err := fetch(req, w.c.Transport, http.StatusOK, http.StatusCreated)
	if err != nil {
		w.c.Tokens.Drop(w.c.Grant, access) // perhaps it was that
		return "", fmt.Errorf("wallet: %w", err)
	}
	proof, err := m.String("jwt")
	if err != nil {
		return "", fmt.Errorf("wallet: %w", err)
	}
	err = checkProof(proof, r)
	if err != nil {
		return "", fmt.Errorf("wallet: proof: %w", err)
	}
	return tokens.Secret(proof), nil
}

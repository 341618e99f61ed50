package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/edrgate/edrgate/tokens"
)

// TokenService is a Signer that has proofs signed by a Secure Token Service, as EDC's RemoteSecureTokenService does: a
// client credentials request with the parameters audience and token, whose access token is the proof (observed on
// Tractus-X 0.12.1).
type TokenService struct {
	client ClientCredentials
}

// NewTokenService returns a signer over a Secure Token Service.
func NewTokenService(client ClientCredentials) (*TokenService, error) {
	err := client.complete()
	if err != nil {
		return nil, err
	}
	return &TokenService{client: client}, nil
}

// Proof implements Signer.
func (s *TokenService) Proof(ctx context.Context, r ProofRequest) (tokens.Secret, error) {
	g, err := s.client.ask(ctx, url.Values{"audience": {r.Audience}, "token": {r.AccessToken.Reveal()}})
	if err != nil {
		return "", fmt.Errorf("secure token service: %w", err)
	}
	err = checkProof(g.token.Reveal(), r)
	if err != nil {
		return "", fmt.Errorf("secure token service: proof: %w", err)
	}
	return g.token, nil
}

// Wallet is a Signer that has proofs signed by a managed wallet with the DIM interface, as Tractus-X's
// DivSecureTokenService does: {"signToken":{…}} is posted with a bearer token of the client, and answered with {"jwt":…}.
type Wallet struct {
	url    string
	client ClientCredentials
	token  remembered
}

// NewWallet returns a signer over a wallet. Its bearer token comes by client credentials.
func NewWallet(walletURL string, client ClientCredentials) (*Wallet, error) {
	err := checkURL("wallet URL", walletURL, true)
	if err != nil {
		return nil, err
	}
	err = client.complete()
	if err != nil {
		return nil, err
	}
	return &Wallet{url: walletURL, client: client}, nil
}

type signToken struct {
	Audience string `json:"audience"`
	Issuer   string `json:"issuer"`
	Subject  string `json:"subject"`
	Token    string `json:"token"`
}

// Proof implements Signer.
func (w *Wallet) Proof(ctx context.Context, r ProofRequest) (tokens.Secret, error) {
	access, err := w.token.get(ctx, &w.client)
	if err != nil {
		return "", fmt.Errorf("wallet: access token: %w", err)
	}
	body, err := json.Marshal(map[string]signToken{"signToken": {r.Audience, r.Issuer, r.Issuer, r.AccessToken.Reveal()}})
	if err != nil {
		return "", fmt.Errorf("wallet: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("wallet: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+access.Reveal())
	m, err := w.client.fetch(req, http.StatusOK, http.StatusCreated)
	if err != nil {
		w.token.forget(access) // perhaps it was that
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

package signaling

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

const (
	principal = "urn:principal:control-plane"
	component = "control-plane-1"
)

func exchangeIssuer(t *testing.T, signer *testkit.Wallet, clock *testkit.Clock, exchange ExchangeConfig) *Issuer {
	t.Helper()
	exchange.Participant = []string{"acme", "did:web:provider.example"}
	return mustIssuer(t, IssuerConfig{
		Issuer: testIssuer, Subjects: []string{principal}, Audience: []string{"dataplane-1"}, Keys: ringOf(signer), Now: clock.Now,
		ClockSkew: time.Minute, Exchange: &exchange,
	})
}

// TestAccessByTokenExchange is the table of what the profile oauth2_token_exchange demands beside what TestAccessByIssuer
// has of any token.
func TestAccessByTokenExchange(t *testing.T) {
	clock, signer, stranger := testkit.NewClock(), testkit.NewWallet("did:web:login.example"), testkit.NewWallet("did:web:login.example")
	all := ExchangeConfig{
		Clients: []string{component, "control-plane-2"}, Scopes: []string{"signaling:dataflow", "x"}, ParticipantContexts: []string{"context-1"},
	}
	tests := []struct {
		name   string
		config ExchangeConfig
		claims map[string]any // nil: left out
		detail string         // of the refusal; empty: let in
	}{
		{name: "as little as can be"},
		{name: "own participant", claims: map[string]any{"participant_context": "acme"}},
		{name: "own DID", claims: map[string]any{"participant_context": "did:web:provider.example"}},
		{name: "actor", claims: map[string]any{"act": map[string]any{"sub": "system:serviceaccount:x:y"}}},
		{name: "client unasked", claims: map[string]any{"client_id": "whoever"}},
		{name: "all", config: all, claims: map[string]any{"client_id": component, "scope": "y x signaling:dataflow", "participant_context": "context-1"}},

		{name: "no scope", claims: map[string]any{"scope": nil}, detail: "scope"},
		{name: "scope a list", claims: map[string]any{"scope": []string{"a"}}, detail: "scope"},
		{name: "scope empty", claims: map[string]any{"scope": " "}, detail: "scope is empty"},
		{name: "one scope of two", config: all, claims: map[string]any{"client_id": component, "participant_context": "context-1"}, detail: "scope x is not granted"},
		{name: "longer scope", config: ExchangeConfig{Scopes: []string{"signaling"}}, detail: "scope signaling is not granted"},
		{name: "another participant", claims: map[string]any{"participant_context": "umbrella"}, detail: "participant_context is another one"},
		{name: "participant a number", claims: map[string]any{"participant_context": 1}, detail: "participant_context"},
		{name: "no participant", config: ExchangeConfig{ParticipantContexts: []string{"context-1"}}, detail: "participant_context is missing"},
		{name: "own participant where another is configured", config: ExchangeConfig{ParticipantContexts: []string{"context-1"}}, claims: map[string]any{"participant_context": "acme"}, detail: "participant_context is another one"},
		{name: "no client", config: ExchangeConfig{Clients: []string{component}}, detail: "no control plane"},
		{name: "another client", config: ExchangeConfig{Clients: []string{component}}, claims: map[string]any{"client_id": "control-plane-2"}, detail: "no control plane"},
		{name: "client a list", config: ExchangeConfig{Clients: []string{component}}, claims: map[string]any{"client_id": []string{component}}, detail: "no control plane"},
		{name: "another principal", claims: map[string]any{"sub": principal + "2"}, detail: "no control plane"},
		{name: "another audience", claims: map[string]any{"aud": "dataplane-2"}, detail: "aud"},
		{name: "expired", claims: map[string]any{"exp": clock.Now().Unix() - 60}, detail: "expired"},
		{name: "no expiry", claims: map[string]any{"exp": nil}, detail: "exp"},
		{name: "no time of issue", claims: map[string]any{"iat": nil}, detail: "iat"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			claims := issuedClaims(clock.Now())
			claims["sub"], claims["scope"] = principal, "signaling:dataflow"
			for name, value := range tt.claims {
				claims[name] = value
				if value == nil {
					delete(claims, name)
				}
			}
			issuer := exchangeIssuer(t, signer, clock, tt.config)
			a := mustAccess(t, Rule{ControlPlane: "edc", Issuer: issuer})
			_, refused := identify(a, "Bearer "+stranger.Sign(claims), "")
			if refused == nil || refused.status != http.StatusUnauthorized {
				t.Fatalf("signed by somebody else: %+v", refused)
			}
			caller, refused := identify(a, "Bearer "+signer.Sign(claims), "")
			if tt.detail == "" {
				if caller != "edc" || refused != nil {
					t.Fatalf("%q, %+v", caller, refused)
				}
				_, refused = identify(a, "Bearer "+signer.Sign(claims), "")
				if refused == nil || !strings.Contains(refused.detail, "used before") {
					t.Errorf("its jti a second time: %+v", refused)
				}
				return
			}
			if caller != "" || refused == nil || refused.status != http.StatusUnauthorized || !strings.Contains(refused.detail, tt.detail) {
				t.Errorf("%q, %+v, want 401 for %q", caller, refused, tt.detail)
			}
		})
	}
}

// TestComponentsOfOnePrincipal: one broker, one principal, two control planes told by client_id.
func TestComponentsOfOnePrincipal(t *testing.T) {
	clock, signer := testkit.NewClock(), testkit.NewWallet("did:web:login.example")
	a := mustAccess(
		t, Rule{ControlPlane: "first", Issuer: exchangeIssuer(t, signer, clock, ExchangeConfig{Clients: []string{"cp-1"}})},
		Rule{ControlPlane: "second", Issuer: exchangeIssuer(t, signer, clock, ExchangeConfig{Clients: []string{"cp-2", "cp-3"}})},
	)
	for client, want := range map[string]tokens.Caller{"cp-1": "first", "cp-3": "second", "cp-4": ""} {
		claims := issuedClaims(clock.Now())
		claims["sub"], claims["scope"], claims["client_id"] = principal, "s", client
		caller, refused := identify(a, "Bearer "+signer.Sign(claims), "")
		if caller != want || (refused == nil) != (want != "") {
			t.Errorf("%s: %q, %+v", client, caller, refused)
		}
	}
	for name, other := range map[string]ExchangeConfig{"a client of both": {Clients: []string{"cp-1", "cp-9"}}, "any client": {}} {
		_, err := NewAccessList([]Rule{
			{ControlPlane: "first", Issuer: exchangeIssuer(t, signer, clock, ExchangeConfig{Clients: []string{"cp-1"}})},
			{ControlPlane: "second", Issuer: exchangeIssuer(t, signer, clock, other)},
		})
		if err == nil || !strings.Contains(err.Error(), "also that of") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExchangeConfigRefused(t *testing.T) {
	for name, c := range map[string]struct {
		subject string
		config  ExchangeConfig
		want    string
	}{
		"subject is no URI": {"control-plane-1", ExchangeConfig{Participant: []string{"p"}}, "want the absolute URI"},
		"no participant":    {principal, ExchangeConfig{}, "participant are required"},
		"empty scope":       {principal, ExchangeConfig{Participant: []string{"p"}, Scopes: []string{""}}, "is empty"},
		"empty client":      {principal, ExchangeConfig{Participant: []string{"p"}, Clients: []string{""}}, "is empty"},
	} {
		_, err := NewIssuer(IssuerConfig{Issuer: testIssuer, Keys: ringOf(), Audience: []string{"a"}, Subjects: []string{c.subject}, Exchange: &c.config})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := NewIssuer(IssuerConfig{Issuer: testIssuer, Audience: []string{"a"}, Subjects: []string{principal}, Exchange: &ExchangeConfig{Participant: []string{"p"}}})
	if err == nil || !strings.Contains(err.Error(), "keys are required") {
		t.Errorf("no keys: %v", err)
	}
}

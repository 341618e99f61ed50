package consumer

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/dial/dialtest"
)

// Whatever trouble the host of a refresh endpoint is in, it has not said no: the EDR stays, and is renewed later.
func TestRenewalHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		x := newFixture(t, func(_ *Config, c *RenewerConfig) {
			c.Transport, c.Timeout, c.Tries = h.Transport(t), h.Timeout, 1
		})
		e := x.dps()
		e.RefreshEndpoint = h.URL + "/token"
		x.put("tp-1", e, Terms{Counterparty: providerDID})
		_, err := x.renewer.Refresh(t.Context(), "tp-1")
		wantCode(t, err, CodeUnavailable)
		if x.get("tp-1").State != Started {
			t.Errorf("the EDR is %s", x.get("tp-1").State)
		}
	})
}

// Whatever trouble what signs proofs is in, there is no proof. Nothing of the provider's is asked.
func TestSignerHostsInTrouble(t *testing.T) {
	for _, kind := range []struct {
		name string
		make func(t *testing.T, h *dialtest.Host) (Signer, error)
	}{
		{"token service", func(t *testing.T, h *dialtest.Host) (Signer, error) {
			return NewTokenService(TokenServiceConfig{TokenURL: h.URL, ClientID: "consumer", ClientSecret: "topsecret", Transport: h.Transport(t)})
		}},
		{"wallet", func(t *testing.T, h *dialtest.Host) (Signer, error) {
			tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer"}`)
			}))
			t.Cleanup(tokens.Close)
			return NewWallet(WalletConfig{
				URL: h.URL, Transport: h.Transport(t), Tokens: authserver.New(authserver.Config{Transport: loopback(t)}),
				Grant: authserver.Grant{Endpoint: tokens.URL, ClientID: "consumer", ClientSecret: "topsecret"},
			})
		}},
		{"token endpoint of a wallet", func(t *testing.T, h *dialtest.Host) (Signer, error) {
			return NewWallet(WalletConfig{
				URL: "http://127.0.0.1:1", Transport: loopback(t),
				Tokens: authserver.New(authserver.Config{Transport: h.Transport(t), Timeout: h.Timeout}),
				Grant:  authserver.Grant{Endpoint: h.URL, ClientID: "consumer", ClientSecret: "topsecret"},
			})
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
				s, err := kind.make(t, h)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), h.Timeout)
				defer cancel()
				_, err = s.Proof(ctx, asked)
				if err == nil {
					t.Error("a proof")
				}
			})
		})
	}
}

// Whatever trouble the host of an endpoint is in, a data request is not answered as if the provider had said no, and what
// streams is passed on without being kept.
func TestProviderHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		x := newFixture(t)
		e := x.dps()
		e.Endpoint = h.URL
		x.put("tp-1", e, Terms{Counterparty: providerDID})
		transport, err := NewTransport(TransportConfig{Renewer: x.renewer, Base: h.Transport(t)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), h.Timeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.For("tp-1").RoundTrip(req)
		if err != nil {
			return
		}
		defer res.Body.Close()
		if h.Denied != "" {
			t.Errorf("status %d of a host that must not be asked", res.StatusCode)
		}
		if res.StatusCode >= 400 {
			t.Errorf("status %d, which the host has not said", res.StatusCode)
		}
		// The reader decides how much it takes.
		_, _ = io.CopyN(io.Discard, res.Body, 1<<20)
	})
}

package consumer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/store/badger"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

// gateway is our own provider: the token core behind a renewal endpoint.
type gateway struct {
	*tokens.Service
	url string
}

// published resolves the one key of the consumer's DID document.
type published struct{ wallet *testkit.Wallet }

func (p published) ResolveKey(_ context.Context, did, kid string) (crypto.PublicKey, error) {
	if did != p.wallet.DID || kid != p.wallet.KID {
		return nil, errors.New("not published")
	}
	return p.wallet.Key.Public(), nil
}

func (p published) RefetchKey(ctx context.Context, did, kid string) (crypto.PublicKey, error) {
	return p.ResolveKey(ctx, did, kid)
}

func newGateway(t *testing.T, clock *testkit.Clock, wallet *testkit.Wallet) *gateway {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewRing([]tokens.RingKey{{Signer: key, State: tokens.KeyActive}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := new(gateway)
	server := httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(server.Close)
	g.url = server.URL
	g.Service, err = tokens.New(tokens.Config{
		Participant: "default", DID: providerDID, Keys: ring, Store: memory.New(clock.Now), Live: tokens.NewLive(),
		Resolver: published{wallet}, ControlPlanes: []string{"cp"}, PublicURL: server.URL + "/public", Now: clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if r.URL.Path == "/public/token" {
		renewal, err := g.Renew(r.Context(), tokens.RenewRequest{RefreshToken: r.PostFormValue("refresh_token"), Proof: bearer})
		switch {
		case err == nil:
			writeJSON(w, 200, map[string]any{
				"access_token": renewal.AccessToken.Reveal(), "refresh_token": renewal.RefreshToken.Reveal(),
				"expires_in": int(renewal.ExpiresIn / time.Second), "token_type": "bearer",
			})
		case tokens.CodeOf(err) == tokens.CodeUnavailable:
			w.WriteHeader(503)
		default:
			w.WriteHeader(401)
		}
		return
	}
	_, err := g.Verify(r.Context(), bearer, tokens.Request{Host: r.Host, Path: r.URL.Path}, &tokens.Site{AnyDataset: true})
	if err != nil {
		w.WriteHeader(401)
		return
	}
	_, _ = w.Write([]byte("data"))
}

// Our own provider renews for our own consumer, for each kind of key.
func TestRenewalAtOurOwnProvider(t *testing.T) {
	t.Parallel()
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			wallet := testkit.NewWalletFor(ownDID, alg)
			x := newFixture(t, func(c *Config, r *RenewerConfig) {
				signer, err := NewKeySigner(KeySignerConfig{Key: wallet.Key, KeyID: wallet.KID, Now: c.Now})
				if err != nil {
					t.Fatal(err)
				}
				r.Signer = signer
			})
			g := newGateway(t, x.clock, wallet)
			started, err := g.Start(t.Context(), "cp", tokens.StartRequest{
				Dialect: tokens.DPS, MessageID: "m", ProcessID: "flow-1", ProfileRenews: true, RenewalRequired: true,
				Profile: dpsProfile + "http-pull", Terms: tokens.Terms{Counterparty: ownDID, Dataset: "asset-1"},
			})
			if err != nil {
				t.Fatal(err)
			}
			x.put("tp-1", &EDR{
				Dialect: tokens.DPS, Endpoint: started.Endpoint, AccessToken: started.AccessToken, AuthType: "bearer", Scheme: "Bearer",
				RefreshToken: started.RefreshToken, RefreshEndpoint: started.RefreshEndpoint, RefreshAudience: started.RefreshAudience,
				ExpiresIn: started.ExpiresIn,
			}, Terms{Counterparty: providerDID})
			tr := x.transport()
			for i := range 4 {
				a := x.send(tr, "GET", "/x", nil)
				if a.Response.StatusCode != 200 || a.body != "data" || a.Entry.Generation != uint64(i+1) {
					t.Fatalf("request %d: %+v", i, a.Answer)
				}
				x.clock.Advance(10 * time.Minute)
			}
			_, err = g.Terminate(t.Context(), "cp", tokens.Message{ProcessID: "flow-1", Dialect: tokens.DPS})
			if err != nil {
				t.Fatal(err)
			}
			_, err = x.renewer.Current(t.Context(), "tp-1")
			wantCode(t, err, CodeRefused)
		})
	}
}

// Nothing of an EDR is found in the store's files: tokens, their endpoint, properties.
func TestStoreFilesHoldNoSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var db *badger.Store
	x := newFixture(t, func(c *Config, _ *RenewerConfig) {
		var err error
		db, err = badger.Open(badger.Options{Dir: dir, Clock: c.Now, ReserveBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		c.Store = db
	})
	x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		writeJSON(w, 200, map[string]any{"access_token": "CANARY-renewed-access", "refresh_token": "CANARY-renewed-refresh", "expires_in": 300})
		return true
	}
	e := x.dps()
	e.Endpoint += "/CANARY-endpoint"
	e.AccessToken, e.RefreshToken = "CANARY-access", "CANARY-refresh"
	e.Properties = map[string]string{"secret": "CANARY-property"}
	x.put("marker-tp-1", e, Terms{Counterparty: providerDID})
	x.must(x.renewer.Refresh(t.Context(), "marker-tp-1"))
	x.renewer.Close()
	err := db.Close()
	if err != nil {
		t.Fatal(err)
	}
	if len(leaks(t, dir, "marker-tp-1")) == 0 {
		t.Fatal("the search finds nothing at all")
	}
	found := leaks(t, dir, "CANARY-endpoint", "CANARY-access", "CANARY-refresh", "CANARY-property", "CANARY-renewed-access", "CANARY-renewed-refresh")
	if len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

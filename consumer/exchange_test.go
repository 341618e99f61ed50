package consumer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestProofIsWhatProvidersWant(t *testing.T) {
	t.Parallel()
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			clock := testkit.NewClock()
			wallet := testkit.NewWalletFor(ownDID, alg)
			signer, err := NewKeySigner(KeySignerConfig{Key: wallet.Key, KeyID: wallet.KID, Now: clock.Now})
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for range 2 {
				proof, err := signer.Proof(t.Context(), ProofRequest{Issuer: ownDID, Audience: providerDID, AccessToken: "access"})
				if err != nil {
					t.Fatal(err)
				}
				parsed, err := jwt.ParseSigned(proof.Reveal(), []jose.SignatureAlgorithm{alg})
				if err != nil {
					t.Fatal(err)
				}
				if parsed.Headers[0].KeyID != wallet.KID {
					t.Errorf("kid %q", parsed.Headers[0].KeyID)
				}
				var claims jwt.Claims
				var more struct {
					Token string `json:"token"`
				}
				err = parsed.Claims(wallet.Key.Public(), &claims, &more)
				if err != nil {
					t.Fatal(err)
				}
				err = claims.Validate(jwt.Expected{Issuer: ownDID, Subject: ownDID, AnyAudience: jwt.Audience{providerDID}, Time: clock.Now()})
				if err != nil {
					t.Error(err)
				}
				life := claims.Expiry.Time().Sub(claims.IssuedAt.Time())
				if more.Token != "access" || life <= 0 || life > ProofLifetime {
					t.Errorf("token %q, lives %s", more.Token, life)
				}
				if claims.ID == "" || seen[claims.ID] {
					t.Errorf("jti %q is missing or repeated", claims.ID)
				}
				seen[claims.ID] = true
			}
		})
	}
}

// What is sent, in the classic world and in that of Data Plane Signaling.
func TestRenewalRequest(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	for _, c := range []struct {
		name      string
		change    func(*EDR)
		wantPath  string
		wantQuery string
	}{
		{"dps, exactly there", func(e *EDR) { e.RefreshEndpoint = x.provider.URL + "/token/" }, "/token/", ""},
		{"classic, /token appended", func(e *EDR) { *e = *x.classic() }, "/token", "grant_type=refresh_token&refresh_token=refresh-0"},
		{"classic, there already", func(e *EDR) { *e = *x.classic(); e.RefreshEndpoint += "/token" }, "/token", "grant_type=refresh_token&refresh_token=refresh-0"},
		{"classic, with a slash", func(e *EDR) { *e = *x.classic(); e.RefreshEndpoint += "/token/" }, "/token", "grant_type=refresh_token&refresh_token=refresh-0"},
		{"classic, odd characters", func(e *EDR) { *e = *x.classic(); e.RefreshToken = "a+b/c=&d" }, "/token", "grant_type=refresh_token&refresh_token=a%2Bb%2Fc%3D%26d"},
		{"classic, own query", func(e *EDR) { *e = *x.classic(); e.RefreshEndpoint += "/token?a=b" }, "/token", "a=b&grant_type=refresh_token&refresh_token=refresh-0"},
		{"dps, odd characters", func(e *EDR) { e.RefreshToken = "a+b/c=&d%" }, "/token", ""},
	} {
		var got *http.Request
		var body string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			got, body = r, string(text)
			writeJSON(w, 200, map[string]any{"access_token": "new"})
		}))
		e := x.dps()
		c.change(e)
		e.RefreshEndpoint = strings.Replace(e.RefreshEndpoint, x.provider.URL, server.URL, 1)
		_, no := x.renewer.exchange(t.Context(), e, "proof")
		server.Close()
		if no != nil {
			t.Errorf("%s: %v", c.name, no.cause)
			continue
		}
		form := "grant_type=refresh_token&refresh_token=" + strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D", "&", "%26", "%", "%25").Replace(e.RefreshToken.Reveal())
		if got.Method != "POST" || got.URL.Path != c.wantPath || got.URL.RawQuery != c.wantQuery || body != form {
			t.Errorf("%s: %s %s?%s with %q, want %q", c.name, got.Method, got.URL.Path, got.URL.RawQuery, body, form)
		}
		if got.Header.Get("Authorization") != "Bearer proof" || got.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("%s: headers %v", c.name, got.Header)
		}
	}
}

func TestStatusesOfRenewals(t *testing.T) {
	t.Parallel()
	for status, final := range map[int]bool{
		400: true, 401: true, 403: true, 404: true, 405: true, 410: true, 415: true, 422: true, 451: true,
		408: false, 425: false, 429: false, 500: false, 501: false, 503: false, 599: false, 301: false, 302: false, 307: false, 308: false, 304: false,
	} {
		f := refusal(&http.Response{StatusCode: status, Header: http.Header{}})
		if f.final != final {
			t.Errorf("%d: final %t", status, f.final)
		}
	}
}

// A redirect is not followed: the refresh token and the proof are for the address that the EDR named.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.provider.renew = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return true
	}
	x.started("tp-1")
	_, err := x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
	if x.provider.renewed() != 1 {
		t.Errorf("%d requests", x.provider.renewed())
	}
}

// Addresses that the guard refuses are never connected, and are no refusal of the provider's.
func TestDialGuardHolds(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	e := x.dps()
	e.RefreshEndpoint = "http://169.254.169.254/latest/token"
	x.put("tp-1", e, Terms{Counterparty: providerDID})
	_, err := x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeUnavailable)
	if x.get("tp-1").State != Started || x.observer.event(EventRetried) != 0 {
		t.Error("marked as refused, or tried again at once")
	}
}

func FuzzReadRenewed(f *testing.F) {
	for _, name := range []string{"consumer-refresh", "consumer-refresh-0_12_2", "refresh-suspended"} {
		f.Add([]byte(load(f, name).Response.Body))
	}
	f.Add([]byte(`{"access_token":"a","expires_in":"300","expires":null,"token_type":"Bearer"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := readRenewed(data)
		if err != nil {
			return
		}
		if n.access == "" || n.life < 0 || strings.ContainsAny(n.access.Reveal()+n.refresh.Reveal(), "\r\n ") {
			t.Errorf("%q %q %s", n.access.Reveal(), n.refresh.Reveal(), n.life)
		}
	})
}

package consumer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

var asked = ProofRequest{Issuer: ownDID, Audience: providerDID, AccessToken: "access-0"}

func stsAt(t testing.TB, server *httptest.Server) TokenServiceConfig {
	return TokenServiceConfig{
		TokenURL: server.URL + "/sts/token", ClientID: "consumer", ClientSecret: "topsecret", Transport: loopback(t),
	}
}

func walletAt(t testing.TB, server *httptest.Server, clock *testkit.Clock) WalletConfig {
	transport := loopback(t)
	return WalletConfig{
		URL: server.URL + "/sign", Tokens: authserver.New(authserver.Config{Transport: transport, Now: clock.Now}), Transport: transport,
		Grant: authserver.Grant{Endpoint: server.URL + "/sts/token", ClientID: "consumer", ClientSecret: "topsecret"},
	}
}

// What is asked of a Secure Token Service is what Tractus-X's consumer was seen to ask, and its recorded answer is taken.
func TestRecordedTokenService(t *testing.T) {
	t.Parallel()
	rec := load(t, "sts-token")
	want, err := url.ParseQuery(rec.Request.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got url.Values
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = r.PostForm
		w.WriteHeader(rec.Response.Status)
		_, _ = io.WriteString(w, rec.Response.Body)
	}))
	defer server.Close()
	s, err := NewTokenService(stsAt(t, server))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := s.Proof(t.Context(), ProofRequest{
		Issuer: "did:web:localhost%3A17000:consumer", Audience: want.Get("audience"), AccessToken: tokens.Secret(want.Get("token")),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("asked with other parameters than %v", names(want))
	}
	s.c.Scope = "openid proofs"
	_, err = s.Proof(t.Context(), ProofRequest{
		Issuer: "did:web:localhost%3A17000:consumer", Audience: want.Get("audience"), AccessToken: tokens.Secret(want.Get("token")),
	})
	want.Set("scope", "openid proofs")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, with a scope, asked with other parameters than %v", err, names(want))
	}
	if !strings.Contains(rec.Response.Body, `"access_token":"`+proof.Reveal()+`"`) {
		t.Error("another proof than the recorded one")
	}
}

func names(v url.Values) (list []string) {
	for name := range v {
		list = append(list, name)
	}
	return list
}

// A proof that says something else than was asked for is not shown to anybody, and no trouble of a signer is a refusal.
func TestTokenServiceTrouble(t *testing.T) {
	t.Parallel()
	clock := testkit.NewClock()
	wallet := testkit.NewWallet(ownDID)
	other := testkit.NewWallet(otherDID)
	signed := func(w *testkit.Wallet, audience, token string) string {
		return fmt.Sprintf(`{"access_token":%q,"expires_in":300}`, w.Proof(audience, token, clock.Now()))
	}
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string // in the error; "" for none
	}{
		{"good", 200, signed(wallet, providerDID, "access-0"), ""},
		{"of another participant", 200, signed(other, providerDID, "access-0"), "iss"},
		{"for another audience", 200, signed(wallet, otherDID, "access-0"), "aud"},
		{"about another token", 200, signed(wallet, providerDID, "CANARY"), "token"},
		{"no JWT", 200, `{"access_token":"CANARY"}`, "compact JWS"},
		{"no token", 200, `{}`, "access_token"},
		{"no JSON", 200, `CANARY`, "JSON"},
		{"wrong credentials", 401, `{"error":"CANARY"}`, "401"},
		{"redirect", 302, ``, "302"},
		{"too large", 200, strings.Repeat(" ", maxAnswerBytes+1), "larger"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		s, err := NewTokenService(stsAt(t, server))
		if err != nil {
			t.Fatal(err)
		}
		proof, err := s.Proof(t.Context(), asked)
		server.Close()
		if (err == nil) != (c.want == "") {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err == nil {
			if proof == "" {
				t.Errorf("%s: no proof", c.name)
			}
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// dim is a managed wallet with the DIM interface.
type dim struct {
	*httptest.Server
	wallet *testkit.Wallet
	clock  *testkit.Clock

	mu     sync.Mutex
	tokens int
	signed []map[string]map[string]string
	refuse bool
}

func newDIM(t testing.TB, clock *testkit.Clock) *dim {
	d := &dim{wallet: testkit.NewWallet(ownDID), clock: clock}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sts/token", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("client_id") != "consumer" || r.PostFormValue("client_secret") != "topsecret" {
			w.WriteHeader(401)
			return
		}
		d.tokens++
		writeJSON(w, 200, map[string]any{"access_token": fmt.Sprintf("client-%d", d.tokens), "expires_in": 100, "token_type": "Bearer"})
	})
	mux.HandleFunc("POST /sign", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.refuse || r.Header.Get("Authorization") != fmt.Sprintf("Bearer client-%d", d.tokens) {
			w.WriteHeader(401)
			return
		}
		var body map[string]map[string]string
		_ = json.NewDecoder(r.Body).Decode(&body)
		d.signed = append(d.signed, body)
		s := body["signToken"]
		writeJSON(w, 201, map[string]string{"jwt": d.wallet.Proof(s["audience"], s["token"], clock.Now())})
	})
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

func TestWallet(t *testing.T) {
	t.Parallel()
	clock := testkit.NewClock()
	d := newDIM(t, clock)
	w, err := NewWallet(walletAt(t, d.Server, clock))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err = w.Proof(t.Context(), asked)
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]map[string]string{"signToken": {"audience": providerDID, "issuer": ownDID, "subject": ownDID, "token": "access-0"}}
	if !reflect.DeepEqual(d.signed[0], want) || d.tokens != 1 {
		t.Errorf("%v after %d client tokens", d.signed[0], d.tokens)
	}
	clock.Advance(81 * time.Second) // shortly before the client's token ends
	_, err = w.Proof(t.Context(), asked)
	if err != nil || d.tokens != 2 {
		t.Errorf("%d client tokens, %v", d.tokens, err)
	}
	// A client token that the wallet does not take any more is asked for anew, the next time.
	clock.Advance(11 * time.Second)
	d.refuse = true
	_, err = w.Proof(t.Context(), asked)
	if err == nil || !strings.Contains(err.Error(), "401") {
		t.Error(err)
	}
	d.refuse = false
	_, err = w.Proof(t.Context(), asked)
	if err != nil || d.tokens != 3 {
		t.Errorf("%d client tokens, %v", d.tokens, err)
	}
}

// A renewal by the proof of a wallet.
func TestRenewalByWallet(t *testing.T) {
	t.Parallel()
	clock := testkit.NewClock()
	d := newDIM(t, clock)
	w, err := NewWallet(walletAt(t, d.Server, clock))
	if err != nil {
		t.Fatal(err)
	}
	x := newFixture(t, func(_ *Config, r *RenewerConfig) { r.Signer = w })
	x.started("tp-1")
	wantToken(t, x.must(x.renewer.Refresh(t.Context(), "tp-1")), "access-1")
}

func TestSignerConfiguration(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for name, change := range map[string]func(*TokenServiceConfig){
		"no token URL": func(c *TokenServiceConfig) { c.TokenURL = "" },
		"http":         func(c *TokenServiceConfig) { c.TokenURL = "http://sts.example/token" },
		"no id":        func(c *TokenServiceConfig) { c.ClientID = "" },
		"no secret":    func(c *TokenServiceConfig) { c.ClientSecret = "" },
		"no transport": func(c *TokenServiceConfig) { c.Transport = nil },
	} {
		c := stsAt(t, server)
		change(&c)
		_, err := NewTokenService(c)
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("token service, %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*WalletConfig){
		"no URL":       func(c *WalletConfig) { c.URL = "" },
		"http":         func(c *WalletConfig) { c.URL = "http://wallet.example" },
		"no token URL": func(c *WalletConfig) { c.Grant.Endpoint = "" },
		"no id":        func(c *WalletConfig) { c.Grant.ClientID = "" },
		"no secret":    func(c *WalletConfig) { c.Grant.ClientSecret = "" },
		"no tokens":    func(c *WalletConfig) { c.Tokens = nil },
		"no transport": func(c *WalletConfig) { c.Transport = nil },
	} {
		c := walletAt(t, server, testkit.NewClock())
		change(&c)
		_, err := NewWallet(c)
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("wallet, %s: %v", name, err)
		}
	}
	if strings.Contains(fmt.Sprintf("%+v %+v", stsAt(t, server), walletAt(t, server, testkit.NewClock())), "topsecret") {
		t.Error("the client secret shows")
	}
}

package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestSignalingByIssuedToken(t *testing.T) {
	g := newLiveGateway(t)
	signer := testkit.NewWallet("did:web:login.example")
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signer.Key.Public(), KeyID: signer.KID, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var down atomic.Bool
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(keys)
	}))
	defer issuer.Close()
	file := g.path("jwks.json")
	err = os.WriteFile(file, keys, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	servers := g.servers()
	load := func(way object) {
		t.Helper()
		servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{{"oauth2": way}}})
		g.load(g.app(), servers)
	}
	token := func(edits object) string {
		now := time.Now().Unix()
		claims := map[string]any{
			"iss": "https://login.example", "sub": "control-plane-1", "aud": "did:web:provider.example",
			"jti": time.Now().String(), "iat": now, "exp": now + 300,
		}
		for name, value := range edits {
			claims[name] = value
		}
		return signer.Sign(claims)
	}
	check := func(name, token string, status int) {
		t.Helper()
		answer := g.message("signaling", "Authorization", "Bearer "+token)
		if answer.status != status {
			t.Errorf("%s: %d %s, want %d", name, answer.status, answer.body, status)
		}
		if (answer.header.Get("Retry-After") != "") != (status == http.StatusServiceUnavailable) {
			t.Errorf("%s: Retry-After %q", name, answer.header.Get("Retry-After"))
		}
	}

	down.Store(true)
	load(object{"issuer": "https://login.example", "jwks": issuer.URL, "subjects": []string{"control-plane-1"}})
	if asked.Load() != 0 {
		t.Error("the key set is fetched when the config is loaded")
	}
	check("issuer is down", token(nil), http.StatusServiceUnavailable)
	check("issuer is down, another subject", token(object{"sub": "other"}), http.StatusUnauthorized)
	if asked.Load() != 1 {
		t.Errorf("the issuer was asked %d times", asked.Load())
	}
	down.Store(false)
	load(object{"issuer": "https://login.example", "jwks": issuer.URL, "subjects": []string{"control-plane-1"}})
	first := token(nil)
	check("good", first, http.StatusOK)
	check("the very same again", first, http.StatusOK)
	other := g.send("signaling", g.request(http.MethodPost, "http://localhost/dataflows/flow-2/terminate",
		strings.NewReader(`{"messageId":"m"}`), "Authorization", "Bearer "+first, "Content-Type", "application/json"))
	if other.status != http.StatusUnauthorized {
		t.Errorf("with another message: %d %s", other.status, other.body)
	}
	check("audience", token(object{"aud": "dataplane-1"}), http.StatusUnauthorized)

	load(object{
		"issuer": "https://login.example", "jwks": file, "subjects": []string{"control-plane-0", "control-plane-1"}, "audience": []string{"dataplane-1"},
	})
	check("keys in a file", token(object{"aud": "dataplane-1"}), http.StatusOK)
	check("own DID is not the audience", token(nil), http.StatusUnauthorized)
	if strings.Contains(g.logged(), first[:20]) {
		t.Error("a token is in the log")
	}
}

func TestOAuth2SettingsRefused(t *testing.T) {
	g := newLiveGateway(t)
	for want, way := range map[string]object{
		"issuer is required":   {"jwks": "/jwks.json", "subjects": []string{"a"}},
		"jwks is required":     {"issuer": "https://login.example", "subjects": []string{"a"}},
		"subject is required":  {"issuer": "https://login.example", "jwks": "/jwks.json"},
		"want https":           {"issuer": "https://login.example", "jwks": "http://login.example/jwks", "subjects": []string{"a"}},
		"env.EDR_TEST_NOTHING": {"issuer": "{env.EDR_TEST_NOTHING}", "jwks": "/jwks.json", "subjects": []string{"a"}},
	} {
		servers := g.servers()
		servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{{"oauth2": way}}})
		err := g.tryLoad(g.app(), servers)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestSignalingByExchangedToken: what a broker's token must say beside what any token must. An empty list of settings lets
// our own participant in, by its name or its DID.
func TestSignalingByExchangedToken(t *testing.T) {
	g := newLiveGateway(t)
	signer := testkit.NewWallet("did:web:broker.example")
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signer.Key.Public(), KeyID: signer.KID, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := g.path("jwks.json")
	err = os.WriteFile(file, keys, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("EDR_TEST_SCOPE", "signaling:dataflow")
	way := object{
		"issuer": "https://broker.example", "jwks": file, "subjects": []string{"urn:principal:cp"}, "scopes": []string{"{env.EDR_TEST_SCOPE}"},
	}
	check := func(name string, edits object, status int) {
		t.Helper()
		now := time.Now().Unix()
		claims := map[string]any{
			"iss": "https://broker.example", "sub": "urn:principal:cp", "aud": "did:web:provider.example", "scope": "signaling:dataflow",
			"jti": time.Now().String(), "iat": now, "exp": now + 300,
		}
		for claim, value := range edits {
			claims[claim] = value
		}
		answer := g.message("signaling", "Authorization", "Bearer "+signer.Sign(claims))
		if answer.status != status {
			t.Errorf("%s: %d %s, want %d", name, answer.status, answer.body, status)
		}
	}
	load := func() {
		t.Helper()
		servers := g.servers()
		servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{{"oauth2_token_exchange": way}}})
		g.load(g.app(), servers)
	}
	load()
	check("good", nil, http.StatusOK)
	check("another scope", object{"scope": "signaling"}, http.StatusUnauthorized)
	check("own participant", object{"participant_context": "default"}, http.StatusOK)
	check("own DID", object{"participant_context": "did:web:provider.example"}, http.StatusOK)
	check("another participant", object{"participant_context": "context-1"}, http.StatusUnauthorized)
	way["participant_contexts"], way["clients"] = []string{"context-1"}, []string{"cp-1"}
	load()
	check("configured", object{"participant_context": "context-1", "client_id": "cp-1"}, http.StatusOK)
	check("another client", object{"participant_context": "context-1", "client_id": "cp-2"}, http.StatusUnauthorized)
	check("own participant is not configured", object{"participant_context": "default", "client_id": "cp-1"}, http.StatusUnauthorized)
}

func TestTokenExchangeSettingsRefused(t *testing.T) {
	g := newLiveGateway(t)
	good := object{"issuer": "https://broker.example", "jwks": "/jwks.json", "subjects": []string{"urn:a"}}
	with := func(edits object) object {
		changed := maps.Clone(good)
		maps.Copy(changed, edits)
		return object{"oauth2_token_exchange": changed}
	}
	for want, auth := range map[string]object{
		"jwks is required":         with(object{"jwks": ""}),
		"subject is required":      with(object{"subjects": nil}),
		"want the absolute URI":    with(object{"subjects": []string{"control-plane-1"}}),
		"env.EDR_TEST_NOTHING":     with(object{"scopes": []string{"{env.EDR_TEST_NOTHING}"}}),
		"two ways: write two auth": {"oauth2_token_exchange": good, "oauth2": good},
	} {
		servers := g.servers()
		servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{auth}})
		err := g.tryLoad(g.app(), servers)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestIssuedTokenAtTwoSites: a token that was used at one site of a participant is used at all of them.
func TestIssuedTokenAtTwoSites(t *testing.T) {
	g := newLiveGateway(t)
	signer := testkit.NewWallet("did:web:login.example")
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signer.Key.Public(), KeyID: signer.KID, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(g.path("jwks.json"), keys, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	servers := g.servers()
	site := g.site("signaling")
	way := object{"issuer": "https://login.example", "jwks": g.path("jwks.json"), "subjects": []string{"control-plane-1"}}
	handler := object{"handler": "edr_signaling", "auth": []object{{"oauth2": way}}}
	site["routes"] = []object{
		{"match": []object{{"host": []string{"other.example"}}}, "handle": []object{handler}, "terminal": true},
		{"handle": []object{handler}},
	}
	servers["signaling"] = site
	g.load(g.app(), servers)
	now := time.Now().Unix()
	used := "Bearer " + signer.Sign(map[string]any{
		"iss": "https://login.example", "sub": "control-plane-1", "aud": "did:web:provider.example", "jti": "1", "iat": now, "exp": now + 300,
	})
	end := func(site, flow string) int {
		t.Helper()
		return g.send("signaling", g.request(http.MethodPost, "http://"+site+"/dataflows/"+flow+"/terminate",
			strings.NewReader(`{"messageId":"m"}`), "Authorization", used, "Content-Type", "application/json")).status
	}
	status := end("localhost", "flow-1")
	if status != http.StatusOK {
		t.Fatalf("first: %d", status)
	}
	status = end("other.example", "flow-2")
	if status != http.StatusUnauthorized {
		t.Errorf("with another message, at the other site: %d, want 401", status)
	}
	status = end("other.example", "flow-1")
	if status != http.StatusOK {
		t.Errorf("the very same again, at the other site: %d", status)
	}
}

package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestConsumerSettings: what contradicts itself is refused, with the name of the setting.
func TestConsumerSettings(t *testing.T) {
	t.Parallel()
	const did = "did:web:consumer.example"
	for _, c := range []struct {
		settings Consumer
		want     string // empty: good
	}{
		{Consumer{KeyID: did + "#key-1"}, ""},
		{Consumer{TokenService: &ProofService{}}, ""},
		{Consumer{Renew: "never"}, ""},
		{Consumer{}, "who signs the proofs of renewals? kid is"},
		{Consumer{KeyID: did}, "kid"},
		{Consumer{KeyID: "did:web:other.example#key-1"}, "is no verification method of " + did},
		{Consumer{KeyID: did + "#key-1", Wallet: &ProofWallet{}}, "only one of kid, sts and wallet"},
		{Consumer{KeyID: did + "#key-1", Renew: "never"}, "renew never"},
		{Consumer{KeyID: did + "#key-1", Renew: "soon"}, "renew \"soon\" is none of"},
		{Consumer{Key: "a", Renew: "never"}, "key is of no use without kid"},
		{Consumer{KeyID: did + "#key-1", AllowHTTP: []string{"http://a"}}, "allow_http"},
		{Consumer{KeyID: did + "#key-1", ReplayBody: -2}, "replay_body"},
	} {
		err := c.settings.check(did)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %s", c.settings, err, c.want)
		}
	}
}

// TestConsumerProvision: files, networks and endpoints are checked when the config is loaded.
func TestConsumerProvision(t *testing.T) {
	for want, change := range map[string]object{
		"allow_addresses":           {"allow_addresses": []string{"10.0.0.1/8"}},
		"key: cannot open the file": {"key": "/none"},
		"sts: token_url":            {"kid": "", "sts": object{"token_url": "http://sts.example", "client_id": "a", "client_secret": "b"}},
		"wallet: token_url":         {"kid": "", "wallet": object{"url": "https://w.example", "token_url": "ftp://w.example", "client_id": "a", "client_secret": "b"}},
		"sts: client_secret: {file./none}": {"kid": "", "sts": object{
			"token_url": "https://sts.example", "client_id": "a", "client_secret": "{file./none}",
		}},
		"consumer: tls_trust_pool": {"tls_trust_pool": object{"provider": "nonsense"}},
		"consumer: sts: tls_trust_pool": {"kid": "", "sts": object{
			"token_url": "https://sts.example", "client_id": "a", "client_secret": "b", "tls_trust_pool": object{"provider": "nonsense"},
		}},
		"consumer: management: tls_trust_pool": {"management": object{"url": "https://edc.example", "tls_trust_pool": object{"provider": "nonsense"}}},
		"client id, client secret":             {"kid": "", "sts": object{"token_url": "https://sts.example"}},
	} {
		w := newConsumerWorld(t)
		app := w.consumerApp()
		settings := app["participants"].(object)[userName].(object)
		settings["consumer"] = joined(settings["consumer"].(object), change)
		err := w.tryLoad(app, w.servers())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "participant user: consumer: ") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestConsumerHasProofsSigned: by a Secure Token Service or a wallet, whose client secret is in no log and no config.
func TestConsumerHasProofsSigned(t *testing.T) {
	for name, settings := range map[string]func(address, secret string) object{
		"sts": func(address, secret string) object {
			return object{"sts": object{"token_url": address + "/sts", "client_id": "app", "client_secret": secret, "scope": "s"}}
		},
		"wallet": func(address, secret string) object {
			return object{"wallet": object{"url": address + "/sign", "token_url": address + "/token", "client_id": "app", "client_secret": secret, "scope": "s"}}
		},
	} {
		w := newConsumerWorld(t)
		service := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			var ask struct {
				SignToken struct{ Audience, Token string } `json:"signToken"`
			}
			switch r.URL.Path {
			case "/sts":
				if r.FormValue("scope") != "s" {
					t.Errorf("scope %q", r.FormValue("scope"))
				}
				writeJSON(rw, 200, object{"access_token": w.user.proof(r.FormValue("token"), object{"aud": r.FormValue("audience")}), "token_type": "Bearer"})
			case "/token":
				writeJSON(rw, 200, object{"access_token": "of-the-client", "token_type": "Bearer", "expires_in": 60})
			case "/sign":
				err := json.NewDecoder(r.Body).Decode(&ask)
				if err != nil || r.Header.Get("Authorization") != "Bearer of-the-client" {
					t.Errorf("%v %v", err, r.Header)
				}
				writeJSON(rw, 200, object{"jwt": w.user.proof(ask.SignToken.Token, object{"aud": ask.SignToken.Audience})})
			}
		}))
		t.Cleanup(service.Close)
		err := os.WriteFile(w.path("secret"), []byte("CANARY-secret\n"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		app := w.consumerApp()
		user := app["participants"].(object)[userName].(object)
		user["consumer"] = joined(joined(user["consumer"].(object), object{"kid": ""}), settings(service.URL, "{file."+w.path("secret")+"}"))
		user["consumer"].(object)[name].(object)["tls_trust_pool"] = trusting(service)
		w.load(app, w.consumerServers(nil, nil))
		e := w.got("tp-1", "asset-1", 300)
		if tokenIn(t, w.api(http.MethodPost, "/edrs/tp-1/refresh", nil)) == e.access {
			t.Errorf("%s: not renewed", name)
		}
		if strings.Contains(w.logged(), "CANARY") {
			t.Errorf("%s: the client secret is in the log", name)
		}
	}
}

// trusting is a pool of authorities with that of a server.
func trusting(server *httptest.Server) object {
	return object{"provider": "inline", "trusted_ca_certs": []string{base64.StdEncoding.EncodeToString(server.Certificate().Raw)}}
}

// TestConsumerTrustsAuthoritiesOfItsOwn: providers whose certificates no public authority signed, for data and renewals.
func TestConsumerTrustsAuthoritiesOfItsOwn(t *testing.T) {
	w := newConsumerWorld(t)
	secure := httptest.NewTLSServer(w.front.Config.Handler)
	t.Cleanup(secure.Close)
	w.front.URL = secure.URL
	app := w.consumerApp()
	settings := app["participants"].(object)[userName].(object)["consumer"].(object)
	delete(settings, "allow_http")
	w.load(app, w.consumerServers(nil, nil))
	e := w.got("tp-1", "asset-1", 300)
	if a := w.egress(http.MethodGet, "/tp-1/a", nil); a.status != http.StatusBadGateway {
		t.Errorf("not trusted: %d %s", a.status, a.body)
	}
	settings["tls_trust_pool"] = trusting(secure)
	w.load(app, w.consumerServers(nil, nil))
	if a := w.egress(http.MethodGet, "/tp-1/a", nil); a.status != http.StatusOK {
		t.Errorf("trusted: %d %s", a.status, a.body)
	}
	if tokenIn(t, w.api(http.MethodPost, "/edrs/tp-1/refresh", nil)) == e.access {
		t.Error("not renewed")
	}
}

// TestConsumerSurvivesAReload: EDRs are in the store, and renewed by the new config.
func TestConsumerSurvivesAReload(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	w.begin()
	if tokenIn(t, w.api(http.MethodGet, "/edrs/tp-1/dataaddress", nil)) != e.access {
		t.Error("another EDR")
	}
	if tokenIn(t, w.api(http.MethodPost, "/edrs/tp-1/refresh", nil)) == e.access {
		t.Error("not renewed")
	}
	if n := w.references("store"); n != 1 {
		t.Errorf("%d references to the store", n)
	}
}

// TestReloadDoesNotWaitForAProvider: a renewal ahead of expiry that goes on is ended with its config, and made by the next.
func TestReloadDoesNotWaitForAProvider(t *testing.T) {
	w := newConsumerWorld(t)
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.front.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(held) })
		select {
		case <-release:
		case <-r.Context().Done():
		}
		rw.WriteHeader(http.StatusInternalServerError)
	})
	t.Cleanup(func() { close(release) })
	app := w.consumerApp()
	app["participants"].(object)[userName].(object)["consumer"].(object)["renew"] = "ahead"
	w.load(app, w.consumerServers(nil, nil))
	w.got("tp-1", "asset-1", 1)
	<-held
	w.load(app, w.consumerServers(nil, nil))
	if a := w.api(http.MethodPost, "/edrs/request", nil); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

func TestRenewal(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	c := newConsumer(t)
	e := g.start("flow-1", c)
	answer := g.renew(e, c.proof(e.access, nil))
	if answer.status != http.StatusOK {
		t.Fatalf("%d %s", answer.status, answer.body)
	}
	var pair struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		Expires      int    `json:"expires"`
		ExpiresIn    int    `json:"expires_in"`
		TokenType    string `json:"token_type"`
	}
	err := json.Unmarshal([]byte(answer.body), &pair)
	if err != nil || pair.Expires != 300 || pair.ExpiresIn != 300 || pair.TokenType != "bearer" {
		t.Errorf("%v in %s", err, answer.body)
	}
	if answer.header.Get("Cache-Control") != "no-store" {
		t.Error("the answer may be cached")
	}
	if pair.RefreshToken == e.refresh || pair.AccessToken == e.access {
		t.Error("not renewed")
	}
	if data := g.get(pair.AccessToken); data.status != http.StatusOK {
		t.Errorf("new access token: %d %s", data.status, data.body)
	}
	// A lost answer: the same refresh token again gives the same successor (Tractus-X DR 2026-08-10).
	again := g.renew(e, c.proof(e.access, nil))
	if again.status != http.StatusOK || !strings.Contains(again.body, pair.RefreshToken) {
		t.Errorf("repeated: %d %s", again.status, again.body)
	}
}

// Where a renewal is found, and what becomes of other requests to its path.
func TestRenewalPaths(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["public_url"] = "https://data.example/public"
	app["refresh_path"] = "/edr/token"
	app["routes"] = object{"other": object{"datasets": []string{"x"}, "public_url": "https://other.example:8443/p"}}
	servers := g.servers()
	servers["plain"] = g.site("plain", object{"handler": "edr_refresh"})
	servers["stripped"] = g.site("stripped", object{"handler": "rewrite", "strip_path_prefix": "/public"}, object{"handler": "edr_refresh"},
		object{"handler": "static_response", "body": "backend"})
	servers["renamed"] = g.site("renamed", object{"handler": "rewrite", "uri": "/somewhere"}, object{"handler": "edr_refresh"},
		object{"handler": "static_response", "body": "backend"})
	g.load(app, servers)

	const taken, passed, keys = "Grant type", "data", `"keys"`
	tests := map[string]struct {
		site, method, address string
		status                int
		body                  string
	}{
		"current path":               {"data", "POST", "http://any.example/edr/token", 400, taken},
		"trailing slash":             {"data", "POST", "http://any.example/edr/token/", 400, taken},
		"dots":                       {"data", "POST", "http://any.example/x/../edr/token", 400, taken},
		"public address":             {"data", "POST", "http://data.example/public/edr/token", 400, taken},
		"public address, port, case": {"data", "POST", "http://DATA.example:443/public/edr/token/", 400, taken},
		"route's address":            {"data", "POST", "http://other.example:8443/p/edr/token", 400, taken},
		"behind a stripped prefix":   {"stripped", "POST", "http://any.example/public/edr/token", 400, taken},
		"behind a rewrite":           {"renamed", "POST", "http://data.example/public/edr/token", 400, taken},
		"other host":                 {"renamed", "POST", "http://any.example/public/edr/token", 200, "backend"},
		"other case":                 {"renamed", "POST", "http://data.example/public/edr/Token", 200, "backend"},
		"below":                      {"renamed", "POST", "http://data.example/public/edr/token/x", 200, "backend"},
		"encoded":                    {"renamed", "POST", "http://data.example/public/edr/%74oken", 200, "backend"},
		"GET goes on":                {"stripped", "GET", "http://any.example/public/edr/token", 200, "backend"},
		"PUT goes on":                {"stripped", "PUT", "http://any.example/public/edr/token", 200, "backend"},
		"GET with nobody behind":     {"plain", "GET", "http://any.example/edr/token", 405, ""},
		"key set":                    {"data", "GET", "http://any.example/edr/jwks.json", 200, keys},
		"key set at public address":  {"data", "GET", "http://data.example/public/edr/jwks.json", 200, keys},
		"POST to the key set":        {"stripped", "POST", "http://any.example/public/edr/jwks.json", 200, "backend"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			answer := g.send(tt.site, g.request(tt.method, tt.address, nil))
			if answer.status != tt.status || !strings.Contains(answer.body, tt.body) {
				t.Errorf("%d %s", answer.status, answer.body)
			}
			if tt.status == http.StatusMethodNotAllowed && answer.header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", answer.header.Get("Allow"))
			}
			if tt.body == keys && (answer.header.Get("Cache-Control") != "max-age=300" || strings.Contains(answer.body, `"d"`)) {
				t.Errorf("%s %s", answer.header.Get("Cache-Control"), answer.body)
			}
		})
	}
}

// The texts are those that the tests of Tractus-X look for.
func TestRenewalRefusals(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["error_format"] = "edc"
	g.load(app, g.servers())
	c, thief := newConsumer(t), newConsumer(t)
	e, other := g.start("flow-1", c), g.start("flow-2", c)
	ended := g.start("flow-3", c)
	g.post("/dataflows/flow-3/terminate", object{"messageId": "end"})
	suspended := g.start("flow-4", c)
	g.post("/dataflows/flow-4/suspend", object{"messageId": "pause"})

	const authentication, access = "Authentication token validation failed: ", "Access token validation failed: "
	query := func(pairs ...string) string {
		values := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			values.Set(pairs[i], pairs[i+1])
		}
		return values.Encode()
	}
	good := query("grant_type", "refresh_token", "refresh_token", e.refresh)
	old := time.Now().Add(-time.Hour).Unix()
	tests := map[string]struct {
		query, proof string
		status       int
		kind, want   string
	}{
		"no grant type":          {query("refresh_token", e.refresh), c.proof(e.access, nil), 400, "InvalidRequest", "Grant type MUST be 'refresh_token' but was 'null'"},
		"other grant type":       {query("grant_type", "password", "refresh_token", e.refresh), c.proof(e.access, nil), 400, "InvalidRequest", "Grant type MUST be 'refresh_token' but was 'password'"},
		"no refresh token":       {query("grant_type", "refresh_token"), c.proof(e.access, nil), 400, "InvalidRequest", "Parameter 'refresh_token' cannot be null"},
		"empty refresh token":    {query("grant_type", "refresh_token", "refresh_token", ""), c.proof(e.access, nil), 400, "InvalidRequest", "Parameter 'refresh_token' cannot be null"},
		"no authorization":       {good, "", 401, "AuthenticationFailed", "Authorization header missing"},
		"not a JWT":              {good, "abc", 401, "AuthenticationFailed", authentication + "Failed to decode token"},
		"signed by another key":  {good, thief.sign([]byte(`{"iss":"`+c.did+`","sub":"`+c.did+`","aud":"did:web:provider.example","token":"`+e.access+`","exp":9999999999}`), c.did+"#0"), 401, "AuthenticationFailed", ""},
		"thief's key and DID":    {good, thief.proof(e.access, nil), 401, "AuthenticationFailed", authentication + "Principal '" + thief.did + "' is not authorized to refresh this token."},
		"thief's key, our DID":   {good, thief.proof(e.access, object{"iss": c.did, "sub": c.did}), 401, "AuthenticationFailed", authentication + "Principal '" + c.did + "' is not authorized to refresh this token."},
		"iss and sub differ":     {good, c.proof(e.access, object{"sub": thief.did}), 401, "AuthenticationFailed", authentication + "The 'iss' and 'sub' claims must be non-null and identical."},
		"no iss":                 {good, c.proof(e.access, object{"iss": nil}), 401, "AuthenticationFailed", authentication + "The 'iss' and 'sub' claims must be non-null and identical."},
		"no aud":                 {good, c.proof(e.access, object{"aud": nil}), 401, "AuthenticationFailed", authentication + "Required claim 'aud' not present on token."},
		"no token":               {good, c.proof(e.access, object{"token": nil}), 401, "AuthenticationFailed", authentication + "Required claim 'token' not present on token., Authentication token must contain a 'token' claim"},
		"no exp":                 {good, c.proof(e.access, object{"exp": nil}), 401, "AuthenticationFailed", authentication + "Required expiration time (exp) claim is missing in token"},
		"other audience":         {good, c.proof(e.access, object{"aud": thief.did}), 401, "AuthenticationFailed", authentication + "The 'aud' claim does not name this participant."},
		"expired":                {good, c.proof(e.access, object{"iat": old, "exp": old + 60}), 401, "AuthenticationFailed", authentication + "Token has expired (exp)"},
		"lives too long":         {good, c.proof(e.access, object{"exp": time.Now().Add(time.Hour).Unix()}), 401, "AuthenticationFailed", authentication + "The 'iat', 'nbf' and 'exp' claims"},
		"token claim is no JWT":  {good, c.proof("nonsense", nil), 401, "AuthenticationFailed", access + "Token verification failed"},
		"token claim is changed": {good, c.proof(e.access[:len(e.access)-8]+"AAAAAAAA", nil), 401, "AuthenticationFailed", access + "Token verification failed"},
		"no such key":            {good, unknownKey(c, e.access), 401, "AuthenticationFailed", authentication + "No public key could be resolved for key-ID '" + c.did + "#1'"},
		"no key id":              {good, noKeyID(c, e.access), 401, "AuthenticationFailed", authentication + "No public key could be resolved for key-ID 'null': The provided DID is null"},
		"wrong refresh token":    {query("grant_type", "refresh_token", "refresh_token", "wrong"), c.proof(e.access, nil), 401, "AuthenticationFailed", access + "Provided refresh token does not match the stored refresh token."},
		"another flow's":         {query("grant_type", "refresh_token", "refresh_token", other.refresh), c.proof(e.access, nil), 401, "AuthenticationFailed", access + "Provided refresh token does not match the stored refresh token."},
		"flow ended":             {query("grant_type", "refresh_token", "refresh_token", ended.refresh), c.proof(ended.access, nil), 401, "AuthenticationFailed", authentication + "Token with id '" + jti(t, ended.access) + "' not found"},
		"flow suspended":         {query("grant_type", "refresh_token", "refresh_token", suspended.refresh), c.proof(suspended.access, nil), 401, "AuthenticationFailed", authentication + "Token with id '" + jti(t, suspended.access) + "' not found"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := g.request(http.MethodPost, "http://data.example/token?"+tt.query, nil, "Content-Type", "application/x-www-form-urlencoded")
			if tt.proof != "" {
				r.Header.Set("Authorization", "Bearer "+tt.proof)
			}
			answer := g.send("data", r)
			var details []map[string]any
			err := json.Unmarshal([]byte(answer.body), &details)
			if err != nil || len(details) != 1 || len(details[0]) != 4 || details[0]["path"] != nil {
				t.Fatalf("%v in %d %s", err, answer.status, answer.body)
			}
			message, _ := details[0]["message"].(string)
			if answer.status != tt.status || details[0]["type"] != tt.kind || !strings.Contains(message, tt.want) {
				t.Errorf("%d %s", answer.status, answer.body)
			}
		})
	}
	log := g.logged()
	for _, secret := range []string{e.refresh, e.access, other.refresh, ended.access} {
		if strings.Contains(log, secret) {
			t.Error("a token is in the log")
		}
	}
}

func unknownKey(c *didHolder, access string) string {
	return c.sign(proofClaims(c, access), c.did+"#1")
}

func noKeyID(c *didHolder, access string) string { return c.sign(proofClaims(c, access), "") }

func proofClaims(c *didHolder, access string) []byte {
	c.t.Helper()
	now := time.Now().Unix()
	payload, err := json.Marshal(object{
		"iss": c.did, "sub": c.did, "aud": "did:web:provider.example", "token": access, "jti": "1", "iat": now, "exp": now + 60,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return payload
}

func jti(t *testing.T, token string) string {
	t.Helper()
	id, _ := decodeClaims(t, token)["jti"].(string)
	if id == "" {
		t.Fatal("no jti")
	}
	return id
}

// Every code of a renewal is in the table, and what is not is never a "no".
func TestRenewalRefusalTable(t *testing.T) {
	for _, code := range renewalCodes {
		for _, format := range []string{formatEDC, formatRFC6749} {
			h := endpoint{&participant{app: &App{ErrorFormat: format}}}
			refusal := refusalOfRenewal(h.format(""), "not a token", &tokens.Error{Code: code, RetryAfter: 3 * time.Second})
			if code == tokens.CodeUnavailable || code == tokens.CodeConsumerBusy {
				if refusal.Status != http.StatusServiceUnavailable || refusal.RetryAfter != 3*time.Second {
					t.Errorf("%s: %+v", code, refusal)
				}
				continue
			}
			if refusal.Status/100 != 4 || refusal.Message == "" {
				t.Errorf("%s in %s: %+v", code, format, refusal)
			}
		}
	}
	unknown := refusalOfRenewal(0, "", &tokens.Error{Code: "made_up"})
	if unknown.Status != http.StatusServiceUnavailable {
		t.Errorf("unknown code: %+v", unknown)
	}
}

func TestRenewalErrorFormat(t *testing.T) {
	g := newLiveGateway(t)
	c := newConsumer(t)
	for name, tt := range map[string]struct {
		format    string
		protocols []string
		flow      bool // the refusal concerns a DPS flow
		want      string
	}{
		"both dialects, no flow": {"", nil, false, `[{"message":`},
		"both dialects, a flow":  {"", nil, true, `{"error":"invalid_grant"`},
		"only DPS, no flow":      {"", []string{"dps"}, false, `{"error":"invalid_request"`},
		"chosen edc":             {"edc", []string{"dps"}, true, `[{"message":`},
		"chosen rfc6749":         {"rfc6749", nil, false, `{"error":"invalid_request"`},
	} {
		t.Run(name, func(t *testing.T) {
			app, servers := g.app(), g.servers()
			if tt.format != "" {
				app["error_format"] = tt.format
			}
			signaling := object{"handler": "edr_signaling"}
			if tt.protocols != nil {
				signaling["protocols"] = tt.protocols
			}
			servers["signaling"] = g.site("signaling", signaling)
			g.load(app, servers)
			r := g.request(http.MethodPost, "http://data.example/token", nil)
			if tt.flow {
				e := g.start("flow-1", c)
				r = g.request(http.MethodPost, "http://data.example/token?grant_type=refresh_token&refresh_token=wrong", nil,
					"Authorization", "Bearer "+c.proof(e.access, nil))
			}
			// A connection that was kept alive may lead to the server of the config before.
			testkit.Eventually(t, "the answer that starts with "+tt.want, func() bool {
				return strings.HasPrefix(g.send("data", r).body, tt.want)
			})
		})
	}
}

// A refresh token in a query is in no log, whatever is logged of the site.
func TestRenewalLog(t *testing.T) {
	g := newLiveGateway(t)
	servers := g.servers()
	data := g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_auth", "any_dataset": true})
	data["logs"] = object{}
	servers["data"] = data
	g.load(g.app(), servers)
	c := newConsumer(t)
	e := g.start("flow-1", c)
	query := "?grant_type=refresh_token&refresh_token=" + e.refresh
	proof := c.proof(e.access, nil)
	for _, r := range []*http.Request{
		g.request(http.MethodPost, "http://data.example/token"+query, nil, "Authorization", "Bearer "+proof),
		g.request(http.MethodPost, "http://data.example/token"+query, nil, "Authorization", "Bearer nonsense"),
		g.request(http.MethodGet, "http://data.example/token"+query, nil),
		g.request(http.MethodGet, "http://data.example/seen", nil),
	} {
		g.send("data", r)
	}
	testkit.Eventually(t, "access log", func() bool { return strings.Contains(g.logged(), `"/seen"`) })
	log := g.logged()
	for _, secret := range []string{e.refresh, e.access, proof} {
		if strings.Contains(log, secret) {
			t.Error("a token is in the log")
		}
	}
	for _, want := range []string{`"result":"rotated"`, `"result":"proof_malformed"`, `"flow":"flow-1"`, "its query is not logged"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	if strings.Contains(log, `"uri":"/token`) {
		t.Error("the access log has a renewal")
	}
}

func TestRenewalWithoutStore(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	c := newConsumer(t)
	e := g.start("flow-1", c)
	err := g.running().engine.store.Close()
	if err != nil {
		t.Fatal(err)
	}
	answer := g.renew(e, c.proof(e.access, nil))
	if answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
		t.Errorf("%d %q %s", answer.status, answer.header.Get("Retry-After"), answer.body)
	}
}

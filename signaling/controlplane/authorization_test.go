package controlplane

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

func jti(id int) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"ES256"}`) + "." + part(fmt.Sprintf(`{"jti":"%d"}`, id)) + ".c2ln"
}

// TestCallsAreAuthorized: EDC refuses a token whose jti it has seen, so that one is good for one call; another one is kept,
// and asked for anew once when a control plane refuses it.
func TestCallsAreAuthorized(t *testing.T) {
	ok, no := status(200, ""), status(401, "")
	cases := []struct {
		name    string
		token   func(n int) string
		answers []func(http.ResponseWriter, *http.Request)
		wait    time.Duration // before each call but the first
		calls   int
		want    string // numbers of the tokens that came
		last    int
	}{
		{"jti", jti, []func(http.ResponseWriter, *http.Request){ok}, 0, 3, "1 2 3", 200},
		{"jti, refused", jti, []func(http.ResponseWriter, *http.Request){no}, 0, 1, "1", 401},
		{"kept", opaque, []func(http.ResponseWriter, *http.Request){ok}, time.Minute, 3, "1 1 1", 200},
		{"kept, withdrawn", opaque, []func(http.ResponseWriter, *http.Request){ok, no, ok}, time.Minute, 2, "1 1 2", 200},
		{"kept, refused for good", opaque, []func(http.ResponseWriter, *http.Request){ok, no}, time.Minute, 2, "1 1 2", 401},
		{"new, refused", opaque, []func(http.ResponseWriter, *http.Request){no}, 0, 1, "1", 401},
		{"kept, not a 401", opaque, []func(http.ResponseWriter, *http.Request){ok, status(403, "")}, time.Minute, 2, "1 1", 403},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, auth, clock, client := newPlane(t, c.answers...), testkit.NewTokenServer(t), testkit.NewClock(), newTestClient(t)
			auth.Answer(func(w http.ResponseWriter, _ *http.Request) { testkit.WriteToken(w, c.token(len(auth.Forms()))) })
			client.tokens = authserver.New(authserver.Config{Transport: client.http.Transport, OncePerJTI: true, Now: clock.Now})
			m := message{method: http.MethodPost, url: p.URL, body: []byte(`{}`), grant: &authserver.Grant{Endpoint: auth.URL + "/token", ClientID: "c", ClientSecret: "s"}}
			var last answer
			for range c.calls {
				var err error
				last, err = client.call(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				clock.Advance(c.wait)
			}
			var got []string
			for _, r := range p.requests() {
				for n := 1; n <= len(auth.Forms()); n++ {
					if r.header.Get("Authorization") == "Bearer "+c.token(n) && r.body == `{}` {
						got = append(got, fmt.Sprint(n))
					}
				}
			}
			if strings.Join(got, " ") != c.want || last.status != c.last {
				t.Errorf("got the tokens %v and %d, want %s and %d", got, last.status, c.want, c.last)
			}
		})
	}
}

func opaque(n int) string { return fmt.Sprintf("opaque-%d", n) }

// TestReportWithoutAToken: that there is no token says nothing of the transfer, so the report is still owed.
func TestReportWithoutAToken(t *testing.T) {
	p, auth := newPlane(t, status(200, "")), testkit.NewTokenServer(t)
	auth.AnswerText(401, `{"error":"invalid_client","error_description":"CANARY"}`)
	x := newFixture(t, map[string]*url.URL{"cp": p.base()}, dpsReport("flow-1"))
	x.c.Authorizations = map[string]*Authorization{"cp": {
		Profile: ProfileClientCredentials, Grant: authserver.Grant{Endpoint: auth.URL + "/token", ClientID: "c", ClientSecret: "CANARY"},
	}}
	x.round()
	_, err := x.c.Client.call(t.Context(), message{url: p.URL, grant: &x.c.Authorizations["cp"].Grant})
	if !errors.Is(err, errUnsent) {
		t.Errorf("got %v, want %v", err, errUnsent)
	}
	if len(p.requests()) != 0 || x.observer.count(Retried) != 1 || strings.Contains(x.log.String(), "CANARY") {
		t.Errorf("%d requests, log %s", len(p.requests()), x.log)
	}
	if !strings.Contains(x.log.String(), "status 401, error code invalid_client") {
		t.Errorf("the log does not say why: %s", x.log)
	}
}

func TestRegisteredCredentialsTakeThePlaceOfConfiguredOnes(t *testing.T) {
	configured := &Authorization{
		Profile: ProfileClientCredentials,
		Grant:   authserver.Grant{Endpoint: "https://auth/t", ClientID: "c", ClientSecret: "s", Audience: "a"},
	}
	exchange := &Authorization{
		Profile: ProfileTokenExchange,
		Grant:   authserver.Grant{Endpoint: "https://auth/x", SubjectTokenFile: "/f", Resource: "urn:r", Audience: "a", Scope: "s"},
	}
	rotated := configured.Grant
	rotated.ClientID, rotated.ClientSecret = "c2", "s2"
	cases := []struct {
		name       string
		configured *Authorization
		said       *tokens.PlaneAuthorization
		differs    string
		want       *authserver.Grant
	}{
		{"same endpoint", configured, &tokens.PlaneAuthorization{Type: ProfileClientCredentials, TokenEndpoint: "https://auth/t", ClientID: "c2", ClientSecret: "s2"}, "", &rotated},
		{"other endpoint", configured, &tokens.PlaneAuthorization{Type: ProfileClientCredentials, TokenEndpoint: "https://evil/t", ClientID: "c2", ClientSecret: "s2"}, "tokenEndpoint", &configured.Grant},
		{"other profile", configured, &tokens.PlaneAuthorization{Type: ProfileTokenExchange, TokenEndpoint: "https://auth/t"}, "type", &configured.Grant},
		{"nothing configured", nil, &tokens.PlaneAuthorization{Type: ProfileClientCredentials, ClientID: "c2", ClientSecret: "s2"}, "type", nil},
		{"exchange", exchange, &tokens.PlaneAuthorization{Type: ProfileTokenExchange, TokenEndpoint: "https://auth/x", Resource: "urn:r"}, "", &exchange.Grant},
		{"exchange at another endpoint", exchange, &tokens.PlaneAuthorization{Type: ProfileTokenExchange, TokenEndpoint: "https://evil/x"}, "tokenExchangeEndpoint", &exchange.Grant},
		{"exchange for another resource", exchange, &tokens.PlaneAuthorization{Type: ProfileTokenExchange, TokenEndpoint: "https://auth/x", Resource: "urn:x"}, "resource", &exchange.Grant},
		{"exchange for another audience", exchange, &tokens.PlaneAuthorization{Type: ProfileTokenExchange, TokenEndpoint: "https://auth/x", Audience: "x"}, "audience", &exchange.Grant},
		{"exchange for another scope", exchange, &tokens.PlaneAuthorization{Type: ProfileTokenExchange, TokenEndpoint: "https://auth/x", Scope: "x"}, "scope", &exchange.Grant},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := c.configured.Differs(c.said); got != c.differs {
				t.Errorf("differs in %q, want %q", got, c.differs)
			}
			got := c.configured.grantFor(c.said)
			if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
				t.Errorf("another grant")
			}
		})
	}
	if got := configured.grantFor(nil); *got != configured.Grant {
		t.Error("nothing registered: another grant")
	}
}

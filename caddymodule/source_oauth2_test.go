package caddymodule

import (
	"reflect"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/tokens"
)

const tokenURL = "http://backend/base/token"

func TestSourceWithOAuth2(t *testing.T) {
	cases := []struct {
		name       string
		properties []string
		want       authserver.Grant
	}{
		{
			"named secret",
			[]string{oauth2TokenURL, tokenURL, oauth2ClientID, "c", oauth2ClientSecretKey, "key"},
			authserver.Grant{Endpoint: "http://backend:80/base/token", ClientID: "c", ClientSecret: "CANARY-secret"},
		},
		{
			"scope, and what means something beside a private key only",
			[]string{oauth2TokenURL, "https://SECURE:8443/api/t?x=1", oauth2ClientID, "c", oauth2ClientSecretKey, "key", oauth2Scope, "a b", oauth2KeyID, "k", oauth2Validity, "300"},
			authserver.Grant{Endpoint: "https://secure:8443/api/t?x=1", ClientID: "c", ClientSecret: "CANARY-secret", Scope: "a b"},
		},
		{
			"secret in clear",
			[]string{oauth2TokenURL, "http://both:8080/t", oauth2ClientID, "c", oauth2ClientSecret, "clear"},
			authserver.Grant{Endpoint: "http://both:8080/t", ClientID: "c", ClientSecret: "clear"},
		},
		{
			"named secret before one in clear",
			[]string{oauth2TokenURL, tokenURL, oauth2ClientID, "c", oauth2ClientSecretKey, "key", oauth2ClientSecret, "clear"},
			authserver.Grant{Endpoint: "http://backend:80/base/token", ClientID: "c", ClientSecret: "CANARY-secret"},
		},
	}
	for _, c := range cases {
		for _, kind := range []string{typeHTTPData, typeProxyHTTPData} {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				// The secret covers the token endpoint; the backend lies elsewhere.
				source := &tokens.Source{Type: kind, Properties: proxied("http://both:8080/data", c.properties...)}
				target, err := newSourceTarget(source, testBackends(t), testSecrets(t))
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(*target.oauth2, c.want) {
					t.Errorf("got another grant: %s, secret %t", target.oauth2.Endpoint, target.oauth2.ClientSecret == c.want.ClientSecret)
				}
				if !target.repeats("x "+c.want.ClientSecret.Reveal()+"y") && len(c.want.ClientSecret) >= minSecretBytes {
					t.Error("an answer may repeat the secret")
				}
			})
		}
	}
}

func TestSourceWithOAuth2IsRefused(t *testing.T) {
	cases := []struct {
		name   string
		change []string
		want   string
	}{
		{"no token URL", []string{oauth2TokenURL, ""}, "oauth2:tokenUrl: is missing"},
		{"no client", []string{oauth2ClientID, ""}, "oauth2:clientId is missing"},
		{"no secret", []string{oauth2ClientSecretKey, ""}, "oauth2:clientSecretKey is missing"},
		{"unknown secret", []string{oauth2ClientSecretKey, "CANARY"}, "oauth2:clientSecretKey: no secret of this name is declared"},
		{"secret of another path", []string{oauth2TokenURL, "http://backend/basement/token"}, "oauth2:clientSecretKey: the secret is not declared for this destination"},
		{"secret of another path", []string{oauth2TokenURL, "http://backend/base/../token"}, "oauth2:clientSecretKey: the secret is not declared for this destination"},
		{"secret of another server", []string{oauth2TokenURL, "http://both:8080/base/token"}, "oauth2:clientSecretKey: the secret is not declared for this destination"},
		{"server not listed", []string{oauth2TokenURL, "http://other/token"}, "oauth2:tokenUrl: other:80: not in backends"},
		{"other scheme", []string{oauth2TokenURL, "http://secure:8443/api/token"}, "oauth2:tokenUrl: secure:8443: not in backends"},
		{"metadata", []string{oauth2TokenURL, "http://169.254.169.254/token"}, "oauth2:tokenUrl: 169.254.169.254:80: not in backends"},
		{"not a URL", []string{oauth2TokenURL, "http://back end/CANARY"}, "oauth2:tokenUrl: not a URL"},
		{"scheme", []string{oauth2TokenURL, "file:///etc/CANARY"}, "oauth2:tokenUrl: the scheme"},
		{"user", []string{oauth2TokenURL, "http://u:CANARY@backend/base/token"}, "oauth2:tokenUrl: a URL must not hold a user"},
		{"encoded dots", []string{oauth2TokenURL, "http://backend/base/%2e%2e/x"}, "oauth2:tokenUrl: path refused"},
		{"query", []string{oauth2TokenURL, "http://backend/base/token?a=CANARY b"}, "oauth2:tokenUrl: a query must be percent-encoded"},
		{"private key", []string{oauth2PrivateKeyName, "CANARY"}, "oauth2:privateKeyName: edr_proxy authenticates by oauth2:clientSecretKey only"},
		{"private key without a secret", []string{oauth2PrivateKeyName, "CANARY", oauth2ClientSecretKey, ""}, "oauth2:privateKeyName: "},
		{"unknown property", []string{"oauth2:resource", "CANARY"}, `"oauth2:resource" is not known`},
	}
	for _, c := range cases {
		t.Run(c.name+" "+c.want, func(t *testing.T) {
			properties := proxied("http://backend/base", oauth2TokenURL, tokenURL, oauth2ClientID, "c", oauth2ClientSecretKey, "key")
			for i := 0; i+1 < len(c.change); i += 2 {
				properties[c.change[i]] = c.change[i+1]
				if c.change[i+1] == "" {
					delete(properties, c.change[i])
				}
			}
			h := &Proxy{backends: testBackends(t), secrets: testSecrets(t)}
			err := h.checkSource(&tokens.Source{Type: typeHTTPData, Properties: properties})
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("got %q, want %q", err, c.want)
			}
		})
	}
}

package caddymodule

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/internal/testkit"
)

func TestAuthorizationCaddyfile(t *testing.T) {
	app := new(App)
	err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`edrgate {
		control_plane main {
			authorization oauth2_client_credentials {
				token_endpoint https://auth.example/token
				client_id gateway
				client_secret {file./run/secrets/client}
				scope "a b"
				audience cp
			}
			register dps http://cp:8081/management/v4/dataplanes {
				signaling_url http://10.0.0.5:8181
				authorization oauth2_client_credentials {
					token_endpoint https://auth.example/token
					client_id cp
					client_secret {file./run/secrets/cp}
					jwks_uri https://auth.example/jwks
				}
			}
		}
		control_plane other {
			authorization oauth2_token_exchange {
				token_exchange_endpoint https://broker.example/token
				subject_token_file /var/run/secrets/token
				resource urn:principal:gateway
				audience other
				scope signaling:dataflow
			}
			register dps http://other:8081/management/v4/dataplanes {
				signaling_url http://10.0.0.5:8181
				authorization oauth2_token_exchange {
					token_exchange_endpoint https://broker.example/token
					issuer https://broker.example
					jwks_uri https://broker.example/jwks
					resource urn:principal:other
				}
			}
		}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []*CallAuthorization{
		{AuthorizationProfile: AuthorizationProfile{
			Profile: "oauth2_client_credentials", TokenEndpoint: "https://auth.example/token", ClientID: "gateway",
			ClientSecret: "{file./run/secrets/client}", Scope: "a b", Audience: "cp",
		}},
		{SubjectTokenFile: "/var/run/secrets/token", AuthorizationProfile: AuthorizationProfile{
			Profile: "oauth2_token_exchange", TokenExchangeEndpoint: "https://broker.example/token", Resource: "urn:principal:gateway",
			Audience: "other", Scope: "signaling:dataflow",
		}},
	}
	offered := []*RegisterAuthorization{
		{JWKSURI: "https://auth.example/jwks", AuthorizationProfile: AuthorizationProfile{
			Profile: "oauth2_client_credentials", TokenEndpoint: "https://auth.example/token", ClientID: "cp", ClientSecret: "{file./run/secrets/cp}",
		}},
		{JWKSURI: "https://broker.example/jwks", Issuer: "https://broker.example", AuthorizationProfile: AuthorizationProfile{
			Profile: "oauth2_token_exchange", TokenExchangeEndpoint: "https://broker.example/token", Resource: "urn:principal:other",
		}},
	}
	for i, plane := range app.ControlPlanes {
		if !reflect.DeepEqual(plane.Authorization, want[i]) || !reflect.DeepEqual(plane.Register[0].Authorization, offered[i]) {
			t.Errorf("%+v, %+v", plane.Authorization, plane.Register[0].Authorization)
		}
	}
	const rest = "\ntoken_endpoint https://a/t\nclient_id c\nclient_secret s\n"
	for bad, want := range map[string]string{
		"authorization":                             "wrong argument count",
		"authorization basic":                       `"basic" is none of`,
		"authorization oauth2_client_credentials x": "wrong argument count",
		"authorization oauth2_client_credentials":   "token_endpoint is required",
		"authorization oauth2_client_credentials {" + rest + "}\nauthorization oauth2_token_exchange":                                               "twice",
		"authorization oauth2_client_credentials {" + rest + "resource urn:r\n}":                                                                    `unrecognized option "resource"`,
		"authorization oauth2_client_credentials {" + rest + "scope a\nscope b\n}":                                                                  "scope",
		"authorization oauth2_token_exchange {\ntoken_exchange_endpoint https://a\nresource r\naudience a\n}":                                       "subject_token_file is required",
		"register dps http://cp {\nsignaling_url http://gw\nauthorization oauth2_client_credentials {" + rest + "}\n}":                              "jwks_uri is required: without it",
		"register dps http://cp {\nsignaling_url http://gw\nauthorization oauth2_client_credentials {" + rest + "jwks_uri https://a\nscope x\n}\n}": `unrecognized option "scope"`,
	} {
		err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\ncontrol_plane main {\n" + bad + "\n}\n}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", bad, err, want)
		}
	}
}

func TestAuthorizationSettings(t *testing.T) {
	g := newLiveGateway(t)
	empty := filepath.Join(t.TempDir(), "empty")
	err := os.WriteFile(empty, []byte("\n\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	credentials := func(edits object) object {
		all := object{"profile": "oauth2_client_credentials", "token_endpoint": "https://a/t", "client_id": "c", "client_secret": "CANARY"}
		for name, value := range edits {
			all[name] = value
		}
		return all
	}
	call := func(authorization object) object { return object{"name": "default", "authorization": authorization} }
	register := func(authorization object, more object) object {
		r := object{
			"protocol": "dps", "url": "http://127.0.0.1:1/dataplanes", "signaling_url": "http://10.0.0.5:8181", "authorization": authorization,
		}
		for name, value := range more {
			r[name] = value
		}
		return object{"name": "default", "register": []object{r}}
	}
	jwks := object{"jwks_uri": "https://a/jwks"}
	needsCall := register(credentials(jwks), nil)
	needsCall["callback"] = "http://cp:8182/api/signaling"
	for name, test := range map[string]struct {
		plane object
		want  string
	}{
		"no profile":                  {call(credentials(object{"profile": ""})), `authorization: profile "" is none of`},
		"plain http":                  {call(credentials(object{"token_endpoint": "http://a/t"})), "authorization: token_endpoint: must be https"},
		"user in the URL":             {call(credentials(object{"token_endpoint": "https://u:CANARY@a/t"})), "token_endpoint: must have no user"},
		"secret that is not there":    {call(credentials(object{"client_secret": "{file./does/not/exist}"})), "authorization: client_secret: {file./does/not/exist}"},
		"secret that is empty":        {call(credentials(object{"client_secret": "{file." + empty + "}"})), "client_secret is empty"},
		"no secret":                   {call(credentials(object{"client_secret": ""})), "client_secret is required"},
		"option of another profile":   {call(credentials(object{"subject_token_file": "/f"})), "subject_token_file is no option of oauth2_client_credentials"},
		"registration without keys":   {register(credentials(nil), nil), "register dps: authorization: jwks_uri is required: without it EDC takes"},
		"registration with http keys": {register(credentials(object{"jwks_uri": "http://a/jwks"}), nil), "jwks_uri: must be https"},
		"classic registration":        {register(credentials(jwks), object{"protocol": "classic"}), "authorization is of dps only"},
		"calls without a token":       {needsCall, "calls to its callback need `authorization` of the control_plane too"},
	} {
		t.Run(name, func(t *testing.T) {
			app := g.app()
			app["control_planes"] = []object{test.plane}
			err := g.tryLoad(app, g.servers())
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestGatewayRegistersItsAuthorization: the secret that the control plane is told goes there and nowhere else.
func TestGatewayRegistersItsAuthorization(t *testing.T) {
	g := newLiveGateway(t)
	plane := newDataPlanes(t)
	secret := g.path("secret")
	err := os.WriteFile(secret, []byte("CANARY-secret\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	app := g.app()
	app["control_planes"] = []object{{"name": "default", "register": []object{{
		"protocol": "dps", "url": plane.URL + "/dataplanes", "signaling_url": "http://10.0.0.5:8181", "authorization": object{
			"profile": "oauth2_client_credentials", "token_endpoint": "https://login.example/token", "client_id": "cp",
			"client_secret": "{file." + secret + "}", "jwks_uri": "https://login.example/jwks",
		},
	}}}}
	g.load(app, g.servers())
	testkit.Eventually(t, "a registration", func() bool { n, _ := plane.registrations(); return n == 1 })
	_, body := plane.registrations()
	const want = `"authorization":{"type":"oauth2_client_credentials","tokenEndpoint":"https://login.example/token","clientId":"cp",` +
		`"jwksUri":"https://login.example/jwks","clientSecret":"CANARY-secret"}`
	if !strings.Contains(body, want) {
		t.Errorf("registered %s", body)
	}
	if strings.Contains(g.logged(), "CANARY") {
		t.Error("the secret is in the log")
	}
}

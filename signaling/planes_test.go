package signaling

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

// fakePlanes keeps what control planes say of themselves, in memory.
type fakePlanes struct {
	known map[tokens.Caller]tokens.ControlPlane
	err   error
}

func (p *fakePlanes) PutControlPlane(_ context.Context, c tokens.Caller, plane tokens.ControlPlane) error {
	if p.err == nil {
		p.known[c] = plane
	}
	return p.err
}

func (p *fakePlanes) DeleteControlPlane(_ context.Context, c tokens.Caller, id string) (bool, error) {
	known := p.known[c].ID == id && p.err == nil
	if known {
		delete(p.known, c)
	}
	return known, p.err
}

func (x *fixture) send(method, path, body string) answer {
	x.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return x.do(r)
}

func newPlanesFixture(t *testing.T) (*fixture, *fakePlanes) {
	planes := &fakePlanes{known: map[tokens.Caller]tokens.ControlPlane{}}
	return newFixture(t, func(c *Config) {
		c.Planes = planes
		c.CheckCallback = func(caller tokens.Caller, endpoint string) error {
			if caller == "" || !strings.HasPrefix(endpoint, "https://cp.example/") {
				return errors.New("not on the server of cp.internal")
			}
			return nil
		}
		c.Differs = func(_ tokens.Caller, said *tokens.PlaneAuthorization) string {
			switch {
			case said.Type != "oauth2_client_credentials" && said.Type != "oauth2_token_exchange":
				return "type"
			case said.TokenEndpoint != "https://auth.example/token":
				return "tokenEndpoint"
			}
			return ""
		}
	}), planes
}

func TestControlPlanesRegister(t *testing.T) {
	x, planes := newPlanesFixture(t)
	put := func(id string) {
		t.Helper()
		a := x.send(http.MethodPut, "/controlplanes", `{"controlplaneId":"`+id+`","endpoint":"https://cp.example/signaling","authorization":null,"more":1}`)
		a.want(t, http.StatusOK)
		if a.Body.Len() != 0 {
			t.Errorf("body %s", a.Body)
		}
	}
	put("cp-1")
	put("cp-1")
	put("https://cp.example/2") // replaces
	if len(planes.known) != 1 {
		t.Fatalf("%v", planes.known)
	}
	for _, plane := range planes.known {
		if plane != (tokens.ControlPlane{ID: "https://cp.example/2", Endpoint: "https://cp.example/signaling"}) {
			t.Errorf("%+v", plane)
		}
	}
	x.send(http.MethodDelete, "/controlplanes/cp-1", "").want(t, http.StatusNotFound).wantText(t, "no such control plane")
	x.send(http.MethodDelete, "/controlplanes/https:%2F%2Fcp.example%2F2", "").want(t, http.StatusNoContent)
	if len(planes.known) != 0 {
		t.Errorf("%v", planes.known)
	}
	if got := strings.Join(x.observed, ", "); !strings.Contains(got, "dps put_control_plane applied") || !strings.Contains(got, "dps delete_control_plane unknown") {
		t.Errorf("observed %s", got)
	}
}

func authorized(authorization string) string {
	return `{"controlplaneId":"a","endpoint":"https://cp.example/s","authorization":` + authorization + `}`
}

// TestControlPlanesRegisterCredentials: PUT is how they change them.
func TestControlPlanesRegisterCredentials(t *testing.T) {
	const endpoint = `"tokenEndpoint":"https://auth.example/token","tokenExchangeEndpoint":"https://auth.example/token",`
	for name, test := range map[string]struct {
		body string
		want tokens.PlaneAuthorization
	}{
		"client credentials": {
			`{"type":"oauth2_client_credentials",` + endpoint + `"clientId":"c","clientSecret":"CANARY","jwksUri":"https://x","scope":"ignored"}`,
			tokens.PlaneAuthorization{Type: "oauth2_client_credentials", TokenEndpoint: "https://auth.example/token", ClientID: "c", ClientSecret: "CANARY"},
		},
		"token exchange": {
			`{"type":"oauth2_token_exchange",` + endpoint + `"issuer":"https://i","jwksUri":"https://x","resource":"urn:r","audience":"a","scope":"s","clientSecret":"CANARY"}`,
			tokens.PlaneAuthorization{Type: "oauth2_token_exchange", TokenEndpoint: "https://auth.example/token", Resource: "urn:r", Audience: "a", Scope: "s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			x, planes := newPlanesFixture(t)
			x.send(http.MethodPut, "/controlplanes", authorized(test.body)).want(t, http.StatusOK)
			for _, plane := range planes.known {
				if plane.Authorization == nil || *plane.Authorization != test.want {
					t.Errorf("%+v", plane)
				}
			}
			if len(planes.known) != 1 || strings.Contains(x.log.String(), "CANARY") {
				t.Errorf("%d planes, log %s", len(planes.known), x.log)
			}
			x.send(http.MethodPut, "/controlplanes", authorized(`null`)).want(t, http.StatusOK)
			for _, plane := range planes.known {
				if plane.Authorization != nil {
					t.Error("a registration does not replace the one before")
				}
			}
		})
	}
}

// TestControlPlaneCredentialsWithoutConfiguration: where the operator wants no tokens sent, none can be asked for.
func TestControlPlaneCredentialsWithoutConfiguration(t *testing.T) {
	planes := &fakePlanes{known: map[tokens.Caller]tokens.ControlPlane{}}
	x := newFixture(t, func(c *Config) {
		c.Planes, c.CheckCallback = planes, func(tokens.Caller, string) error { return nil }
	})
	x.send(http.MethodPut, "/controlplanes", authorized(`{"type":"oauth2_client_credentials"}`)).want(t, http.StatusBadRequest).
		wantText(t, "authorization: type is not what this data plane has configured")
}

func TestControlPlaneRegistrationIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		text               string
	}{
		"no object":                     {"PUT", "/controlplanes", `[]`, 400, "not one JSON object"},
		"no id":                         {"PUT", "/controlplanes", `{"endpoint":"https://cp.example/s"}`, 400, "controlplaneId"},
		"id that breaks":                {"PUT", "/controlplanes", `{"controlplaneId":"a\nb","endpoint":"https://cp.example/s"}`, 400, "controlplaneId"},
		"no endpoint":                   {"PUT", "/controlplanes", `{"controlplaneId":"a"}`, 400, "endpoint"},
		"no URL":                        {"PUT", "/controlplanes", `{"controlplaneId":"a","endpoint":"cp"}`, 400, "endpoint"},
		"endpoint no text":              {"PUT", "/controlplanes", `{"controlplaneId":"a","endpoint":7}`, 400, "endpoint"},
		"another server":                {"PUT", "/controlplanes", `{"controlplaneId":"a","endpoint":"https://x.example/s"}`, 400, "does not call back"},
		"authorization of another type": {"PUT", "/controlplanes", authorized(`{"type":"oauth2_CANARY"}`), 400, "authorization: type is not what this data plane has configured"},
		"authorization elsewhere":       {"PUT", "/controlplanes", authorized(`{"type":"oauth2_client_credentials","tokenEndpoint":"https://CANARY"}`), 400, "authorization: tokenEndpoint is not what"},
		"authorization without client":  {"PUT", "/controlplanes", authorized(`{"type":"oauth2_client_credentials","tokenEndpoint":"https://auth.example/token","clientSecret":"CANARY"}`), 400, "authorization: clientId is missing"},
		"authorization without secret":  {"PUT", "/controlplanes", authorized(`{"type":"oauth2_client_credentials","tokenEndpoint":"https://auth.example/token","clientId":"CANARY"}`), 400, "authorization: clientSecret is missing"},
		"authorization with a number":   {"PUT", "/controlplanes", authorized(`{"type":"oauth2_client_credentials","clientId":7}`), 400, "authorization: a member is not a string"},
		"authorization is a text":       {"PUT", "/controlplanes", authorized(`"CANARY"`), 400, "authorization: want an object"},
		"POST":                          {"POST", "/controlplanes", `{}`, 405, "want PUT"},
		"PUT to one":                    {"PUT", "/controlplanes/a", `{}`, 405, "want DELETE"},
		"GET of one":                    {"GET", "/controlplanes/a", "", 405, "want DELETE"},
		"below one":                     {"DELETE", "/controlplanes/a/b", "", 404, "no such operation"},
		"a start, instead":              {"PUT", "/dataflows/start", `{}`, 405, "want POST"},
	} {
		t.Run(name, func(t *testing.T) {
			x, planes := newPlanesFixture(t)
			a := x.send(test.method, test.path, test.body).want(t, test.status).wantText(t, test.text)
			if len(planes.known) != 0 || strings.Contains(a.Body.String(), "internal") || strings.Contains(a.Body.String()+x.log.String(), "CANARY") {
				t.Errorf("%v, %s", planes.known, a.Body)
			}
		})
	}
}

func TestControlPlaneRegistrationInTrouble(t *testing.T) {
	x, planes := newPlanesFixture(t)
	planes.err = errors.New("disk on fire")
	x.send(http.MethodPut, "/controlplanes", `{"controlplaneId":"a","endpoint":"https://cp.example/s"}`).want(t, http.StatusServiceUnavailable)
	x.send(http.MethodDelete, "/controlplanes/a", "").want(t, http.StatusServiceUnavailable)
}

func TestControlPlanesAreOptional(t *testing.T) {
	x := newFixture(t)
	x.send(http.MethodPut, "/controlplanes", `{}`).want(t, http.StatusNotFound)
	x.send(http.MethodDelete, "/controlplanes/a", "").want(t, http.StatusNotFound)
	classic, _ := newPlanesFixture(t)
	delete(classic.handler.codecs, tokens.DPS)
	classic.send(http.MethodPut, "/controlplanes", `{}`).want(t, http.StatusNotFound)
}

func FuzzControlPlane(f *testing.F) {
	f.Add([]byte(`{"controlplaneId":"a","endpoint":"https://cp.example/s"}`))
	f.Add([]byte(`{"controlplaneId":{"a":1},"endpoint":null,"authorization":{}}`))
	f.Add([]byte(`[`))
	f.Add([]byte(authorized(`{"type":"oauth2_client_credentials","tokenEndpoint":"https://auth.example/token","clientId":"c","clientSecret":"s"}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > defaultBodyBytes {
			return
		}
		planes := &fakePlanes{known: map[tokens.Caller]tokens.ControlPlane{}}
		h := &Handler{planes: planes, checkCallback: func(tokens.Caller, string) error { return nil }}
		h.differs = func(tokens.Caller, *tokens.PlaneAuthorization) string { return "" }
		_, err := h.putPlane(t.Context(), &exchange{caller: "cp"}, body)
		if err != nil {
			var refused *refusal
			if !errors.As(err, &refused) || len(planes.known) != 0 {
				t.Errorf("%v, %v", err, planes.known)
			}
			return
		}
		if p := planes.known["cp"]; !validID(p.ID) || !validCallback(p.Endpoint) || p.Endpoint == "" {
			t.Errorf("%+v", p)
		} else if a := p.Authorization; a != nil && a.Type != "oauth2_token_exchange" && (a.ClientID == "" || a.ClientSecret == "") {
			t.Errorf("%+v", a)
		}
	})
}

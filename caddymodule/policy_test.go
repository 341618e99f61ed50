package caddymodule

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/tokens"
)

// openPolicy provisions a policy as a config does.
func openPolicy(t *testing.T, settings object) (tokens.Policy, PolicyModule, error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	raw, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	app := &App{PolicyRaw: raw, observer: newObserver(newCollectors()), logger: slog.New(slog.DiscardHandler)}
	loaded, err := ctx.LoadModule(app, "PolicyRaw")
	if err != nil {
		return nil, nil, err
	}
	module, ok := loaded.(PolicyModule)
	if !ok {
		t.Fatalf("a %T", loaded)
	}
	opened, err := module.OpenPolicy(app.observer, app.logger)
	return opened, module, err
}

// TestPolicyOverTLS: its certificate must come from whom the operator trusts, and its credential from a placeholder.
func TestPolicyOverTLS(t *testing.T) {
	const secret = "policy-credential-from-the-environment"
	t.Setenv("EDR_POLICY_CREDENTIAL", secret)
	var got http.Header
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		_, _ = io.WriteString(w, `{"decision":true}`)
	}))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	settings := object{
		"module": "authzen", "url": server.URL, "bearer": "{env.EDR_POLICY_CREDENTIAL}",
		"headers": object{"X-Tenant": "{env.EDR_POLICY_CREDENTIAL}"}, "timeout": "10s", "on_deny": "revoke",
	}
	stranger, module, err := openPolicy(t, settings)
	if err != nil {
		t.Fatal(err)
	}
	if !module.EndsOnDeny() {
		t.Error("on_deny revoke is lost")
	}
	_, err = stranger.Decide(t.Context(), tokens.PolicyQuestion{Occasion: tokens.PolicyStart})
	if err == nil {
		t.Error("a certificate of anybody is taken")
	}
	settings["tls_trust_pool"] = object{
		"provider": "inline", "trusted_ca_certs": []string{base64.StdEncoding.EncodeToString(server.Certificate().Raw)},
	}
	trusted, module, err := openPolicy(t, settings)
	if err != nil {
		t.Fatal(err)
	}
	permit, err := trusted.Decide(t.Context(), tokens.PolicyQuestion{Occasion: tokens.PolicyStart})
	if err != nil || !permit {
		t.Fatal(permit, err)
	}
	if got.Get("Authorization") != "Bearer "+secret || got.Get("X-Tenant") != secret {
		t.Errorf("sent %v", got)
	}
	shown, err := json.Marshal(module)
	if err != nil {
		t.Fatal(err)
	}
	config := module.(*AuthZENPolicy).config
	for _, text := range []string{string(shown), fmt.Sprintf("%v %+v %#v", config.Header, config, config.Header)} {
		if strings.Contains(text, secret) {
			t.Errorf("the credential is shown: %s", text)
		}
	}
}

// decider is a guest's policy: a module of another package may decide as well.
type decider struct{}

func init() { caddy.RegisterModule(decider{}) }

func (decider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policyNamespace + ".test_never", New: func() caddy.Module { return new(decider) }}
}

func (decider) OpenPolicy(PolicyObserver, *slog.Logger) (tokens.Policy, error) { return decider{}, nil }
func (decider) EndsOnDeny() bool                                               { return false }

func (decider) Decide(context.Context, tokens.PolicyQuestion) (bool, error) { return false, nil }

func TestGuestPolicy(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["policy"] = object{"module": "test_never"}
	g.load(app, g.servers())
	service, err := g.participant().Service()
	if err != nil {
		t.Fatal(err)
	}
	_, err = service.Start(t.Context(), "default", tokens.StartRequest{
		Dialect: tokens.DPS, ProcessID: "f", Terms: tokens.Terms{Counterparty: "did:web:consumer.example", Dataset: "a", Agreement: "b"},
	})
	if tokens.CodeOf(err) != tokens.CodePolicyDenied {
		t.Errorf("got %v", err)
	}
}

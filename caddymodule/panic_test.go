package caddymodule

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/tokens"
)

// panicker is a guest's policy with a bug that shows with some questions.
type panicker struct{}

func init() { caddy.RegisterModule(panicker{}) }

func (panicker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policyNamespace + ".test_panics", New: func() caddy.Module { return new(panicker) }}
}

func (panicker) OpenPolicy(PolicyObserver, *slog.Logger) (tokens.Policy, error) {
	return panicker{}, nil
}
func (panicker) EndsOnDeny() bool { return false }

const secretOfARequest = "canary-of-a-request"

func (panicker) Decide(_ context.Context, q tokens.PolicyQuestion) (bool, error) {
	if q.Agreement == "panics-at-the-start" || q.Agreement == "panics-at-the-renewal" && q.Occasion == tokens.PolicyRenew {
		panic(secretOfARequest)
	}
	return true, nil
}

// TestPanicOfAHandler: whoever asked gets an answer, nothing has changed, and the process goes on.
func TestPanicOfAHandler(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["policy"] = object{"module": "test_panics"}
	g.load(app, g.servers())
	c := newConsumer(t)
	start := func(flow, agreement string) answered {
		message := g.startMessage(flow, c)
		message["agreementId"] = agreement
		return g.post("/dataflows/start", message)
	}
	wantPanicAnswer := func(what string, answer answered) {
		t.Helper()
		if answer.status != http.StatusInternalServerError || answer.header.Get("Retry-After") == "" || strings.Contains(answer.body, secretOfARequest) {
			t.Errorf("%s: %d %v %s", what, answer.status, answer.header, answer.body)
		}
	}
	wantPanicAnswer("start", start("flow-1", "panics-at-the-start"))
	if answer := start("flow-1", "agreement-1"); answer.status != http.StatusOK { // with other terms: it is not there
		t.Errorf("the flow whose start has panicked: %d %s", answer.status, answer.body)
	}
	e := g.readEDR("flow-2", start("flow-2", "panics-at-the-renewal").body)
	wantPanicAnswer("renewal", g.renew(e, c.proof(e.access, nil)))
	if answer := g.get(e.access); answer.status != http.StatusOK {
		t.Errorf("data: %d %s", answer.status, answer.body)
	}
	service, err := g.participant().Service()
	if err != nil {
		t.Fatal(err)
	}
	f, err := service.Flow(t.Context(), "flow-2")
	if err != nil || f.Generation != 1 {
		t.Errorf("after the renewal that has panicked: %+v, %v", f, err)
	}
	if answer := g.terminate("flow-2"); answer.status != http.StatusOK {
		t.Errorf("terminate: %d %s", answer.status, answer.body)
	}
	log := g.logged()
	if strings.Contains(log, secretOfARequest) || strings.Count(log, "please report this") != 2 || !strings.Contains(log, "panic_test.go") {
		t.Errorf("the log: %s", log)
	}
}

func TestPanicAfterTheAnswerHasBegun(t *testing.T) {
	for name, test := range map[string]struct {
		serve func(http.ResponseWriter)
		want  any // what goes on to net/http
	}{
		"half an answer": {func(w http.ResponseWriter) { _, _ = w.Write([]byte("half")); panic("bug") }, http.ErrAbortHandler},
		"an abort":       {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, http.ErrAbortHandler},
		"no panic":       {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := recover(); got != test.want {
					t.Errorf("%v, want %v", got, test.want)
				}
			}()
			answeringPanics(httptest.NewRecorder(), slog.New(slog.DiscardHandler), test.serve)
		})
	}
}

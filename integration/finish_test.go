package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// newCalledConsumer starts the gateway of a company that uses data, whose control plane is called back. Transfers of the
// dataset "later" are prepared asynchronously.
func newCalledConsumer(t *testing.T, p *calledPlane) *gateway {
	t.Helper()
	g := newConsumerGateway(t, newDIDHost(t).wallet("consumer"))
	g.config.app = "control_plane default {\ncallback http://" + p.address + "/signaling\n}\n" +
		strings.Replace(g.config.app, "consumer {", "consumer {\nasync_prepare later", 1)
	g.start()
	return g
}

// completes ends a transfer as an operator does.
func completes(g *gateway, flow string) {
	g.t.Helper()
	stdout, stderr, err := g.cli("edr", "complete", "--address", "unix/"+g.socket(), flow)
	if err != nil || !strings.Contains(stdout, flow+": applied\nThe control plane will be told.") {
		g.t.Fatalf("caddy edr complete: %v: %s%s", err, stdout, stderr)
	}
}

// startUsed has a transfer prepared and started with a data address, and returns its process id.
func startUsed(g *gateway) string {
	g.t.Helper()
	f := newTerms("weather", "")
	prepareMessage(g, providerDID, f).send(g).want(g.t, http.StatusOK)
	signal(g, "/dataflows/"+f.flow+"/started", `{"messageId":"m-1","dataAddress":{"@type":"DataAddress",
		"endpoint":"https://data.provider.example","endpointType":"`+profilePull+`","endpointProperties":[
		{"name":"authorization","value":"token-of-`+f.flow+`"}]}}`).want(g.t, http.StatusOK)
	g.wantTransfer(f.flow, "STARTED")
	return f.flow
}

// recovers has a control plane in trouble be well, after an attempt has failed and the gateway has been restarted. It returns
// the last of the messages by which the control plane was told.
func recovers(t *testing.T, g *gateway, p *calledPlane, trouble http.HandlerFunc, flow, event string) string {
	t.Helper()
	testkit.Eventually(t, "an attempt has failed", func() bool { return g.callbacks(event, "retried") > 0 })
	g.awaitOwed(event, 1)
	g.restart()
	g.awaitOwed(event, 1)
	before := len(p.toldOf(flow, event))
	p.answers(takes)
	if trouble == nil {
		p.arrive()
	}
	testkit.Eventually(t, "the control plane is told", func() bool { return len(p.toldOf(flow, event)) > before })
	g.awaitOwed(event, 0)
	told := p.toldOf(flow, event)
	if len(told) != before+1 {
		t.Errorf("told %d times after it was well", len(told)-before)
	}
	return told[len(told)-1]
}

// TestPreparedIsToldWhenTheControlPlaneIsWell: nothing is lost while it is not, over a restart too, and the metrics show it.
func TestPreparedIsToldWhenTheControlPlaneIsWell(t *testing.T) {
	t.Parallel()
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			control := newCalledPlane(t, trouble)
			if trouble != nil {
				control.arrive()
			}
			g := newCalledConsumer(t, control)
			f := newTerms("later", "")
			prepare := prepareMessage(g, providerDID, f)
			for range 2 { // EDC repeats what got no answer
				answer := prepare.send(g).want(t, http.StatusAccepted)
				if !strings.Contains(answer.body, `"state":"PREPARING"`) || answer.header.Get("Location") != "/dataflows/"+f.flow+"/status" {
					t.Errorf("the prepare is answered with %s %v", answer.body, answer.header)
				}
			}
			wantStateMessage(t, recovers(t, g, control, trouble, f.flow, "prepared"), f.flow, "PREPARED")
			g.wantTransfer(f.flow, "PREPARED")
			prepare.send(g).want(t, http.StatusOK) // nobody waits for a callback any more
			signal(g, "/dataflows/"+f.flow+"/started", `{"messageId":"m-1"}`).want(t, http.StatusOK)
			g.wantTransfer(f.flow, "STARTED")
		})
	}
}

// TestCompletedIsToldWhenTheControlPlaneIsWell: a transfer that is completed has ended here, and its control plane learns of
// it, in whatever trouble it is, over a restart too.
func TestCompletedIsToldWhenTheControlPlaneIsWell(t *testing.T) {
	t.Parallel()
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			control := newCalledPlane(t, trouble)
			if trouble != nil {
				control.arrive()
			}
			g := newCalledConsumer(t, control)
			flow := startUsed(g)
			completes(g, flow)
			g.wantTransfer(flow, "COMPLETED")
			wantStateMessage(t, recovers(t, g, control, trouble, flow, "completed"), flow, "COMPLETED")
			g.wantTransfer(flow, "COMPLETED")
			g.adminDo(http.MethodPost, "/edrgate/edrs/"+flow+"/complete", "").want(t, http.StatusOK) // again
			g.awaitOwed("completed", 0)
		})
	}
}

// TestKilledAfterACompletion: it is durable before it is answered, and told by the next process.
func TestKilledAfterACompletion(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, takes)
	g := newCalledConsumer(t, control)
	flow := startUsed(g)
	later := newTerms("later", "")
	prepareMessage(g, providerDID, later).send(g).want(t, http.StatusAccepted)
	completes(g, flow)
	g.kill()
	control.arrive()
	g.start()
	testkit.Eventually(t, "the control plane is told of both", func() bool {
		return len(control.toldOf(flow, "completed")) == 1 && len(control.toldOf(later.flow, "prepared")) == 1
	})
	g.wantTransfer(flow, "COMPLETED")
	g.wantTransfer(later.flow, "PREPARED")
}

// TestPreparedThatTheControlPlaneRefuses leaves no transfer that nobody will start.
func TestPreparedThatTheControlPlaneRefuses(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, conflicts)
	control.arrive()
	g := newCalledConsumer(t, control)
	f := newTerms("later", "")
	prepareMessage(g, providerDID, f).send(g).want(t, http.StatusAccepted)
	testkit.Eventually(t, "the transfer has ended", func() bool { return g.callbacks("prepared", "refused") == 1 })
	g.awaitOwed("prepared", 0)
	g.wantTransfer(f.flow, "TERMINATED")
	if !strings.Contains(read(t, g.errorLog()), "did not take that it is prepared") {
		t.Error("the log does not say why the transfer has ended")
	}
}

// TestCompletionsThatAreRefused: of what nobody would be told, or what its control plane would not take.
func TestCompletionsThatAreRefused(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, takes)
	control.arrive()
	g := newCalledConsumer(t, control)
	flow := startUsed(g)
	signal(g, "/dataflows/"+flow+"/suspend", `{"messageId":"m-2"}`).want(t, http.StatusOK)
	answer := g.adminDo(http.MethodPost, "/edrgate/edrs/"+flow+"/complete", "").want(t, http.StatusConflict)
	if !strings.Contains(answer.body, "the transfer is suspended") {
		t.Errorf("got %s", answer.body)
	}
	_, stderr, err := g.cli("edr", "complete", "--address", "unix/"+g.socket(), "unknown")
	if err == nil || !strings.Contains(stderr, "no EDR unknown") {
		t.Errorf("%v %s", err, stderr)
	}
	g.wantTransfer(flow, "SUSPENDED")
	if told := control.toldOf(flow, "completed"); len(told) != 0 {
		t.Errorf("told %v", told)
	}
}

// TestCallsOfAConsumerAreAuthorized as those of a provider are, by what its control plane registered where it did.
func TestCallsOfAConsumerAreAuthorized(t *testing.T) {
	t.Parallel()
	const configured, rotated = "a-configured-client-secret", "a-registered-client-secret"
	controlPlane, auth := newBackend(t, "control plane"), testkit.NewTokenServer(t)
	auth.Answer(func(w http.ResponseWriter, _ *http.Request) {
		testkit.WriteToken(w, unsigned(fmt.Sprintf("token-%d", len(auth.Forms()))))
	})
	g := newConsumerGateway(t, newDIDHost(t).wallet("consumer"))
	writeFile(t, g.path("keys", "client.pem"), configured+"\n")
	g.canaries.Credential("a configured client secret", configured)
	g.canaries.Credential("a registered client secret", rotated)
	g.config.app += fmt.Sprintf("\ncontrol_plane default {\ncallback http://%s/api/signaling\nauthorization oauth2_client_credentials {\ntoken_endpoint %s/token\nclient_id gateway\nclient_secret {file.%s}\n}\n}",
		controlPlane.address(), auth.URL, g.path("keys", "client.pem"))
	g.start()
	told := func(n int, secret string) {
		t.Helper()
		flow := startUsed(g)
		completes(g, flow)
		testkit.Eventually(t, "a call to the control plane", func() bool { return len(controlPlane.saw()) == n })
		called := controlPlane.last(t)
		if called.target != "/api/signaling/transfers/"+flow+"/dataflow/completed" ||
			called.header.Get("Authorization") != "Bearer "+unsigned(fmt.Sprintf("token-%d", n)) {
			t.Errorf("called %s without its token", called.target)
		}
		if forms := auth.Forms(); len(forms) != n || forms[n-1].Get("client_secret") != secret {
			t.Errorf("%d tokens, or by other credentials", len(forms))
		}
	}
	told(1, configured)
	request, err := http.NewRequest(http.MethodPut, "http://"+g.signaling+"/controlplanes", strings.NewReader(fmt.Sprintf(
		`{"controlplaneId":"cp","endpoint":"http://%s/api/signaling","authorization":{"type":"oauth2_client_credentials","tokenEndpoint":"%s/token","clientId":"rotated","clientSecret":"%s"}}`,
		controlPlane.address(), auth.URL, rotated)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	send(t, g.client, request).want(t, http.StatusOK)
	told(2, rotated)
}

// TestApplicationCompletesATransfer at the EDR API, as it would ask for its data address there.
func TestApplicationCompletesATransfer(t *testing.T) {
	t.Parallel()
	control := newCalledPlane(t, takes)
	control.arrive()
	g := newConsumerGateway(t, newDIDHost(t).wallet("consumer"))
	api := freeAddress(t)
	g.config.app += "\ncontrol_plane default {\ncallback http://" + control.address + "/signaling\n}"
	g.config.more = "http://" + api + " {\nedr_consumer\n}\n"
	g.start()
	flow := startUsed(g)
	call := func(method, path string, want int) {
		t.Helper()
		request, err := http.NewRequest(method, "http://"+api+"/v3/edrs/"+flow+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		send(t, g.client, request).want(t, want)
	}
	call(http.MethodGet, "/dataaddress", http.StatusOK)
	for range 2 {
		call(http.MethodPost, "/complete", http.StatusNoContent)
	}
	call(http.MethodGet, "/dataaddress", http.StatusNotFound)
	testkit.Eventually(t, "the control plane is told", func() bool { return len(control.toldOf(flow, "completed")) == 1 })
	g.awaitOwed("completed", 0)
	g.wantTransfer(flow, "COMPLETED")
}

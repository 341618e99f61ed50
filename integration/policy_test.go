package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// policyServer decides as it is told. It may come up later than the gateway, at an address that is known before.
type policyServer struct {
	address string

	mu       sync.Mutex
	decision string // the body of the next answers
	asked    []askedPolicy
}

// askedPolicy is a question of a webhook, and how it came.
type askedPolicy struct {
	Action       string          `json:"action"`
	Counterparty string          `json:"counterparty"`
	Dataset      string          `json:"dataset"`
	Flow         string          `json:"flow"`
	Claims       json.RawMessage `json:"claims"`
	credential   string
}

const (
	policyPermits = `{"decision":true}`
	policyDenies  = `{"decision":false}`
)

func newPolicyServer(t testing.TB) *policyServer {
	return &policyServer{address: freeAddress(t), decision: policyPermits}
}

// start begins to listen.
func (p *policyServer) start(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(p.serve)}}
	server.Start()
	t.Cleanup(server.Close)
}

func (p *policyServer) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	question := askedPolicy{credential: r.Header.Get("Authorization")}
	err = json.Unmarshal(body, &question)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/decide" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.asked = append(p.asked, question)
	_, _ = io.WriteString(w, p.decision)
}

func (p *policyServer) says(decision string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decision = decision
}

func (p *policyServer) questions() []askedPolicy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]askedPolicy(nil), p.asked...)
}

// option is the policy in a Caddyfile.
func (p *policyServer) option(more string) string {
	return fmt.Sprintf("policy webhook http://%s/decide {\n%s\n}", p.address, more)
}

// uncheckedSince is what the admin API shows of a flow that waits for the policy.
func uncheckedSince(g *gateway, flow string) string {
	g.t.Helper()
	var shown struct {
		Unchecked string `json:"unchecked"`
	}
	err := json.Unmarshal([]byte(g.adminGet(flowPath(flow)).want(g.t, http.StatusOK).body), &shown)
	if err != nil {
		g.t.Fatal(err)
	}
	return shown.Unchecked
}

func wantCannotTell(t testing.TB, answer reply, what string) {
	t.Helper()
	if answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
		t.Errorf("%s: status %d, Retry-After %q, want 503: %s", what, answer.status, answer.header.Get("Retry-After"), answer.body)
	}
}

// TestPolicyServerIsAwayAtTheStart: the EDR is given all the same, opens nothing, and does so as soon as the policy permits.
func TestPolicyServerIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			policy, weather := newPolicyServer(t), newBackend(t, "weather")
			g := startGateway(t, config{app: policy.option(""), site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			wantCannotTell(t, g.get("/", c.edr.access), "data of an unchecked flow")
			wantCannotTell(t, renewalOf(g, c.wallet, c.edr).send(g), "renewal of an unchecked flow")
			again := startFlow(g, p, c.terms)
			wantCannotTell(t, g.get("/", again.access), "data by the token of a repeated start")
			g.restart()
			wantCannotTell(t, g.get("/", c.edr.access), "data of an unchecked flow after a restart")
			if uncheckedSince(g, c.terms.flow) == "" {
				t.Error("the operator does not see that the flow is unchecked")
			}
			testkit.Eventually(t, "the policy is asked again", func() bool {
				return g.scrape().value("edrgate_policy_decisions_total", "occasion", "recheck", "result", "unavailable") > 0
			})
			g.scrape().wantCount(g, 1, "edrgate_flows_unchecked")
			if len(weather.saw()) > 0 {
				t.Error("the backend got a request")
			}

			policy.start(t)
			testkit.Eventually(t, "the policy permits", func() bool { return g.get("/", c.edr.access).status == http.StatusOK })
			c.edr = renew(g, c.wallet, c.edr)
			wantData(t, g, "/", c.edr.access, "data of weather")
			if uncheckedSince(g, c.terms.flow) != "" {
				t.Error("the flow is still shown as unchecked")
			}
			testkit.Eventually(t, "no flow is unchecked", func() bool { return g.scrape().value("edrgate_flows_unchecked") == 0 })
			asked := policy.questions()
			if asked[0].Action != "start" || asked[len(asked)-1].Action != "renew" || asked[0].Flow != c.terms.flow {
				t.Errorf("asked %+v", asked)
			}
		})
	}
}

// TestPolicyDeniesAFlowThatWasStartedUnchecked: it ends, and its control plane is told.
func TestPolicyDeniesAFlowThatWasStartedUnchecked(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			policy, weather, told := newPolicyServer(t), newBackend(t, "weather"), newBackend(t, "the control plane")
			policy.says(policyDenies)
			g := startGateway(t, config{app: policy.option("") + toldAt(told), site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			policy.start(t)
			wantToldOfDenial(t, p, told, c.terms.flow)
			wantRefusal(t, g.get("/", c.edr.access), "denied", p.refused(), "")
			shown := showFlow(g, c.terms.flow)
			if shown.State != "TERMINATED" || shown.Reason != "denied by the policy" {
				t.Errorf("the flow is shown as %+v", shown)
			}
		})
	}
}

// toldAt is a control plane's line with an address to be told at.
func toldAt(told *backend) string {
	return fmt.Sprintf("\ncontrol_plane main {\ncallback http://%s/cp\n}", told.address())
}

func wantToldOfDenial(t testing.TB, p plane, told *backend, flow string) {
	t.Helper()
	testkit.Eventually(t, "the control plane is told", func() bool { return len(told.saw()) > 0 })
	want := map[string]string{"dps": "/cp/transfers/" + flow + "/dataflow/completed", "classic": "/cp/transferprocess/" + flow + "/fail"}
	got := told.last(t)
	if got.target != want[p.name()] {
		t.Errorf("the control plane is told at %s, want %s", got.target, want[p.name()])
	}
	if p.name() == "classic" && !strings.Contains(got.body, "policy") {
		t.Errorf("the control plane is told %s", got.body)
	}
}

// TestPolicyDeniesAStart: nothing is left, and the same start may come again.
func TestPolicyDeniesAStart(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			policy, weather := newPolicyServer(t), newBackend(t, "weather")
			policy.start(t)
			policy.says(policyDenies)
			g := newGateway(t, config{site: serves("weather", weather)})
			const credential = "a-credential-for-the-policy-server"
			g.canaries.Credential("the policy server's credential", credential)
			secret := t.TempDir() + "/policy"
			writeFile(t, secret, credential+"\n")
			g.config.app = policy.option("bearer {file." + secret + "}")
			g.start()
			f := newTerms("weather", newDIDHost(t).wallet("consumer").DID)
			message := p.startMessage(g, f)
			const claim = `{"membership":"claim-that-no-log-has"}`
			if p.name() == "dps" {
				message.body = replaceAll(t, message.body, `{"client_id":"`+f.consumer+`"}`, claim)
			}
			answer := message.send(g).want(t, http.StatusForbidden)
			if !strings.Contains(answer.body, "the policy of this data plane does not permit the data flow") {
				t.Errorf("the control plane is told %s", answer.body)
			}
			if flows := listFlows(g); len(flows) > 0 {
				t.Errorf("a refused start left %v", flows)
			}
			asked := policy.questions()
			want := askedPolicy{Action: "start", Counterparty: f.consumer, Dataset: "weather", Flow: f.flow, credential: "Bearer " + credential}
			if p.name() == "dps" {
				want.Claims = json.RawMessage(claim)
			}
			if len(asked) != 1 || fmt.Sprint(asked[0]) != fmt.Sprint(want) {
				t.Errorf("asked %+v, want %+v", asked, want)
			}
			policy.says(policyPermits)
			wantData(t, g, "/", startFlow(g, p, f).access, "data of weather")
			if strings.Contains(read(t, g.errorLog()), "claim-that-no-log-has") {
				t.Error("a claim is in the log")
			}
		})
	}
}

// TestPolicyDeniesARenewal: by default only that renewal fails.
func TestPolicyDeniesARenewal(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			policy, weather := newPolicyServer(t), newBackend(t, "weather")
			policy.start(t)
			g := startGateway(t, config{app: policy.option(""), site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			policy.says(policyDenies)
			answer := renewalOf(g, c.wallet, c.edr).send(g)
			wantRenewalRefused(t, answer, "that the policy denies")
			want := map[string]string{"dps": `"error":"invalid_grant"`, "classic": "not permitted by policy"}
			if !strings.Contains(answer.body, want[p.name()]) {
				t.Errorf("the consumer is told %s", answer.body)
			}
			wantData(t, g, "/", c.edr.access, "data of weather")
			policy.says("the policy server has an error")
			wantCannotTell(t, renewalOf(g, c.wallet, c.edr).send(g), "renewal while the policy cannot tell")
			policy.says(policyPermits)
			renew(g, c.wallet, c.edr)
			m := g.scrape()
			m.wantCount(g, 1, "edrgate_renewals_total", "result", "policy_denied")
			m.wantCount(g, 1, "edrgate_policy_decisions_total", "occasion", "start", "result", "permit")
			for _, result := range []string{"deny", "unavailable", "permit"} {
				m.wantCount(g, 1, "edrgate_policy_decisions_total", "occasion", "renew", "result", result)
			}
			m.wantCount(g, 1, "edrgate_policy_breaker_state", "state", "closed")
		})
	}
}

// TestPolicyRevokesAtARenewal, where the operator wants that.
func TestPolicyRevokesAtARenewal(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			policy, weather, told := newPolicyServer(t), newBackend(t, "weather"), newBackend(t, "the control plane")
			policy.start(t)
			g := startGateway(t, config{app: policy.option("on_deny revoke") + toldAt(told), site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			policy.says(policyDenies)
			wantRenewalRefused(t, renewalOf(g, c.wallet, c.edr).send(g), "that the policy denies")
			wantRefusal(t, g.get("/", c.edr.access), "denied", p.refused(), "")
			wantToldOfDenial(t, p, told, c.terms.flow)
			policy.says(policyPermits)
			wantRenewalRefused(t, renewalOf(g, c.wallet, c.edr).send(g), "of a flow that has ended")
			g.scrape().wantCount(g, 1, "edrgate_events_total", "event", "denied")
		})
	}
}

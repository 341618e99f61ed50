package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestFlowFromStartToEnd is the whole life of a flow: started, used, renewed, expired, suspended, resumed, terminated.
func TestFlowFromStartToEnd(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
			wallet := hosts.wallet("consumer")
			f := newTerms("weather", wallet.DID)

			first := startFlow(g, p, f)
			wantEDR(g, first)
			wantData(t, g, "/berlin", first.access, "data of weather")
			wantRefusal(t, g.get("/berlin", forgedToken(t, first)), "forged", http.StatusUnauthorized, "")
			wantRefusal(t, send(t, g.client, g.dataRequest("/berlin", "")), "missing", http.StatusUnauthorized, "")

			g.config.app = "token_ttl 1s"
			g.reload()
			second := renew(g, wallet, first)
			if second.refresh == first.refresh || second.access == first.access {
				t.Error("the renewal gave back a token that was presented")
			}
			testkit.Eventually(t, "the token expires", func() bool { return g.get("/berlin", second.access).status != http.StatusOK })
			wantRefusal(t, g.get("/berlin", second.access), "expired", p.refused(), "")

			g.config.app = "token_ttl 1h"
			g.reload()
			third := renew(g, wallet, second)
			wantData(t, g, "/berlin", third.access, "data of weather")

			p.suspend(g, f.flow).want(t, p.done())
			wantRefusal(t, g.get("/berlin", third.access), "suspended", http.StatusForbidden, "flow_suspended")
			wantRenewalRefused(t, renewalOf(g, wallet, third).send(g), "of a suspended flow")

			resumed := readEDR(g, f.flow, p.resume(g, f, third).want(t, http.StatusOK))
			if resumed.refresh != third.refresh {
				t.Error("the resume gave another refresh token than the flow's current one")
			}
			wantData(t, g, "/berlin", resumed.access, "data of weather")
			wantData(t, g, "/berlin", third.access, "data of weather")
			last := renew(g, wallet, third) // the consumer never saw the EDR of the resume
			wantData(t, g, "/berlin", last.access, "data of weather")

			p.terminate(g, f.flow).want(t, p.done())
			wantRefusal(t, g.get("/berlin", last.access), "terminated", p.refused(), "")
			wantRenewalRefused(t, renewalOf(g, wallet, last).send(g), "of a terminated flow")
			p.terminate(g, f.flow).want(t, p.done()) // a repeat of what is done

			wantLifeCounted(g, p)
			sent := weather.last(t)
			if sent.header.Get("Authorization") != "" {
				t.Error("the backend got the consumer's token")
			}
		})
	}
}

func wantEDR(g *gateway, e edr) {
	g.t.Helper()
	got := edr{endpoint: e.endpoint, refreshEndpoint: e.refreshEndpoint, refreshAudience: e.refreshAudience, expiresIn: e.expiresIn}
	want := edr{endpoint: g.publicURL(), refreshEndpoint: g.publicURL() + "/token", refreshAudience: g.did, expiresIn: 3600}
	if got != want {
		g.t.Errorf("the EDR says %+v, want %+v", got, want)
	}
}

// wantRenewalRefused checks that a renewal is a definite no: a consumer does not try again after one.
func wantRenewalRefused(t testing.TB, answer reply, what string) {
	t.Helper()
	if answer.status != http.StatusBadRequest && answer.status != http.StatusUnauthorized {
		t.Errorf("renewal %s: status %d, want 400 or 401: %s", what, answer.status, answer.body)
	}
}

// wantRefusal checks an answer of the data path that is a definite no.
func wantRefusal(t testing.TB, answer reply, what string, status int, code string) {
	t.Helper()
	if answer.status != status {
		t.Errorf("%s token: status %d, want %d: %s", what, answer.status, status, answer.body)
	}
	if !strings.HasPrefix(answer.header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("%s token: WWW-Authenticate is %q", what, answer.header.Get("WWW-Authenticate"))
	}
	if code != "" && !strings.Contains(answer.body, `"code":"`+code+`"`) {
		t.Errorf("%s token: body %s, want code %s", what, answer.body, code)
	}
}

// forgedToken returns a token with the claims of an EDR's, signed with a key that the gateway does not have.
func forgedToken(t testing.TB, e edr) string {
	t.Helper()
	header, payload := jwsParts(t, e.access)
	forger := testkit.NewWallet("did:web:forger.example")
	return forger.SignBytes(payload, map[string]any{"kid": header["kid"], "typ": header["typ"]})
}

func wantLifeCounted(g *gateway, p plane) {
	g.t.Helper()
	dialect := map[string]string{"dps": "dps", "classic": "edc"}[p.name()]
	m := g.scrape()
	const messages = "edrgate_signaling_requests_total"
	m.wantCount(g, 1, messages, "dialect", dialect, "operation", "suspend", "outcome", "applied")
	m.wantCount(g, 1, messages, "dialect", dialect, "operation", "terminate", "outcome", "applied")
	m.wantCount(g, 1, messages, "dialect", dialect, "operation", "terminate", "outcome", "already")
	if p.name() == "dps" {
		m.wantCount(g, 1, messages, "dialect", dialect, "operation", "start", "outcome", "applied")
		m.wantCount(g, 1, messages, "dialect", dialect, "operation", "resume", "outcome", "applied")
	} else { // a classic resume is a start again
		m.wantCount(g, 2, messages, "dialect", dialect, "operation", "start", "outcome", "applied")
	}
	m.wantCount(g, 1, "edrgate_tokens_issued_total", "reason", "start", "life", "short")
	m.wantCount(g, 1, "edrgate_tokens_issued_total", "reason", "resume", "life", "short")
	m.wantCount(g, 3, "edrgate_tokens_issued_total", "reason", "renew", "life", "short")
	m.wantCount(g, 3, "edrgate_renewals_total", "result", "rotated")
	m.wantCount(g, 1, "edrgate_renewals_total", "result", "flow_suspended")
	m.wantCount(g, 1, "edrgate_renewals_total", "result", "flow_ended")
	const requests = "edrgate_data_requests_total"
	m.wantCount(g, 1, requests, "handler", "edr_auth", "verdict", "refused", "reason", "missing")
	m.wantCount(g, 1, requests, "handler", "edr_auth", "verdict", "refused", "reason", "token_signature")
	m.wantCount(g, 1, requests, "handler", "edr_auth", "verdict", "refused", "reason", "flow_suspended")
	m.wantCount(g, 1, requests, "handler", "edr_auth", "verdict", "refused", "reason", "flow_ended")
	if m.value(requests, "reason", "token_expired") < 2 || m.value(requests, "verdict", "admitted") < 5 {
		g.t.Error("expired and admitted requests are not all counted")
	}
}

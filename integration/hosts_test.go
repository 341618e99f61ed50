package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
)

// maxGrowth bounds what hosts in trouble may make the process grow by, who would send it gigabytes.
const maxGrowth = 128 << 20

// wantBounded runs what meets hosts in trouble, and checks that the process has not grown with what they sent.
func wantBounded(t *testing.T, g *gateway, do func()) {
	t.Helper()
	const memory = "go_memstats_sys_bytes"
	before := g.scrape().value(memory)
	if before == 0 {
		t.Fatalf("no metric %s", memory)
	}
	do()
	if grown := g.scrape().value(memory) - before; grown > maxGrowth {
		t.Errorf("the process has grown by %.0f bytes", grown)
	}
}

// TestDIDHostsInTroubleAreNoRefusal: a consumer whose DID's host answers nonsense, endlessly or not at all is told to come
// again. All others renew meanwhile.
func TestDIDHostsInTroubleAreNoRefusal(t *testing.T) {
	t.Parallel()
	hosts := newDIDHost(t)
	g := startGateway(t, config{site: serves("weather", newBackend(t, "weather"))})
	wantBounded(t, g, func() {
		for name, h := range dialtest.PlainHosts(t) {
			_, port, _ := strings.Cut(strings.TrimPrefix(h.URL, "http://"), ":")
			wallet := testkit.NewWallet("did:web:localhost%3A" + port)
			e := startFlow(g, dpsPlane{}, newTerms("weather", wallet.DID))
			wantCannotTell(t, renewalOf(g, wallet, e).send(g), name)
			if h.Requests() != 1 || h.Sent() > maxGrowth {
				t.Errorf("%s: %d requests, %d bytes taken", name, h.Requests(), h.Sent())
			}
		}
	})
	wantWell(t, g, hosts)
}

// TestBackendsInTroubleAreNoRefusal: whatever a backend does, the consumer is not told that its token is no good, and other
// backends of the site answer.
func TestBackendsInTroubleAreNoRefusal(t *testing.T) {
	t.Parallel()
	hosts, well, wallets := dialtest.PlainHosts(t), newBackend(t, "weather"), newDIDHost(t)
	backends := well.address()
	for _, h := range hosts {
		backends += " " + strings.TrimPrefix(h.URL, "http://")
	}
	g := startGateway(t, config{site: fmt.Sprintf("edr_proxy {\nbackends %s\nresponse_header_timeout 3s\n}", backends)})
	get := func(name, backend string) (int, string) {
		f := newTerms(name, wallets.wallet("consumer").DID)
		f.backend = backend
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		request := g.dataRequest("/x", "Bearer "+startFlow(g, classicPlane{}, f).access).WithContext(ctx)
		response, err := g.client.Do(request)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = response.Body.Close() // it may have no end
		return response.StatusCode, response.Header.Get("Location")
	}
	wantBounded(t, g, func() {
		for name, h := range hosts {
			status, location := get(name, h.URL)
			good := status == http.StatusBadGateway || status == http.StatusGatewayTimeout
			if h.Streams || h.Packed {
				good = status == http.StatusOK
			}
			if h.Redirects {
				good = status/100 == 3 && !strings.Contains(location, inside)
			}
			if !good || h.Requests() != 1 {
				t.Errorf("%s: status %d, location %q, %d requests", name, status, location, h.Requests())
			}
			status, _ = get("weather", "http://"+well.address())
			if status != http.StatusOK {
				t.Errorf("beside %s: status %d", name, status)
			}
		}
	})
}

// TestPoliciesInTroubleDecideNothing: what a policy server in trouble answers is neither yes nor no.
func TestPoliciesInTroubleDecideNothing(t *testing.T) {
	t.Parallel()
	for name, h := range dialtest.PlainHosts(t) {
		t.Run(name, func(t *testing.T) {
			hosts := newDIDHost(t)
			g := startGateway(t, config{app: "policy webhook " + h.URL + " {\ntimeout 1s\n}", site: serves("weather", newBackend(t, "weather"))})
			wantBounded(t, g, func() {
				c := newParty(g, dpsPlane{}, hosts, "consumer", "weather")
				wantCannotTell(t, g.get("/", c.edr.access), "data of an unchecked flow")
				wantCannotTell(t, renewalOf(g, c.wallet, c.edr).send(g), "a renewal")
			})
			g.scrape().wantCount(g, 0, "edrgate_policy_decisions_total", "result", "deny")
			g.scrape().wantCount(g, 0, "edrgate_policy_decisions_total", "result", "permit")
		})
	}
}

package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// tenant is one of several participants of a gateway: the same process, with its DID and its addresses.
type tenant struct {
	gateway // a copy, for the helpers that speak to a gateway
	name    string
	prefix  string // of signaling
	path    string // of public_url
	secret  string // bearer token of its control plane
	backend *backend
}

// startTenants starts a gateway with three participants: its own one, acme at a listener of its own and with a key of its
// own, and bolt below the address of the first and with its key.
func startTenants(t *testing.T) (*gateway, []*tenant) {
	t.Helper()
	acme := freeAddress(t)
	backends := map[string]*backend{}
	for _, name := range []string{"default", "acme", "bolt"} {
		backends[name] = newBackend(t, name)
	}
	secrets := map[string]string{}
	for name := range backends {
		secrets[name] = "canary-" + strings.Repeat(name, 6)
	}
	g := newGateway(t, config{
		site: fmt.Sprintf("handle /bolt/* {\n%s\n}\nhandle {\n%s\n}",
			strings.Replace(serves("asset", backends["bolt"]), "edr_auth {", "edr_auth {\nparticipant bolt", 1), serves("asset", backends["default"])),
		more: fmt.Sprintf("http://%s {\nedr_refresh\n%s\n}", acme,
			strings.Replace(serves("asset", backends["acme"]), "edr_auth {", "edr_auth {\nparticipant acme", 1)),
	})
	for name, secret := range secrets {
		writeFile(t, g.path("secret", name), secret+"\n")
		g.config.signaling += fmt.Sprintf("auth bearer {file.%s} {\nparticipant %s\n}\n", g.path("secret", name), name)
	}
	g.config.app = fmt.Sprintf(`participant acme {
		did did:web:acme.example
		signing_key %s
		public_url http://%s
	}
	participant bolt {
		did did:web:bolt.example
		signing_key %s
		public_url %s/bolt
	}`, g.newKey("acme"), acme, g.keyFile("signing"), g.publicURL())
	g.start()
	of := func(name, did, public, prefix, path string) *tenant {
		p := &tenant{gateway: *g, name: name, prefix: prefix, path: path, secret: secrets[name], backend: backends[name]}
		p.did, p.public = did, public
		return p
	}
	return g, []*tenant{
		of("default", g.did, g.public, "", ""),
		of("acme", "did:web:acme.example", acme, "/acme", ""),
		of("bolt", "did:web:bolt.example", g.public, "/bolt", "/bolt"),
	}
}

// signal sends a message to the participant with the credential of a control plane.
func (p *tenant) signal(as *tenant, m message) reply {
	p.t.Helper()
	m.path = p.prefix + m.path
	request, err := m.request(p.signaling)
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+as.secret)
	return send(p.t, p.client, request)
}

// renewAt is a renewal of an EDR's tokens with a proof for this participant, at its address.
func (p *tenant) renewAt(w *testkit.Wallet, refresh, access string) reply {
	p.t.Helper()
	r := renewalOf(&p.gateway, w, edr{access: access, refresh: refresh, refreshEndpoint: p.publicURL() + p.path + "/token"})
	return r.send(&p.gateway)
}

// TestParticipantsShareAGatewayAndNothingElse: three participants have flows of one id, with the same terms, of one consumer.
// No token, proof or credential of one is good at another, whichever way it is presented.
func TestParticipantsShareAGatewayAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, plane := range planes {
		t.Run(plane.name(), func(t *testing.T) {
			t.Parallel()
			hosts := newDIDHost(t)
			wallet := hosts.wallet("consumer")
			g, tenants := startTenants(t)
			f := newTerms("asset", wallet.DID)
			edrs := map[*tenant]edr{}
			for _, p := range tenants {
				answer := p.signal(p, plane.startMessage(&p.gateway, f)).want(t, http.StatusOK)
				edrs[p] = readEDR(&p.gateway, f.flow, answer)
				if want := p.publicURL() + p.path + "/token"; edrs[p].refreshEndpoint != want || edrs[p].refreshAudience != p.did {
					t.Errorf("the EDR of %s is renewed at %s for %s", p.name, edrs[p].refreshEndpoint, edrs[p].refreshAudience)
				}
			}
			check := func(when string) {
				t.Helper()
				for _, owner := range tenants {
					e := edrs[owner]
					for _, at := range tenants {
						if owner == at {
							wantData(t, &at.gateway, at.path+"/x", e.access, "data of "+at.name)
							continue
						}
						name := fmt.Sprintf("%s: of %s at %s", when, owner.name, at.name)
						wantRefusal(t, at.get(at.path+"/x", e.access), name, http.StatusUnauthorized, "")
						for what, answer := range map[string]reply{
							"both tokens":    at.renewAt(wallet, e.refresh, e.access),
							"refresh token":  at.renewAt(wallet, e.refresh, edrs[at].access),
							"proof of token": at.renewAt(wallet, edrs[at].refresh, e.access),
							"start":          at.signal(owner, plane.startMessage(&at.gateway, newTerms("asset", wallet.DID))),
							"terminate":      at.signal(owner, plane.terminateMessage(&at.gateway, f.flow)),
						} {
							if answer.status != http.StatusUnauthorized && answer.status != http.StatusBadRequest {
								t.Errorf("%s: %s: status %d: %s", name, what, answer.status, answer.body)
							}
						}
					}
				}
			}
			check("at first")
			for _, p := range tenants {
				answer := p.renewAt(wallet, edrs[p].refresh, edrs[p].access).want(t, http.StatusOK)
				renewed, err := edrs[p].renewedBy(&p.gateway, answer)
				if err != nil {
					t.Fatal(err)
				}
				edrs[p] = renewed
			}
			g.restart()
			check("after a restart")
			for _, p := range tenants {
				if got := len(p.backend.saw()); got != 2 {
					t.Errorf("backend of %s got %d requests", p.name, got)
				}
			}
			m := g.scrape()
			for _, p := range tenants {
				m.wantCount(g, 1, "edrgate_data_requests_total", "participant", p.name, "verdict", "admitted")
				m.wantCount(g, 2, "edrgate_data_requests_total", "participant", p.name, "verdict", "refused")
			}

			// One flow ends, by its own control plane; another by an operator who says whose it is.
			tenants[1].signal(tenants[1], plane.terminateMessage(&tenants[1].gateway, f.flow)).want(t, plane.done())
			operate := func(args ...string) string {
				t.Helper()
				stdout, stderr, err := g.cli(append(append([]string{"edr"}, args...), "--address", "unix/"+g.socket())...)
				if err != nil {
					t.Fatalf("%v: %v: %s", args, err, stderr)
				}
				return stdout
			}
			operate("revoke", f.flow, "--participant", "bolt", "--quiet")
			if list := operate("list"); !strings.Contains(list, f.flow+"  STARTED") {
				t.Errorf("flows of the gateway's own participant: %s", list)
			}
			if list := operate("list", "--participant", "acme"); strings.Contains(list, "STARTED") {
				t.Errorf("flows of acme: %s", list)
			}
			wantData(t, g, "/x", edrs[tenants[0]].access, "data of default")
			for _, p := range tenants[1:] {
				wantRefusal(t, p.get(p.path+"/x", edrs[p].access), "ended at "+p.name, plane.refused(), "")
			}
		})
	}
}

// TestParticipantIsAddedByAReload: participants come and go by reloads, and that of the others is not touched. The gauges of
// one that is gone go with it.
func TestParticipantIsAddedByAReload(t *testing.T) {
	t.Parallel()
	hosts := newDIDHost(t)
	g, tenants := startTenants(t)
	all := g.config
	gauges := func() []string {
		var values []string
		for _, metric := range g.scrape()["edrgate_flows_orphaned"].GetMetric() {
			for _, label := range metric.GetLabel() {
				values = append(values, label.GetValue())
			}
		}
		return values
	}
	wallet := hosts.wallet("consumer")
	f := newTerms("asset", wallet.DID)
	own := tenants[0]
	e := readEDR(g, f.flow, own.signal(own, dpsPlane{}.startMessage(g, f)).want(t, http.StatusOK))

	alone := all
	alone.app, alone.more = "", ""
	alone.site = serves("asset", own.backend)
	alone.signaling = fmt.Sprintf("auth bearer {file.%s}", g.path("secret", "default"))
	g.config = alone
	g.reload()
	testkit.Eventually(t, "the gauges of the others are gone", func() bool { return slices.Equal(gauges(), []string{"default"}) })
	wantData(t, g, "/x", e.access, "data of default")

	g.config = all
	g.reload()
	if got := gauges(); !slices.Equal(got, []string{"acme", "bolt", "default"}) {
		t.Errorf("gauges of %v", got)
	}
	wantData(t, g, "/x", e.access, "data of default")
	acme := tenants[1]
	theirs := readEDR(&acme.gateway, f.flow, acme.signal(acme, dpsPlane{}.startMessage(&acme.gateway, f)).want(t, http.StatusOK))
	wantData(t, &acme.gateway, "/x", theirs.access, "data of acme")
}

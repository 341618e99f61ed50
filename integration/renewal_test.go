package integration

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestParallelRenewalsGetOneSuccessor: an EDC client sends a renewal again up to five times, and replicas of a consumer
// renew at the same moment. A 4xx for one of them would end the transfer.
func TestParallelRenewalsGetOneSuccessor(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			const parallel = 50
			weather := newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")

			renewed := make([]edr, parallel)
			failed := make([]error, parallel)
			var wait sync.WaitGroup
			for i := range parallel {
				r := renewalOf(g, c.wallet, c.edr)
				wait.Go(func() {
					answer, err := r.trySend(g, g.client)
					if err != nil || answer.status != http.StatusOK {
						failed[i] = failure{answer, err}
						return
					}
					renewed[i], failed[i] = c.edr.renewedBy(g, answer)
				})
			}
			wait.Wait()
			for i, e := range renewed {
				if failed[i] != nil {
					t.Fatal(failed[i])
				}
				if e.refresh != renewed[0].refresh {
					t.Fatal("the renewals got different refresh tokens")
				}
				wantData(t, g, "/", e.access, "data of weather")
			}
			m := g.scrape()
			m.wantCount(g, 1, "edrgate_renewals_total", "result", "rotated")
			m.wantCount(g, parallel-1, "edrgate_renewals_total", "result", "replayed")
			renew(g, c.wallet, renewed[0])
		})
	}
}

// TestRenewalWhoseAnswerIsLostIsAnsweredAgain: the store has gone on, the consumer has not.
func TestRenewalWhoseAnswerIsLostIsAnsweredAgain(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			weather := newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			line := newCutter(t, g.public)
			r := renewalOf(g, c.wallet, c.edr)

			_, err := r.trySend(g, line.client())
			if err == nil {
				t.Fatal("the answer came whole through a line that cuts")
			}
			shown := showFlow(g, c.terms.flow)
			if shown.Generation != 2 {
				t.Fatalf("the flow is at generation %d after the lost answer, want 2", shown.Generation)
			}
			again, err := c.edr.renewedBy(g, r.send(g).want(t, http.StatusOK)) // the same bytes
			if err != nil {
				t.Fatal(err)
			}
			fresh, err := c.edr.renewedBy(g, renewalOf(g, c.wallet, c.edr).send(g).want(t, http.StatusOK)) // a new proof
			if err != nil {
				t.Fatal(err)
			}
			if again.refresh != fresh.refresh || again.refresh == c.edr.refresh {
				t.Error("retried renewals did not get the one successor")
			}
			shown = showFlow(g, c.terms.flow)
			if shown.Generation != 2 {
				t.Errorf("the flow is at generation %d after the retries, want 2", shown.Generation)
			}
			renew(g, c.wallet, again)
			g.scrape().wantCount(g, 2, "edrgate_renewals_total", "result", "replayed")
		})
	}
}

// TestFirstRefreshTokenAfterResume: the EDR API of an EDC 0.18 consumer serves the first EDR again after a resume and
// never learns of renewals. A classic consumer keeps what it renewed.
func TestFirstRefreshTokenAfterResume(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			weather := newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			last := c.edr
			for range 3 {
				last = renew(g, c.wallet, last)
			}
			p.suspend(g, c.terms.flow).want(t, p.done())
			p.resume(g, c.terms, last).want(t, http.StatusOK)

			answer := renewalOf(g, c.wallet, c.edr).send(g)
			if p.name() == "classic" {
				wantRenewalRefused(t, answer, "with a refresh token that is three generations old")
				renew(g, c.wallet, last) // nothing was ended by it
				return
			}
			renewed, err := c.edr.renewedBy(g, answer.want(t, http.StatusOK))
			if err != nil {
				t.Fatal(err)
			}
			if renewed.refresh != last.refresh {
				t.Error("the first refresh token did not lead to the current one")
			}
			wantData(t, g, "/", renewed.access, "data of weather")
			renew(g, c.wallet, renewed)
			g.scrape().wantCount(g, 1, "edrgate_renewals_total", "result", "first")
		})
	}
}

// TestRenewalForms: RFC 6749 §6 wants the parameters in the body; consumers of Tractus-X send them in the query, some in
// both.
func TestRenewalForms(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, classicPlane{}, newDIDHost(t), "consumer", "weather")
	forms := map[string]func(r renewal) renewal{
		"form":             func(r renewal) renewal { return r },
		"query":            renewal.inQuery,
		"both":             func(r renewal) renewal { r.query = r.form; return r },
		"trailing slash":   func(r renewal) renewal { r.endpoint += "/"; return r },
		"raw proof":        func(r renewal) renewal { r.proof = strings.TrimPrefix(r.proof, "Bearer "); return r },
		"raw proof, query": func(r renewal) renewal { r.proof = strings.TrimPrefix(r.proof, "Bearer "); return r.inQuery() },
	}
	for name, form := range forms {
		before := c.edr
		answer := form(renewalOf(g, c.wallet, c.edr)).send(g)
		if answer.status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", name, answer.status, answer.body)
		}
		if answer.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: the answer may be kept by caches", name) // RFC 6749 §5.1
		}
		renewed, err := c.edr.renewedBy(g, answer)
		if err != nil {
			t.Fatal(err)
		}
		c.edr = renewed
		if renewed.refresh == before.refresh {
			t.Errorf("%s: the refresh token was not rotated", name)
		}
	}
	conflicts := map[string]url.Values{
		"another refresh token": {"grant_type": {"refresh_token"}, "refresh_token": {"AAAA"}},
		"another grant type":    {"grant_type": {"password"}},
	}
	for name, query := range conflicts {
		r := renewalOf(g, c.wallet, c.edr)
		r.query = query
		answer := r.send(g)
		if answer.status != http.StatusBadRequest {
			t.Errorf("%s in the query than in the body: status %d, want 400: %s", name, answer.status, answer.body)
		}
	}
	renew(g, c.wallet, c.edr)
}

// TestAccessTokenIsTakenRawAndAsBearer: consumers of Tractus-X send what the EDR says, without a scheme.
func TestAccessTokenIsTakenRawAndAsBearer(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	for _, p := range planes {
		c := newParty(g, p, newDIDHost(t), "consumer", "weather")
		for _, authorization := range []string{c.edr.access, "Bearer " + c.edr.access, "bearer " + c.edr.access} {
			send(t, g.client, g.dataRequest("/", authorization)).want(t, http.StatusOK)
		}
		twice := g.dataRequest("/", "Bearer "+c.edr.access)
		twice.Header.Add("Authorization", "Bearer "+c.edr.access)
		send(t, g.client, twice).want(t, http.StatusBadRequest)
	}
}

// TestQueryOfARenewalIsInNoLog: the refresh token stands in it.
func TestQueryOfARenewalIsInNoLog(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, classicPlane{}, newDIDHost(t), "consumer", "weather")

	renewalOf(g, c.wallet, c.edr).inQuery().send(g).want(t, http.StatusOK)
	stolen := renewalOf(g, testkit.NewWallet("did:web:thief.example"), c.edr).inQuery()
	wantRenewalRefused(t, stolen.send(g), "by a thief")
	elsewhere := renewalOf(g, c.wallet, c.edr).inQuery()
	elsewhere.endpoint = g.publicURL() + "/not/the/refresh/path" // a data request without a good token, logged as it is
	elsewhere.query = url.Values{"page": {"1"}}
	elsewhere.send(g).want(t, http.StatusUnauthorized)

	testkit.Eventually(t, "the access log has the other request", func() bool { return strings.Contains(read(t, g.accessLog()), "page=1") })
	access := read(t, g.accessLog())
	if strings.Contains(access, "refresh_token") || strings.Contains(access, "grant_type") {
		t.Error("the access log has the query of a renewal")
	}
	testkit.Eventually(t, "both renewals have a line of their own", func() bool {
		return strings.Count(read(t, g.errorLog()), `"msg":"renewal"`) == 2
	})
	if strings.Contains(read(t, g.errorLog()), "refresh_token=") {
		t.Error("the log has the query of a renewal")
	}
}

// TestRenewalAtASiteWithoutRefreshHandler: a 4xx would end the consumer's EDR, and forwarding would hand its tokens to
// the backend.
func TestRenewalAtASiteWithoutRefreshHandler(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	second := freeAddress(t)
	g := startGateway(t, config{
		site: serves("weather", weather),
		more: "http://" + second + " {\n" + serves("weather", weather) + "\n}",
	})
	c := newParty(g, classicPlane{}, newDIDHost(t), "consumer", "weather")
	for _, r := range []renewal{renewalOf(g, c.wallet, c.edr), renewalOf(g, c.wallet, c.edr).inQuery()} {
		r.endpoint = "http://" + second + "/token"
		answer := r.send(g).want(t, http.StatusServiceUnavailable)
		if answer.header.Get("Retry-After") == "" {
			t.Error("the answer does not say when to come again")
		}
	}
	n := len(weather.saw())
	if n != 0 {
		t.Errorf("the backend got %d renewals", n)
	}
	g.scrape().wantCount(g, 2, "edrgate_data_requests_total", "verdict", "misrouted")
	renew(g, c.wallet, c.edr)
}

// TestAccessTokensVerifyWithThePublishedKeys, by another JOSE library than the gateway's.
func TestAccessTokensVerifyWithThePublishedKeys(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "weather")
	claims := verifyPublished(g, c.edr.access)
	want := map[string]any{
		"iss": g.did, "aud": g.did, "sub": c.wallet.DID, "client_id": c.wallet.DID,
		"flow_id": c.terms.flow, "dataset_id": "weather", "agreement_id": c.terms.agreement,
	}
	for name, value := range want {
		if claims[name] != value {
			t.Errorf("claim %s is %v, want %v", name, claims[name], value)
		}
	}
	issued, expires := claims["iat"].(float64), claims["exp"].(float64)
	if expires-issued != (5 * time.Minute).Seconds() {
		t.Errorf("the token lives for %v s", expires-issued)
	}
}

package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestEndingStopsTheNextRequest, whatever connection it comes on and whatever was remembered of the token.
func TestEndingStopsTheNextRequest(t *testing.T) {
	t.Parallel()
	endings := map[string]struct {
		send    func(p plane, g *gateway, flow string) reply
		refused func(p plane) int
	}{
		"suspend":   {plane.suspend, func(plane) int { return http.StatusForbidden }},
		"terminate": {plane.terminate, plane.refused},
	}
	for _, p := range planes {
		for name, ending := range endings {
			t.Run(p.name()+"/"+name, func(t *testing.T) {
				t.Parallel()
				weather := newBackend(t, "weather")
				g := startGateway(t, config{site: serves("weather", weather)})
				c := newParty(g, p, newDIDHost(t), "consumer", "weather")
				renewed := renew(g, c.wallet, c.edr)
				for range 10 { // so that everything about both tokens is remembered
					wantData(t, g, "/", c.edr.access, "data of weather")
					wantData(t, g, "/", renewed.access, "data of weather")
				}
				served := len(weather.saw())
				ending.send(p, g, c.terms.flow).want(t, p.done())
				for _, token := range []string{c.edr.access, renewed.access} {
					wantRefusal(t, g.get("/", token), "an ended flow's", ending.refused(p), "")
				}
				n := len(weather.saw())
				if n != served {
					t.Errorf("the backend got %d requests after the ending was confirmed", n-served)
				}
				g.restart()
				wantRefusal(t, g.get("/", renewed.access), "an ended flow's, after a restart,", ending.refused(p), "")
				wantRenewalRefused(t, renewalOf(g, c.wallet, renewed).send(g), "of an ended flow, after a restart")
			})
		}
	}
}

// TestEndingUnderANewConfigStopsRequestsOfTheOldOne: a request that came in before a reload is served by the old
// configuration to its end, which has its own memory of the token.
func TestEndingUnderANewConfigStopsRequestsOfTheOldOne(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			weather, porter := newBackend(t, "weather"), newBackend(t, "the porter")
			arrived, goOn := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(goOn) })
			t.Cleanup(release)
			porter.answer = func(_ http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Forwarded-Uri") == "/held" {
					close(arrived)
					<-goOn
				}
			}
			// What forward_auth asks comes before edr_auth, so that a request can be held between the two.
			site := func(name string) string {
				return fmt.Sprintf("header X-Config %s\nforward_auth %s {\nuri /\n}\n%s", name, porter.address(), serves("weather", weather))
			}
			g := startGateway(t, config{site: site("old")})
			c := newParty(g, p, newDIDHost(t), "consumer", "weather")
			wantData(t, g, "/", c.edr.access, "data of weather") // so that the old configuration remembers the verdict

			type outcome struct {
				answer reply
				err    error
			}
			held := make(chan outcome, 1)
			request := g.dataRequest("/held", "Bearer "+c.edr.access)
			go func() {
				answer, err := trySend(g.client, request)
				held <- outcome{answer, err}
			}()
			<-arrived
			g.config.site = site("new")
			g.reload()
			p.terminate(g, c.terms.flow).want(t, p.done())
			release()
			late := <-held
			if late.err != nil {
				t.Fatal(late.err)
			}
			if late.answer.header.Get("X-Config") != "old" {
				t.Fatalf("the held request was served by the %s configuration", late.answer.header.Get("X-Config"))
			}
			wantRefusal(t, late.answer, "a terminated flow's", p.refused(), "")
			n := len(weather.saw())
			if n != 1 {
				t.Errorf("the backend got %d requests after the flow was terminated", n-1)
			}
		})
	}
}

// TestLongDownloadOverReloadAndSuspension: what was admitted goes on to its end, over a reload too; the next request of
// the same consumer does not.
func TestLongDownloadOverReloadAndSuspension(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			const half = 256 << 10
			archive := newBackend(t, "archive")
			goOn := make(chan struct{})
			release := sync.OnceFunc(func() { close(goOn) })
			t.Cleanup(release)
			archive.answer = func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat("a", half))
				_ = http.NewResponseController(w).Flush()
				if r.URL.Path == "/long" {
					<-goOn
				}
				_, _ = io.WriteString(w, strings.Repeat("z", half))
			}
			g := startGateway(t, config{site: serves("archive", archive)})
			c := newParty(g, p, newDIDHost(t), "consumer", "archive")

			response, err := g.client.Do(g.dataRequest("/long", "Bearer "+c.edr.access))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			buffer := make([]byte, half)
			_, err = io.ReadFull(response.Body, buffer)
			if err != nil {
				t.Fatal(err)
			}
			g.config.app = "token_ttl 30m"
			g.reload()
			p.suspend(g, c.terms.flow).want(t, p.done())
			wantRefusal(t, g.get("/short", c.edr.access), "suspended", http.StatusForbidden, "flow_suspended")
			g.reload()
			wantRefusal(t, g.get("/short", c.edr.access), "suspended", http.StatusForbidden, "flow_suspended")

			release()
			rest, err := io.ReadAll(response.Body)
			if err != nil || string(rest) != strings.Repeat("z", half) {
				t.Errorf("the download broke off: %d more bytes, %v", len(rest), err)
			}
			p.resume(g, c.terms, c.edr).want(t, http.StatusOK)
			g.get("/short", c.edr.access).want(t, http.StatusOK)
		})
	}
}

// TestFlowsOutliveTheProcess: a restart changes nothing for anybody.
func TestFlowsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	var parties []*party
	for _, p := range planes {
		c := newParty(g, p, hosts, p.name(), "weather")
		c.edr = renew(g, c.wallet, c.edr)
		parties = append(parties, c)
	}
	before := listFlows(g)
	g.restart()
	after := listFlows(g)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the flows were %v and are %v", before, after)
	}
	for i, c := range parties {
		wantData(t, g, "/", c.edr.access, "data of weather")
		renew(g, c.wallet, c.edr)
		planes[i].start(g, c.terms).want(t, http.StatusOK) // a repeat
		planes[i].terminate(g, c.terms.flow).want(t, planes[i].done())
		again := planes[i].start(g, c.terms)
		if again.status < 400 || again.status >= 500 {
			t.Errorf("a late start of a terminated flow: status %d, want 4xx: %s", again.status, again.body)
		}
	}
}

package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestRouteByTheAssetsMetadata: a message of EDC 0.18 names no backend. What the provider has written into the asset's
// dataplaneMetadata chooses the path there, a header and the credential.
func TestRouteByTheAssetsMetadata(t *testing.T) {
	t.Parallel()
	const key = "the-weather-backends-own-credential"
	hosts, weather, other := newDIDHost(t), newBackend(t, "weather"), newBackend(t, "other")
	keyFile := filepath.Join(t.TempDir(), "key")
	writeFile(t, keyFile, key)
	site := func(secret string) string {
		return fmt.Sprintf("edr_proxy {\nbackends %s %s\nsecret %s {file.%s} for http://%s/v3/weather\n}",
			weather.address(), other.address(), secret, keyFile, weather.address())
	}
	app := fmt.Sprintf(`route weather {
		dataset asset-*
		label weather
		profile %s
		metadata n 3
		metadata o.a 1
		metadata l y
		backend http://%s/v{edr.metadata.n}/{edr.metadata.path}
		header X-Flag {edr.metadata.flag}
		header X-Consumer {edr.counterparty}
		secret Authorization key-{edr.dataset} Bearer
	}
	route others {
		dataset asset-*
		backend http://%s
	}`, profilePull, weather.address(), other.address())
	g := startGateway(t, config{app: app, site: site("key-asset-7")})
	g.canaries.Credential("the backend's credential", key)
	p := dpsPlane{}
	wallet := hosts.wallet("consumer")
	start := func(dataset, path string, oldNew ...string) (terms, reply) {
		f := newTerms(dataset, wallet.DID)
		m := p.startMessage(g, f)
		m.body = replaceAll(t, m.body, append([]string{`"path":"/weather"`, `"path":"` + path + `"`}, oldNew...)...)
		return f, m.send(g)
	}
	label := []string{`"labels":[]`, `"labels":["eu","weather"]`}

	f, answer := start("asset-7", "weather", label...)
	e := readEDR(g, f.flow, answer.want(t, http.StatusOK))
	wantData(t, g, "/today?q=1", e.access, "data of weather")
	got := weather.last(t)
	if got.target != "/v3/weather/today?q=1" || got.header.Get("Authorization") != "Bearer "+key ||
		got.header.Get("X-Flag") != "true" || got.header.Get("X-Consumer") != wallet.DID {
		t.Errorf("the backend got %s with flag %q for %q", got.target, got.header.Get("X-Flag"), got.header.Get("X-Consumer"))
	}
	f, answer = start("asset-7", "weather", `"n":3.0`, `"n":3.5`)
	wantData(t, g, "/x", readEDR(g, f.flow, answer.want(t, http.StatusOK)).access, "data of other")

	for what, c := range map[string]struct {
		dataset, path string
		oldNew        []string
		reason        string
	}{
		"no route":           {"unheard-of", "weather", nil, "no route matches"},
		"no such metadata":   {"asset-7", "weather", append([]string{`"flag":true,`, ""}, label...), "route weather: header X-Flag: {edr.metadata.flag} is not in the start message"},
		"a path that climbs": {"asset-7", "..", label, "route weather: backend: {edr.metadata.path} is . or .."},
		"two segments":       {"asset-7", "weather/../prices", label, "ambiguous dot segment"},
		"a secret's place":   {"asset-7", "prices", label, "the secret is not declared for this destination"},
		"no such secret":     {"asset-8", "weather", label, "no secret of this name is declared"},
	} {
		_, answer := start(c.dataset, c.path, c.oldNew...)
		if answer.status != http.StatusBadRequest || !strings.Contains(answer.body, "this data plane does not serve the dataset") {
			t.Errorf("%s: %d %s", what, answer.status, answer.body)
		}
		testkit.Eventually(t, fmt.Sprintf("%s: the log says %q", what, c.reason), func() bool {
			return strings.Contains(read(t, g.errorLog()), c.reason)
		})
	}

	// After a restart the flow has its route from the store, also under another configuration.
	g.restart()
	wantData(t, g, "/", e.access, "data of weather")
	if weather.last(t).target != "/v3/weather" {
		t.Errorf("target %s", weather.last(t).target)
	}
	g.config.site = site("key-asset-9")
	g.reload()
	g.get("/", e.access).want(t, http.StatusBadGateway)
	g.config.app = strings.ReplaceAll(app, "label weather", "label rain")
	g.reload()
	wantRefusal(t, g.get("/", e.access), "of a route for others", http.StatusForbidden, "")
	if n := len(weather.saw()); n != 2 {
		t.Errorf("the backend got %d requests, want 2", n)
	}
}

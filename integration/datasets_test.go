package integration

import (
	"fmt"
	"net/http"
	"testing"
)

// TestTokenOpensItsDatasetOnly: two datasets lie under one public URL. The data plane that this one takes the place of
// admits any token at any endpoint, so that the token for a cheap dataset opened a dear one.
func TestTokenOpensItsDatasetOnly(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			hosts, weather, prices := newDIDHost(t), newBackend(t, "weather"), newBackend(t, "prices")
			g := startGateway(t, config{site: fmt.Sprintf("handle /weather/* {\n%s\n}\nhandle /prices/* {\n%s\n}",
				serves("weather", weather), serves("prices", prices))})
			cheap := newParty(g, p, hosts, "cheap", "weather")
			dear := newParty(g, p, hosts, "dear", "prices")

			wantData(t, g, "/weather/today", cheap.edr.access, "data of weather")
			wantData(t, g, "/prices/today", dear.edr.access, "data of prices")
			wantRefusal(t, g.get("/prices/today", cheap.edr.access), "the weather's", http.StatusForbidden, "")
			wantRefusal(t, g.get("/weather/today", dear.edr.access), "the prices'", http.StatusForbidden, "")
			g.scrape().wantCount(g, 2, "edrgate_data_requests_total", "verdict", "refused", "reason", "wrong_dataset")
			for _, path := range []string{
				"/weather/../prices/today", "/weather/%2e%2e/prices/today", "/weather/..;/prices/today", "/weather//../prices/today",
			} {
				answer := g.getRaw(path, cheap.edr.access)
				if answer.status == http.StatusOK && answer.body != "data of weather" {
					t.Errorf("%s opened %q", path, answer.body)
				}
			}
			n := len(prices.saw())
			if n != 1 {
				t.Errorf("the prices' backend got %d requests, want its own one", n)
			}

			refused := p.start(g, newTerms("unheard-of", cheap.wallet.DID))
			if refused.status != http.StatusBadRequest {
				t.Errorf("a start that nothing serves: status %d, want 400: %s", refused.status, refused.body)
			}
		})
	}
}

// TestTokenOpensNothingOutsideItsEndpoint: routes have addresses of their own, and a token of one is no good at another.
func TestTokenOpensNothingOutsideItsEndpoint(t *testing.T) {
	t.Parallel()
	hosts, weather := newDIDHost(t), newBackend(t, "data")
	second := freeAddress(t)
	g := startGateway(t, config{
		publicPath: "/api",
		app:        fmt.Sprintf("route elsewhere {\ndataset prices\npublic_url http://%s/shop\n}", second),
		site:       "edr_auth {\nany_dataset\nignore_source_address\n}\nreverse_proxy " + weather.address(),
		more: fmt.Sprintf("http://%s {\nedr_refresh\nedr_auth {\nany_dataset\nignore_source_address\n}\nreverse_proxy %s\n}",
			second, weather.address()),
	})
	here := newParty(g, dpsPlane{}, hosts, "here", "weather")
	there := newParty(g, dpsPlane{}, hosts, "there", "prices")
	if there.edr.endpoint != "http://"+second+"/shop" || there.edr.refreshEndpoint != "http://"+second+"/shop/token" {
		t.Errorf("the EDR of the route says %s and %s", there.edr.endpoint, there.edr.refreshEndpoint)
	}
	wantData(t, g, "/api/x", here.edr.access, "data of data")
	for _, path := range []string{"/", "/apix/x", "/API/x", "/shop/x"} {
		wantRefusal(t, g.get(path, here.edr.access), "path "+path, http.StatusForbidden, "")
	}
	wantRefusal(t, g.get("/api/x", there.edr.access), "of another host", http.StatusForbidden, "")
	request := g.dataRequest("/shop/x", "Bearer "+there.edr.access)
	request.URL.Host, request.Host = second, second
	send(t, g.client, request).want(t, http.StatusOK)
	renew(g, here.wallet, here.edr)
	renew(g, there.wallet, there.edr)
}

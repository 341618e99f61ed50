package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestProxyToTheFlowsOwnBackend: the start message names the backend and its credential. The backend gets the
// credential and not the consumer's token, the consumer the data and not the credential.
func TestProxyToTheFlowsOwnBackend(t *testing.T) {
	t.Parallel()
	const apiKey = "a-backend-credential-of-another-company"
	hosts, orders, other := newDIDHost(t), newBackend(t, "orders"), newBackend(t, "other")
	orders.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "session=backend")
		w.Header().Set("X-Repeats", r.Header.Get("X-Api-Key")) // a backend that gives its credential away
		switch {
		case strings.HasSuffix(r.URL.Path, "/refuses"):
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "/missing"):
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "an order")
	}
	g := startGateway(t, config{publicPath: "/api", site: "edr_proxy {\nbackends " + orders.address() + "\n}"})
	g.canaries.Credential("a backend's credential", apiKey)
	p := classicPlane{}
	wallet := hosts.wallet("consumer")
	f := newTerms("orders", wallet.DID)
	f.backend, f.apiKey = "http://"+orders.address()+"/base", apiKey
	e := startFlow(g, p, f)
	if !showFlow(g, f.flow).OwnBackend {
		t.Error("the flow is not shown to have a backend of its own")
	}

	request, err := http.NewRequest(http.MethodPost, g.publicURL()+"/api/2026/list?page=1&q=a%26b", strings.NewReader("a body"))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + e.access, "Content-Type": "text/plain", "Cookie": "a=b", "X-Api-Key": "the consumer's",
		"Edc-Bpn": "BPNL0000SOMEBODY", "Accept": "text/plain", "X-Unknown": "x",
	} {
		request.Header.Set(name, value)
	}
	answer := send(t, g.client, request).want(t, http.StatusOK)
	if answer.body != "an order" || answer.header.Get("Set-Cookie") != "" || answer.header.Get("X-Repeats") != "" {
		t.Errorf("the consumer got %q with the headers %v", answer.body, answer.header)
	}
	got := orders.last(t)
	if got.method != http.MethodPost || got.target != "/base/2026/list?page=1&q=a%26b" || got.body != "a body" {
		t.Errorf("the backend got %s %s %q", got.method, got.target, got.body)
	}
	for name, want := range map[string]string{
		"Authorization": "", "Cookie": "", "X-Unknown": "", "X-Api-Key": apiKey, "Accept": "text/plain",
		"Content-Type": "text/plain", "Edc-Bpn": "BPNL0000CONSUMER", "Edc-Contract-Agreement-Id": f.agreement,
	} {
		values := got.header.Values(name)
		if strings.Join(values, ",") != want {
			t.Errorf("the backend got %d values of %s, or another one than expected", len(values), name)
		}
	}

	g.get("/api/missing", e.access).want(t, http.StatusNotFound)
	g.get("/api/refuses", e.access).want(t, http.StatusBadGateway) // a 401 would have the consumer renew
	e = renew(g, wallet, e)
	g.get("/api/x", e.access).want(t, http.StatusOK)
	m := g.scrape()
	m.wantCount(g, 1, "edrgate_backend_answers_total", "result", "rejected")
	m.wantCount(g, 3, "edrgate_backend_answers_total", "result", "answered")

	g.restart() // the credential is read from the store again
	g.get("/api/x", e.access).want(t, http.StatusOK)
	if orders.last(t).header.Get("X-Api-Key") != apiKey {
		t.Error("after a restart the backend gets another credential")
	}
	p.start(g, f).want(t, http.StatusOK) // a repeat, compared with what is sealed

	p.suspend(g, f.flow).want(t, p.done())
	wantRefusal(t, g.get("/api/x", e.access), "suspended", http.StatusForbidden, "flow_suspended")
	p.resume(g, f, e).want(t, http.StatusOK)
	g.get("/api/x", e.access).want(t, http.StatusOK)
	p.terminate(g, f.flow).want(t, p.done())
	wantRefusal(t, g.get("/api/x", e.access), "terminated", http.StatusForbidden, "")
	n := len(other.saw())
	if n != 0 {
		t.Errorf("another backend got %d requests", n)
	}
}

// TestStartWithAnUnlistedBackendIsRefused: whoever may start a flow chooses where the gateway connects to.
func TestStartWithAnUnlistedBackendIsRefused(t *testing.T) {
	t.Parallel()
	hosts, listed, other := newDIDHost(t), newBackend(t, "listed"), newBackend(t, "other")
	proxy := func(backends string) string { return "edr_proxy {\nbackends " + backends + "\n}" }
	g := startGateway(t, config{site: proxy(listed.address())})
	p := classicPlane{}
	wallet := hosts.wallet("consumer")
	for _, backend := range []string{
		"http://" + other.address() + "/", "http://169.254.169.254/latest/meta-data", "https://" + other.address(),
		"http://" + listed.address() + "@" + other.address(), "file:///etc/passwd", "http://localhost:1/",
	} {
		f := newTerms("orders", wallet.DID)
		f.backend, f.apiKey = backend, "another-credential-of-another-company"
		g.canaries.Credential("a credential for an unlisted backend", f.apiKey)
		answer := p.start(g, f)
		if answer.status != http.StatusBadRequest {
			t.Errorf("backend %s: status %d, want 400: %s", backend, answer.status, answer.body)
		}
		if strings.Contains(answer.body, other.address()) {
			t.Errorf("backend %s: the refusal tells the address to the other company: %s", backend, answer.body)
		}
	}
	f := newTerms("orders", wallet.DID)
	f.backend = "http://" + listed.address() + "/"
	e := startFlow(g, p, f)
	g.get("/x", e.access).want(t, http.StatusOK)

	// A backend that is taken off the list is not asked any more, for flows that are there already either.
	g.config.site = proxy(other.address())
	g.reload()
	g.get("/x", e.access).want(t, http.StatusBadGateway)
	n := len(listed.saw()) + len(other.saw())
	if n != 1 {
		t.Errorf("the backends got %d requests, want the one that was allowed", n)
	}
}

// TestProxyToTheBackendOfARoute: DPS starts name no backend, so the operator does.
func TestProxyToTheBackendOfARoute(t *testing.T) {
	t.Parallel()
	const credential = "Basic the-operators-own-credential"
	orders := newBackend(t, "orders")
	g := newGateway(t, config{})
	g.canaries.Credential("a route's credential", credential)
	writeFile(t, g.path("keys", "credential"), credential)
	g.config.app = fmt.Sprintf("route orders {\ndataset orders\nbackend http://%s/base\nheader Authorization {file.%s}\n}",
		orders.address(), g.path("keys", "credential"))
	g.config.site = "edr_proxy {\nbackends " + orders.address() + "\n}"
	g.start()
	c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "orders")
	wantData(t, g, "/list?a=b", c.edr.access, "data of orders")
	got := orders.last(t)
	if got.target != "/base/list?a=b" || got.header.Get("Authorization") != credential {
		t.Errorf("the backend got %s, or another credential than the route's", got.target)
	}
	c.edr = renew(g, c.wallet, c.edr)
	wantData(t, g, "/list", c.edr.access, "data of orders")
	dpsPlane{}.terminate(g, c.terms.flow).want(t, http.StatusOK)
	wantRefusal(t, g.get("/list", c.edr.access), "terminated", http.StatusUnauthorized, "")
}

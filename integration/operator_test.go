package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// flowShown is a flow as the admin API shows it.
type flowShown struct {
	ID           string `json:"id"`
	State        string `json:"state"`
	Dialect      string `json:"dialect"`
	Counterparty string `json:"counterparty"`
	Dataset      string `json:"dataset"`
	Agreement    string `json:"agreement"`
	Reason       string `json:"reason"`
	Generation   uint64 `json:"generation"`
	OwnBackend   bool   `json:"own_backend"`
}

func flowPath(id string) string { return "/edrgate/flows/" + url.PathEscape(id) }

// listFlows returns the first page of flows.
func listFlows(g *gateway) []flowShown {
	g.t.Helper()
	answer := g.adminGet("/edrgate/flows?limit=1000").want(g.t, http.StatusOK)
	var page struct {
		Flows []flowShown `json:"flows"`
	}
	err := json.Unmarshal([]byte(answer.body), &page)
	if err != nil {
		g.t.Fatal(err)
	}
	return page.Flows
}

// showFlow returns one flow.
func showFlow(g *gateway, id string) flowShown {
	g.t.Helper()
	answer := g.adminGet(flowPath(id)).want(g.t, http.StatusOK)
	var shown flowShown
	err := json.Unmarshal([]byte(answer.body), &shown)
	if err != nil {
		g.t.Fatal(err)
	}
	return shown
}

// keyUse returns how many flows need each secret key.
func keyUse(g *gateway) map[string]int {
	g.t.Helper()
	answer := g.adminGet("/edrgate/keys").want(g.t, http.StatusOK)
	var keys struct {
		Use map[string]int `json:"flows_by_secret_key"`
	}
	err := json.Unmarshal([]byte(answer.body), &keys)
	if err != nil {
		g.t.Fatal(err)
	}
	return keys.Use
}

// TestOperatorSeesAndRevokesFlows, by the admin API on its unix socket.
func TestOperatorSeesAndRevokesFlows(t *testing.T) {
	t.Parallel()
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	kept := newParty(g, dpsPlane{}, hosts, "kept", "weather")
	gone := newParty(g, classicPlane{}, hosts, "gone", "weather")

	shown := listFlows(g)
	if len(shown) != 2 {
		t.Fatalf("two flows are shown as %v", shown)
	}
	want := flowShown{
		ID: gone.terms.flow, State: "STARTED", Dialect: "edc", Counterparty: gone.wallet.DID,
		Dataset: "weather", Agreement: gone.terms.agreement, Generation: 1,
	}
	got := showFlow(g, gone.terms.flow)
	if got != want {
		t.Errorf("the flow is shown as %+v, want %+v", got, want)
	}
	first := g.adminGet("/edrgate/flows?limit=1").want(t, http.StatusOK)
	var page struct {
		Flows []flowShown `json:"flows"`
		Next  string      `json:"next"`
	}
	err := json.Unmarshal([]byte(first.body), &page)
	if err != nil || len(page.Flows) != 1 || page.Next != page.Flows[0].ID {
		t.Errorf("a page of one flow is %s", first.body)
	}
	second := g.adminGet("/edrgate/flows?limit=1&after="+url.QueryEscape(page.Next)).want(t, http.StatusOK)
	if strings.Contains(second.body, `"id":"`+page.Next+`"`) {
		t.Error("the second page begins with the flow of the first")
	}

	g.adminDo(http.MethodPost, flowPath(gone.terms.flow)+"/revoke", `{"reason":"the contract is void"}`).want(t, http.StatusOK)
	wantRefusal(t, g.get("/", gone.edr.access), "revoked", http.StatusForbidden, "")
	wantRenewalRefused(t, renewalOf(g, gone.wallet, gone.edr).send(g), "of a revoked flow")
	got = showFlow(g, gone.terms.flow)
	if got.State != "TERMINATED" || got.Reason != "the contract is void" {
		t.Errorf("the revoked flow is shown as %+v", got)
	}
	wantData(t, g, "/", kept.edr.access, "data of weather")

	g.adminGet("/edrgate/flows/unknown").want(t, http.StatusNotFound)
	g.adminGet("/edrgate/nonsense").want(t, http.StatusNotFound)
	g.adminGet("/edrgate/flows?limit=0").want(t, http.StatusBadRequest)
	g.adminDo(http.MethodPost, "/edrgate/flows/unknown/revoke", "").want(t, http.StatusNotFound)
	g.adminDo(http.MethodDelete, "/edrgate/flows", "").want(t, http.StatusMethodNotAllowed)
	g.adminDo(http.MethodPost, flowPath(kept.terms.flow)+"/revoke", `{"because":"typo"}`).want(t, http.StatusBadRequest)
	wantData(t, g, "/", kept.edr.access, "data of weather")
}

// TestOperatorCommands are `caddy edr ...`.
func TestOperatorCommands(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "weather")
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, err := g.cli(append([]string{"edr"}, args...)...)
		if err != nil {
			t.Fatalf("caddy edr %s: %v: %s", args[0], err, stderr)
		}
		g.canaries.check(t, "the output of caddy edr "+args[0], []byte(stdout+stderr))
		return stdout
	}
	socket := "unix/" + g.socket()

	out := run("list", "--address", socket)
	if !strings.Contains(out, c.terms.flow) || !strings.Contains(out, "STARTED") {
		t.Errorf("list prints %s", out)
	}
	out = run("list", "--config", g.caddyfile(), "--adapter", "caddyfile", "--json")
	if !strings.Contains(out, `"id": "`+c.terms.flow+`"`) {
		t.Errorf("list --json prints %s", out)
	}
	out = run("show", c.terms.flow, "--address", socket)
	if !strings.Contains(out, `"counterparty": "`+c.wallet.DID+`"`) {
		t.Errorf("show prints %s", out)
	}
	out = run("keys", "--address", socket)
	if !strings.Contains(out, `"active"`) {
		t.Errorf("keys prints %s", out)
	}
	for what, token := range map[string]string{"access token": c.edr.access, "proof": c.wallet.Proof(g.did, c.edr.access, time.Now())} {
		g.canaries.Token("a token that was inspected", token)
		out = run("inspect", token)
		if !strings.Contains(out, `"alg": "ES256"`) {
			t.Errorf("inspect of the %s prints %s", what, out)
		}
	}
	wantData(t, g, "/", c.edr.access, "data of weather")
	out = run("revoke", c.terms.flow, "--reason", "void", "--address", socket)
	if !strings.Contains(out, "applied") {
		t.Errorf("revoke prints %s", out)
	}
	wantRefusal(t, g.get("/", c.edr.access), "revoked", http.StatusUnauthorized, "")
	_, _, err := g.cli("edr", "show", "unknown", "--address", socket)
	if err == nil {
		t.Error("show of an unknown flow succeeds")
	}
}

// TestKeygenMakesAKeyThatCanBeUsed, and never overwrites one.
func TestKeygenMakesAKeyThatCanBeUsed(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			weather := newBackend(t, "weather")
			g := newGateway(t, config{site: serves("weather", weather)})
			file := g.keyFile("generated")
			printed, stderr, err := g.cli("edr", "keygen", file, "--algorithm", algorithm, "--did", g.did)
			if err != nil {
				t.Fatalf("keygen: %v: %s", err, stderr)
			}
			private := read(t, file)
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key file has mode %v: %v", info.Mode(), err)
			}
			g.canaries.Add("a line of the generated key", strings.Split(private, "\n")[1])
			found := g.canaries.Find([]byte(printed + stderr))
			if len(found) > 0 {
				t.Errorf("keygen prints %v", found)
			}
			_, _, err = g.cli("edr", "keygen", file, "--algorithm", algorithm)
			if err == nil || read(t, file) != private {
				t.Error("keygen replaced a key that was there")
			}

			g.config.keys = "signing_key " + file
			g.start()
			c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "weather")
			wantData(t, g, "/", c.edr.access, "data of weather")
			verifyPublished(g, c.edr.access)
			header, _ := jwsParts(t, c.edr.access)
			if !strings.Contains(printed, fmt.Sprintf(`"%s#%s"`, g.did, header["kid"])) {
				t.Errorf("keygen prints no verification method with the key id %s of the tokens: %s", header["kid"], printed)
			}
			renew(g, c.wallet, c.edr)
		})
	}
}

// TestHealthProbes: live as soon as requests are served, ready while the store can be used.
func TestHealthProbes(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	for path, want := range map[string]string{"/live": `{"status":"live"}`, "/ready": `{"status":"ready"}`} {
		request, err := http.NewRequest(http.MethodGet, "http://"+g.health+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer := send(t, g.client, request).want(t, http.StatusOK)
		if answer.body != want || answer.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s says %s", path, answer.body)
		}
	}
}

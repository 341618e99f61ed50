package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// message is a signaling message of somebody, to a site.
func (g *liveGateway) message(site string, header ...string) answered {
	g.t.Helper()
	return g.send(site, g.request(http.MethodPost, "http://localhost/dataflows/flow-1/terminate",
		strings.NewReader(`{"messageId":"m"}`), append(header, "Content-Type", "application/json")...))
}

func TestSignalingAuth(t *testing.T) {
	g := newLiveGateway(t)
	const first, second, third = "the-first-token-of-edc", "the-second-token-of-edc", "the-token-of-siglet"
	err := os.WriteFile(g.path("token"), []byte(first+"\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(second))
	app := g.app()
	app["control_planes"] = []object{{"name": "edc"}, {"name": "siglet"}}
	servers := g.servers()
	servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling", "auth": []object{
		{"bearer": "{file." + g.path("token") + "}", "control_plane": "edc"},
		{"bearer": "sha256:" + hex.EncodeToString(digest[:]), "control_plane": "edc"},
		{"bearer": third, "control_plane": "siglet"},
		{"networks": []string{"10.0.0.0/8"}, "control_plane": "siglet"},
	}})
	g.load(app, servers)

	for name, tt := range map[string]struct {
		header []string
		status int
	}{
		"no token":             {nil, http.StatusUnauthorized},
		"wrong token":          {[]string{"Authorization", "Bearer the-token-of-nobody"}, http.StatusUnauthorized},
		"two tokens":           {[]string{"Authorization", "Bearer " + first, "Authorization", "Bearer " + third}, http.StatusUnauthorized},
		"forged peer":          {[]string{"X-Forwarded-For", "10.0.0.1"}, http.StatusUnauthorized},
		"token of a file":      {[]string{"Authorization", "Bearer " + first}, http.StatusOK},
		"token by its digest":  {[]string{"Authorization", "Bearer " + second}, http.StatusOK},
		"token of another one": {[]string{"Authorization", "bearer " + third}, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			answer := g.message("signaling", tt.header...)
			if answer.status != tt.status {
				t.Errorf("%d %s", answer.status, answer.body)
			}
		})
	}
	log := g.logged()
	if !strings.Contains(log, "is part of the configuration") {
		t.Error("no warning about the token in clear")
	}
	for _, secret := range []string{first, second, third} {
		if strings.Contains(log, secret) {
			t.Error("a token is in the log")
		}
	}
}

func TestSignalingPaths(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["participant"] = "provider-a"
	servers := g.servers()
	servers["signaling"] = g.site("signaling", object{"handler": "edr_signaling"}, object{"handler": "static_response", "body": "next"})
	g.load(app, servers)
	for path, want := range map[string]struct {
		status int
		next   bool
	}{
		"/dataflows/nope/status":            {http.StatusNotFound, false},
		"/provider-a/dataflows/nope/status": {http.StatusNotFound, false},
		"/provider-b/dataflows/nope/status": {http.StatusOK, true},
		"/v1/dataflows/check":               {http.StatusNoContent, false},
		"/other":                            {http.StatusOK, true},
	} {
		answer := g.send("signaling", g.request(http.MethodGet, "http://localhost"+path, nil))
		if answer.status != want.status || (answer.body == "next") != want.next {
			t.Errorf("%s: %d %s", path, answer.status, answer.body)
		}
	}
}

// A listener that the check at start did not see is refused request by request.
func TestSignalingWithoutAuthByOtherListeners(t *testing.T) {
	g := newLiveGateway(t)
	g.load(g.app(), g.servers())
	h := g.participant().sites.signalings[0]
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for name, tt := range map[string]struct {
		local  net.Addr
		status int
	}{
		"loopback":   {&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8181}, http.StatusNoContent},
		"loopback 6": {&net.TCPAddr{IP: net.IPv6loopback, Port: 8181}, http.StatusNoContent},
		"socket":     {&net.UnixAddr{Name: "/run/signaling", Net: "unix"}, http.StatusNoContent},
		"elsewhere":  {&net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 8181}, http.StatusForbidden},
		"unknown":    {nil, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://10.0.0.5:8181/v1/dataflows/check", nil)
			if tt.local != nil {
				r = r.WithContext(contextWithLocalAddr(r, tt.local))
			}
			w := httptest.NewRecorder()
			err := h.ServeHTTP(w, r, next)
			if err != nil || w.Code != tt.status {
				t.Errorf("%d, %v", w.Code, err)
			}
		})
	}
}

// What the sites can serve decides which flows may start.
func TestStartsThatNothingServes(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["routes"] = object{"parts": object{
		"datasets": []string{"parts-*"}, "public_url": "https://parts.example", "backend": "https://parts.internal",
	}}
	servers := g.servers()
	servers["data"] = g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_auth", "datasets": []string{"asset-2"}},
		object{"handler": "edr_proxy", "backends": []string{"https://parts.internal", "http://backend:8080"}})
	g.load(app, servers)
	c := newConsumer(t)
	start := func(dataset string) answered {
		return g.post("/dataflows/start", object{
			"messageId": "start-" + dataset, "processId": "flow-" + dataset, "participantId": "did:web:provider.example",
			"counterPartyId": c.did, "datasetId": dataset, "agreementId": "agreement-1", "profile": "http-pull",
		})
	}
	for dataset, want := range map[string]string{
		"asset-1": "does not serve", "asset-2": "https://data.example", "parts-1": "https://parts.example",
	} {
		answer := start(dataset)
		if !strings.Contains(answer.body, want) {
			t.Errorf("%s: %d %s", dataset, answer.status, answer.body)
		}
	}
	if answer := g.classicStart("classic-1", c); answer.status != http.StatusOK {
		t.Errorf("backend of edr_proxy: %d %s", answer.status, answer.body)
	}
	servers["data"] = g.site("data", object{"handler": "edr_refresh"},
		object{"handler": "edr_proxy", "backends": []string{"https://parts.internal"}})
	g.load(app, servers)
	if answer := g.classicStart("classic-2", c); answer.status != http.StatusBadRequest {
		t.Errorf("another backend: %d %s", answer.status, answer.body)
	}
}

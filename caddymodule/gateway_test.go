package caddymodule

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // subroutes, storage, loggers
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/edrgate/edrgate/internal/testkit"
)

// A liveGateway is this process's Caddy with a config of ours. Caddy has one running config, so tests that use it must
// not be parallel. Its listeners are unix sockets, so that no port can be taken.
type liveGateway struct {
	t   *testing.T
	dir string

	loads   int
	sockets map[string]string // of the sites of the config that load loaded last
}

func newLiveGateway(t *testing.T) *liveGateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "edr") // short: socket paths are limited to some 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	g := &liveGateway{t: t, dir: dir}
	err = keygen(io.Discard, rand.Reader, g.path("signing.pem"), "ES256", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := caddy.Stop()
		if err != nil {
			t.Error(err)
		}
		err = os.RemoveAll(dir)
		if err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *liveGateway) path(name string) string { return filepath.Join(g.dir, name) }

// app is the config of the app that most tests start from.
func (g *liveGateway) app() object {
	return object{
		"did":          "did:web:provider.example",
		"signing_keys": []object{{"file": g.path("signing.pem")}},
		"public_url":   "https://data.example",
		"store":        object{"module": "badger", "path": g.path("store")},
	}
}

func handle(handlers ...object) object { return object{"handle": handlers} }

// site is a server on a socket of this name.
func (g *liveGateway) site(name string, handlers ...object) object {
	return object{
		"listen":          []string{"unix/" + g.path(name)},
		"routes":          []object{handle(handlers...)},
		"automatic_https": object{"disable": true},
	}
}

// servers are the sites that most tests start from: data with a fixed answer behind edr_auth, and signaling.
func (g *liveGateway) servers() object {
	return object{
		"data": g.site("data", object{"handler": "edr_refresh"}, object{"handler": "edr_auth", "any_dataset": true},
			object{"handler": "static_response", "body": "data"}),
		"signaling": g.site("signaling", object{"handler": "edr_health"}, object{"handler": "edr_signaling"}),
	}
}

func (g *liveGateway) config(app, servers object) []byte {
	g.t.Helper()
	config := object{
		"admin":   object{"listen": "unix/" + g.path("admin"), "config": object{"persist": false}},
		"storage": object{"module": "file_system", "root": g.path("caddy")},
		"logging": object{"logs": object{"default": object{
			"writer": object{"output": "file", "filename": g.path("log")}, "level": "DEBUG",
		}}},
		"apps": object{"edrgate": app, "http": object{"servers": servers, "grace_period": "1s"}},
	}
	data, err := json.Marshal(config)
	if err != nil {
		g.t.Fatal(err)
	}
	return data
}

// load replaces the config. The sites get sockets of their own: on a shared one the old config's server still takes some
// connections after the reload.
func (g *liveGateway) load(app, servers object) {
	g.t.Helper()
	err := g.tryLoad(app, servers)
	if err != nil {
		g.t.Fatal(err)
	}
}

// tryLoad loads a config, or leaves the one before.
func (g *liveGateway) tryLoad(app, servers object) error {
	g.t.Helper()
	g.loads++
	sockets := map[string]string{}
	config := string(g.config(app, servers))
	for name := range servers {
		sockets[name] = fmt.Sprintf("%s.%d", g.path(name), g.loads)
		config = strings.ReplaceAll(config, `"unix/`+g.path(name)+`"`, `"unix/`+sockets[name]+`"`)
	}
	err := caddy.Load([]byte(config), true)
	if err != nil {
		return err
	}
	g.sockets = sockets
	return nil
}

// running returns the app of the running config.
func (g *liveGateway) running() *App {
	g.t.Helper()
	loaded, err := caddy.ActiveContext().App(appName)
	if err != nil {
		g.t.Fatal(err)
	}
	return loaded.(*App)
}

// participant returns the one participant of the running config.
func (g *liveGateway) participant() *participant {
	g.t.Helper()
	p, err := g.running().findParticipant("")
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// references returns how many configs hold the store in a directory.
func (g *liveGateway) references(name string) int {
	n, _ := engines.References("badger " + g.path(name))
	return n
}

func (g *liveGateway) logged() string {
	g.t.Helper()
	_ = caddy.Log().Sync()
	data, err := os.ReadFile(g.path("log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(data)
}

// client returns a client of the site's socket.
func (g *liveGateway) client(site string) *http.Client {
	socket, loaded := g.sockets[site]
	if !loaded {
		socket = g.path(site)
	}
	transport := &http.Transport{
		DisableKeepAlives: true, // a kept connection would stay with the config that accepted it
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

type answered struct {
	status int
	header http.Header
	body   string
}

func (g *liveGateway) send(site string, r *http.Request) answered {
	g.t.Helper()
	var response *http.Response
	testkit.Eventually(g.t, "an answer", func() bool {
		again := r.Clone(r.Context())
		if r.GetBody != nil {
			again.Body, _ = r.GetBody()
		}
		var err error
		response, err = g.client(site).Do(again)
		// Caddy may drop a connection that it accepts at the moment at which the old config's server stops.
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			g.t.Error(err)
			return true
		}
		return err == nil
	})
	if response == nil {
		g.t.FailNow()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return answered{response.StatusCode, response.Header, string(body)}
}

func (g *liveGateway) request(method, address string, body io.Reader, header ...string) *http.Request {
	g.t.Helper()
	r, err := http.NewRequest(method, address, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// get sends a data request.
func (g *liveGateway) get(token string) answered {
	g.t.Helper()
	return g.send("data", g.request(http.MethodGet, "http://data.example/thing", nil, "Authorization", "Bearer "+token))
}

// post sends a signaling message.
func (g *liveGateway) post(path string, message object) answered {
	g.t.Helper()
	body, err := json.Marshal(message)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.send("signaling", g.request(http.MethodPost, "http://localhost"+path, bytes.NewReader(body), "Content-Type", "application/json"))
}

// edr is what the consumer got.
type edr struct {
	flow, access, refresh string
}

// start starts a flow for a consumer.
func (g *liveGateway) start(flow string, c *didHolder) edr {
	g.t.Helper()
	answer := g.post("/dataflows/start", g.startMessage(flow, c))
	if answer.status != http.StatusOK {
		g.t.Fatalf("start: %d %s", answer.status, answer.body)
	}
	return g.readEDR(flow, answer.body)
}

// startMessage is the message that starts a flow for a consumer.
func (g *liveGateway) startMessage(flow string, c *didHolder) object {
	return object{
		"messageId": "start-" + flow, "processId": flow, "participantId": "did:web:provider.example",
		"counterPartyId": c.did, "datasetId": "asset-1", "agreementId": "agreement-1",
		"profile": "https://w3id.org/dspace-sig/profile/http-pull",
	}
}

// readEDR reads the answer to a start.
func (g *liveGateway) readEDR(flow, body string) edr {
	g.t.Helper()
	var message struct {
		DataAddress struct {
			EndpointProperties []struct{ Name, Value string }
		}
	}
	err := json.Unmarshal([]byte(body), &message)
	if err != nil {
		g.t.Fatal(err)
	}
	e := edr{flow: flow}
	for _, property := range message.DataAddress.EndpointProperties {
		switch property.Name[strings.LastIndexAny(property.Name, "/")+1:] {
		case "authorization":
			e.access = property.Value
		case "refreshToken":
			e.refresh = property.Value
		}
	}
	if e.access == "" || e.refresh == "" {
		g.t.Fatalf("no tokens in %s", body)
	}
	return e
}

// renew sends a renewal with the parameters in the body, as RFC 6749 has it.
func (g *liveGateway) renew(e edr, proof string) answered {
	g.t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {e.refresh}}.Encode()
	return g.send("data", g.request(http.MethodPost, "http://data.example/token", strings.NewReader(form),
		"Authorization", "Bearer "+proof, "Content-Type", "application/x-www-form-urlencoded"))
}

// didHolder is a participant whose DID is its key, so that nothing is fetched.
type didHolder struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	did string
}

func newConsumer(t *testing.T) *didHolder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := jwk.FromRaw(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	return &didHolder{t, key, "did:jwk:" + base64.RawURLEncoding.EncodeToString(data)}
}

// proof signs an authentication token about an access token. The claims are changed by edits; nil removes one.
func (c *didHolder) proof(access string, edits object) string {
	c.t.Helper()
	now := time.Now().Unix()
	claims := object{
		"iss": c.did, "sub": c.did, "aud": "did:web:provider.example", "token": access,
		"jti": rand.Text(), "iat": now, "exp": now + 60,
	}
	for name, value := range edits {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.sign(payload, c.did+"#0")
}

func (c *didHolder) sign(payload []byte, kid string) string {
	c.t.Helper()
	headers := jws.NewHeaders()
	if kid != "" {
		err := headers.Set(jws.KeyIDKey, kid)
		if err != nil {
			c.t.Fatal(err)
		}
	}
	signed, err := jws.Sign(payload, jws.WithKey(jwa.ES256, c.key, jws.WithProtectedHeaders(headers)))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(signed)
}

// gateHandler is a handler that holds requests until they are released, to have one under way during a reload.
type gateHandler struct{}

var held = struct{ arrived, release chan struct{} }{make(chan struct{}), make(chan struct{})}

func init() { caddy.RegisterModule(gateHandler{}) }

func (gateHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edr_test_hold", New: func() caddy.Module { return new(gateHandler) }}
}

func (gateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Header.Get("X-Hold") != "" {
		held.arrived <- struct{}{}
		<-held.release
	}
	return next.ServeHTTP(w, r)
}

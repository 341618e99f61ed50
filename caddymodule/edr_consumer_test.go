package caddymodule

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// consumerWorld is a gateway with a provider and, as another participant, a company that uses its data. In front of the
// provider is a server that notes what it sees and can have tokens refused.
type consumerWorld struct {
	*liveGateway
	user  *didHolder
	front *httptest.Server

	mu      sync.Mutex
	refused map[string]int // status by access token
	down    bool           // renewals are answered with 500
	seen    []seenRequest
}

type seenRequest struct {
	method, uri, body string
	header            http.Header
}

const userName = "user"

func newConsumerWorld(t *testing.T) *consumerWorld {
	t.Helper()
	w := &consumerWorld{liveGateway: newLiveGateway(t), user: newConsumer(t), refused: map[string]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "provider"})
			r.Out.Host = r.In.Host
		},
		Transport: roundTrip(func(r *http.Request) (*http.Response, error) { return w.client("data").Transport.RoundTrip(r) }),
	}
	w.front = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		w.mu.Lock()
		w.seen = append(w.seen, seenRequest{r.Method, r.URL.RequestURI(), string(body), r.Header.Clone()})
		status := w.refused[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		if w.down && r.URL.Path == "/token" {
			status = http.StatusInternalServerError
		}
		w.mu.Unlock()
		if status != 0 {
			rw.WriteHeader(status)
			return
		}
		rw.Header().Set("Set-Cookie", "of=provider")
		rw.Header().Set("Access-Control-Allow-Origin", "*")
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.front.Close)
	key, err := x509.MarshalPKCS8PrivateKey(w.user.key)
	if err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(w.path("user.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *consumerWorld) consumerApp() object {
	app := w.app()
	app["public_url"] = w.front.URL
	app["participants"] = object{userName: object{
		"did": w.user.did, "signing_keys": []object{{"file": w.path("user.pem")}}, "public_url": "https://user.example",
		"did_map": object{"BPNL1": "did:web:provider.example"},
		"consumer": object{
			"kid": w.user.did + "#0", "renew": "on_use", "allow_http": []string{"127.0.0.1"}, "allow_addresses": []string{"127.0.0.0/8"},
		},
	}}
	return app
}

func (w *consumerWorld) consumerServers(api, egress object) object {
	servers := w.servers()
	servers["api"] = w.site("api", joined(object{"handler": "edr_consumer", "participant": userName}, api))
	servers["egress"] = w.site("egress", joined(object{"handler": "edr_egress", "participant": userName}, egress))
	return servers
}

// joined returns both, the second winning.
func joined(a, b object) object {
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}

func (w *consumerWorld) begin() {
	w.t.Helper()
	w.load(w.consumerApp(), w.consumerServers(nil, nil))
}

// got starts a flow at the provider and puts its EDR into the consumer's cache.
func (w *consumerWorld) got(flow, asset string, expires int) edr {
	w.t.Helper()
	e := w.start(flow, w.user)
	answer := w.api(http.MethodPut, "/edrs/"+flow, w.putBody(e, asset, expires))
	if answer.status != http.StatusOK {
		w.t.Fatalf("put: %d %s", answer.status, answer.body)
	}
	return e
}

func (w *consumerWorld) putBody(e edr, asset string, expires int) object {
	return object{
		"providerId": "BPNL1", "assetId": asset, "agreementId": "agreement-1",
		"dataAddress": object{
			"endpointType": "https://w3id.org/dspace-sig/profile/http-pull",
			"endpoint":     w.front.URL,
			"endpointProperties": []object{
				{"name": "authorization", "value": e.access},
				{"name": "authType", "value": "bearer"},
				{"name": "refreshToken", "value": e.refresh},
				{"name": "refreshEndpoint", "value": w.front.URL + "/token"},
				{"name": "expiresIn", "value": fmt.Sprint(expires)},
			},
		},
	}
}

func (w *consumerWorld) api(method, path string, body any, header ...string) answered {
	w.t.Helper()
	return w.at("api", method, path, body, header...)
}

func (w *consumerWorld) at(site, method, path string, body any, header ...string) answered {
	w.t.Helper()
	var sent io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		sent = strings.NewReader(body)
	default:
		data, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		sent = bytes.NewReader(data)
	}
	return w.send(site, w.request(method, "http://localhost"+path, sent, header...))
}

// token is the access token of a data address.
func tokenIn(t *testing.T, a answered) string {
	t.Helper()
	var address struct {
		Authorization string `json:"authorization"`
	}
	err := json.Unmarshal([]byte(a.body), &address)
	if a.status != http.StatusOK || err != nil || address.Authorization == "" {
		t.Fatalf("no data address: %d %s", a.status, a.body)
	}
	return address.Authorization
}

func (w *consumerWorld) refuse(token string, status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused[token] = status
}

func (w *consumerWorld) requests() []seenRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// TestConsumerAPI is the life of an EDR at the API.
func TestConsumerAPI(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	first := w.got("tp-1", "asset-1", 300)
	shown := w.api(http.MethodGet, "/v3/edrs/tp-1/dataaddress", nil)
	if got := tokenIn(t, shown); got != first.access {
		t.Error("another token than was put")
	}
	if strings.Contains(shown.body, first.refresh) || shown.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %s", shown.header, shown.body)
	}
	second := tokenIn(t, w.api(http.MethodPost, "/management/v3/edrs/tp-1/refresh", nil))
	third := tokenIn(t, w.api(http.MethodPost, "/v1/token/refresh", object{"transferProcessId": "tp-1"}))
	if second == first.access || third == second {
		t.Error("not renewed")
	}
	if got := tokenIn(t, w.api(http.MethodGet, "/edrs/tp-1/dataaddress?auto_refresh=false", nil)); got != third {
		t.Error("not the newest token")
	}
	list := w.api(http.MethodPost, "/management/v3/edrs/request", object{"@type": "QuerySpec", "filterExpression": []object{
		{"operandLeft": "assetId", "operator": "=", "operandRight": "asset-1"},
		{"operandLeft": "https://w3id.org/edc/v0.0.1/ns/providerId", "operator": "=", "operandRight": "BPNL1"},
	}})
	var entries []object
	err := json.Unmarshal([]byte(list.body), &entries)
	if err != nil || len(entries) != 1 || entries[0]["transferProcessId"] != "tp-1" || entries[0]["agreementId"] != "agreement-1" {
		t.Errorf("%d %s", list.status, list.body)
	}
	if a := w.api(http.MethodDelete, "/edrs/tp-1", nil); a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
	want := `[{"message":"Object of type EndpointDataReferenceEntry with ID=tp-1 was not found","type":"ObjectNotFound","path":null,"invalidValue":null}]`
	if a := w.api(http.MethodGet, "/v3/edrs/tp-1/dataaddress", nil); a.status != http.StatusNotFound || strings.TrimSpace(a.body) != want {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, token := range []string{first.access, first.refresh, second, third} {
		if strings.Contains(w.logged(), token) {
			t.Error("a token is in the log")
		}
	}
}

// TestConsumerAPIRenewsWhatHasExpired: the second way of the Tractus-X token refresh.
func TestConsumerAPIRenewsWhatHasExpired(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	first := w.got("tp-1", "asset-1", 1)
	testkit.Eventually(t, "a new token", func() bool {
		return tokenIn(t, w.api(http.MethodGet, "/v3/edrs/tp-1/dataaddress?auto_refresh=true", nil)) != first.access
	})
}

// TestConsumerAPITellsNoFromCannotTell: what a provider's answer to a renewal becomes.
func TestConsumerAPITellsNoFromCannotTell(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	a := w.api(http.MethodPost, "/v3/edrs/tp-1/refresh", nil)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("provider in trouble: %d %v %s", a.status, a.header, a.body)
	}
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
	bad := w.putBody(edr{access: e.access + "x", refresh: "no-refresh-token"}, "asset-1", 300)
	a = w.api(http.MethodPut, "/v3/edrs/tp-1", bad)
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	a = w.api(http.MethodPost, "/v3/edrs/tp-1/refresh", nil)
	if a.status != http.StatusForbidden || !strings.Contains(a.body, `"message":"Unauthorized","type":"NotAuthorized"`) {
		t.Errorf("provider says no: %d %s", a.status, a.body)
	}
}

// TestConsumerAPITakesEvents: an EDC's callback brings an EDR whose provider is said later.
func TestConsumerAPITakesEvents(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.start("tp-1", w.user)
	event := func(kind string, at int, more object) object {
		payload := object{"transferProcessId": "tp-1", "assetId": "asset-1", "type": "CONSUMER", "contractId": "agreement-1"}
		return object{"id": "e", "at": at, "type": kind, "payload": joined(payload, more)}
	}
	const edc, tx = "https://w3id.org/edc/v0.0.1/ns/", "https://w3id.org/tractusx/auth/"
	post := func(body object) {
		t.Helper()
		if a := w.api(http.MethodPost, "/edrs/events", body); a.status != http.StatusNoContent {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	post(event("TransferProcessStarted", 1000, object{"dataAddress": object{"properties": object{
		edc + "endpoint": w.front.URL, edc + "endpointType": "https://w3id.org/idsa/v4.1/HTTP", edc + "authorization": e.access,
		tx + "refreshToken": e.refresh, tx + "refreshEndpoint": w.front.URL + "/token", tx + "expiresIn": "300",
	}}}))
	a := w.api(http.MethodPost, "/edrs/tp-1/refresh", nil)
	if a.status != http.StatusBadRequest || !strings.Contains(a.body, "the provider's DID is not known") {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = w.api(http.MethodPut, "/edrs/tp-1", object{"providerId": "BPNL1"})
	if a.status != http.StatusOK || !strings.Contains(a.body, `"providerId":"BPNL1"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if tokenIn(t, w.api(http.MethodPost, "/edrs/tp-1/refresh", nil)) == e.access {
		t.Error("not renewed")
	}
	post(event("TransferProcessSuspended", 2000, nil))
	if a = w.api(http.MethodGet, "/edrs/tp-1/dataaddress", nil); a.status != http.StatusNotFound {
		t.Errorf("suspended: %d %s", a.status, a.body)
	}
	if a = w.api(http.MethodPost, "/edrs/request", nil); strings.TrimSpace(a.body) != "[]" {
		t.Errorf("suspended: %s", a.body)
	}
	post(event("TransferProcessTerminated", 3000, nil))
	if a = w.api(http.MethodGet, "/edrs/tp-1/dataaddress?auto_refresh=false", nil); a.status != http.StatusNotFound {
		t.Errorf("terminated: %d %s", a.status, a.body)
	}
}

// TestConsumerAPIBadRequests: errors name the field.
func TestConsumerAPIBadRequests(t *testing.T) {
	w := newConsumerWorld(t)
	w.begin()
	e := w.got("tp-1", "asset-1", 300)
	insecure := w.putBody(e, "asset-2", 300)
	insecure["dataAddress"].(object)["endpoint"] = "http://other.example"
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		says         string
	}{
		{"POST", "/edrs/request", `{"limit":0}`, 400, "limit"},
		{"POST", "/edrs/request", `{"offset":"a"}`, 400, "offset"},
		{"POST", "/edrs/request", `{"x":1}`, 400, "x"},
		{"POST", "/edrs/request", `{"sortOrder":"DESC"}`, 400, "sortOrder"},
		{"POST", "/edrs/request", `{"filterExpression":[{"operandLeft":"contractNegotiationId","operator":"=","operandRight":"a"}]}`, 400, "operandLeft"},
		{"POST", "/edrs/request", `{"filterExpression":[{"operandLeft":"assetId","operator":"like","operandRight":"a"}]}`, 400, "operator"},
		{"POST", "/edrs/request", `[]`, 400, "not a JSON object"},
		{"GET", "/edrs/tp-1/dataaddress?auto_refresh=maybe", nil, 400, "auto_refresh"},
		{"PUT", "/edrs/tp-1", `{}`, 400, "dataAddress"},
		{"PUT", "/edrs/tp-1", `{"asset":"a"}`, 400, "asset"},
		{"PUT", "/edrs/tp-1", `{"assetId":1}`, 400, "assetId"},
		{"PUT", "/edrs/tp-1", `{"assetId":"other"}`, 409, "another provider or asset"},
		{"PUT", "/edrs/tp-2", insecure, 400, "https"},
		{"POST", "/v1/token/refresh", `{}`, 400, "transferProcessId"},
		{"POST", "/v1/token/refresh", `{"transferProcessId":"none"}`, 404, "ID=none"},
		{"POST", "/edrs/events", `{}`, 400, "type"},
		{"POST", "/edrs/events", `{"type":"` + strings.Repeat("a", 300<<10) + `"}`, 413, "larger"},
		{"PATCH", "/edrs/tp-1", nil, 405, ""},
		{"GET", "/elsewhere", nil, 200, ""},
	} {
		a := w.api(c.method, c.path, c.body)
		if a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s %s %.80v: %d %s, want %d %s", c.method, c.path, c.body, a.status, a.body, c.status, c.says)
		}
	}
	if a := w.api("PATCH", "/edrs/tp-1", nil); a.header.Get("Allow") != "DELETE, PUT" {
		t.Error(a.header)
	}
}

// TestConsumerAPIShowsRefreshTokensIfTold: only then.
func TestConsumerAPIShowsRefreshTokensIfTold(t *testing.T) {
	w := newConsumerWorld(t)
	w.load(w.consumerApp(), w.consumerServers(object{"refresh_token": true}, nil))
	e := w.got("tp-1", "asset-1", 300)
	a := w.api(http.MethodGet, "/edrs/tp-1/dataaddress", nil)
	if !strings.Contains(a.body, `"tx-auth:refreshToken":"`+e.refresh+`"`) {
		t.Errorf("%s", a.body)
	}
}

func FuzzParseQuerySpec(f *testing.F) {
	f.Add([]byte(`{"filterExpression":[{"operandLeft":"assetId","operator":"=","operandRight":"a"}],"limit":5,"offset":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := parseQuerySpec(data)
		if err == nil && (q.limit < 1 || q.limit > maxEntries || q.offset < 0) {
			t.Errorf("%+v", q)
		}
	})
}

package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

func TestLimitsCaddyfile(t *testing.T) {
	parse := func(block string) (*App, error) {
		app := new(App)
		return app, app.UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\nlimits {\n" + block + "\n}\n}"))
	}
	app, err := parse("requests_per_flow off\nrequests_per_consumer 9\nrenewals 8\nrenewals_per_consumer 3\nstarts 2\nstart_wait 5s\ntoken 8KiB\nmessage 1MiB\nmessage_timeout 3s")
	want := &Limits{
		RequestsPerFlow: -1, RequestsPerConsumer: 9, Renewals: 8, RenewalsPerConsumer: 3, Starts: 2, StartWait: caddy.Duration(5 * time.Second),
		TokenBytes: 8 << 10, MessageBytes: 1 << 20, MessageTimeout: caddy.Duration(3 * time.Second),
	}
	if err != nil || !reflect.DeepEqual(app.Limits, want) {
		t.Errorf("%v: %+v", err, app.Limits)
	}
	for _, c := range []struct{ block, want string }{
		{"renewals off", `renewals: "off" is not a number above 0, at`},
		{"requests_per_flow 0", `requests_per_flow: "0" is not a number above 0, or off`},
		{"requests_per_flow 1\nrequests_per_flow 2", "requests_per_flow is already set to another value"},
		{"starts", "wrong argument count"},
		{"start_wait 0s", "is not a duration above 0"},
		{"token 100", `token: "100" is not a size from 1.0 KiB to 64 KiB`},
		{"message 1GiB", `message: "1GiB" is not a size from 4.0 KiB to 16 MiB`},
		{"requests_per_did", `unrecognized option "requests_per_did" of limits`},
	} {
		_, err := parse(c.block)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.block, err)
		}
	}
}

// TestLimitsFitTogether: a bound that is set alone must not leave another one without effect: with half of the renewals for
// one consumer there is always room for others.
func TestLimitsFitTogether(t *testing.T) {
	type numbers struct{ flow, consumer, renewals, ofConsumer int }
	for _, c := range []struct{ set, want numbers }{
		{numbers{}, numbers{512, 2048, 256, 128}},
		{numbers{flow: 8, renewals: 100}, numbers{8, 2048, 100, 50}},
		{numbers{flow: 1000, renewals: 1}, numbers{1000, 4000, 1, 1}},
		{numbers{consumer: 20, ofConsumer: 5}, numbers{20, 20, 256, 5}},
		{numbers{flow: unlimited}, numbers{unlimited, 2048, 256, 128}},
		{numbers{consumer: unlimited}, numbers{512, unlimited, 256, 128}},
	} {
		l := Limits{RequestsPerFlow: c.set.flow, RequestsPerConsumer: c.set.consumer, Renewals: c.set.renewals, RenewalsPerConsumer: c.set.ofConsumer}
		l.setDefaults()
		got := numbers{l.RequestsPerFlow, l.RequestsPerConsumer, l.Renewals, l.RenewalsPerConsumer}
		if got != c.want || l.check() != nil {
			t.Errorf("%+v: got %+v and %v, want %+v", c.set, got, l.check(), c.want)
		}
	}
}

// TestRequestsAtOnce: further requests of a flow and of a consumer are told to come again, and nobody else's.
func TestRequestsAtOnce(t *testing.T) {
	for _, directive := range []string{"edr_auth", "edr_proxy"} {
		t.Run(directive, func(t *testing.T) {
			w := newDataWorld(t)
			w.app.limit.RequestsPerFlow, w.app.limit.RequestsPerConsumer = 2, 3
			arrived, leave := make(chan struct{}, 8), make(chan struct{})
			backend := newRecordingBackend(t, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/held" {
					arrived <- struct{}{}
					<-leave
				}
			})
			flow := func(counterparty string) string {
				_, token := w.flow(func(r *tokens.StartRequest) {
					r.Terms.Counterparty, r.Route = counterparty, "r"
				})
				return token
			}
			w.app.routes["r"] = &routeTarget{Backend: backend.URL}
			first, second, other := flow(dataConsumer), flow(dataConsumer), flow("did:web:other.example")
			if directive == "edr_auth" {
				w.run(nil, w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()))
			} else {
				w.run(nil, w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}}))
			}
			done := make(chan int, 8)
			hold := func(token string) {
				go func() { done <- w.get("/held", token).StatusCode }()
				<-arrived
			}
			refused := func(token, reason, text string) {
				t.Helper()
				got := w.get("/x", token)
				if got.StatusCode != 429 || got.Header.Get("Retry-After") != "1" || got.Header.Get("WWW-Authenticate") != "" || !strings.Contains(got.body, text) {
					t.Errorf("got %d %v %s", got.StatusCode, got.Header, got.body)
				}
				if w.app.counted()[directive+" refused "+reason] != 1 {
					t.Errorf("%v", w.app.counted())
				}
			}
			hold(first)
			hold(first)
			refused(first, "flow_busy", "Too many requests of this data flow at once")
			hold(second)
			refused(second, "consumer_busy", "Too many requests of this consumer at once")
			if got := w.get("/x", other); got.StatusCode != 200 {
				t.Errorf("another consumer got %d %s", got.StatusCode, got.body)
			}
			close(leave)
			for range 3 {
				if status := <-done; status != 200 {
					t.Errorf("a request that was held got %d", status)
				}
			}
			testkit.Eventually(t, "there is room again", func() bool { return w.get("/x", first).StatusCode == 200 })
		})
	}
}

// TestRefusedRequestsLeaveNoTrace: what is refused after it was let in is given back too.
func TestRefusedRequestsLeaveNoTrace(t *testing.T) {
	w := newDataWorld(t)
	w.app.limit.RequestsPerFlow = 1
	backend := newScriptedBackend(t, func(int, *http.Request) string { return "" }) // hangs up
	token := w.classicFlow(typeHTTPData, map[string]string{"baseUrl": backend.url(), "proxyBody": "true"})
	w.run(nil, w.proxy("proxy", &Proxy{Backends: []string{strings.TrimPrefix(backend.url(), "http://")}}))
	for range 3 {
		if got := w.get("/x", token); got.StatusCode != 502 {
			t.Errorf("a backend that hangs up: %d %s", got.StatusCode, got.body)
		}
		if got := w.send("GET", "/x", token, "abc", "Content-Length: 3"); got.StatusCode != 400 {
			t.Errorf("a body that is not wanted: %d %s", got.StatusCode, got.body)
		}
	}
}

// TestSlowReadersHinderNobody: a hundred clients that ask for much and read nothing.
func TestSlowReadersHinderNobody(t *testing.T) {
	for _, directive := range []string{"edr_auth", "edr_proxy"} {
		t.Run(directive, func(t *testing.T) {
			const readers = 100
			w := newDataWorld(t)
			var begun, gone atomic.Int64
			backend := newRecordingBackend(t, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/much" {
					_, _ = io.WriteString(rw, "little")
					return
				}
				begun.Add(1)
				defer gone.Add(1)
				block := make([]byte, 64<<10)
				for {
					_, err := rw.Write(block)
					if err != nil {
						return
					}
				}
			})
			w.app.routes["r"] = &routeTarget{Backend: backend.URL}
			_, token := w.flow(func(r *tokens.StartRequest) { r.Route = "r" })
			settings := object{"write_idle_timeout": "1s"}
			if directive == "edr_auth" {
				w.run(settings, w.auth("auth", &Auth{AnyDataset: true}), reverseProxyTo(backend.hostport()))
			} else {
				w.run(settings, w.proxy("proxy", &Proxy{Backends: []string{backend.hostport()}}))
			}
			for range readers {
				conn, err := net.Dial("tcp", w.address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, err = fmt.Fprintf(conn, "GET /much HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", dataHost, token)
				if err != nil {
					t.Fatal(err)
				}
			}
			testkit.Eventually(t, "all downloads have begun", func() bool { return begun.Load() == readers })
			for range 10 {
				if got := w.get("/small", token); got.StatusCode != 200 || got.body != "little" {
					t.Fatalf("got %d %s", got.StatusCode, got.body)
				}
			}
			// Who reads nothing is cut, and the backend's connection with it.
			testkit.Eventually(t, "all readers are cut", func() bool { return gone.Load() == readers })
		})
	}
}

// TestSlowMessages: a body that does not come is "cannot tell", and holds no room that others need.
func TestSlowMessages(t *testing.T) {
	g := newConsumerWorld(t)
	app := g.consumerApp()
	app["public_url"] = "https://data.example"
	app["limits"] = object{"message_timeout": "200ms", "renewals": 1, "starts": 1}
	g.load(app, g.consumerServers(nil, nil))
	c := newConsumer(t)
	e := g.start("flow-1", c)
	slow := func(site, host, path, kind string) (status string) {
		t.Helper()
		conn, err := net.Dial("unix", g.sockets[site])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		err = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n{", path, host, kind)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(res.StatusCode, " ", res.Header.Get("Retry-After") != "")
	}
	for _, m := range []struct{ site, host, path, kind string }{
		{"data", "data.example", "/token", "application/x-www-form-urlencoded"},
		{"signaling", "localhost", "/dataflows/start", "application/json"},
		{"api", "localhost", "/edrs/request", "application/json"},
		{"egress", "localhost", proxyRequest, "application/json"},
	} {
		if got := slow(m.site, m.host, m.path, m.kind); got != "503 true" {
			t.Errorf("%s: %s", m.path, got)
		}
	}
	// One whose body came is not bound by that time, and there is room for it.
	if got := g.renew(e, c.proof(e.access, nil)); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	g.start("flow-2", c)
}

// TestMessageSizes: the limits of renewals and signaling are one option.
func TestMessageSizes(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["limits"] = object{"message_bytes": 4096, "token_bytes": 1024}
	g.load(app, g.servers())
	before := renewalsCounted(t)
	large := strings.Repeat("a", 4096)
	got := g.send("data", g.request("POST", "http://data.example/token", strings.NewReader("grant_type=refresh_token&x="+large),
		"Content-Type", "application/x-www-form-urlencoded"))
	if got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("renewal: %d %s", got.status, got.body)
	}
	if n := renewalsCounted(t)["too_large"] - before["too_large"]; n != 1 {
		t.Errorf("%v counted as too large", n)
	}
	got = g.post("/dataflows/start", object{"messageId": large})
	if got.status != http.StatusRequestEntityTooLarge || !strings.Contains(got.body, "4096") {
		t.Errorf("signaling: %d %s", got.status, got.body)
	}
	if got = g.get(strings.Repeat("a", 1025)); got.status != 400 || !strings.Contains(got.body, "token is too large") {
		t.Errorf("data: %d %s", got.status, got.body)
	}
}

// TestTooLargeIsToldToAClientThatCloses: the answer was there before the body, and the connection was closed over what was
// still on its way; that reset it, so some clients saw no answer (RFC 9112 §9.6).
func TestTooLargeIsToldToAClientThatCloses(t *testing.T) {
	w := newConsumerWorld(t)
	app := w.consumerApp()
	app["limits"] = object{"message_bytes": 4096}
	w.load(app, w.consumerServers(nil, nil))
	for _, target := range []struct {
		site, host, path, mediaType string
		limit                       int
	}{
		{"data", strings.TrimPrefix(w.front.URL, "http://"), "/token", "application/x-www-form-urlencoded", 4096},
		{"signaling", "localhost", "/dataflows/start", "application/json", 4096},
		{"api", "localhost", "/v1/token/refresh", "application/json", maxNamedRefreshBytes},
		{"egress", "localhost", proxyRequest, "application/json", maxProxyRequestBytes},
	} {
		for range 20 {
			connection, err := net.Dial("unix", w.sockets[target.site])
			if err != nil {
				t.Fatal(err)
			}
			_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
			_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
				target.path, target.host, target.mediaType, 2*target.limit)
			for range 8 {
				if err == nil {
					_, err = io.WriteString(connection, strings.Repeat("a", target.limit/4))
				}
			}
			if err != nil {
				t.Fatalf("%s: %v", target.path, err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if err != nil {
				t.Fatalf("%s: %v", target.path, err)
			}
			_ = answer.Body.Close()
			_ = connection.Close()
			if answer.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("%s: %s", target.path, answer.Status)
			}
		}
	}
}

// TestAnswerDoesNotWaitForTheBody: an answer that needs no body is there although the body does not come.
func TestAnswerDoesNotWaitForTheBody(t *testing.T) {
	g := newConsumerWorld(t)
	app := g.consumerApp()
	app["limits"] = object{"message_timeout": "1h"}
	g.load(app, g.consumerServers(nil, nil))
	g.got("flow-1", "asset-1", 300)
	data := strings.TrimPrefix(g.front.URL, "http://")
	for site, answered := range map[string]struct {
		head   string
		status int
	}{
		"data":      {"POST /token HTTP/1.1\r\nHost: " + data + "\r\nContent-Type: text/plain\r\n", http.StatusUnsupportedMediaType},
		"signaling": {"PUT /dataflows/start HTTP/1.1\r\nHost: localhost\r\n", http.StatusMethodNotAllowed},
		"api":       {"GET /edrs/flow-1/dataaddress HTTP/1.1\r\nHost: localhost\r\n", http.StatusOK},
	} {
		connection, err := net.Dial("unix", g.sockets[site])
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close() // before the gateway ends, which would wait for the body
		_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = io.WriteString(connection, answered.head+"Content-Length: 100\r\nConnection: close\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Fatalf("%s: %v", site, err)
		}
		body, err := io.ReadAll(answer.Body)
		if answer.StatusCode != answered.status || err != nil || len(body) == 0 {
			t.Errorf("%s: %s %q, %v", site, answer.Status, body, err)
		}
		_ = connection.Close()
	}
}

func renewalsCounted(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(processObserver().collectors.renewals)
	counted := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "result" {
					counted[label.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return counted
}

// TestRenewalsAtOnce: a storm of renewals gets 503, which consumers do not take for final, and data goes on.
func TestRenewalsAtOnce(t *testing.T) {
	g := newLiveGateway(t)
	app := g.app()
	app["limits"] = object{"renewals": 2}
	g.load(app, g.servers())
	c := newConsumer(t)
	e := g.start("flow-1", c)
	before := renewalsCounted(t)["busy"]
	busy := &g.running().renewing
	busy.enter()
	busy.enter()
	got := g.renew(e, c.proof(e.access, nil))
	if got.status != 503 || got.header.Get("Retry-After") != "1" {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	if n := renewalsCounted(t)["busy"] - before; n != 1 {
		t.Errorf("%v counted as busy", n)
	}
	if got := g.get(e.access); got.status != 200 {
		t.Errorf("data: %d %s", got.status, got.body)
	}
	// What is no renewal is told so, however many there are.
	if got := g.send("data", g.request("POST", "http://data.example/token", nil)); got.status != 400 {
		t.Errorf("no renewal: %d %s", got.status, got.body)
	}
	busy.leave()
	if got := g.renew(e, c.proof(e.access, nil)); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if now := busy.now.Load(); now != 1 {
		t.Errorf("%d are counted as under way, want 1", now)
	}
}

// TestWarningOfPatience: what only Caddy can limit is not forgotten.
func TestWarningOfPatience(t *testing.T) {
	const warning = "slow clients are not limited"
	g := newLiveGateway(t)
	servers := g.servers()
	data := servers["data"].(object)
	data["read_header_timeout"], data["idle_timeout"] = "10s", "2m"
	g.load(g.app(), servers)
	if log := g.logged(); strings.Contains(log, warning) {
		t.Errorf("%s", log)
	}
	const smuggling = "enable_full_duplex lets clients write requests into bodies"
	data["enable_full_duplex"] = true
	if log := g.logged(); strings.Contains(log, smuggling) {
		t.Errorf("%s", log)
	}
	delete(data, "read_header_timeout")
	data["write_idle_timeout"] = "-1s"
	g.load(g.app(), servers)
	if log := g.logged(); !strings.Contains(log, warning) || !strings.Contains(log, `["read_header","write_idle"]`) || !strings.Contains(log, smuggling) {
		t.Errorf("%s", log)
	}
}

// TestSlowHeaders: a client that sends a header now and then is cut by the server.
func TestSlowHeaders(t *testing.T) {
	w := newDataWorld(t)
	w.run(object{"read_header_timeout": "200ms"}, w.auth("auth", &Auth{AnyDataset: true}))
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+dataHost+"\r\nX-Slow: ")
	if err != nil {
		t.Fatal(err)
	}
	err = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(conn)
	if os.IsTimeout(err) {
		t.Error("the connection is still open")
	}
	if len(w.app.counted()) != 0 {
		t.Errorf("a handler was asked: %v", w.app.counted())
	}
}

package caddymodule

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/edrgate/edrgate/internal/testkit"
)

// underTest are the handlers of the running Caddy, by the name that its configuration uses.
var underTest = map[string]func(caddy.Context) (caddyhttp.MiddlewareHandler, error){}

// testHandler lets a configuration name a handler that a test has made.
type testHandler struct {
	Name  string `json:"name"`
	inner caddyhttp.MiddlewareHandler
}

func (testHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.edrgate_test", New: func() caddy.Module { return new(testHandler) }}
}

func (h *testHandler) Provision(ctx caddy.Context) error {
	var err error
	h.inner, err = underTest[h.Name](ctx)
	return err
}

func (h *testHandler) Cleanup() error {
	cleaner, ok := h.inner.(caddy.CleanerUpper)
	if !ok {
		return nil
	}
	return cleaner.Cleanup()
}

func (h *testHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return h.inner.ServeHTTP(w, r, next)
}

// testAddress is where the running Caddy listens.
var testAddress = make(chan string, 1)

func init() {
	caddy.RegisterModule(testHandler{})
	caddy.RegisterNetwork("edrgatetest", func(ctx context.Context, _, _, _ string, _ uint, config net.ListenConfig) (any, error) {
		listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		testAddress <- listener.Addr().String()
		return listener, nil
	})
}

type object = map[string]any

func (w *dataWorld) auth(name string, h *Auth) object {
	underTest[name] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) { return h, h.provision(ctx, w.app) }
	return object{"handler": "edrgate_test", "name": name}
}

func (w *dataWorld) proxy(name string, h *Proxy) object {
	underTest[name] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) { return h, h.provision(ctx, w.app) }
	return object{"handler": "edrgate_test", "name": name}
}

func reverseProxyTo(backend string) object {
	return object{"handler": "reverse_proxy", "upstreams": []object{{"dial": backend}}}
}

// run starts Caddy with the handlers, in this order, at one site. server changes the server's settings.
func (w *dataWorld) run(server object, handlers ...object) {
	w.t.Helper()
	w.logFile = filepath.Join(w.t.TempDir(), "caddy.log")
	settings := object{
		"listen":          []string{"edrgatetest/x:1"},
		"automatic_https": object{"disable": true},
		"logs":            object{},
		"routes":          []object{{"handle": handlers}},
	}
	maps.Copy(settings, server)
	config := object{
		"admin": object{"disabled": true, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{
			"level": "DEBUG", "writer": object{"output": "file", "filename": w.logFile}, "encoder": object{"format": "json"},
		}}},
		"apps": object{"http": object{"servers": object{"data": settings}}},
	}
	data, err := json.Marshal(config)
	if err != nil {
		w.t.Fatal(err)
	}
	var parsed caddy.Config
	err = json.Unmarshal(data, &parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	err = caddy.Run(&parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		err := caddy.Stop()
		if err != nil {
			w.t.Error(err)
		}
	})
	w.address = <-testAddress
}

// log stops nothing and returns what has been logged, once it holds text.
func (w *dataWorld) log(want string) string {
	w.t.Helper()
	var text string
	testkit.Eventually(w.t, fmt.Sprintf("the log holds %q", want), func() bool {
		data, err := os.ReadFile(w.logFile)
		if err != nil {
			w.t.Fatal(err)
		}
		text = string(data)
		return strings.Contains(text, want)
	})
	return text
}

// reply is an answer with its body.
type reply struct {
	*http.Response
	body    string
	interim []interim
}

type interim struct {
	status int
	header http.Header
}

// raw sends bytes to Caddy and reads one answer. method is that of the request.
func (w *dataWorld) raw(method, request string) reply {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = io.WriteString(conn, request)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.readReply(bufio.NewReader(conn), method)
}

func (w *dataWorld) readReply(r *bufio.Reader, method string) reply {
	w.t.Helper()
	var answer reply
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			w.t.Fatal(err)
		}
		if res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
			answer.interim = append(answer.interim, interim{res.StatusCode, res.Header})
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			body = append(body, []byte(" ["+err.Error()+"]")...)
		}
		answer.Response, answer.body = res, string(body)
		return answer
	}
}

// get sends a GET of the path with the token, and further header lines.
func (w *dataWorld) get(path, token string, headers ...string) reply {
	w.t.Helper()
	return w.send("GET", path, token, "", headers...)
}

// send sends a request over a connection of its own. Header lines are sent as they are.
func (w *dataWorld) send(method, path, token, body string, headers ...string) reply {
	w.t.Helper()
	var b strings.Builder
	b.WriteString(method + " " + path + " HTTP/1.1\r\nHost: " + dataHost + "\r\n")
	if token != "" {
		b.WriteString("Authorization: " + token + "\r\n")
	}
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return w.raw(method, b.String())
}

package caddymodule

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// TestEDRDoorNames: what is not said to this site, or by a web page of another, does not come in.
func TestEDRDoorNames(t *testing.T) {
	t.Parallel()
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
	outside := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8080}
	for _, c := range []struct {
		name   string
		door   EDRDoor
		local  net.Addr
		host   string
		header []string
		want   int // 0: comes in
	}{
		{"address", EDRDoor{local: true}, loopback, "127.0.0.1:8080", nil, 0},
		{"localhost", EDRDoor{local: true}, loopback, "LOCALHOST:8080", nil, 0},
		{"IPv6", EDRDoor{local: true}, &net.TCPAddr{IP: net.IPv6loopback, Port: 1}, "[::1]:1", nil, 0},
		{"unix socket", EDRDoor{local: true}, &net.UnixAddr{Name: "/run/s", Net: "unix"}, "anything", nil, 0},
		{"DNS rebinding", EDRDoor{local: true}, loopback, "evil.example:8080", nil, 421},
		{"another address", EDRDoor{local: true}, loopback, "127.0.0.2", nil, 421},
		{"no host", EDRDoor{local: true}, loopback, "", nil, 421},
		{"own name", EDRDoor{Hosts: []string{"edrs.example"}}, outside, "EDRS.example:443", nil, 0},
		{"localhost elsewhere", EDRDoor{}, outside, "localhost", nil, 421},
		{"from outside", EDRDoor{local: true}, outside, "192.0.2.1", nil, 403},
		{"allowed from outside", EDRDoor{}, outside, "192.0.2.1", nil, 0},
		{"foreign page, GET", EDRDoor{local: true}, loopback, "localhost:8080", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"page of another port", EDRDoor{local: true}, loopback, "localhost:8080", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"foreign origin", EDRDoor{local: true}, loopback, "localhost:8080", []string{"Origin", "http://evil.example"}, 403},
		{"opaque origin", EDRDoor{local: true}, loopback, "localhost:8080", []string{"Origin", "null"}, 403},
		{"own page", EDRDoor{local: true}, loopback, "localhost:8080", []string{"Origin", "http://localhost:8080", "Sec-Fetch-Site", "same-origin"}, 0},
	} {
		r := httptest.NewRequest(http.MethodGet, "/edrs/tp-1/dataaddress", nil)
		r.Host = c.host
		for i := 0; i < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.local))
		got := 0
		refusal := c.door.refusal(r)
		if refusal != nil {
			got = refusal.Status
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestEDRDoorKeys: an API key opens the door, and is in no log.
func TestEDRDoorKeys(t *testing.T) {
	w := newConsumerWorld(t)
	err := os.WriteFile(w.path("key"), []byte("CANARY-api-key\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	servers := w.consumerServers(object{"api_keys": []string{"{file." + w.path("key") + "}", "second-key"}}, nil)
	servers["api"].(object)["logs"] = object{}
	w.load(w.consumerApp(), servers)
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, 401},
		{[]string{"X-Api-Key", "CANARY-api-keyx"}, 401},
		{[]string{"Authorization", "Basic CANARY-api-key"}, 401},
		{[]string{"X-Api-Key", "CANARY-api-key"}, 404},
		{[]string{"X-Api-Key", "second-key"}, 404},
		{[]string{"Authorization", "Bearer CANARY-api-key"}, 404},
	} {
		a := w.api(http.MethodGet, "/edrs/none/dataaddress", nil, c.header...)
		if a.status != c.want {
			t.Errorf("%v: %d %s", c.header, a.status, a.body)
		}
		if c.want == 401 && (!strings.Contains(a.body, `"AuthenticationFailed"`) || a.header.Get("WWW-Authenticate") == "") {
			t.Errorf("%v %s", a.header, a.body)
		}
	}
	if strings.Contains(w.logged(), "CANARY") {
		t.Error("an API key is in the log")
	}
}

// TestEDRDoorIsClosed: a config that would let everybody in, or has nothing behind the door, is refused.
func TestEDRDoorIsClosed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(app, servers object)
		want   string
	}{
		"open listener": {func(_, servers object) {
			servers["api"].(object)["listen"] = []string{":0"}
		}, "edr_consumer: listener :0 can be reached from other machines"},
		"no consumer": {func(app, _ object) {
			delete(app["participants"].(object)[userName].(object), "consumer")
		}, "the participant has no block `consumer { … }`"},
		"prefix": {func(_, servers object) {
			servers["api"] = joined(servers["api"].(object), object{"routes": []object{handle(object{"handler": "edr_consumer", "participant": userName, "prefixes": []string{"v3"}})}})
		}, `prefix "v3" must begin with /`},
		"key file": {func(_, servers object) {
			servers["api"] = joined(servers["api"].(object), object{"routes": []object{handle(object{"handler": "edr_consumer", "participant": userName, "api_keys": []string{"{file./none}"}})}})
		}, "api_key: {file./none}"},
	} {
		w := newConsumerWorld(t)
		app, servers := w.consumerApp(), w.consumerServers(nil, nil)
		c.change(app, servers)
		err := w.tryLoad(app, servers)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestCredentialsStayInside looks for the flow's credentials everywhere that Caddy shows requests: the log at DEBUG,
// placeholders, error routes; and makes sure that they do reach the backend, whatever the client's headers say.
func TestCredentialsStayInside(t *testing.T) {
	backend := newRecordingBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, "data")
	})
	w := newDataWorld(t)
	show := object{"handler": "headers", "response": object{"deferred": true, "set": object{
		"X-Shown": []string{"{http.request.header.X-Key}{http.request.header.Authorization}{http.request.header.X-Other}{http.request.uri}{http.reverse_proxy.upstream.hostport}{http.reverse_proxy.header.Set-Cookie}"},
	}}}
	w.run(object{"errors": object{"routes": []object{{"handle": []object{
		{"handler": "static_response", "status_code": "502", "body": "{http.error.message} {http.request.header.X-Key}{http.request.header.Authorization}"},
	}}}}}, show, w.proxy("proxy", &Proxy{
		Backends: []string{backend.hostport()},
		Secrets:  map[string]*BackendSecret{"key": {Value: "CANARY-secret", For: []string{backend.URL + "/"}}},
	}))
	token := w.classicFlow(typeHTTPData, proxied(backend.URL+"/?q=CANARY-query", "authKey", "Authorization", "secretName", "key",
		"header:X-Key", "CANARY-header", "header:X-Other", "CANARY-other"))
	got := w.get("/x", token, "Connection: X-Key, Authorization, X-Other", "X-Key: mine", "X-Other: mine")
	if got.StatusCode != 200 {
		t.Fatalf("got %d %s", got.StatusCode, got.body)
	}
	request := backend.last(t)
	if request.header.Get("Authorization") != "CANARY-secret" || request.header.Get("X-Key") != "CANARY-header" || request.header.Get("X-Other") != "CANARY-other" {
		t.Errorf("the backend got %v", request.header)
	}
	if request.target != "/x?q=CANARY-query" {
		t.Errorf("the backend got %s", request.target)
	}
	if shown := got.Header.Get("X-Shown"); strings.Contains(shown, "CANARY") || !strings.Contains(shown, backend.hostport()) || strings.Contains(shown, token) {
		t.Errorf("placeholders show %q", shown)
	}
	got = w.get("/refused", token)
	if got.StatusCode != 502 || !strings.Contains(got.body, "did not accept") || strings.Contains(got.body, "CANARY") {
		t.Errorf("the error route answered %d %q", got.StatusCode, got.body)
	}
	log := w.log(`"uri":"/refused"`)
	log = w.log("upstream roundtrip") + log
	if strings.Contains(log, "CANARY") || strings.Contains(log, token) {
		t.Error("the log holds a credential")
	}
}

// TestLogOfTheRoundTrip: what is not forwarded is not shown as if it were, above all the consumer's credentials for
// somebody else.
func TestLogOfTheRoundTrip(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}, RequestHeaders: []string{"X-Wanted"}})
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	got := w.get("/x", token, "X-Api-Key: CANARY-consumer", "X-Wanted: wanted", "Accept: text/csv")
	if got.StatusCode != 200 {
		t.Fatalf("got %d %s", got.StatusCode, got.body)
	}
	backend.last(t)
	var trip struct {
		Request struct{ Headers http.Header }
	}
	for line := range strings.Lines(w.log("upstream roundtrip")) {
		if !strings.Contains(line, "upstream roundtrip") {
			continue
		}
		err := json.Unmarshal([]byte(line), &trip)
		if err != nil {
			t.Fatal(err)
		}
	}
	h := trip.Request.Headers
	if h.Get("X-Wanted") != "wanted" || h.Get("Accept") != "text/csv" || h.Get(headerAgreement) != "agreement-1" {
		t.Errorf("the log shows the headers %v", h)
	}
	if h["X-Api-Key"] != nil {
		t.Error("the log shows the consumer's X-Api-Key")
	}
}

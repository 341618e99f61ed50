package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/internal/dial/dialtest"
)

// Each kind of connection is counted under its own name, and the administration and metadata services are out of the reach
// of all, even where the operator has named the host.
func TestConnectionsThatAreNeverMade(t *testing.T) {
	for _, connection := range connections {
		counts := &fakeApp{counts: map[string]int{}}
		transport, err := checkedTransport(connection, counts, dial.Config{AllowAddresses: everywhere()}, dial.TransportConfig{})
		if err != nil {
			t.Fatal(err)
		}
		targets := map[string]dial.Reason{"http://169.254.169.254/latest": dial.ReasonMetadata, "http://[fd00:ec2::254]/latest": dial.ReasonMetadata}
		for _, endpoint := range adminEndpoints() {
			targets["http://"+endpoint.String()+"/config/"] = dial.ReasonEndpoint
		}
		for target, reason := range targets {
			before := counts.counted()["denied "+connection+" "+string(reason)]
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = transport.RoundTrip(request)
			var denied *dial.DeniedError
			if !errors.As(err, &denied) || denied.Reason != reason {
				t.Errorf("%s: %s: %v", connection, target, err)
			}
			if counts.counted()["denied "+connection+" "+string(reason)] != before+1 {
				t.Errorf("%s: %s is not counted: %v", connection, target, counts.counted())
			}
		}
	}
}

// A backend's list of ports holds for each address of its name.
func TestBackendsAreDialledAtTheirPorts(t *testing.T) {
	l, err := newBackendList([]string{"backend.example:80"})
	if err != nil {
		t.Fatal(err)
	}
	names := new(dialtest.Names)
	names.SetAddress("backend.example", "127.0.0.1")
	counts := &fakeApp{counts: map[string]int{}}
	transport, err := l.transport(connectionBackend, counts, dial.TransportConfig{Resolver: names.Resolver()})
	if err != nil {
		t.Fatal(err)
	}
	l.dials["backend.example:22"] = struct{}{} // as if the list and the guard differed
	_, err = transport.DialContext(t.Context(), "tcp", "backend.example:22")
	var denied *dial.DeniedError
	if !errors.As(err, &denied) || denied.Reason != dial.ReasonPort || denied.Address != netip.MustParseAddrPort("127.0.0.1:22").String() {
		t.Errorf("got %v", err)
	}
}

// Whatever trouble the host of a backend is in, the consumer's token stays good in its eyes: never a 4xx of ours. What
// streams is passed on without being kept, and the site's other backends are not affected.
func TestBackendHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		if h.Denied == dial.ReasonRange {
			h.Denied = "" // the operator has named the host, which may be inside
			return
		}
		at, err := url.Parse(h.URL)
		if err != nil {
			t.Fatal(err)
		}
		well := newRecordingBackend(t, nil)
		w := newDataWorld(t)
		proxy := &Proxy{Backends: []string{at.Host, well.hostport()}}
		underTest["trouble"] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) {
			err := proxy.provision(ctx, w.app)
			if err != nil {
				return nil, err
			}
			t, err := newFlowTransport(proxy.backends, transportSettings{
				responseHeaderTimeout: h.Timeout, tls: &tls.Config{RootCAs: h.Roots}, resolver: h.Resolver,
			}, nil, false, w.app)
			if err == nil {
				*proxy.transport = *t
			}
			return proxy, err
		}
		w.run(nil, object{"handler": "edrgate_test", "name": "trouble"})
		token := w.classicFlow(typeHTTPData, proxied(h.URL))
		status, location := w.headOf("/x", token)
		switch {
		case h.Streams || h.Packed:
			if status != http.StatusOK {
				t.Errorf("status %d of an answer that goes on", status)
			}
		case h.Redirects: // it is the consumer's to follow, within the endpoint of its EDR
			if status/100 != 3 || location != "" && !strings.HasPrefix(location, "/") {
				t.Errorf("status %d, to %s", status, location)
			}
		case status != http.StatusBadGateway && status != http.StatusGatewayTimeout:
			t.Errorf("status %d, want 502 or 504", status)
		}
		for range w.app.counted()["denied backend "+string(dial.ReasonMetadata)] {
			h.ObserveReason(string(dial.ReasonMetadata))
		}
		got := w.get("/x", w.classicFlow(typeHTTPData, proxied(well.URL)))
		if got.StatusCode != http.StatusOK {
			t.Errorf("the other backend: status %d", got.StatusCode)
		}
	})
}

// headOf returns the status and Location of an answer, and leaves its body.
func (w *dataWorld) headOf(path, token string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.address+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Host = dataHost
	request.Header.Set("Authorization", token)
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, res.Header.Get("Location")
}

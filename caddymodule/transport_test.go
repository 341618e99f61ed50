package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/tokens"
)

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// deliver hands a request to the transport as Caddy's proxy would.
func deliver(t *testing.T, transport *flowTransport, d *delivery, change func(*http.Request)) (*http.Response, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "http://"+dataHost+"/x", strings.NewReader("abc"))
	recorder := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, &caddyhttp.Server{})
	if d != nil {
		d.writer = recorder
		caddyhttp.SetVar(r.Context(), deliveryVar, d)
	}
	if change != nil {
		change(r)
	}
	return transport.RoundTrip(r)
}

func testDelivery(t *testing.T, w *dataWorld, baseURL string, backends *backendList) *delivery {
	t.Helper()
	token := w.classicFlow(typeHTTPData, proxied(baseURL))
	access, err := w.service.Verify(t.Context(), token, tokens.Request{Host: dataHost, Path: "/"}, &tokens.Site{OwnBackend: true})
	if err != nil {
		t.Fatal(err)
	}
	source, err := access.Source()
	if err != nil {
		t.Fatal(err)
	}
	to, err := newSourceTarget(source, backends, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &delivery{grant: &grant{access: access}, target: to, below: "/x", shape: shape{method: http.MethodPost, body: true}}
}

func TestTransportChecksAgain(t *testing.T) {
	w := newDataWorld(t)
	listed, err := newBackendList([]string{"http://backend"})
	if err != nil {
		t.Fatal(err)
	}
	others, err := newBackendList([]string{"http://other"})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	transport := &flowTransport{backends: others, observer: discardObserver{}, next: roundTripFunc(func(*http.Request) (*http.Response, error) {
		asked++
		return nil, errors.New("asked")
	})}
	_, err = deliver(t, transport, testDelivery(t, w, "http://backend/", listed), nil)
	if !errors.Is(err, errNotInBackends) || asked != 0 {
		t.Errorf("a target that is not listed: %v, asked %d times", err, asked)
	}
	_, err = deliver(t, transport, nil, nil)
	var failure caddyhttp.HandlerError
	if !errors.As(err, &failure) || failure.StatusCode != http.StatusInternalServerError {
		t.Errorf("a request without a flow: %v", err)
	}
}

func TestTransportDialsWhatIsListed(t *testing.T) {
	open := httptest.NewServer(http.NotFoundHandler())
	defer open.Close()
	listed, err := newBackendList([]string{"backend.example:80"})
	if err != nil {
		t.Fatal(err)
	}
	transport, err := newFlowTransport(listed, transportSettings{}, nil, false, discardObserver{})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, open.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = transport.next.RoundTrip(request)
	if !errors.Is(err, errNotInBackends) {
		t.Errorf("got %v", err)
	}
}

// TestOutgoingRequestIsACopy: Caddy logs the request that it gave us after the round trip.
func TestOutgoingRequestIsACopy(t *testing.T) {
	w := newDataWorld(t)
	backends, err := newBackendList([]string{"http://backend"})
	if err != nil {
		t.Fatal(err)
	}
	d := testDelivery(t, w, "http://backend/base", backends)
	d.target.headers = append(d.target.headers, headerField{"X-Key", []string{"CANARY"}})
	type key struct{}
	var given *http.Request
	transport := &flowTransport{backends: backends, observer: discardObserver{}, next: roundTripFunc(func(out *http.Request) (*http.Response, error) {
		if out == given || out.Trailer != nil || out.RequestURI != "" || out.Context().Value(key{}) != nil {
			t.Errorf("sent %+v", out)
		}
		if out.Header.Get("X-Key") != "CANARY" || out.Header.Get("Edc-Bpn") != "BPNL00000000TEST" || out.URL.String() != "http://backend:80/base/x" {
			t.Errorf("sent %s %v", out.URL, out.Header)
		}
		if given.Context().Err() != nil || out.Context().Err() != nil {
			t.Error("cancelled too early")
		}
		return nil, errors.New("unreachable")
	})}
	_, err = deliver(t, transport, d, func(r *http.Request) {
		r.Trailer = http.Header{"Edc-Bpn": {"evil"}}
		*r = *r.WithContext(context.WithValue(r.Context(), key{}, true))
		given = r
	})
	if err == nil || err.Error() != "unreachable" {
		t.Errorf("got %v", err)
	}
	if given.Header.Get("X-Key") != "" || given.URL.Path != "/x" {
		t.Errorf("the given request was changed: %s %v", given.URL, given.Header)
	}
}

func TestTargetIsBuiltOnce(t *testing.T) {
	backend := newRecordingBackend(t, nil)
	h := &Proxy{Backends: []string{backend.hostport()}}
	w := proxyWorld(t, h)
	token := w.classicFlow(typeHTTPData, proxied(backend.URL))
	var built [2]*target
	for i := range built {
		access, err := w.service.Verify(t.Context(), token, tokens.Request{Host: dataHost, Path: "/"}, &tokens.Site{OwnBackend: true})
		if err != nil {
			t.Fatal(err)
		}
		built[i], err = h.targetOf(access)
		if err != nil {
			t.Fatal(err)
		}
	}
	if built[0] != built[1] {
		t.Error("the target is built for each request")
	}
}

// TestHeadOfAFixedGet does not wait for a body that nobody reads.
func TestHeadOfAFixedGet(t *testing.T) {
	backend := newRecordingBackend(t, func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "x")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done() // an endless answer
	})
	w := proxyWorld(t, &Proxy{Backends: []string{backend.hostport()}})
	token := w.classicFlow(typeHTTPData, map[string]string{"baseUrl": backend.URL})
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	// The second request is read when the first has been served.
	head := " /x HTTP/1.1\r\nHost: " + dataHost + "\r\n"
	_, err = io.WriteString(conn, "HEAD"+head+"Authorization: "+token+"\r\n\r\nGET"+head+"\r\n")
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	first, second := w.readReply(reader, "HEAD"), w.readReply(reader, "GET")
	if first.StatusCode != 200 || second.StatusCode != 401 {
		t.Errorf("got %d and %d, want 200 and 401", first.StatusCode, second.StatusCode)
	}
	if method := backend.last(t).method; method != http.MethodGet {
		t.Errorf("the backend got %s", method)
	}
}

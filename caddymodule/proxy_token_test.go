package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/internal/testkit"
)

// tokenWorld is a gateway whose flows have a backend that wants a token.
type tokenWorld struct {
	*dataWorld
	proxy   *Proxy
	auth    *testkit.TokenServer
	backend *recordingBackend
}

// newTokenWorld starts it. change, if any, is called when the proxy is provisioned.
func newTokenWorld(t *testing.T, answer http.HandlerFunc, change func(*Proxy)) *tokenWorld {
	t.Helper()
	w := &tokenWorld{dataWorld: newDataWorld(t), auth: testkit.NewTokenServer(t), backend: newRecordingBackend(t, answer)}
	w.proxy = &Proxy{
		Backends: []string{w.backend.hostport(), w.auth.HostPort()},
		Secrets:  map[string]*BackendSecret{"client": {Value: "CANARY-client-secret", For: []string{w.auth.URL + "/realm"}}},
	}
	underTest["tokens"] = func(ctx caddy.Context) (caddyhttp.MiddlewareHandler, error) {
		err := w.proxy.provision(ctx, w.app)
		if err == nil && change != nil {
			change(w.proxy)
		}
		return w.proxy, err
	}
	w.run(nil, object{"handler": "edrgate_test", "name": "tokens"})
	return w
}

func (w *tokenWorld) flowWithToken(kind string, more ...string) string {
	w.t.Helper()
	return w.classicFlow(kind, proxied(w.backend.URL, append([]string{
		oauth2TokenURL, w.auth.URL + "/realm/token", oauth2ClientID, "client-1", oauth2ClientSecretKey, "client",
	}, more...)...))
}

func TestBackendGetsAToken(t *testing.T) {
	for _, kind := range []string{typeHTTPData, typeProxyHTTPData} {
		w := newTokenWorld(t, nil, nil)
		token := w.flowWithToken(kind, "authKey", "X-Key", "authCode", "key", "header:Authorization", "Basic abc", oauth2Scope, "read")
		for range 2 {
			if got := w.get("/x", token); got.StatusCode != 200 {
				t.Fatalf("%s: got %d %s", kind, got.StatusCode, got.body)
			}
			got := w.backend.last(t)
			if got.header.Get("Authorization") != "Bearer token-1" || len(got.header.Values("Authorization")) != 1 || got.header.Get("X-Key") != "key" {
				t.Errorf("%s: the backend got %v", kind, got.header)
			}
		}
		forms := w.auth.Forms()
		if len(forms) != 1 || forms[0].Encode() != "client_id=client-1&client_secret=CANARY-client-secret&grant_type=client_credentials&scope=read" {
			t.Errorf("%s: the token endpoint got %v", kind, forms)
		}
	}
}

// TestFlowsWithTheSameCredentialsShareAToken, also when all of them begin at once.
func TestFlowsWithTheSameCredentialsShareAToken(t *testing.T) {
	w := newTokenWorld(t, nil, nil)
	flows := []string{w.flowWithToken(typeHTTPData), w.flowWithToken(typeProxyHTTPData)}
	began := make(chan struct{})
	w.auth.Answer(func(rw http.ResponseWriter, _ *http.Request) {
		<-began
		testkit.WriteToken(rw, "shared")
	})
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.address+"/x", nil)
			if err != nil {
				t.Error(err)
				return
			}
			request.Host = dataHost
			request.Header.Set("Authorization", flows[i%2])
			response, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Error(err)
				return
			}
			_ = response.Body.Close()
			if response.StatusCode != 200 {
				t.Errorf("got %d", response.StatusCode)
			}
		})
	}
	testkit.Eventually(t, "a request for a token", func() bool { return len(w.auth.Forms()) > 0 })
	close(began)
	group.Wait()
	if len(w.auth.Forms()) != 1 || w.backend.count() != 64 {
		t.Errorf("%d requests for tokens, %d for data", len(w.auth.Forms()), w.backend.count())
	}
}

// TestNoTokenForTheBackend: trouble with the backend's token is none of the consumer's, who must not renew its own.
func TestNoTokenForTheBackend(t *testing.T) {
	cases := []struct {
		name   string
		answer func(*testkit.TokenServer)
		status int
		count  string
	}{
		{"client unknown", func(s *testkit.TokenServer) {
			s.AnswerText(401, `{"error":"invalid_client","error_description":"CANARY"}`)
		}, 502, "backend token_refused"},
		{"forbidden", func(s *testkit.TokenServer) { s.AnswerText(403, `CANARY`) }, 502, "backend token_refused"},
		{"other type", func(s *testkit.TokenServer) {
			s.AnswerText(200, `{"access_token":"CANARY-token","token_type":"mac"}`)
		}, 502, "backend token_refused"},
		{"trouble", func(s *testkit.TokenServer) { s.AnswerText(500, `CANARY`) }, 503, "backend token_missing"},
		{"gone", func(s *testkit.TokenServer) { s.Close() }, 503, "backend token_missing"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newTokenWorld(t, nil, nil)
			c.answer(w.auth)
			token := w.flowWithToken(typeProxyHTTPData)
			for range 3 {
				got := w.raw("POST", "POST /x HTTP/1.1\r\nHost: "+dataHost+"\r\nAuthorization: "+token+"\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nb")
				if got.StatusCode != c.status || (got.Header.Get("Retry-After") != "") != (c.status == 503) || got.Header.Get("WWW-Authenticate") != "" {
					t.Errorf("got %d %v %s", got.StatusCode, got.Header, got.body)
				}
			}
			w.backend.none(t)
			if len(w.auth.Forms()) > 1 {
				t.Errorf("%d requests for tokens within a moment", len(w.auth.Forms()))
			}
			if w.app.counted()[c.count] != 3 {
				t.Errorf("counted %v", w.app.counted())
			}
			log := w.log(w.auth.URL + ": ")
			if strings.Contains(log, "CANARY") {
				t.Errorf("the log has a credential or what the server wrote: %s", log)
			}
		})
	}
}

// TestBackendThatWithdrewTheToken: the request is not repeated, since its body is gone; the next one has a new token.
func TestBackendThatWithdrewTheToken(t *testing.T) {
	for kind, status := range map[string]int{typeHTTPData: 502, typeProxyHTTPData: 401} {
		var withdrawn atomic.Bool
		clock := testkit.NewClock()
		w := newTokenWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			if withdrawn.Load() && r.Header.Get("Authorization") == "Bearer token-1" {
				rw.WriteHeader(http.StatusUnauthorized)
			}
		}, func(h *Proxy) {
			h.transport.tokens = authserver.New(authserver.Config{Transport: h.transport.next, Now: clock.Now})
		})
		token := w.flowWithToken(kind)
		statuses := ""
		for i := range 4 {
			withdrawn.Store(i >= 1)
			clock.Advance(time.Minute)
			statuses += fmt.Sprint(w.get("/x", token).StatusCode, " ")
		}
		if want := fmt.Sprintf("200 %d 200 200 ", status); statuses != want || w.backend.count() != 4 || len(w.auth.Forms()) != 2 {
			t.Errorf("%s: got %s with %d requests and %d tokens, want %s", kind, statuses, w.backend.count(), len(w.auth.Forms()), want)
		}
	}
}

// TestAnswerDoesNotRepeatTheToken: a backend that shows what it got.
func TestAnswerDoesNotRepeatTheToken(t *testing.T) {
	w := newTokenWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Echo", r.Header.Get("Authorization"))
		rw.Header().Set("X-Secret", "CANARY-client-secret")
		rw.Header().Set("X-Other", "kept")
		rw.Header().Set("Trailer", "X-Late")
		rw.WriteHeader(http.StatusOK)
		rw.(http.Flusher).Flush()
		rw.Header().Set("X-Late", r.Header.Get("Authorization"))
	}, nil)
	w.auth.Answer(func(rw http.ResponseWriter, _ *http.Request) { testkit.WriteToken(rw, "CANARY-token") })
	got := w.get("/x", w.flowWithToken(typeProxyHTTPData))
	if got.StatusCode != 200 || got.Header.Get("X-Other") != "kept" {
		t.Fatalf("got %d %v", got.StatusCode, got.Header)
	}
	if strings.Contains(fmt.Sprint(got.Header, got.Trailer), "CANARY") {
		t.Errorf("the answer has a credential: %v %v", got.Header, got.Trailer)
	}
	log := w.log("handled request")
	if strings.Contains(log, "CANARY") {
		t.Errorf("the log has a credential: %s", log)
	}
}

// TestTokenEndpointThatMustNotBeDialled: a listed name may resolve to an address that never is.
func TestTokenEndpointThatMustNotBeDialled(t *testing.T) {
	w := newTokenWorld(t, nil, func(h *Proxy) { h.transport.tokens = authserver.New(authserver.Config{Transport: denying{}}) })
	got := w.get("/x", w.flowWithToken(typeHTTPData))
	if got.StatusCode != 502 || w.app.counted()["backend denied"] != 1 {
		t.Errorf("got %d, counted %v", got.StatusCode, w.app.counted())
	}
}

type denying struct{}

func (denying) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &dial.DeniedError{Address: "169.254.169.254:80", Reason: dial.ReasonMetadata, Detail: "metadata service of a cloud"}
}

// TestClientThatLeavesWhileATokenIsFetched gets no answer, and nothing is counted against the backend.
func TestClientThatLeavesWhileATokenIsFetched(t *testing.T) {
	w := newTokenWorld(t, nil, nil)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	recorder := httptest.NewRecorder()
	err := w.proxy.refuseBackendToken(recorder, httptest.NewRequestWithContext(ctx, http.MethodGet, "/x", nil), nil, ctx.Err())
	if err != nil || recorder.Code != statusClientGone || w.app.counted()["backend token_missing"] != 0 {
		t.Errorf("got %d, %v, counted %v", recorder.Code, err, w.app.counted())
	}
}

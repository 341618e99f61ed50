package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

func (x *fixture) transport(change ...func(*TransportConfig)) *Transport {
	x.t.Helper()
	c := TransportConfig{Renewer: x.renewer, Base: loopback(x.t)}
	for _, f := range change {
		f(&c)
	}
	tr, err := NewTransport(c)
	if err != nil {
		x.t.Fatal(err)
	}
	return tr
}

type reply struct {
	*Answer
	body string
}

func (x *fixture) send(tr *Transport, method, target string, body io.Reader) reply {
	x.t.Helper()
	req, err := http.NewRequestWithContext(x.t.Context(), method, target, body)
	if err != nil {
		x.t.Fatal(err)
	}
	a, err := tr.Send(req, "tp-1")
	if err != nil {
		x.t.Fatal(err)
	}
	defer a.Response.Body.Close()
	text, err := io.ReadAll(a.Response.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	return reply{a, string(text)}
}

// The token is sent as the data plane's world wants it, and never what the application sent in its place.
func TestSendAddsTheToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		edr  func(*fixture) *EDR
		want string
	}{
		{"dps", (*fixture).dps, "Bearer access-0"},
		{"classic", (*fixture).classic, "access-0"},
		{"open", func(x *fixture) *EDR { e := x.dps(); e.AccessToken = ""; return e }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			x.provider.any = true
			x.put("tp-1", c.edr(x), Terms{Counterparty: providerDID})
			req, err := http.NewRequestWithContext(t.Context(), "GET", "/x?y=z", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer of-the-application")
			a, err := x.transport().Send(req, "tp-1")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(a.Response.Body)
			_ = a.Response.Body.Close()
			if string(body) != "data of /data/x?y=z" || x.provider.asked()[0] != c.want {
				t.Errorf("%s with %q", body, x.provider.asked())
			}
			if req.Header.Get("Authorization") != "Bearer of-the-application" || req.URL.Host != "" {
				t.Error("the request was changed")
			}
		})
	}
}

// Tokens of an EDR that was put while http was allowed go nowhere in clear when it is allowed no more.
func TestHTTPThatIsAllowedNoMore(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.config.AllowHTTP = nil
	x.Cache, x.renewer = x.open()
	req := httptest.NewRequest(http.MethodGet, x.provider.URL+"/data", nil)
	_, err := x.transport().Send(req, "tp-1")
	wantCode(t, err, CodeInsecure)
	_, err = x.renewer.Refresh(t.Context(), "tp-1")
	wantCode(t, err, CodeInsecure)
	if len(x.provider.asked()) != 0 || x.provider.renewed() != 0 {
		t.Error("the provider was asked by http")
	}
}

// A token that has expired is renewed before it is used: the data plane sees no expired token.
func TestSendRenewsBeforeUse(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.clock.Advance(5 * time.Minute)
	a := x.send(x.transport(), "POST", "/x", strings.NewReader("body"))
	if a.Replayed || a.body != "data of /data/x?" || strings.Join(x.provider.asked(), " ") != "Bearer access-1" {
		t.Errorf("%+v after %v", a, x.provider.asked())
	}
}

// A token that the data plane refuses is renewed, and the request is sent once more, with its body.
func TestSendRenewsWhatIsRefused(t *testing.T) {
	t.Parallel()
	const limit = 1 << 10
	short, long := strings.Repeat("s", limit), strings.Repeat("l", limit+1)
	for _, c := range []struct {
		name    string
		body    func() io.Reader
		want    string
		refused string // why it is not sent again
	}{
		{"none", func() io.Reader { return nil }, "", ""},
		{"in memory", func() io.Reader { return strings.NewReader(long) }, long, ""}, // net/http can read it again
		{"short stream", func() io.Reader { return io.MultiReader(strings.NewReader(short)) }, short, ""},
		{"empty stream", func() io.Reader { return io.MultiReader() }, "", ""},
		{"long stream", func() io.Reader { return io.MultiReader(strings.NewReader(long)) }, "", NotReplayedTooLarge},
	} {
		for _, status := range []int{401, 403} {
			t.Run(fmt.Sprint(c.name, status), func(t *testing.T) {
				t.Parallel()
				x := newFixture(t)
				bodies := make(chan string, 2)
				x.provider.generation = 0
				x.provider.refuse = func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(status)
				}
				x.provider.serve = func(_ http.ResponseWriter, r *http.Request) {
					text, _ := io.ReadAll(r.Body)
					bodies <- string(text)
				}
				x.started("tp-1")
				x.provider.supersede()
				a := x.send(x.transport(func(c *TransportConfig) { c.MaxReplayBytes = limit }), "POST", "/x", c.body())
				if !a.Renewed || a.NotReplayed != c.refused || a.Replayed != (c.refused == "") {
					t.Fatalf("%+v", a.Answer)
				}
				if x.provider.renewed() != 1 {
					t.Errorf("%d renewals", x.provider.renewed())
				}
				if c.refused != "" {
					if a.Response.StatusCode != status || x.observer.event(EventNotReplayed) != 1 {
						t.Errorf("status %d", a.Response.StatusCode)
					}
					return
				}
				got := <-bodies
				if a.Response.StatusCode != 200 || got != c.want || x.observer.event(EventReplayed) != 1 {
					t.Errorf("status %d, %d bytes sent again", a.Response.StatusCode, len(got))
				}
			})
		}
	}
}

// supersede makes the provider take only a token that a renewal brings.
func (p *provider) supersede() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation = 9
	p.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		writeJSON(w, 200, map[string]any{"access_token": "access-9", "expires_in": 300})
		return true
	}
}

// A refusal that renewing did not help with is passed on after one more attempt, and soon after none is made.
func TestSendReplaysOnce(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.provider.mu.Lock()
	x.provider.generation = 100 // nothing that it hands out is good
	x.provider.renew = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		writeJSON(w, 200, map[string]any{"access_token": fmt.Sprintf("useless-%d", n), "expires_in": 300})
		return true
	}
	x.provider.mu.Unlock()
	tr := x.transport()
	a := x.send(tr, "GET", "/x", nil)
	if a.Response.StatusCode != 403 || !a.Replayed || len(x.provider.asked()) != 2 || !strings.Contains(a.body, "expired") {
		t.Fatalf("%+v, %v", a.Answer, x.provider.asked())
	}
	// It may be a backend's 403: the next one is passed on as it is.
	a = x.send(tr, "GET", "/x", nil)
	if a.Renewed || a.RenewalError != nil || x.provider.renewed() != 1 || len(x.provider.asked()) != 3 {
		t.Errorf("%+v after %d renewals", a.Answer, x.provider.renewed())
	}
	x.clock.Advance(31 * time.Second)
	a = x.send(tr, "GET", "/x", nil)
	if !a.Renewed || x.provider.renewed() != 2 {
		t.Errorf("%+v after %d renewals", a.Answer, x.provider.renewed())
	}
}

// Renewing does not help a suspended flow, and EDRgate as provider says so.
func TestSendLeavesASuspendedFlowAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind, body string
		want             bool
	}{
		{"ours", "application/json", `{"errors":["no"],"code":"flow_suspended"}`, true},
		{"another code", "application/json", `{"errors":["flow_suspended"],"code":"x"}`, false},
		{"no JSON", "text/plain", `{"code":"flow_suspended"}`, false},
		{"broken", "application/json", `{"code":"flow_suspended"`, false},
		{"too long", "application/json", `{"code":"flow_suspended","x":"` + strings.Repeat("x", peekBytes) + `"}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			x.provider.refuse = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(403)
				_, _ = io.WriteString(w, c.body)
			}
			x.provider.renew = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(503)
				return true
			}
			x.provider.generation = 9
			x.started("tp-1")
			a := x.send(x.transport(), "GET", "/x", nil)
			if a.Suspended != c.want || (x.provider.renewed() == 0) != c.want || a.body != c.body || a.Response.StatusCode != 403 {
				t.Errorf("%+v after %d renewals, body %q", a.Answer, x.provider.renewed(), a.body)
			}
			if !c.want && (a.RenewalError == nil || CodeOf(a.RenewalError) != CodeUnavailable) {
				t.Errorf("renewal error %v", a.RenewalError)
			}
		})
	}
}

// Fifty requests are refused at once: one renewal, and all are sent again with its token.
func TestSendFiftyAtOnce(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.provider.supersede()
	tr := x.transport()
	var callers sync.WaitGroup
	errs := make(chan error, 50)
	for range 50 {
		callers.Go(func() {
			req, err := http.NewRequestWithContext(context.Background(), "POST", "/x", io.MultiReader(strings.NewReader("body")))
			if err != nil {
				errs <- err
				return
			}
			a, err := tr.Send(req, "tp-1")
			if err != nil {
				errs <- err
				return
			}
			_ = a.Response.Body.Close()
			if a.Response.StatusCode != 200 {
				errs <- fmt.Errorf("status %d: %+v", a.Response.StatusCode, a)
			}
		})
	}
	callers.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if x.provider.renewed() != 1 {
		t.Errorf("%d renewals", x.provider.renewed())
	}
}

func TestRoundTripper(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	x.started("tp-1")
	x.provider.supersede()
	client := &http.Client{Transport: x.transport(func(c *TransportConfig) { c.MaxReplayBytes = -1 }).For("tp-1")}
	res, err := client.Post(x.provider.URL+"/data/x", "text/plain", io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 403 || res.Header.Get(NotReplayedHeader) != NotReplayedTooLarge {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	res, err = client.Get(x.provider.URL + "/data/x")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("status %d with the renewed token", res.StatusCode)
	}
	_, err = client.Get("http://" + strings.TrimPrefix(x.provider.URL, "http://") + "/token")
	var e *Error
	if !errors.As(err, &e) || e.Code != CodeOutside {
		t.Errorf("a request outside the endpoint: %v", err)
	}
}

// The token goes to what lies under the endpoint, and nowhere else.
func TestTarget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ endpoint, asked, want string }{
		{"https://p.example/data", "", "https://p.example/data"},
		{"https://p.example/data", "/", "https://p.example/data"},
		{"https://p.example/data/", "/a/b", "https://p.example/data/a/b"},
		{"https://p.example/data", "a%20b?x=1&x=2", "https://p.example/data/a%20b?x=1&x=2"},
		{"https://p.example/data?key=1", "/a?x=2", "https://p.example/data/a?key=1&x=2"},
		{"https://p.example/data?key=1", "/a", "https://p.example/data/a?key=1"},
		{"https://p.example", "/a%2Fb", "https://p.example/a%2Fb"},
		{"https://p.example", "", "https://p.example/"},
		{"https://p.example/data", "https://p.example/data/a", "https://p.example/data/a"},
		{"https://p.example/data", "HTTPS://P.example:443/data/a", "https://p.example/data/a"},
		{"https://p.example/data", "https://p.example/data/a/../b", "https://p.example/data/b"},

		{"https://p.example/data", "https://p.example/database", ""},
		{"https://p.example/data", "https://p.example/data/../x", ""},
		{"https://p.example/data", "https://p.example/", ""},
		{"https://p.example/data", "https://q.example/data", ""},
		{"https://p.example/data", "http://p.example/data", ""},
		{"https://p.example/data", "https://p.example:8443/data", ""},
		{"https://p.example/data", "https://u@p.example/data", ""},
		{"https://p.example/data", "/../x", ""},
		{"https://p.example/data", "/%2e%2e/x", ""},
		{"https://p.example/data", "/a\\b", ""},
	} {
		u := new(url.URL)
		if c.asked != "" {
			parsed, err := url.Parse(c.asked)
			if err != nil {
				t.Fatal(err)
			}
			u = parsed
		}
		got, err := target(&EDR{Endpoint: c.endpoint}, u)
		if c.want == "" {
			if err == nil || CodeOf(err) != CodeOutside {
				t.Errorf("%s + %s: %v, %v", c.endpoint, c.asked, got, err)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("%s + %s: %v, %v, want %s", c.endpoint, c.asked, got, err, c.want)
		}
	}
}

func TestTransportConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []TransportConfig{{}, {Base: http.DefaultTransport}, {Renewer: new(Renewer)}} {
		_, err := NewTransport(c)
		if err == nil || CodeOf(err) != CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// The recorded refusals of a real data plane lead to a renewal, with the raw token of the classic world.
func TestRecordedRefusals(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"data-expired", "data-suspended", "data-missing"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := load(t, name)
			x := newFixture(t)
			x.provider.refuse = func(w http.ResponseWriter, _ *http.Request) {
				for _, h := range rec.Response.Headers {
					w.Header().Set(h[0], h[1])
				}
				w.WriteHeader(rec.Response.Status)
				_, _ = io.WriteString(w, rec.Response.Body)
			}
			x.put("tp-1", x.classic(), Terms{Counterparty: providerDID})
			x.provider.supersede()
			a := x.send(x.transport(), "GET", "/x", nil)
			if a.Response.StatusCode != 200 || !a.Replayed || strings.Join(x.provider.asked(), " ") != "access-0 access-9" {
				t.Errorf("%+v after %v", a.Answer, x.provider.asked())
			}
		})
	}
}

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

// question is the one that the tests ask, and that docs/policy.md shows.
func question(occasion tokens.PolicyOccasion) tokens.PolicyQuestion {
	return tokens.PolicyQuestion{
		Occasion: occasion, Participant: "default", DID: "did:web:provider.example",
		Counterparty: "did:web:consumer.example", BoundDID: "did:web:consumer.example", BPN: "BPNL000000000001",
		Claims: json.RawMessage(`{"membership":"active"}`), Dataset: "asset-1", Agreement: "agreement-1",
		Flow: "flow-1", Dialect: tokens.DPS, Profile: "https://w3id.org/dspace-sig/profile/http-pull", ControlPlane: "main",
	}
}

// watcher is an Observer that remembers.
type watcher struct {
	mu      sync.Mutex
	results map[tokens.PolicyOccasion][]Result
	breaker string
	denied  []string
}

func (w *watcher) PolicyDecided(o tokens.PolicyOccasion, r Result, _ time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.results[o] = append(w.results[o], r)
}

func (w *watcher) PolicyBreaker(state string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breaker = state
}

func (w *watcher) PolicyDialDenied(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied = append(w.denied, reason)
}

func (w *watcher) saw(o tokens.PolicyOccasion) []Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.results[o])
}

func newWatcher() *watcher { return &watcher{results: map[tokens.PolicyOccasion][]Result{}} }

func newClient(t *testing.T, url string, change ...func(*Config)) *Client {
	t.Helper()
	c := Config{Form: AuthZEN, URL: url, Observer: newWatcher(), NewID: func() string { return "request-1" }}
	for _, f := range change {
		f(&c)
	}
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func serve(t *testing.T, answer http.HandlerFunc) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // only then does net/http notice a client that leaves
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/access/v1/evaluation?tenant=1"
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Errorf("error %v, want reason %s", err, want)
	}
}

func TestRequestOnTheWire(t *testing.T) {
	for _, form := range []Form{AuthZEN, Webhook} {
		t.Run(string(form), func(t *testing.T) {
			var got *http.Request
			var body []byte
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r
				body, _ = io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"decision":true}`)
			})
			c := newClient(t, url, func(c *Config) {
				c.Form = form
				c.Header = map[string]tokens.Secret{"Authorization": "Bearer secret-1", "X-Tenant": "t"}
			})
			permit, err := c.Decide(t.Context(), question(tokens.PolicyRenew))
			if err != nil || !permit {
				t.Fatal(permit, err)
			}
			header := maps.Clone(got.Header)
			for name, want := range map[string]string{
				"Content-Type": "application/json", "Accept": "application/json", "X-Request-Id": "request-1",
				"Authorization": "Bearer secret-1", "X-Tenant": "t", "Accept-Encoding": "identity", "User-Agent": "edrgate",
			} {
				if header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, header.Get(name), want)
				}
				header.Del(name)
			}
			header.Del("Content-Length")
			if len(header) != 0 || got.Method != http.MethodPost || got.URL.RequestURI() != "/access/v1/evaluation?tenant=1" {
				t.Errorf("%s %s with %v", got.Method, got.URL, header)
			}
			want, err := form.encode(question(tokens.PolicyRenew))
			if err != nil || string(body) != string(want) {
				t.Errorf("body %s, want %s", body, want)
			}
		})
	}
}

// TestAnswers: only a decision that is false, with 200, is a no.
func TestAnswers(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		result Result
		reason Reason
	}{
		"permit":               {says(200, `{"decision":true}`), Permit, ""},
		"deny":                 {says(200, `{"decision":false}`), Deny, ""},
		"deny with context":    {says(200, ` {"decision":false,"context":{"id":"0","reason_admin":{"en":"x"}}} `), Deny, ""},
		"no content":           {says(204, ""), Unavailable, ReasonStatus},
		"created":              {says(201, `{"decision":true}`), Unavailable, ReasonStatus},
		"bad request":          {says(400, `{"decision":false}`), Unavailable, ReasonStatus},
		"unauthorized":         {says(401, `{"decision":false}`), Unavailable, ReasonStatus},
		"forbidden":            {says(403, `{"decision":false}`), Unavailable, ReasonStatus},
		"not found":            {says(404, ``), Unavailable, ReasonStatus},
		"too many":             {says(429, ``), Unavailable, ReasonServer},
		"server error":         {says(500, `{"decision":true}`), Unavailable, ReasonServer},
		"empty":                {says(200, ""), Unavailable, ReasonAnswer},
		"garbage":              {says(200, "<html>decision: true</html>"), Unavailable, ReasonAnswer},
		"list":                 {says(200, `[{"decision":true}]`), Unavailable, ReasonAnswer},
		"no decision":          {says(200, `{"result":true}`), Unavailable, ReasonAnswer},
		"decision of a string": {says(200, `{"decision":"false"}`), Unavailable, ReasonAnswer},
		"decision of null":     {says(200, `{"decision":null}`), Unavailable, ReasonAnswer},
		"decision of 1":        {says(200, `{"decision":1}`), Unavailable, ReasonAnswer},
		"two decisions":        {says(200, `{"decision":false,"decision":true}`), Unavailable, ReasonAnswer},
		"other case":           {says(200, `{"Decision":true}`), Unavailable, ReasonAnswer},
		"two values":           {says(200, `{"decision":true}{"decision":true}`), Unavailable, ReasonAnswer},
		"deep":                 {says(200, `{"decision":true,"context":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`), Unavailable, ReasonAnswer},
		"a megabyte":           {says(200, `{"decision":true,"context":"`+strings.Repeat("x", 1<<20)+`"}`), Unavailable, ReasonTooLarge},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, `{"decision":true}`)
		}, Unavailable, ReasonAnswer},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				t.Error("the redirect is followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, Unavailable, ReasonRedirect},
		"hang": {hang, Unavailable, ReasonTimeout},
		"a byte a while": {func(w http.ResponseWriter, r *http.Request) {
			for _, b := range []byte(`{"decision":true}`) {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(time.Second):
				}
			}
		}, Unavailable, ReasonTimeout},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"decision":true}`)
			panic(http.ErrAbortHandler)
		}, Unavailable, ReasonConnect},
		"huge header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			_, _ = io.WriteString(w, `{"decision":true}`)
		}, Unavailable, ReasonConnect},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, serve(t, test.answer), func(c *Config) {
				c.Timeout = 300 * time.Millisecond
				if test.reason != ReasonTimeout {
					c.Timeout = MaxTimeout
				}
			})
			permit, err := c.Decide(context.Background(), question(tokens.PolicyStart))
			if permit != (test.result == Permit) || (err != nil) != (test.result == Unavailable) {
				t.Errorf("permit %v, error %v", permit, err)
			}
			if test.reason != "" {
				wantReason(t, err, test.reason)
			}
			saw := c.c.Observer.(*watcher).saw(tokens.PolicyStart)
			if !slices.Equal(saw, []Result{test.result}) {
				t.Errorf("counted as %v", saw)
			}
		})
	}
}

func TestServerThatIsGone(t *testing.T) {
	server := httptest.NewServer(says(200, `{"decision":true}`))
	url := server.URL
	server.Close()
	_, err := newClient(t, url).Decide(t.Context(), question(tokens.PolicyStart))
	wantReason(t, err, ReasonConnect)
}

// TestErrorsHoldNoSecret: neither credentials, nor what is in the URL, nor claims.
func TestErrorsHoldNoSecret(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"status": says(500, "CANARY"), "answer": says(200, `{"decision":"CANARY"}`)} {
		url := serve(t, answer) + "&key=CANARY"
		for _, url := range []string{url, "http://127.0.0.1:1/?key=CANARY"} {
			c := newClient(t, url, func(c *Config) { c.Header = map[string]tokens.Secret{"X-Key": "CANARY"} })
			q := question(tokens.PolicyStart)
			q.Claims = json.RawMessage(`{"a":"CANARY"}`)
			_, err := c.Decide(t.Context(), q)
			if err == nil || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestCallerThatIsGone(t *testing.T) {
	asked := make(chan struct{})
	c := newClient(t, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}), func(c *Config) { c.Timeout = MaxTimeout })
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	_, err := c.Decide(ctx, question(tokens.PolicyRenew))
	wantReason(t, err, ReasonCanceled)
	_, err = c.Decide(ctx, question(tokens.PolicyRenew))
	wantReason(t, err, ReasonCanceled)
}

func TestCacheOfPermits(t *testing.T) {
	clock := testkit.NewClock()
	var mu sync.Mutex
	answer, asked := `{"decision":true}`, 0
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		_, _ = io.WriteString(w, answer)
	})
	c := newClient(t, url, func(c *Config) { c.Cache, c.Now = 30*time.Second, clock.Now })
	w := c.c.Observer.(*watcher)
	decide := func(q tokens.PolicyQuestion) bool {
		permit, err := c.Decide(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return permit
	}
	renew := question(tokens.PolicyRenew)
	first, second := decide(renew), decide(renew)
	if !first || !second || asked != 1 {
		t.Errorf("permitted %v, then %v, asked %d times", first, second, asked)
	}
	if got := w.saw(tokens.PolicyRenew); !slices.Equal(got, []Result{Permit, Cached}) {
		t.Errorf("counted as %v", got)
	}
	other := renew
	other.Flow = "flow-2"
	answer = `{"decision":false}`
	if decide(other) || decide(question(tokens.PolicyStart)) || asked != 3 {
		t.Errorf("another question got the answer of the first: asked %d times", asked)
	}
	if decide(other) || asked != 4 {
		t.Error("a denial is kept")
	}
	clock.Advance(-time.Hour)
	if decide(renew) || asked != 5 {
		t.Error("a permit outlives the clock's setting back")
	}
	clock.Advance(time.Hour + 30*time.Second)
	if decide(renew) || asked != 6 {
		t.Error("a permit outlives its time")
	}
}

func TestCacheIsOffByDefaultAndBounded(t *testing.T) {
	now := time.Now()
	off, on := newPermits(0), newPermits(time.Minute)
	var question [32]byte
	off.put(question, now)
	if off.has(question, now) || len(off.until) != 0 {
		t.Error("kept although the cache is off")
	}
	for i := range maxPermits + 100 {
		question[0], question[1] = byte(i), byte(i>>8)
		on.put(question, now)
	}
	if len(on.until) > maxPermits || !on.has(question, now) {
		t.Errorf("%d permits are kept", len(on.until))
	}
	on.put([32]byte{31: 1}, now.Add(time.Hour))
	if len(on.until) != 1 {
		t.Errorf("%d permits are kept, all but one expired", len(on.until))
	}
}

func TestConfig(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		want   string // part of the error; empty: none
	}{
		"https":               {func(*Config) {}, ""},
		"form":                {func(c *Config) { c.Form = "opa" }, "form"},
		"no url":              {func(c *Config) { c.URL = "" }, "url: must be an absolute https URL"},
		"no absolute url":     {func(c *Config) { c.URL = "/evaluation" }, "url: must be an absolute https URL"},
		"no url at all":       {func(c *Config) { c.URL = "http://%zz" }, "url: not a URL"},
		"user":                {func(c *Config) { c.URL = "https://u:p@pdp.example/" }, "url: must have no user"},
		"fragment":            {func(c *Config) { c.URL = "https://pdp.example/#a" }, "url: must have no user and no fragment"},
		"http":                {func(c *Config) { c.URL = "http://pdp.example/" }, "url: must be https"},
		"http to 10.0.0.1":    {func(c *Config) { c.URL = "http://10.0.0.1/" }, "url: must be https"},
		"http, insecure":      {func(c *Config) { c.URL, c.Insecure = "http://pdp.example/", true }, ""},
		"http to localhost":   {func(c *Config) { c.URL = "http://localhost:8181/" }, ""},
		"http to 127.0.0.2":   {func(c *Config) { c.URL = "http://127.0.0.2:8181/" }, ""},
		"http to [::1]":       {func(c *Config) { c.URL = "http://[::1]:8181/" }, ""},
		"timeout too long":    {func(c *Config) { c.Timeout = 11 * time.Second }, "timeout"},
		"timeout negative":    {func(c *Config) { c.Timeout = -1 }, "timeout"},
		"cache too long":      {func(c *Config) { c.Cache = time.Hour }, "cache"},
		"cache negative":      {func(c *Config) { c.Cache = -1 }, "cache"},
		"network with a host": {func(c *Config) { c.AllowAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "allow_addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Form: AuthZEN, URL: "https://pdp.example/access/v1/evaluation"}
			test.change(&c)
			client, err := New(c)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				client.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestAddresses: a name must not lead inside unless the operator says so, nor to where clouds keep credentials.
func TestAddresses(t *testing.T) {
	port := func(url string) string { return url[strings.LastIndex(url[:len("http://127.0.0.1:65535")], ":"):] }
	url := serve(t, says(200, `{"decision":true}`))
	for name, test := range map[string]struct {
		url    string
		change func(*Config)
		reason Reason
	}{
		"the address itself": {url, func(*Config) {}, ""},
		"localhost":          {"http://localhost" + port(url), func(*Config) {}, ""},
		"denied endpoint": {url, func(c *Config) {
			c.DenyEndpoints = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
		}, ReasonAddress},
		"metadata": {"http://169.254.169.254/", func(c *Config) { c.Insecure = true }, ReasonAddress},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, test.url, test.change).Decide(t.Context(), question(tokens.PolicyStart))
			if test.reason == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantReason(t, err, test.reason)
			if !strings.Contains(err.Error(), "allow_addresses") {
				t.Errorf("error %v does not name the option", err)
			}
		})
	}
	c := &Config{URL: "https://pdp.example/", AllowAddresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	target, err := c.target()
	if err != nil || !slices.Equal(c.allowed(target), c.AllowAddresses) {
		t.Errorf("a name is allowed %v: %v", c.allowed(target), err)
	}
}

// TestDocumentedRequests: docs/policy.md shows what is sent, and answers that are understood.
func TestDocumentedRequests(t *testing.T) {
	blocks := documented(t)
	for _, form := range []Form{AuthZEN, Webhook} {
		text, err := form.encode(question(tokens.PolicyRenew))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(blocks, string(text)) {
			t.Errorf("docs/policy.md does not show the %s request %s", form, text)
		}
	}
	for answer, permit := range map[string]bool{`{"decision":true}`: true, `{"decision":false}`: false} {
		got, err := parseAnswer([]byte(answer))
		if err != nil || got != permit || !slices.Contains(blocks, answer) {
			t.Errorf("docs/policy.md does not show the answer %s, or it is %v, %v", answer, got, err)
		}
	}
}

func TestQuestionsDifferInTheirActionOnly(t *testing.T) {
	for _, form := range []Form{AuthZEN, Webhook} {
		texts := map[tokens.PolicyOccasion]string{}
		for _, occasion := range tokens.PolicyOccasions() {
			text, err := form.encode(question(occasion))
			if err != nil {
				t.Fatal(err)
			}
			texts[occasion] = string(text)
		}
		if texts[tokens.PolicyRecheck] != texts[tokens.PolicyStart] {
			t.Error("a recheck is another question than the start")
		}
		if strings.Replace(texts[tokens.PolicyRenew], `"renew"`, `"start"`, 1) != texts[tokens.PolicyStart] {
			t.Errorf("%s and %s", texts[tokens.PolicyRenew], texts[tokens.PolicyStart])
		}
	}
}

// TestQuestionWithoutWhatIsNotKnown: what a flow does not have is left out, and required members stay.
func TestQuestionWithoutWhatIsNotKnown(t *testing.T) {
	text, err := AuthZEN.encode(tokens.PolicyQuestion{Occasion: tokens.PolicyStart, Counterparty: "a<b", Dataset: "d"})
	want := `{"subject":{"type":"participant","id":"a<b"},"action":{"name":"start"},"resource":{"type":"dataset","id":"d"},` +
		`"context":{"participant":"","participant_did":"","control_plane":"","flow":"","dialect":""}}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, body := range []string{`{"decision":true}`, `{"decision":false,"context":{}}`, `{"decision":"true"}`, `[]`, ``, `{"decision":true,"decision":false}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		permit, err := parseAnswer(body)
		if err != nil {
			if permit {
				t.Error("an answer that is not understood permits")
			}
			return
		}
		var lenient struct{ Decision *bool }
		err = json.Unmarshal(body, &lenient)
		if err != nil || lenient.Decision == nil {
			t.Errorf("%q: %v", body, err)
		}
	})
}

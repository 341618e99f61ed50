package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// renewalLine stands between a consumer and the refresh endpoint of a provider, and does to renewals what it is told.
type renewalLine struct {
	server   *httptest.Server
	provider *gateway
	user     *user

	mu       sync.Mutex
	troubles []trouble // of the next renewals; after them all goes well
	refresh  []string  // the refresh tokens that came
}

// trouble is what becomes of a renewal: an answer without asking the provider, or the provider's answer, cut.
type trouble struct {
	status     int
	retryAfter string
}

// cutAnswer is a provider's answer of which half gets through.
var cutAnswer = trouble{}

func newRenewalLine(t testing.TB, provider *gateway, u *user) *renewalLine {
	l := &renewalLine{provider: provider, user: u}
	l.server = httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(l.server.Close)
	return l
}

func (l *renewalLine) endpoint() string { return l.server.URL + "/token" }

// suffers sets what becomes of the next renewals.
func (l *renewalLine) suffers(t trouble, times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.troubles = slices.Repeat([]trouble{t}, times)
}

// came returns the refresh tokens that came so far.
func (l *renewalLine) came() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.refresh)
}

func (l *renewalLine) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	token := again.PostFormValue("refresh_token")
	l.noteSecret("a proof", strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	l.mu.Lock()
	l.refresh = append(l.refresh, token)
	var next *trouble
	if len(l.troubles) > 0 {
		next, l.troubles = &l.troubles[0], l.troubles[1:]
	}
	l.mu.Unlock()
	if next != nil && next.status != 0 {
		if next.retryAfter != "" {
			w.Header().Set("Retry-After", next.retryAfter)
		}
		w.WriteHeader(next.status)
		return
	}
	request, err := http.NewRequestWithContext(r.Context(), r.Method, l.provider.publicURL()+"/token", bytes.NewReader(body))
	if err != nil {
		return
	}
	request.Header = r.Header.Clone()
	answer, err := trySend(l.provider.client, request)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	var renewed map[string]any
	if json.Unmarshal([]byte(answer.body), &renewed) == nil {
		for _, name := range []string{"access_token", "refresh_token"} {
			secret, _ := renewed[name].(string)
			l.noteSecret("a renewed "+name, secret)
		}
	}
	w.Header().Set("Content-Type", answer.header.Get("Content-Type"))
	w.Header().Set("Content-Length", strconv.Itoa(len(answer.body)))
	w.WriteHeader(answer.status)
	if next != nil {
		_, _ = io.WriteString(w, answer.body[:len(answer.body)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, answer.body)
}

// noteSecret has both gateways looked through for a token.
func (l *renewalLine) noteSecret(what, token string) {
	if token == "" {
		return
	}
	l.provider.canaries.Token(what, token)
	l.user.canaries.Token(what, token)
}

func (u *user) refresh(flow string) reply {
	u.t.Helper()
	return u.callAPI(http.MethodPost, "/v3/edrs/"+flow+"/refresh", nil)
}

// getEgress asks for data through the egress handler.
func (u *user) getEgress(flow string) reply {
	u.t.Helper()
	request, err := http.NewRequest(http.MethodGet, u.egressURL(flow, "/now"), nil)
	if err != nil {
		u.t.Fatal(err)
	}
	return send(u.t, u.client, request)
}

// TestRenewalSurvivesAProviderThatCannotTell: only a 4xx is a no. After anything else the consumer's gateway asks again,
// with the refresh token that it has.
func TestRenewalSurvivesAProviderThatCannotTell(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		trouble  trouble
		times    int
		failing  int // calls of the API that are answered with 503
		replayed float64
	}{
		"503":                        {trouble{status: 503}, 3, 0, 0},
		"503 for longer than a call": {trouble{status: 503, retryAfter: "30"}, 3, 3, 0},
		"a cut answer":               {cutAnswer, 1, 0, 1},
		"cut for a whole renewal":    {cutAnswer, 4, 1, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			provider := startGateway(t, config{site: serves("weather", newBackend(t, "weather"))})
			u := startUser(t, newDIDHost(t))
			line := newRenewalLine(t, provider, u)
			e := startFlow(provider, dpsPlane{}, newTerms("weather", u.wallet.DID))
			e.refreshEndpoint = line.endpoint()
			u.receives(e, "weather", "300")

			line.suffers(c.trouble, c.times)
			for range c.failing {
				if u.refresh(e.flow).want(t, http.StatusServiceUnavailable).header.Get("Retry-After") == "" {
					t.Error("the answer does not say when to come again")
				}
				u.getEgress(e.flow).want(t, http.StatusOK) // the old token is still good
			}
			if tokenOf(t, u.refresh(e.flow)) == e.access {
				t.Error("not renewed")
			}
			came := line.came()
			if len(came) != c.times+1 || slices.ContainsFunc(came, func(token string) bool { return token != e.refresh }) {
				t.Errorf("%d renewals came, want %d, all with the first refresh token", len(came), c.times+1)
			}
			u.getEgress(e.flow).want(t, http.StatusOK)
			tokenOf(t, u.refresh(e.flow))
			if came = line.came(); came[len(came)-1] == e.refresh {
				t.Error("a superseded refresh token was used after the new one had come")
			}
			m := provider.scrape()
			m.wantCount(provider, 2, "edrgate_renewals_total", "result", "rotated")
			m.wantCount(provider, c.replayed, "edrgate_renewals_total", "result", "replayed")
			m = u.scrape()
			m.wantCount(u.gateway, 2, "edrgate_consumer_renewals_total", "result", "renewed")
			m.wantCount(u.gateway, float64(c.failing), "edrgate_consumer_renewals_total", "result", "unavailable")
			m.wantCount(u.gateway, 0, "edrgate_consumer_renewals_total", "result", "refused")
		})
	}
}

// TestRefusedRenewalIsFinalUntilStarted: a 4xx is asked for once. The next start of the transfer revives the EDR, whoever
// brings it.
func TestRefusedRenewalIsFinalUntilStarted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		provider, api int
		says          string
		signaled      bool
	}{
		"400, put by hand": {400, http.StatusBadRequest, "the provider answered 400", false},
		"401, put by hand": {401, http.StatusForbidden, "NotAuthorized", false},
		"400, signaled":    {400, http.StatusBadRequest, "the provider answered 400", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			provider := startGateway(t, config{app: "token_ttl 2s\nclock_skew 1s", site: serves("weather", newBackend(t, "weather"))})
			u := startUser(t, newDIDHost(t))
			line := newRenewalLine(t, provider, u)
			f := newTerms("weather", u.wallet.DID)
			start := dpsPlane{}.start(provider, f).want(t, http.StatusOK)
			start.body = strings.ReplaceAll(start.body, provider.publicURL()+"/token", line.endpoint())
			e := readEDR(provider, f.flow, start)
			readEDR(u.gateway, f.flow, start)
			begin := func() { u.receives(e, "weather", "1") }
			if c.signaled {
				prepareMessage(u.gateway, provider.did, f).send(u.gateway).want(t, http.StatusOK)
				begin = func() { startedMessage(u.gateway, f.flow, start).send(u.gateway).want(t, http.StatusOK) }
			}
			line.suffers(trouble{status: c.provider}, 1)
			begin()
			address := "/v3/edrs/" + f.flow + "/dataaddress"
			testkit.Eventually(t, "the token expires, and the provider refuses to renew", func() bool {
				return u.callAPI(http.MethodGet, address, nil).status != http.StatusOK
			})
			for range 3 {
				answer := u.callAPI(http.MethodGet, address, nil).want(t, c.api)
				if !strings.Contains(answer.body, c.says) {
					t.Errorf("the EDR API says %s, want %q", answer.body, c.says)
				}
				u.getEgress(f.flow).want(t, c.api)
			}
			if n := len(line.came()); n != 1 {
				t.Errorf("the provider was asked %d times after its no, want once", n)
			}
			u.scrape().wantCount(u.gateway, 1, "edrgate_consumer_renewals_total", "result", "refused")
			if n := strings.Count(read(t, u.errorLog()), "the provider refused to renew an EDR"); n != 1 {
				t.Errorf("the log says %d times that the provider refused, want once", n)
			}
			page := u.adminGet("/edrgate/edrs").want(t, http.StatusOK)
			if !strings.Contains(page.body, `"state":"refused"`) || !strings.Contains(page.body, `"refused_with":`+strconv.Itoa(c.provider)) {
				t.Errorf("the EDR is shown as %s", page.body)
			}

			begin()
			testkit.Eventually(t, "it is renewed again", func() bool {
				return tokenOf(t, u.callAPI(http.MethodGet, address, nil)) != e.access
			})
			u.getEgress(f.flow).want(t, http.StatusOK)
		})
	}
}

package integration

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// The parties of the recordings of Tractus-X.
const (
	tractusXConsumer = "did:web:localhost%3A17000:consumer"
	tractusXProvider = "did:web:localhost%3A17000:provider"
	tractusXPlane    = "http://localhost:16185"
)

// wireAnswer is what a real peer answered.
type wireAnswer struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
}

// recordedAnswer reads the answer of a recording: package/name.
func recordedAnswer(t testing.TB, recording string) wireAnswer {
	t.Helper()
	owner, name, _ := strings.Cut(recording, "/")
	data, err := os.ReadFile(filepath.Join(moduleRoot, owner, "testdata", "recorded", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var exchange struct{ Response wireAnswer }
	err = json.Unmarshal(data, &exchange)
	if err != nil {
		t.Fatal(err)
	}
	return exchange.Response
}

func (a wireAnswer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	for _, header := range a.Headers {
		w.Header().Set(header[0], header[1])
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write([]byte(a.Body))
}

// renewedTokens are the members of a token answer.
type renewedTokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// tokens reads a token answer; none: it is a refusal.
func (a wireAnswer) tokens() renewedTokens {
	var renewed renewedTokens
	_ = json.Unmarshal([]byte(a.Body), &renewed) // refusals are lists, or pages
	return renewed
}

// tractusXDataPlane plays back what Tractus-X's data plane answered. No token is good until it has handed out a new one.
type tractusXDataPlane struct {
	server *httptest.Server
	u      *user
	good   wireAnswer // to a data request with the renewed token

	mu       sync.Mutex
	refusal  wireAnswer // to any other data request
	token    wireAnswer // to a renewal
	handed   string     // the access token that was handed out
	data     []string   // the Authorization headers of data requests
	renewals []*http.Request
	hold     func() // called before a renewal is answered
}

func newTractusXDataPlane(t testing.TB, u *user) *tractusXDataPlane {
	p := &tractusXDataPlane{u: u, good: recordedAnswer(t, "consumer/data-good"), hold: func() {}}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.server.Close)
	return p
}

// plays sets what is answered from now on, as if nothing had been asked yet.
func (p *tractusXDataPlane) plays(refusal, token wireAnswer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal, p.token = refusal, token
	p.handed, p.data, p.renewals = "", nil, nil
}

func (p *tractusXDataPlane) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.URL.Path == "/api/public/token" {
		p.renew(w, r)
		return
	}
	p.mu.Lock()
	authorization, answer := r.Header.Get("Authorization"), p.refusal
	p.data = append(p.data, authorization)
	if authorization == p.handed && p.handed != "" { // classic data planes take the token raw
		answer = p.good
	}
	p.mu.Unlock()
	answer.write(w)
}

func (p *tractusXDataPlane) renew(w http.ResponseWriter, r *http.Request) {
	p.hold()
	p.mu.Lock()
	p.renewals = append(p.renewals, r)
	answer := p.token
	p.handed = answer.tokens().Access
	p.mu.Unlock()
	p.u.canaries.Token("a proof", strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	answer.write(w)
}

func (p *tractusXDataPlane) asked() (data []string, renewals []*http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.data...), append([]*http.Request(nil), p.renewals...)
}

// gives has the company receive the recorded EDR of this data plane, with a life of the access token in seconds. It is
// taken away again when the test ends: no other EDR of the company may hold the same access token.
func (p *tractusXDataPlane) gives(t testing.TB, id, life string) edr {
	t.Helper()
	text := replaceAll(t, recordedAnswer(t, "consumer/edr-api").Body, tractusXPlane, p.server.URL,
		`"tx-auth:expiresIn":"12"`, `"tx-auth:expiresIn":"`+life+`"`)
	var address struct {
		Authorization string `json:"authorization"`
		RefreshToken  string `json:"tx-auth:refreshToken"`
	}
	err := json.Unmarshal([]byte(text), &address)
	if err != nil {
		t.Fatal(err)
	}
	p.u.canaries.Token("an access token", address.Authorization)
	p.u.canaries.Token("a refresh token", address.RefreshToken)
	p.u.callAPI(http.MethodPut, "/v3/edrs/"+id, map[string]any{
		"providerId": tractusXProvider, "assetId": "rich", "dataAddress": json.RawMessage(text),
	}).want(t, http.StatusOK)
	t.Cleanup(func() { p.u.callAPI(http.MethodDelete, "/v3/edrs/"+id, nil).want(t, http.StatusNoContent) })
	return edr{flow: id, access: address.Authorization, refresh: address.RefreshToken}
}

// wantRenewals checks that the data plane was asked so often to renew, as Tractus-X's consumer asks: with both parameters in
// the query, and a proof of the consumer about the access token.
func (p *tractusXDataPlane) wantRenewals(t testing.TB, e edr, n int) {
	t.Helper()
	_, renewals := p.asked()
	if len(renewals) != n {
		t.Fatalf("%d renewals came, want %d", len(renewals), n)
	}
	for _, r := range renewals {
		if r.URL.Query().Get("grant_type") != "refresh_token" || r.URL.Query().Get("refresh_token") != e.refresh {
			t.Error("the query is not that of a renewal with the EDR's refresh token")
		}
		proof, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer {
			t.Fatal("the proof is not sent as Bearer")
		}
		_, payload := jwsParts(t, proof)
		var claims struct{ Iss, Sub, Aud, Token, Jti string }
		err := json.Unmarshal(payload, &claims)
		if err != nil {
			t.Fatal(err)
		}
		if claims.Iss != tractusXConsumer || claims.Sub != tractusXConsumer || claims.Aud != tractusXConsumer || claims.Jti == "" || claims.Token != e.access {
			t.Errorf("the proof is by %q about %q for %q, with an id of %d characters", claims.Iss, claims.Sub, claims.Aud, len(claims.Jti))
		}
	}
}

// startTractusXUser starts the gateway of the company that the recordings call the consumer.
func startTractusXUser(t *testing.T) *user {
	t.Helper()
	return startUserOf(t, testkit.NewWallet(tractusXConsumer))
}

// renewalWay is one of the three ways of the Tractus-X token refresh.
type renewalWay struct {
	name string
	life string // of the access token, as the EDR says it

	// use does what has the token renewed. The answer to it is the data if plain, else the data address.
	use   func(t *testing.T, u *user, e edr) reply
	plain bool
}

var renewalWays = []renewalWay{
	{
		"the consumer's data plane, when a token is refused", "300",
		func(_ *testing.T, u *user, e edr) reply { return u.getEgress(e.flow) }, true,
	},
	{
		"the EDR API, before it answers", "1",
		func(t *testing.T, u *user, e edr) reply {
			var answer reply
			testkit.Eventually(t, "the token expires", func() bool {
				answer = u.callAPI(http.MethodGet, "/v3/edrs/"+e.flow+"/dataaddress", nil)
				return answer.status != http.StatusOK || tokenOf(t, answer) != e.access
			})
			return answer
		}, false,
	},
	{
		"the client, by asking for it", "300",
		func(t *testing.T, u *user, e edr) reply {
			if got := tokenOf(t, u.callAPI(http.MethodGet, "/v3/edrs/"+e.flow+"/dataaddress", nil)); got != e.access {
				t.Fatal("renewed unasked")
			}
			return u.callAPI(http.MethodPost, "/v1/token/refresh", map[string]string{"transferProcessId": e.flow})
		}, false,
	},
}

// TestConsumerRenewsInEachWayAtTractusX are the three ways of the Tractus-X token refresh with the recorded answers of
// Tractus-X's own data plane.
func TestConsumerRenewsInEachWayAtTractusX(t *testing.T) {
	t.Parallel()
	u := startTractusXUser(t)
	plane := newTractusXDataPlane(t, u)
	expired := recordedAnswer(t, "consumer/data-expired")
	want := map[string]float64{}

	for _, c := range []struct {
		name   string
		result string // as the metric has it
		api    int    // what the EDR API answers
		asked  int    // renewals that reach the provider
	}{
		{"consumer/consumer-refresh", "renewed", http.StatusOK, 1},        // 0.12.1: expires
		{"consumer/consumer-refresh-0_12_2", "renewed", http.StatusOK, 1}, // expires and expires_in
		{"oauth/dps-renewed", "renewed", http.StatusOK, 1},                // expires_in

		{"consumer/refresh-suspended", "refused", http.StatusForbidden, 1},
		{"consumer/refresh-terminated", "refused", http.StatusForbidden, 1},
		{"consumer/refresh-spoofed-signature", "refused", http.StatusForbidden, 1},
		{"oauth/refresh-wrong-refresh-token", "refused", http.StatusForbidden, 1}, // used up by a renewal whose answer was lost
		{"consumer/refresh-get", "refused", http.StatusForbidden, 1},              // 403: not the refresh endpoint
		{"oauth/refresh-no-grant-type", "refused", http.StatusBadRequest, 1},

		{"consumer/refresh-internal-error", "unavailable", http.StatusServiceUnavailable, 4},
	} {
		for _, way := range renewalWays {
			t.Run(c.name+"/"+way.name, func(t *testing.T) {
				token := recordedAnswer(t, c.name)
				plane.plays(expired, token)
				e := plane.gives(t, "tp-1", way.life)
				renewed := token.tokens()
				for name, secret := range map[string]string{"a renewed access token": renewed.Access, "a renewed refresh token": renewed.Refresh} {
					if secret != "" {
						u.canaries.Token(name, secret)
					}
				}
				want[c.result]++

				answer := way.use(t, u, e)
				switch {
				case way.plain && c.result == "renewed":
					if answer.want(t, http.StatusOK).body != plane.good.Body {
						t.Errorf("got %s", answer.body)
					}
					wantAsked(t, plane, e.access, renewed.Access)
				case way.plain && c.result == "refused": // the provider's word on its data is its own
					if answer.want(t, expired.Status).body != expired.Body {
						t.Errorf("got %s", answer.body)
					}
					wantAsked(t, plane, e.access)
				case c.result == "renewed":
					if tokenOf(t, answer) != renewed.Access {
						t.Error("the data address has another token than the provider handed out")
					}
					if body := u.getEgress(e.flow).want(t, http.StatusOK).body; body != plane.good.Body {
						t.Errorf("got %s", body)
					}
				case c.result == "refused" && c.api == http.StatusForbidden: // as Tractus-X's own EDR API has it
					if real := recordedAnswer(t, "consumer/forced-refresh-refused"); answer.want(t, real.Status).body != real.Body {
						t.Errorf("got %s, want %s", answer.body, real.Body)
					}
				default:
					answer.want(t, c.api)
				}
				if c.result == "unavailable" && answer.want(t, http.StatusServiceUnavailable).header.Get("Retry-After") == "" {
					t.Error("the answer does not say when to come again")
				}
				plane.wantRenewals(t, e, c.asked)
				wantStateAfter(t, u, c.result)
				if c.result == "renewed" { // the next one goes on with the new tokens
					plane.plays(expired, token)
					u.refresh(e.flow).want(t, http.StatusOK)
					plane.wantRenewals(t, edr{access: renewed.Access, refresh: renewed.Refresh}, 1)
					want[c.result]++
				}
				u.scrape().wantCount(u.gateway, want[c.result], "edrgate_consumer_renewals_total", "result", c.result)
				if c.result == "unavailable" && way.plain { // while the EDR rests, the refusal of its token is no "no" either
					u.getEgress(e.flow).want(t, http.StatusServiceUnavailable)
					want[c.result] = u.scrape().value("edrgate_consumer_renewals_total", "result", c.result) // it may have rested enough
				}
			})
		}
	}
}

// wantAsked checks the tokens with which data was asked for.
func wantAsked(t testing.TB, p *tractusXDataPlane, tokens ...string) {
	t.Helper()
	data, _ := p.asked()
	if strings.Join(data, " ") != strings.Join(tokens, " ") {
		t.Errorf("%d data requests, want %d with other tokens", len(data), len(tokens))
	}
}

// wantStateAfter checks what operators are shown of the only EDR.
func wantStateAfter(t testing.TB, u *user, result string) {
	t.Helper()
	state := "started"
	if result == "refused" {
		state = "refused"
	}
	page := u.adminGet("/edrgate/edrs").want(t, http.StatusOK)
	if !strings.Contains(page.body, `"state":"`+state+`"`) {
		t.Errorf("the EDR is shown as %s, want %s", page.body, state)
	}
}

// TestEgressAtTractusX: whatever Tractus-X's data plane refuses a token with leads to a renewal; if that does not help, its
// own words go to the client, and it is asked no more.
func TestEgressAtTractusX(t *testing.T) {
	t.Parallel()
	u := startTractusXUser(t)
	plane := newTractusXDataPlane(t, u)
	for _, refusal := range []string{"data-expired", "data-suspended", "data-terminated", "data-missing"} {
		for _, token := range []string{"consumer-refresh-0_12_2", "refresh-suspended"} {
			t.Run(refusal+"/"+token, func(t *testing.T) {
				refused, answer := recordedAnswer(t, "consumer/"+refusal), recordedAnswer(t, "consumer/"+token)
				plane.plays(refused, answer)
				e := plane.gives(t, "tp-1", "300")
				want := refused
				if renewed := answer.tokens(); renewed.Access != "" {
					u.canaries.Token("a renewed access token", renewed.Access)
					u.canaries.Token("a renewed refresh token", renewed.Refresh)
					want = plane.good
				}
				for range 2 {
					got := u.getEgress(e.flow).want(t, want.Status)
					if got.body != want.Body || got.header.Get("Content-Type") != "application/json" {
						t.Errorf("got %s: %s", got.header.Get("Content-Type"), got.body)
					}
				}
				plane.wantRenewals(t, e, 1)
			})
		}
	}
}

// TestFiftyRequestsWithAnExpiredTokenRenewOnce: all are refused before the one renewal is answered, and all get the data.
func TestFiftyRequestsWithAnExpiredTokenRenewOnce(t *testing.T) {
	t.Parallel()
	const crowd = 50
	u := startTractusXUser(t)
	plane := newTractusXDataPlane(t, u)
	token := recordedAnswer(t, "consumer/consumer-refresh")
	plane.plays(recordedAnswer(t, "consumer/data-expired"), token)
	u.canaries.Token("a renewed access token", token.tokens().Access)
	u.canaries.Token("a renewed refresh token", token.tokens().Refresh)
	plane.hold = func() {
		testkit.Eventually(t, "all requests are refused", func() bool {
			data, _ := plane.asked()
			return len(data) == crowd
		})
	}
	e := plane.gives(t, "tp-1", "300")
	for i, answer := range u.shortTogether(e.flow, crowd) {
		if answer.status != http.StatusOK || answer.body != plane.good.Body {
			t.Errorf("request %d: status %d: %s", i, answer.status, answer.body)
		}
	}
	plane.wantRenewals(t, e, 1)
	if data, _ := plane.asked(); len(data) != 2*crowd {
		t.Errorf("%d data requests came, want each twice", len(data))
	}
	u.scrape().wantCount(u.gateway, 1, "edrgate_consumer_renewals_total")
}

// TestNothingIsSignedForAnotherProvider: a provider that got hold of another one's access token delivers it as its own, and
// one wants a proof for somebody else.
func TestNothingIsSignedForAnotherProvider(t *testing.T) {
	t.Parallel()
	u := startTractusXUser(t)
	honest, thief := newTractusXDataPlane(t, u), newTractusXDataPlane(t, u)
	token := recordedAnswer(t, "consumer/consumer-refresh")
	for _, p := range []*tractusXDataPlane{honest, thief} {
		p.plays(recordedAnswer(t, "consumer/data-expired"), token)
	}
	e := honest.gives(t, "tp-honest", "300")
	stolen := thief.gives(t, "tp-thief", "300")
	answer := u.refresh(stolen.flow).want(t, http.StatusBadRequest)
	if !strings.Contains(answer.body, "another EDR holds the access token") {
		t.Errorf("got %s", answer.body)
	}
	u.getEgress(stolen.flow).want(t, http.StatusForbidden)
	thief.wantRenewals(t, stolen, 0)

	foreign := replaceAll(t, recordedAnswer(t, "consumer/edr-api").Body, tractusXPlane, thief.server.URL,
		`"tx-auth:refreshAudience":"`+tractusXConsumer, `"tx-auth:refreshAudience":"did:web:victim.example`)
	refused := u.callAPI(http.MethodPut, "/v3/edrs/tp-foreign", map[string]any{
		"providerId": tractusXProvider, "assetId": "rich", "dataAddress": json.RawMessage(foreign),
	}).want(t, http.StatusBadRequest)
	if !strings.Contains(refused.body, "refreshAudience is neither the provider nor this participant") {
		t.Errorf("got %s", refused.body)
	}
	u.refresh("tp-foreign").want(t, http.StatusNotFound)
	thief.wantRenewals(t, stolen, 0)

	u.canaries.Token("a renewed access token", token.tokens().Access)
	u.canaries.Token("a renewed refresh token", token.tokens().Refresh)
	if tokenOf(t, u.refresh(e.flow)) != token.tokens().Access {
		t.Error("the honest provider's EDR is not renewed")
	}
	honest.wantRenewals(t, e, 1)
}

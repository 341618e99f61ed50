package consumer

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// recorded is one exchange as real peers had it on the wire.
type recorded struct {
	Request struct {
		Target  string      `json:"target"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body"`
	} `json:"request"`
	Response struct {
		Status  int         `json:"status"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body"`
	} `json:"response"`
}

func load(t testing.TB, name string) recorded {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "recorded", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var rec recorded
	err = json.Unmarshal(data, &rec)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// address returns the data address in a recording, wherever it stands.
func (r recorded) address(t testing.TB) []byte {
	t.Helper()
	for _, text := range []string{r.Request.Body, r.Response.Body} {
		var body struct {
			Address json.RawMessage `json:"dataAddress"`
			Payload struct {
				Address json.RawMessage `json:"dataAddress"`
			} `json:"payload"`
		}
		if json.Unmarshal([]byte(text), &body) != nil {
			continue
		}
		for _, found := range [][]byte{body.Address, body.Payload.Address} {
			if found != nil {
				return found
			}
		}
	}
	return []byte(r.Response.Body)
}

// Each form in which an EDR was seen to reach a consumer.
func TestRecordedEDRs(t *testing.T) {
	t.Parallel()
	const (
		classicData, classicToken = "http://localhost:18185/public", "http://localhost:18185/public/token"
		audience                  = "did:web:consumer.example"
	)
	for _, c := range []struct {
		name     string
		dialect  tokens.Dialect
		endpoint string
		token    string // beginning of the access token
		authType string
		refresh  string // beginning of the refresh token
		at       string // refresh endpoint
		audience string
		life     time.Duration
	}{
		{
			"dps-started", tokens.DPS, "http://localhost:9600/data/8a43fc99-918c-4aa1-bfa5-1bcd3cc532c6", "eyJ", "bearer",
			"47baf2a9", "http://localhost:9600/token", "", 300 * time.Second,
		},
		{
			"dps-started-both-names", tokens.DPS, "http://localhost:9600/data/e11c2fe1-99c7-494f-a2f8-ab1799416455", "eyJ", "bearer",
			"9581de4e", "http://localhost:9600/token", "did:web:localhost%3A9601", 300 * time.Second,
		},
		{
			"dps-edr-api", tokens.DPS, "http://localhost:9600/data/e11c2fe1-99c7-494f-a2f8-ab1799416455", "eyJ", "bearer",
			"9581de4e", "http://localhost:9600/token", "did:web:localhost%3A9601", 300 * time.Second,
		},
		// Plain names were dropped by EDC's EDR API: the endpoint is all that is left.
		{"dps-edr-api-plain-names", tokens.DPS, "http://localhost:9600/data/8a43fc99-918c-4aa1-bfa5-1bcd3cc532c6", "", "", "", "", "", 0},
		{
			"dps-tck-started", tokens.DPS, "https://provider.example.com/data/bbac5070-04f7-404e-aca9-122e97cbe33c", "1d7e3f3f", "bearer",
			"430af360", "https://provider.example.com/authorization/refresh", "", 300 * time.Second,
		},
		{
			"edr-api", tokens.Classic, "http://localhost:16185/api/public", "eyJ", "", "eyJ", "http://localhost:16185/api/public/token",
			"did:web:localhost%3A17000:consumer", 12 * time.Second,
		},
		{"edr-api-expanded", tokens.Classic, classicData, "eyJ", "bearer", "eyJ", classicToken, audience, 300 * time.Second},
		{"edr-api-0_14", tokens.Classic, classicData, "eyJ", "bearer", "eyJ", classicToken, audience, 300 * time.Second},
		{"edr-api-0_17", tokens.Classic, classicData, "eyJ", "bearer", "eyJ", classicToken, audience, 300 * time.Second},
		{"event-started", tokens.Classic, classicData, "eyJ", "bearer", "eyJ", classicToken, audience, 300 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := ParseEDR(load(t, c.name).address(t))
			if err != nil {
				t.Fatal(err)
			}
			if e.Dialect != c.dialect || e.Endpoint != c.endpoint || e.AuthType != c.authType || e.RefreshEndpoint != c.at ||
				e.RefreshAudience != c.audience || e.ExpiresIn != c.life {
				t.Errorf("%s, %q, %q, %q, %q, %s", e.Dialect, e.Endpoint, e.AuthType, e.RefreshEndpoint, e.RefreshAudience, e.ExpiresIn)
			}
			access, refresh := e.AccessToken.Reveal(), e.RefreshToken.Reveal()
			if !strings.HasPrefix(access, c.token) || (access == "") != (c.token == "") ||
				!strings.HasPrefix(refresh, c.refresh) || (refresh == "") != (c.refresh == "") {
				t.Error("another token")
			}
			header, err := e.Authorization()
			if err != nil {
				t.Fatal(err)
			}
			want := access
			if c.dialect == tokens.DPS && access != "" {
				want = "Bearer " + access
			}
			if header != want {
				t.Error("another Authorization header than this dialect's")
			}
		})
	}
}

// What Tractus-X's API shows of an EDR is read and rendered as it was.
func TestRecordedEDRIsRendered(t *testing.T) {
	t.Parallel()
	rec := load(t, "edr-api")
	e, err := ParseEDR([]byte(rec.Response.Body))
	if err != nil {
		t.Fatal(err)
	}
	data, err := e.DataAddress(true)
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	err = json.Unmarshal(data, &got)
	if err != nil {
		t.Fatal(err)
	}
	err = json.Unmarshal([]byte(rec.Response.Body), &want)
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		a, _ := json.Marshal(got[name])
		b, _ := json.Marshal(want[name])
		if string(a) != string(b) {
			t.Errorf("%s: %s, was %s", name, a, b)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d members, were %d", len(got), len(want))
	}
}

// The events of a transfer, as EDC's callback has them.
func TestRecordedEvents(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]EventKind{
		"event-started": KindStarted, "event-suspended": KindSuspended, "event-terminated": KindEnded, "event-completed": KindEnded,
		"event-initiated": KindOther,
	} {
		e, err := ParseEvent([]byte(load(t, name).Request.Body))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e.Kind != kind || e.At.IsZero() {
			t.Errorf("%s: %+v", name, e)
		}
		if kind == KindOther {
			continue
		}
		if e.ID == "" || e.Asset != "rich" || e.Agreement != "5a545423-4a42-481e-9de4-a17d3c3aae9f" || !e.Consumer || (e.EDR != nil) != (kind == KindStarted) {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// A life of a transfer by its recorded events.
func TestApplyRecordedEvents(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	const id = "82d06d16-5eb8-4f4d-958e-236a6e380125"
	apply := func(name string) *Event {
		t.Helper()
		e, err := ParseEvent([]byte(load(t, name).Request.Body))
		if err != nil {
			t.Fatal(err)
		}
		_, err = x.Apply(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	apply("event-initiated")
	started := apply("event-started")
	if e := x.get(id); e.State != Started || e.Agreement != "5a545423-4a42-481e-9de4-a17d3c3aae9f" || e.Origin != ByEvent || e.Counterparty != "" {
		t.Errorf("after the start: %+v", e)
	}
	apply("event-suspended")
	if x.get(id).State != Suspended {
		t.Error("not suspended")
	}
	apply("event-started") // delivered late: it is older than the suspension
	if x.get(id).State != Suspended {
		t.Error("an old event has brought it to life")
	}
	started.At = started.At.Add(time.Hour)
	x.must(x.Apply(t.Context(), started))
	if x.get(id).State != Started {
		t.Error("not resumed")
	}
	apply("event-terminated")
	if x.get(id).State != Ended {
		t.Error("not ended")
	}
	_, err := x.Apply(t.Context(), started)
	wantCode(t, err, CodeEnded)
	apply("event-completed") // of a transfer that is not known
}

// The renewal that Tractus-X's consumer was seen to send is what we send to Tractus-X's data plane, and its recorded
// answers are read as it reads them.
func TestRecordedRenewals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		body bool // the recorded consumer sends the form as well
		code Code
	}{
		{"consumer-refresh", false, ""},
		{"consumer-refresh-0_12_2", true, ""},
		{"refresh-success", false, ""},
		{"refresh-spoofed-signature", false, CodeRefused},
		{"refresh-suspended", false, CodeRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rec := load(t, c.name)
			target, err := url.Parse(rec.Request.Target)
			if err != nil {
				t.Fatal(err)
			}
			x := newFixture(t)
			var query, body string
			x.provider.renew = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				query, body = r.URL.RawQuery, r.PostForm.Encode()
				for _, h := range rec.Response.Headers {
					w.Header().Set(h[0], h[1])
				}
				w.WriteHeader(rec.Response.Status)
				_, _ = w.Write([]byte(rec.Response.Body))
				return true
			}
			e := x.classic()
			e.RefreshToken = tokens.Secret(target.Query().Get("refresh_token"))
			x.put("tp-1", e, Terms{Counterparty: providerDID})
			renewed, err := x.renewer.Refresh(t.Context(), "tp-1")
			if query != target.RawQuery || c.body && body != rec.Request.Body {
				t.Errorf("sent %q with %q", query, body)
			}
			if c.code != "" {
				wantCode(t, err, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var answer struct {
				Access  string `json:"access_token"`
				Refresh string `json:"refresh_token"`
				Expires int    `json:"expires"`
			}
			err = json.Unmarshal([]byte(rec.Response.Body), &answer)
			if err != nil {
				t.Fatal(err)
			}
			if renewed.EDR.AccessToken.Reveal() != answer.Access || renewed.EDR.RefreshToken.Reveal() != answer.Refresh ||
				renewed.EDR.ExpiresIn != time.Duration(answer.Expires)*time.Second {
				t.Errorf("%+v", renewed)
			}
		})
	}
}

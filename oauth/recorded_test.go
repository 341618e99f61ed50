package oauth

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// recorded is one exchange as real peers had it on the wire.
type recorded struct {
	ObservedOn string `json:"observedOn"`
	Request    struct {
		Method  string      `json:"method"`
		Target  string      `json:"target"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body"`
	} `json:"request"`
	Response struct {
		Status int    `json:"status"`
		Body   string `json:"body"`
	} `json:"response"`
}

func load(t *testing.T, name string) recorded {
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

func (r recorded) request() *http.Request {
	req := httptest.NewRequest(r.Request.Method, r.Request.Target, strings.NewReader(r.Request.Body))
	for _, h := range r.Request.Headers {
		req.Header.Add(h[0], h[1])
	}
	return req
}

// Each recorded token request gives the token it carries, or the recorded refusal, byte for byte.
func TestRecordedTokenRequests(t *testing.T) {
	tests := []struct {
		name    string
		query   bool   // a token is in the query
		token   string // a part of the refresh token; "": refused
		status  int    // of our refusal
		differs string // why our answer is not the recorded one
	}{
		{name: "refresh-success", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "consumer-refresh", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "consumer-refresh-0_12_2", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "refresh-query-and-form", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "refresh-query-only-0_12_2", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "refresh-form-body-0_12_2", token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "refresh-form-body", token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5", differs: "0.12.1 does not read the body"},
		{name: "refresh-trailing-slash", query: true, token: "wrong"},
		{name: "refresh-no-content-type", query: true, token: "wrong"},
		{name: "refresh-wrong-refresh-token", query: true, token: "wrong"},
		{name: "refresh-raw-authorization", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "refresh-lowercase-bearer", query: true, token: "eyJraWQiOiJ0eC1wdWJsaWMta2V5"},
		{name: "dps-renewed", token: "4861b8a1f35667a7194a38e3f07da3470800f4998937d7b67a3976a1bf50ee10"},
		{name: "dps-unknown-refresh-token", token: "invalid-refresh-token-"},
		{name: "dps-wrong-audience", token: "bc197606ddce26783481276d6315d51af3e7ab3892f815be7d545473a0aa82c4"},

		{name: "refresh-no-grant-type", query: true, status: 400},
		{name: "refresh-wrong-grant-type", query: true, status: 400},
		{name: "refresh-no-refresh-token", query: true, status: 400},
		{name: "refresh-empty-refresh-token", query: true, status: 400},
		{name: "refresh-post-token-path-as-data", status: 400},
		{name: "refresh-json-content-type", query: true, status: 415, differs: "the recorded body is an HTML page of the HTTP server"},
		{name: "refresh-body-wins-0_12_2", query: true, status: 400, differs: "two values of one parameter are refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := load(t, tt.name)
			got, err := ParseTokenRequest(rec.request(), 0)
			if got.TokenInQuery != tt.query {
				t.Errorf("token in query: got %v", got.TokenInQuery)
			}
			if err == nil {
				err = got.CheckRefresh()
			}
			if tt.token != "" {
				if err != nil || !strings.Contains(got.RefreshToken.Reveal(), tt.token) {
					t.Fatalf("got %q, %v", got.RefreshToken.Reveal(), err)
				}
				return
			}
			var refusal Refusal
			if !errors.As(err, &refusal) || refusal.Status != tt.status {
				t.Fatalf("got %#v", err)
			}
			if tt.differs != "" {
				return
			}
			w := httptest.NewRecorder()
			err = WriteError(w, EDC, refusal)
			if err != nil || w.Code != rec.Response.Status || w.Body.String() != rec.Response.Body {
				t.Fatalf("got %d %s, %v\nwant %d %s", w.Code, w.Body, err, rec.Response.Status, rec.Response.Body)
			}
		})
	}
}

func TestRecordedAuthorization(t *testing.T) {
	tests := []struct {
		name  string
		token string // a part of it; "": missing
	}{
		{"refresh-success", "eyJhbGciOiJFUzI1NiIs"},
		{"refresh-raw-authorization", "eyJhbGciOiJFUzI1NiIs"},
		{"refresh-lowercase-bearer", "eyJhbGciOiJFUzI1NiIs"},
		{"refresh-garbage-authorization", "abc"},
		{"dps-renewed", "eyJraWQi"},
		{"refresh-no-authorization", ""},
		{"refresh-empty-authorization", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := load(t, tt.name)
			got, err := Bearer(rec.request().Header, 0)
			if tt.token != "" {
				if err != nil || !strings.HasPrefix(got.Reveal(), tt.token) || strings.Contains(got.Reveal(), " ") {
					t.Fatalf("got %q, %v", got.Reveal(), err)
				}
				return
			}
			if !errors.Is(err, Missing) {
				t.Fatalf("got %v", err)
			}
			w := httptest.NewRecorder()
			err = WriteError(w, EDC, Missing)
			if err != nil || w.Code != rec.Response.Status || w.Body.String() != rec.Response.Body {
				t.Fatalf("got %d %s, %v\nwant %d %s", w.Code, w.Body, err, rec.Response.Status, rec.Response.Body)
			}
		})
	}
}

// The answer of the 0.12.2 data plane, and for older consumers a superset of that of 0.12.1.
func TestRecordedTokenAnswers(t *testing.T) {
	for name, exact := range map[string]bool{"consumer-refresh-0_12_2": true, "consumer-refresh": false} {
		t.Run(name, func(t *testing.T) {
			rec := load(t, name)
			var want map[string]any
			err := json.Unmarshal([]byte(rec.Response.Body), &want)
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			err = WriteToken(w, Token{
				AccessToken:  tokens.Secret(want["access_token"].(string)),
				RefreshToken: tokens.Secret(want["refresh_token"].(string)),
				ExpiresIn:    time.Duration(want["expires"].(float64)) * time.Second,
			})
			if err != nil || w.Code != http.StatusOK {
				t.Fatalf("got %d, %v", w.Code, err)
			}
			if exact && w.Body.String() != rec.Response.Body {
				t.Fatalf("got %s\nwant %s", w.Body, rec.Response.Body)
			}
			var got map[string]any
			err = json.Unmarshal(w.Body.Bytes(), &got)
			if err != nil {
				t.Fatal(err)
			}
			for member, value := range want {
				if got[member] != value {
					t.Errorf("%s: got %v, want %v", member, got[member], value)
				}
			}
		})
	}
}

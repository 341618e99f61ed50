package authserver_test

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/internal/testkit"
)

func TestFormOfTheRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credential")
	err := os.WriteFile(file, []byte("workload-credential\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		change func(*authserver.Grant)
		want   url.Values
	}{
		{"client credentials", func(*authserver.Grant) {}, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"CANARY-secret"},
		}},
		{"scope and audience", func(g *authserver.Grant) { g.Scope, g.Audience, g.Resource = "a b", "aud", "urn:r" }, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"CANARY-secret"},
			"scope": {"a b"}, "audience": {"aud"}, "resource": {"urn:r"},
		}},
		{"token exchange", func(g *authserver.Grant) {
			*g = authserver.Grant{Endpoint: g.Endpoint, SubjectTokenFile: file, Resource: "urn:r", Scope: "s"}
		}, url.Values{
			"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token": {"workload-credential"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
			"requested_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
			"resource":             {"urn:r"}, "scope": {"s"},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			c.change(&w.grant)
			w.token()
			if got := w.Forms(); len(got) != 1 || !reflect.DeepEqual(got[0], c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestSubjectTokenIsReadForEachRequest: platforms renew it.
func TestSubjectTokenIsReadForEachRequest(t *testing.T) {
	w := newWorld(t, false)
	file := filepath.Join(t.TempDir(), "credential")
	w.grant = authserver.Grant{Endpoint: w.grant.Endpoint, SubjectTokenFile: file}
	if failure := w.failure(); failure.Refused {
		t.Errorf("a missing file is a refusal: %v", failure)
	}
	for i, credential := range []string{"first", "second"} {
		w.clock.Advance(2 * time.Hour)
		err := os.WriteFile(file, []byte(credential), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		w.token()
		if got := w.Forms()[i].Get("subject_token"); got != credential {
			t.Errorf("request %d: got %q, want %q", i, got, credential)
		}
	}
}

func TestUnusableAnswers(t *testing.T) {
	cases := []struct {
		name    string
		status  int
		body    string
		refused bool
		want    string
	}{
		{"client unknown", 401, `{"error":"invalid_client","error_description":"CANARY"}`, true, "gives no token, status 401, error code invalid_client"},
		{"unknown code", 400, `{"error":"CANARY"}`, true, "gives no token, status 400"},
		{"error with status 200", 200, `{"error":"invalid_scope"}`, true, "gives no token, status 200, error code invalid_scope"},
		{"not JSON", 403, `<html>CANARY`, true, "gives no token, status 403"},
		{"redirect", 302, ``, true, "gives no token, status 302"},
		{"not a token answer", 200, `["CANARY"]`, true, "the answer is not that of a token endpoint"},
		{"cut short", 200, `{"access_token":"CANARY`, true, "the answer is not that of a token endpoint"},
		{"no token", 200, `{"token_type":"Bearer"}`, true, "the answer is not that of a token endpoint"},
		{"other type", 200, `{"access_token":"CANARY","token_type":"DPoP"}`, true, "token_type is not Bearer"},
		{"no type", 200, `{"access_token":"CANARY"}`, true, "token_type is not Bearer"},
		{"line break", 200, `{"access_token":"CANARY\r\nX: y","token_type":"Bearer"}`, true, "cannot stand in a header"},
		{"expired", 200, `{"access_token":"CANARY","token_type":"Bearer","expires_in":0}`, true, "not a number of seconds above 0"},
		{"expired long ago", 200, `{"access_token":"CANARY","token_type":"Bearer","expires_in":-5}`, true, "not a number of seconds above 0"},
		{"expired by itself", 200, `{"access_token":"h.eyJleHAiOjF9.CANARY","token_type":"Bearer","expires_in":60}`, true, "access_token has expired"}, // {"exp":1}
		{"too long", 200, `{"access_token":"t","token_type":"Bearer","x":"` + strings.Repeat("CANARY", 20_000) + `"}`, true, "not that of a token endpoint"},
		{"server error", 500, `CANARY`, false, "gives no token, status 500"},
		{"overloaded", 503, `{"error":"temporarily_unavailable"}`, false, "gives no token, status 503"},
		{"too many requests", 429, ``, false, "gives no token, status 429"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, false)
			w.AnswerText(c.status, c.body)
			failure := w.failure()
			if failure.Refused != c.refused || !strings.HasSuffix(failure.Error(), c.want) {
				t.Errorf("got %q, refused %t", failure, failure.Refused)
			}
			if !strings.HasPrefix(failure.Error(), "token endpoint "+w.URL+": ") {
				t.Errorf("%q does not name the server alone", failure)
			}
			again := w.failure()
			if len(w.Forms()) != 1 || again.After <= 0 || again.Error() != failure.Error() {
				t.Errorf("asked again at once: %d requests, %v after %s", len(w.Forms()), again, again.After)
			}
			w.clock.Advance(again.After)
			w.AnswerText(http.StatusOK, `{"access_token":"t","token_type":"Bearer"}`)
			w.token()
		})
	}
}

// TestRedirectIsNotFollowed: another host would get the secret.
func TestRedirectIsNotFollowed(t *testing.T) {
	w, other := newWorld(t, false), testkit.NewTokenServer(t)
	w.Answer(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, other.URL+"/token", http.StatusTemporaryRedirect)
	})
	if failure := w.failure(); !failure.Refused || len(other.Forms()) != 0 {
		t.Errorf("got %v, and %d requests elsewhere", failure, len(other.Forms()))
	}
}

func TestServerThatCannotBeAsked(t *testing.T) {
	w := newWorld(t, false)
	w.Source = authserver.New(authserver.Config{Transport: dialtest.Transport(t), Now: w.clock.Now})
	failure := w.failure()
	var denied *dial.DeniedError
	if failure.Refused || !errors.As(failure, &denied) {
		t.Errorf("an address that must not be dialled: got %v", failure)
	}

	w = newWorld(t, false)
	w.Close()
	if failure := w.failure(); failure.Refused || failure.Status != 0 {
		t.Errorf("nobody listens: got %v", failure)
	}

	w = newWorld(t, false)
	w.Answer(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "CANARY is not HTTP\r\n\r\n")
		_ = conn.Close()
	})
	if failure := w.failure(); failure.Refused || !strings.HasSuffix(failure.Error(), "cannot be reached over HTTP") {
		t.Errorf("no HTTP: got %v", failure)
	}
}

// TestHostsInTrouble: whatever trouble the host of a token endpoint is in, there is no token. That it refuses the client is
// said only of an answer that came whole.
func TestHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		source := authserver.New(authserver.Config{Transport: h.Transport(t), Timeout: h.Timeout})
		_, _, err := source.Token(t.Context(), authserver.Grant{Endpoint: h.URL, ClientID: "client", ClientSecret: secret})
		var failure *authserver.Error
		if !errors.As(err, &failure) {
			t.Fatalf("got %v", err)
		}
		if failure.Refused && h.Requests() == 0 {
			t.Errorf("the host has not been asked, and %v", failure)
		}
		var denied *dial.DeniedError
		if (h.Denied != "") != errors.As(err, &denied) {
			t.Errorf("got %v", failure)
		}
	})
}

// TestAnswerThatBreaksOff: half an answer is no refusal, whatever its status would have said.
func TestAnswerThatBreaksOff(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusUnauthorized} {
		w := newWorld(t, false)
		w.Answer(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			rw.Header().Set("Content-Length", "1000")
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, `{"access_token":"CANARY`)
			err := http.NewResponseController(rw).Flush()
			if err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		})
		if failure := w.failure(); failure.Refused || failure.Status != 0 || !strings.HasSuffix(failure.Error(), "cannot be reached over HTTP") {
			t.Errorf("status %d: got %v, refused %t", status, failure, failure.Refused)
		}
	}
}

// FuzzAnswer checks that no answer makes a token that could not be sent, or an error that quotes it.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "application/json", `{"access_token":"t","token_type":"Bearer","expires_in":60}`)
	f.Add(200, "application/x-www-form-urlencoded", `access_token=t&token_type=bearer&expires_in=1e3`)
	f.Add(400, "application/json", `{"error":"invalid_client","error_description":"x"}`)
	f.Add(200, "text/plain", `%`)
	f.Fuzz(func(t *testing.T, status int, contentType, body string) {
		if status < 200 || status > 599 {
			return
		}
		transport := answering(func() *http.Response {
			return &http.Response{
				StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body)),
			}
		})
		source := authserver.New(authserver.Config{Transport: transport, OncePerJTI: true})
		token, _, err := source.Token(t.Context(), authserver.Grant{Endpoint: "https://auth.example/token"})
		if err != nil {
			if len(err.Error()) > 200 || len(body) > 40 && strings.Contains(err.Error(), body) {
				t.Errorf("the error quotes the answer: %v", err)
			}
			return
		}
		if token == "" || strings.ContainsAny(token.Reveal(), " \r\n\x00") {
			t.Errorf("token %q", token.Reveal())
		}
	})
}

type answering func() *http.Response

func (a answering) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

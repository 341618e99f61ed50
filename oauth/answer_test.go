package oauth

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestWriteToken(t *testing.T) {
	tests := []struct {
		name  string
		token Token
		want  string
	}{
		{
			"both tokens",
			Token{AccessToken: "a.b.c", RefreshToken: "r", ExpiresIn: 5 * time.Minute},
			`{"access_token":"a.b.c","refresh_token":"r","expires":300,"expires_in":300,"token_type":"bearer"}`,
		},
		{
			"no refresh token",
			Token{AccessToken: "a<&>", ExpiresIn: 1999 * time.Millisecond},
			`{"access_token":"a<&>","expires":1,"expires_in":1,"token_type":"bearer"}`,
		},
		{
			"life below a second",
			Token{AccessToken: "a", ExpiresIn: -time.Hour},
			`{"access_token":"a","expires":1,"expires_in":1,"token_type":"bearer"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			err := WriteToken(w, tt.token)
			if err != nil || w.Code != http.StatusOK || w.Body.String() != tt.want {
				t.Fatalf("got %d %s, %v", w.Code, w.Body, err)
			}
			want := http.Header{
				"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}, "Pragma": {"no-cache"},
				"Content-Length": {strconv.Itoa(len(tt.want))},
			}
			sameHeader(t, w.Header(), want)
		})
	}
}

func sameHeader(t *testing.T, got, want http.Header) {
	t.Helper()
	for name := range want {
		if got.Get(name) != want.Get(name) {
			t.Errorf("%s: got %q, want %q", name, got.Get(name), want.Get(name))
		}
	}
	for name := range got {
		_, ok := want[name]
		if !ok {
			t.Errorf("%s: %q is not wanted", name, got.Get(name))
		}
	}
}

func TestWriteError(t *testing.T) {
	tests := []struct {
		name      string
		format    Format
		refusal   Refusal
		status    int
		body      string
		challenge string
		retry     string
	}{
		{
			"invalid grant", OAuth,
			Refusal{Status: 400, Code: CodeInvalidGrant, Message: "unknown refresh token"},
			400, `{"error":"invalid_grant","error_description":"unknown refresh token"}`, "", "",
		},
		{
			"bad request", EDC,
			Refusal{Status: 400, Code: CodeInvalidRequest, Message: "Parameter 'refresh_token' cannot be null"},
			400, `[{"message":"Parameter 'refresh_token' cannot be null","type":"InvalidRequest","path":null,"invalidValue":null}]`, "", "",
		},
		{
			"invalid client", OAuth,
			Refusal{Status: 401, Code: CodeInvalidClient, Message: "wrong audience"},
			401, `{"error":"invalid_client","error_description":"wrong audience"}`, `Bearer realm="edrgate"`, "",
		},
		{
			"no authentication", OAuth, Missing,
			401, `{"error":"invalid_client","error_description":"Authorization header missing"}`, `Bearer realm="edrgate"`, "",
		},
		{
			"invalid token", EDC,
			Refusal{Status: 401, Code: CodeInvalidToken, Message: "no"},
			401, `[{"message":"no","type":"AuthenticationFailed","path":null,"invalidValue":null}]`,
			`Bearer realm="edrgate", error="invalid_token", error_description="no"`, "",
		},
		{"forbidden", EDC, Refusal{Status: 403, Message: "no"}, 403, `[{"message":"no","type":"NotAuthorized","path":null,"invalidValue":null}]`, "", ""},
		{"not found", EDC, Refusal{Status: 404, Message: "no"}, 404, `[{"message":"no","type":"ObjectNotFound","path":null,"invalidValue":null}]`, "", ""},
		{"conflict", EDC, Refusal{Status: 409, Message: "no"}, 409, `[{"message":"no","type":"ObjectConflict","path":null,"invalidValue":null}]`, "", ""},
		{"bad gateway", EDC, Refusal{Status: 502, Message: "no"}, 502, `[{"message":"no","type":"BadGateway","path":null,"invalidValue":null}]`, "", ""},
		{"too large", EDC, Refusal{Status: 413, Message: "no"}, 413, `[{"message":"no","type":"InvalidRequest","path":null,"invalidValue":null}]`, "", ""},
		{"media type", OAuth, Refusal{Status: 415, Message: "no"}, 415, `{"error":"invalid_request","error_description":"no"}`, "", ""},
		{
			"cannot tell", EDC,
			Refusal{Status: 503, Message: "try later", RetryAfter: 1500 * time.Millisecond},
			503, `[{"message":"try later","type":"ServiceUnavailable","path":null,"invalidValue":null}]`, "", "2",
		},
		{
			"cannot tell, no time given", OAuth,
			Refusal{Status: 503, Message: "try later"},
			503, `{"error":"temporarily_unavailable","error_description":"try later"}`, "", "1",
		},
		{
			"too many", OAuth,
			Refusal{Status: 429, RetryAfter: time.Minute},
			429, `{"error":"temporarily_unavailable","error_description":"Too Many Requests"}`, "", "60",
		},
		{"server error", OAuth, Refusal{Status: 500}, 500, `{"error":"server_error","error_description":"Internal Server Error"}`, "", ""},
		{"server error, EDC", EDC, Refusal{Status: 500}, 500, `[{"message":"Internal Server Error","type":"InternalServerError","path":null,"invalidValue":null}]`, "", ""},
		{"zero value", OAuth, Refusal{}, 500, `{"error":"server_error","error_description":"Internal Server Error"}`, "", ""},
		{"status that is no refusal", OAuth, Refusal{Status: 200, Message: "no"}, 500, `{"error":"server_error","error_description":"no"}`, "", ""},
		{
			"message beyond the character set", OAuth,
			Refusal{Status: 401, Code: CodeInvalidToken, Message: "a\"b\\c\r\nX: ä<"},
			401, `{"error":"invalid_token","error_description":"a'b c  X:   <"}`,
			`Bearer realm="edrgate", error="invalid_token", error_description="a'b c  X:   <"`, "",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			err := WriteError(w, tt.format, tt.refusal)
			checkRefusal(t, w, err, tt.status, tt.body, tt.challenge, tt.retry)
		})
	}
}

func checkRefusal(t *testing.T, w *httptest.ResponseRecorder, err error, status int, body, challenge, retry string) {
	t.Helper()
	if err != nil || w.Code != status || w.Body.String() != body {
		t.Fatalf("got %d %s, %v", w.Code, w.Body, err)
	}
	want := http.Header{"Cache-Control": {"no-store"}, "Pragma": {"no-cache"}, "Content-Length": {strconv.Itoa(len(body))}}
	for name, value := range map[string]string{"Www-Authenticate": challenge, "Retry-After": retry} {
		if value != "" {
			want.Set(name, value)
		}
	}
	if body != "" {
		want.Set("Content-Type", "application/json")
		if !json.Valid(w.Body.Bytes()) {
			t.Error("body is not JSON")
		}
	}
	sameHeader(t, w.Header(), want)
}

type broken struct{ http.ResponseWriter }

var errBroken = errors.New("connection reset")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestWriterErrorIsReturned(t *testing.T) {
	w := broken{httptest.NewRecorder()}
	for _, err := range []error{
		WriteToken(w, Token{AccessToken: "canary"}), WriteError(w, OAuth, Missing),
	} {
		if !errors.Is(err, errBroken) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v", err)
		}
	}
}

func TestRefusalError(t *testing.T) {
	for want, r := range map[string]Refusal{"Service Unavailable": {Status: 503}, "Authorization header missing": Missing} {
		if r.Error() != want {
			t.Errorf("got %q, want %q", r.Error(), want)
		}
	}
}

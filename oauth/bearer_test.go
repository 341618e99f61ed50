package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func TestBearer(t *testing.T) {
	const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.AA-_"
	tests := []struct {
		name   string
		values []string
		want   string
		status int // of the refusal
	}{
		{"with scheme", []string{"Bearer " + jwt}, jwt, 0},
		{"lower case", []string{"bearer " + jwt}, jwt, 0},
		{"mixed case", []string{"bEaReR " + jwt}, jwt, 0},
		{"without scheme", []string{jwt}, jwt, 0},
		{"opaque", []string{"Bearer abc/+~=="}, "abc/+~==", 0},
		{"opaque without scheme", []string{"abc"}, "abc", 0},
		{"longest", []string{"Bearer " + strings.Repeat("a", DefaultTokenLimit)}, strings.Repeat("a", DefaultTokenLimit), 0},

		{"none", nil, "", 401},
		{"empty", []string{""}, "", 401},
		{"Basic", []string{"Basic dXNlcjpwYXNz"}, "", 401},
		{"Digest", []string{`Digest username="a", realm="b"`}, "", 401},
		{"DPoP", []string{"DPoP " + jwt}, "", 401},
		{"Basic and Bearer in one header", []string{"Basic abc, Bearer " + jwt}, "", 401},

		{"scheme alone", []string{"Bearer"}, "", 400},
		{"scheme and space", []string{"Bearer "}, "", 400},
		{"two spaces", []string{"Bearer  " + jwt}, jwt, 0},
		{"space behind", []string{"Bearer " + jwt + " "}, "", 400},
		{"tab", []string{"Bearer\t" + jwt}, "", 400},
		{"tab behind the space", []string{"Bearer \t" + jwt}, "", 400},
		{"two tokens", []string{"Bearer a b"}, "", 400},
		{"two tokens without scheme", []string{jwt + " " + jwt}, "", 400},
		{"scheme twice", []string{"Bearer Bearer " + jwt}, "", 400},
		{"list", []string{"Bearer " + jwt + ", Bearer " + jwt}, "", 400},
		{"list without spaces", []string{"Bearer " + jwt + "," + jwt}, "", 400},
		{"two headers", []string{"Bearer " + jwt, "Bearer " + jwt}, "", 400},
		{"two headers, one empty", []string{"", jwt}, "", 400},
		{"two headers, one Basic", []string{"Basic abc", "Bearer " + jwt}, "", 400},
		{"quoted", []string{`Bearer "` + jwt + `"`}, "", 400},
		{"padding alone", []string{"Bearer =="}, "", 400},
		{"padding inside", []string{"Bearer a=b"}, "", 400},
		{"NUL", []string{"Bearer " + jwt + "\x00"}, "", 400},
		{"line break", []string{"Bearer " + jwt + "\r\nX: y"}, "", 400},
		{"not ASCII", []string{"Bearer ä"}, "", 400},
		{"percent-encoded", []string{"Bearer a%20b"}, "", 400},
		{"too large", []string{"Bearer " + strings.Repeat("a", DefaultTokenLimit+1)}, "", 400},
		{"too large without scheme", []string{strings.Repeat("a", 64<<10)}, "", 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for _, v := range tt.values {
				h.Add("Authorization", v)
			}
			got, err := Bearer(h, 0)
			if tt.status == 0 {
				if err != nil || got.Reveal() != tt.want {
					t.Fatalf("got %q, %v", got.Reveal(), err)
				}
				return
			}
			var refusal Refusal
			if !errors.As(err, &refusal) || refusal.Status != tt.status || got != "" {
				t.Fatalf("got %q, %#v", got.Reveal(), err)
			}
			if errors.Is(err, Missing) != (tt.status == 401) || tt.status == 400 && refusal.Code != CodeInvalidRequest {
				t.Fatalf("got %#v", err)
			}
			if strings.Contains(err.Error(), "eyJ") {
				t.Fatalf("quotes the token: %v", err)
			}
		})
	}
}

func FuzzBearer(f *testing.F) {
	for _, s := range []string{"", "Bearer abc", "bearer a.b.c", "a.b.c", "Bearer\tabc", "Basic abc", "Bearer a b", "Bearer  a", "Bearer", "a.b.c d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := Bearer(http.Header{"Authorization": {value}}, 100)
		if err != nil {
			var refusal Refusal
			if !errors.As(err, &refusal) || got != "" {
				t.Fatalf("got %#v", err)
			}
			return
		}
		token := got.Reveal()
		if token == "" || len(token) > 100 || strings.ContainsAny(token, " \t\r\n,\"") {
			t.Fatalf("token %q", token)
		}
		scheme, rest, _ := strings.Cut(value, " ")
		if value != token && !(strings.EqualFold(scheme, "bearer") && strings.TrimLeft(rest, " ") == token) {
			t.Fatalf("%q gives %q", value, token)
		}
	})
}

func TestSecretIsRedacted(t *testing.T) {
	s := tokens.Secret("canary")
	request := TokenRequest{GrantType: "refresh_token", RefreshToken: s}
	answer := Token{AccessToken: s, RefreshToken: s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s"} {
		for _, v := range []any{s, &s, request, answer, []tokens.Secret{s}, map[tokens.Secret]int{s: 1}} {
			out := fmt.Sprintf(verb, v)
			if strings.Contains(out, "can") || strings.Contains(strings.ToLower(out), "63616e") {
				t.Errorf("%s: %s", verb, out)
			}
		}
	}
	out, err := json.Marshal(answer)
	if err != nil || strings.Contains(string(out), "canary") {
		t.Fatalf("%s, %v", out, err)
	}
	if s.String() != "redacted" || s.Reveal() != "canary" {
		t.Fatal(s.String())
	}
}

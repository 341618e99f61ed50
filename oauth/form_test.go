package oauth

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

const formType = "application/x-www-form-urlencoded"

func post(query, contentType, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/token", strings.NewReader(body))
	r.URL.RawQuery = query // as it is: httptest refuses what a socket may carry
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

func TestParseTokenRequest(t *testing.T) {
	const good = "grant_type=refresh_token&refresh_token=abc-_.123"
	tests := []struct {
		name  string
		query string
		media string
		body  string
		want  string // the refresh token
	}{
		{"body", "", formType, good, "abc-_.123"},
		{"query, no type", good, "", "", "abc-_.123"},
		{"query, form type", good, formType, "", "abc-_.123"},
		{"both alike", good, formType, good, "abc-_.123"},
		{"one parameter each", "grant_type=refresh_token", formType, "refresh_token=abc", "abc"},
		{"type with charset", "", formType + ";charset=UTF-8", good, "abc-_.123"},
		{"type with a broken parameter", "", formType + "; x=; y", good, "abc-_.123"},
		{"type in upper case", "", "Application/X-WWW-Form-Urlencoded", good, "abc-_.123"},
		{"percent-encoded", "", formType, "grant%5Ftype=refresh%5ftoken&refresh_token=a%2Bb%3D%2F", "a+b=/"},
		{"percent-encoded alike in query", "grant_type=refresh_token&refresh_token=a%2Db", formType, "refresh_token=a-b", "a-b"},
		{"raw equals sign", "", formType, "grant_type=refresh_token&refresh_token=abc==", "abc=="},
		{"plus is a space", "", formType, "grant_type=refresh_token&refresh_token=a+b", "a b"},
		{"empty pairs", "", formType, "&&" + good + "&&", "abc-_.123"},
		{"unknown parameters, repeated", "x=1&x=2", formType, good + "&scope=a&scope=b&empty", "abc-_.123"},
		{"empty counts as omitted", "refresh_token=", formType, good, "abc-_.123"},
		{"empty beside a value counts as omitted", "", formType, "refresh_token=&" + good, "abc-_.123"},
		{"names match case", "", formType, good + "&Refresh_Token=x&REFRESH_TOKEN=y", "abc-_.123"},
		{"semicolon does not separate", "", formType, "grant_type=refresh_token&refresh_token=a;grant_type=b", "a;grant_type=b"},
		{"identity encoding", "", formType, good, "abc-_.123"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := post(tt.query, tt.media, tt.body)
			if tt.name == "identity encoding" {
				r.Header.Set("Content-Encoding", "Identity")
			}
			got, err := ParseTokenRequest(r, 0)
			if err == nil {
				err = got.CheckRefresh()
			}
			if err != nil || got.RefreshToken.Reveal() != tt.want {
				t.Fatalf("got %q, %v", got.RefreshToken.Reveal(), err)
			}
		})
	}
}

func TestParseTokenRequestRefusals(t *testing.T) {
	const good = "grant_type=refresh_token&refresh_token=canary"
	tests := []struct {
		name   string
		query  string
		media  string
		body   string
		status int
		names  string // what the message must name
	}{
		{"nothing", "", "", "", 400, "Grant type MUST be 'refresh_token' but was 'null'"},
		{"grant type missing", "", formType, "refresh_token=canary", 400, "'null'"},
		{"grant type empty", "", formType, "grant_type=&refresh_token=canary", 400, "'null'"},
		{"grant type twice", "", formType, "grant_type=refresh_token&" + good, 400, "grant_type"},
		{"grant type twice in the query", "grant_type=refresh_token&" + good, formType, "", 400, "grant_type"},
		{"another grant type", "", formType, "grant_type=client_credentials&refresh_token=canary", 400, "'client_credentials'"},
		{"a token as grant type", "", formType, "grant_type=canary&refresh_token=x", 400, "Grant type MUST be 'refresh_token'"},
		{"grant type in another case", "", formType, "grant_type=Refresh_Token&refresh_token=canary", 400, "Grant type MUST be"},
		{"refresh token missing", "", formType, "grant_type=refresh_token", 400, "refresh_token"},
		{"refresh token empty", "", formType, "grant_type=refresh_token&refresh_token=", 400, "refresh_token"},
		{"refresh token without equals sign", "", formType, "grant_type=refresh_token&refresh_token", 400, "refresh_token"},
		{"refresh token twice", "", formType, good + "&refresh_token=other", 400, "'refresh_token' is given more than once in the body"},
		{"refresh token twice, alike", "", formType, good + "&refresh_token=canary", 400, "refresh_token"},
		{"refresh token twice, in another spelling", "", formType, good + "&refresh%5Ftoken=other", 400, "refresh_token"},
		{"body and query differ", "refresh_token=other", formType, good, 400, "'refresh_token' differs between body and query"},
		{"grant types differ", "grant_type=password", formType, good, 400, "'grant_type' differs"},
		{"broken escape in the value", "", formType, "grant_type=refresh_token&refresh_token=canary%zz", 400, "percent-encoding in the body"},
		{"broken escape in a name", "", formType, good + "&%=canary", 400, "percent-encoding in the body"},
		{"broken escape in the query", "x=canary%4", formType, good, 400, "percent-encoding in the query"},
		{"control character", "", formType, good + "%00", 400, "refresh_token"},
		{"line break at the end", "", formType, good + "\n", 400, "refresh_token"},
		{"not ASCII", "", formType, good + "%C3%A4", 400, "refresh_token"},
		{"byte order mark", "", formType, "\xef\xbb\xbf" + good, 400, "byte order mark"},
		{"UTF-16", "", formType, "\xff\xfeg\x00r\x00", 400, "byte order mark"},
		{"JSON", "", "application/json", `{"grant_type":"refresh_token","refresh_token":"canary"}`, 415, formType},
		{"JSON without a body", good, "application/json", "", 415, formType},
		{"multipart", "", "multipart/form-data; boundary=x", "--x--", 415, formType},
		{"text", "", "text/plain", good, 415, formType},
		{"type that is none", "", "canary/", good, 415, formType},
		{"body without a type", "", "", good, 415, formType},
		{"compressed", "", formType, good, 415, "compressed"},
		{"two types", "", formType, good, 400, "Content-Type"},
		{"body too large", "", formType, good + "&x=" + strings.Repeat("a", DefaultFormLimit), 413, "body"},
		{"body too large, length unknown", "", formType, good + "&x=" + strings.Repeat("a", DefaultFormLimit), 413, "body"},
		{"query too long", good + "&x=" + strings.Repeat("a", DefaultFormLimit), "", "", 414, "query"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := post(tt.query, tt.media, tt.body)
			switch tt.name {
			case "compressed":
				r.Header.Set("Content-Encoding", "gzip")
			case "two types":
				r.Header.Add("Content-Type", "text/plain")
			case "body too large, length unknown":
				r.ContentLength = -1
			}
			got, err := ParseTokenRequest(r, 0)
			if err == nil {
				err = got.CheckRefresh()
			}
			var refusal Refusal
			if !errors.As(err, &refusal) || refusal.Status != tt.status || !strings.Contains(refusal.Message, tt.names) {
				t.Fatalf("got %#v", err)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Fatalf("quotes the request: %v", err)
			}
			if got.TokenInQuery != strings.Contains(tt.query, "token") {
				t.Fatalf("token in query: got %v", got.TokenInQuery)
			}
			if tt.name == "another grant type" && refusal.Code != CodeUnsupportedGrantType {
				t.Fatalf("got code %s", refusal.Code)
			}
		})
	}
}

func TestLimitIsInclusive(t *testing.T) {
	const body = "grant_type=refresh_token&refresh_token=abc"
	_, err := ParseTokenRequest(post("", formType, body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseTokenRequest(post("", formType, body), int64(len(body))-1)
	if err == nil {
		t.Fatal("accepted")
	}
}

// A body of any length is not read to its end.
func TestLargeBodyIsNotRead(t *testing.T) {
	endless := &counter{}
	r := httptest.NewRequest(http.MethodPost, "/token", endless)
	r.Header.Set("Content-Type", formType)
	r.ContentLength = -1
	_, err := ParseTokenRequest(r, 1000)
	var refusal Refusal
	if !errors.As(err, &refusal) || refusal.Status != http.StatusRequestEntityTooLarge || endless.n > 2000 {
		t.Fatalf("read %d bytes, got %v", endless.n, err)
	}
}

type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	c.n += len(p)
	return len(p), nil
}

// A body that breaks off is no reason for a final answer.
func TestBodyThatBreaksOff(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		status int
	}{
		{"cut off", io.ErrUnexpectedEOF, 503},
		{"cancelled", context.Canceled, 503},
		{"deadline of the connection", os.ErrDeadlineExceeded, 503},
		{"limit of the server", &http.MaxBytesError{Limit: 1}, 413},
		{"not HTTP", errors.New("malformed chunked encoding canary"), 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/token", iotest.ErrReader(tt.err))
			r.Header.Set("Content-Type", formType)
			_, err := ParseTokenRequest(r, 0)
			var refusal Refusal
			if !errors.As(err, &refusal) || refusal.Status != tt.status || strings.Contains(err.Error(), "canary") {
				t.Fatalf("got %#v", err)
			}
		})
	}
}

func TestNoBody(t *testing.T) {
	r := post("grant_type=refresh_token&refresh_token=abc", "", "")
	r.Body = nil
	got, err := ParseTokenRequest(r, 0)
	if err != nil || got.RefreshToken.Reveal() != "abc" {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestQueryNamesToken(t *testing.T) {
	for query, want := range map[string]bool{
		"": false, "a=b": false, "pageToken=x": false, "token=x": false, "access_token=x": true, "a=b&REFRESH_TOKEN=x": true,
		"%61ccess%5Ftoken=x": true, "a=%": false, "access_toke%6": false, "access_toke%6e=1": true,
	} {
		if QueryNamesToken(query) != want {
			t.Errorf("%q: %t", query, !want)
		}
	}
	if n := testing.AllocsPerRun(10, func() { QueryNamesToken("page=1&size=100&filter=%20x") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestQueryMayHoldToken(t *testing.T) {
	tests := map[string]bool{
		"":                         false,
		"x=1":                      false,
		"a=b&c":                    false,
		"refresh_token=abc":        true,
		"REFRESH_TOKEN=abc":        true,
		"refresh%5Ftoken=abc":      true,
		"refresh_%74oken=abc":      true,
		"access_token":             true,
		"a=%zz&%72efresh_token=b":  true,
		"subject_token=x":          true,
		"refresh_toke%6":           false,
		"grant_type=refresh_token": true, // a value, but there is no harm in silence
	}
	for query, want := range tests {
		if QueryMayHoldToken(query) != want {
			t.Errorf("%q: want %v", query, want)
		}
	}
}

func FuzzParseTokenRequest(f *testing.F) {
	for _, s := range [][3]string{
		{"", formType, "grant_type=refresh_token&refresh_token=abc"},
		{"grant_type=refresh_token&refresh_token=abc", "", ""},
		{"refresh_token=a", formType + ";charset=utf-8", "refresh_token=b"},
		{"a=%zz", formType, "&=&=%00&%"},
		{"", "application/json", "{}"},
		{"refresh%5ftoken=a&refresh_token=a", formType, "\xef\xbb\xbf"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, query, media, body string) {
		got, err := ParseTokenRequest(post(query, media, body), 2000)
		if err != nil {
			var refusal Refusal
			if !errors.As(err, &refusal) || refusal.Status < 400 || refusal.Status == 500 {
				t.Fatalf("got %#v", err)
			}
			return
		}
		for name, value := range map[string]string{"grant_type": got.GrantType, "refresh_token": got.RefreshToken.Reveal()} {
			// The standard reader, where it has no objection, sees this value and no other.
			inBody, err := url.ParseQuery(body)
			if err != nil {
				inBody = nil // it objects to a semicolon
			}
			inQuery, err := url.ParseQuery(query)
			if err != nil {
				inQuery = nil
			}
			for _, other := range append(inBody[name], inQuery[name]...) {
				if other != "" && other != value {
					t.Fatalf("%s: %q and %q", name, value, other)
				}
			}
			if value != "" && inQuery.Get(name) != "" && name == "refresh_token" && !got.TokenInQuery {
				t.Fatal("the token in the query was not seen")
			}
			if strings.ContainsAny(value, "\x00\r\n") {
				t.Fatal("control character in a value")
			}
		}
	})
}

package canonical

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

var all = Options{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true}

func TestPath(t *testing.T) {
	tests := []struct {
		name    string
		sent    string
		strict  string // "" for a refusal
		err     *Error
		lenient string // with all options; "=" for the same as strict
		lerr    *Error
	}{
		// What the replaced data plane does with a path below its public endpoint (Tractus-X 0.12.1).
		{"empty", "", "/", nil, "=", nil},
		{"root", "/", "/", nil, "=", nil},
		{"two segments", "/a/b", "/a/b", nil, "=", nil},
		{"final slash", "/a/", "/a/", nil, "=", nil},
		{"plain dot", "/./a", "/a", nil, "=", nil},
		{"space", "/a%20b", "/a%20b", nil, "=", nil},
		{"plus", "/a+b", "/a+b", nil, "=", nil},
		{"encoded UTF-8", "/%C3%A4", "/%C3%A4", nil, "=", nil},
		{"matrix parameter", "/a;v=1/b", "/a;v=1/b", nil, "=", nil},
		{"encoded question mark", "/a%3Fb", "/a%3Fb", nil, "=", nil},
		{"encoded number sign", "/a%23b", "/a%23b", nil, "=", nil},
		{"6000 characters", "/" + strings.Repeat("a", 6000), "/" + strings.Repeat("a", 6000), nil, "=", nil},
		{"plain dots", "/a/../b", "/b", nil, "=", nil},
		{"above the root", "/../x", "", ErrAboveRoot, "", ErrAboveRoot},
		{"encoded dots", "/a/%2e%2e/b", "", ErrEncodedDot, "", ErrEncodedDot},
		{"encoded dots first", "/%2e%2e/%2e%2e/secret", "", ErrEncodedDot, "", ErrEncodedDot},
		{"dots and encoded slashes", "/..%2f..%2fsecret", "", ErrEncodedSlash, "", ErrDotSegment},
		{"encoded slash", "/a%2Fb", "", ErrEncodedSlash, "/a%2Fb", nil},
		{"two slashes first", "//a", "", ErrEmptySegment, "//a", nil},
		{"two slashes", "/a//b", "", ErrEmptySegment, "/a//b", nil},
		{"URL as a path", "/http://h/x", "", ErrEmptySegment, "/http://h/x", nil},
		{"encoded percent", "/a%25b", "", ErrEncodedPercent, "/a%25b", nil},
		{"encoded backslash", "/a%5Cb", "", ErrBackslash, "", ErrBackslash},
		{"encoded NUL", "/a%00b", "", ErrControl, "", ErrControl},
		{"encoded line break", "/a%0d%0aX:1", "", ErrControl, "", ErrControl},
		{"not UTF-8", "/%E4", "", ErrNotUTF8, "", ErrNotUTF8},
		{"colon and at", "/a:b@c", "/a:b@c", nil, "=", nil},
		{"token", "/token/x", "/token/x", nil, "=", nil},
		// It refuses these two; encoded they have one reading.
		{"raw UTF-8", "/ä", "/%C3%A4", nil, "=", nil},
		{"brackets", "/[x]", "/%5Bx%5D", nil, "=", nil},
		{"bar", "/a|b", "/a%7Cb", nil, "=", nil},

		// What a backend behind an endpoint /ds1 must and must not see.
		{"dots below the endpoint", "/ds1/a/../b", "/ds1/b", nil, "=", nil},
		{"dots out of the endpoint", "/ds1/../ds2/secret", "/ds2/secret", nil, "=", nil},
		{"encoded dots out of the endpoint", "/ds1/%2e%2e/ds2", "", ErrEncodedDot, "", ErrEncodedDot},
		{"dots and an encoded slash out of the endpoint", "/ds1/..%2fds2", "", ErrEncodedSlash, "", ErrDotSegment},
		{"dots above the root", "/ds1/../../x", "", ErrAboveRoot, "", ErrAboveRoot},
		{"double slashes", "/ds1//a//b", "", ErrEmptySegment, "/ds1//a//b", nil},
		{"double slash in front of the endpoint", "//ds1/a", "", ErrEmptySegment, "//ds1/a", nil},
		{"upper case", "/DS1/x", "/DS1/x", nil, "=", nil},
		{"longer segment", "/ds1x", "/ds1x", nil, "=", nil},
		{"encoded letter", "/%64s1/x", "/%64s1/x", nil, "=", nil},
		{"encoded slashes in two cases", "/ds1/a%2Fb%2fc", "", ErrEncodedSlash, "/ds1/a%2Fb%2Fc", nil},
		{"encoded percent and space", "/ds1/a%25b%20c", "", ErrEncodedPercent, "/ds1/a%25b%20c", nil},
		{"matrix parameter below", "/ds1/a;v=1/b", "/ds1/a;v=1/b", nil, "=", nil},
		{"sub-delimiters", "/ds1/a+b:c@d", "/ds1/a+b:c@d", nil, "=", nil},
		{"encoded backslashes with dots", "/ds1/%5C..%5Cx", "", ErrBackslash, "", ErrBackslash},
		{"encoded NUL below", "/ds1/a%00b", "", ErrControl, "", ErrControl},
		{"dots and a semicolon", "/ds1/..;/x", "", ErrDotSegment, "", ErrDotSegment},
		{"absolute form", "/ds1/abs", "/ds1/abs", nil, "=", nil},
		{"raw UTF-8 below", "/ds1/ä", "/ds1/%C3%A4", nil, "=", nil},
		{"brackets and bar below", "/ds1/[x]|y", "/ds1/%5Bx%5D%7Cy", nil, "=", nil},

		// Dots.
		{"dot at the end", "/a/.", "/a/", nil, "=", nil},
		{"dots at the end", "/a/b/..", "/a/", nil, "=", nil},
		{"dots to the root", "/a/..", "/", nil, "=", nil},
		{"dot alone", "/.", "/", nil, "=", nil},
		{"dots alone", "/..", "", ErrAboveRoot, "", ErrAboveRoot},
		{"down and up", "/a/../../b/c", "", ErrAboveRoot, "", ErrAboveRoot},
		{"down twice and up twice", "/a/b/../../c", "/c", nil, "=", nil},
		{"three dots are a name", "/.../a", "/.../a", nil, "=", nil},
		{"dots in names", "/a..b/.c/d.", "/a..b/.c/d.", nil, "=", nil},
		{"dots over an empty segment", "/a//../b", "", ErrEmptySegment, "", ErrDotSegment},
		{"dots over the first empty segment", "//../a", "", ErrEmptySegment, "", ErrDotSegment},
		{"dots before an empty segment", "/a/../b//c", "", ErrEmptySegment, "", ErrDotSegment},
		{"dots over an encoded slash", "/ds1/a%2Fb/../../ds2/secret", "", ErrEncodedSlash, "", ErrDotSegment},
		{"dots before an encoded slash", "/ds1/../a%2Fb", "", ErrEncodedSlash, "", ErrDotSegment},
		{"one dot and an encoded slash", "/./a%2Fb", "", ErrEncodedSlash, "/a%2Fb", nil},
		{"empty segment at the end", "/a//", "", ErrEmptySegment, "/a//", nil},
		{"half-encoded dots", "/.%2e/a", "", ErrEncodedDot, "", ErrEncodedDot},
		{"half-encoded dots, upper case", "/%2E./a", "", ErrEncodedDot, "", ErrEncodedDot},
		{"encoded dot in a name", "/a%2Eb", "", ErrEncodedDot, "", ErrEncodedDot},
		{"dot and a semicolon", "/.;v=1/a", "", ErrDotSegment, "", ErrDotSegment},
		{"dots and a parameter at the end", "/a/..;x", "", ErrDotSegment, "", ErrDotSegment},
		{"dots and an encoded semicolon", "/a/..%3Bx/b", "", ErrDotSegment, "", ErrDotSegment},
		{"dots behind a semicolon", "/a;../b", "", ErrDotSegment, "", ErrDotSegment},
		{"dots behind a semicolon at the end", "/a;..", "", ErrDotSegment, "", ErrDotSegment},
		{"dots between semicolons", "/a;..;b", "", ErrDotSegment, "", ErrDotSegment},
		{"dots behind an encoded semicolon", "/a%3b../b", "", ErrDotSegment, "", ErrDotSegment},
		{"three dots and a semicolon", "/...;x/a", "/...;x/a", nil, "=", nil},
		{"encoded semicolon", "/a%3bb", "/a%3Bb", nil, "=", nil},
		{"dots behind an encoded slash", "/a%2F../b", "", ErrEncodedSlash, "", ErrDotSegment},
		{"dot behind an encoded slash at the end", "/a%2F.", "", ErrEncodedSlash, "", ErrDotSegment},
		{"dots between encoded slashes", "/a%2F..%2Fb", "", ErrEncodedSlash, "", ErrDotSegment},

		// Escapes.
		{"lower-case hex", "/%c3%a4%2c", "/%C3%A4%2C", nil, "=", nil},
		{"mixed-case hex", "/%c3%A4", "/%C3%A4", nil, "=", nil},
		{"unreserved stays encoded", "/%61%7e", "/%61%7E", nil, "=", nil},
		{"broken: no digits", "/a%", "", ErrBrokenEscape, "", ErrBrokenEscape},
		{"broken: one digit", "/a%4", "", ErrBrokenEscape, "", ErrBrokenEscape},
		{"broken: not hex", "/a%zz", "", ErrBrokenEscape, "", ErrBrokenEscape},
		{"broken: IIS form", "/%u002e%u002e/a", "", ErrBrokenEscape, "", ErrBrokenEscape},
		{"overlong dot", "/%c0%ae%c0%ae/a", "", ErrNotUTF8, "", ErrNotUTF8},
		{"overlong slash", "/..%c0%afa", "", ErrNotUTF8, "", ErrNotUTF8},
		{"encoded surrogate", "/%ED%A0%80", "", ErrNotUTF8, "", ErrNotUTF8},
		{"cut-off character", "/%E2%82", "", ErrNotUTF8, "", ErrNotUTF8},
		{"cut-off character before a slash", "/%E2%82/a", "", ErrNotUTF8, "", ErrNotUTF8},
		{"continuation too many", "/%C3%A4%A4", "", ErrNotUTF8, "", ErrNotUTF8},
		{"raw byte that is not UTF-8", "/\xe4", "", ErrNotUTF8, "", ErrNotUTF8},
		{"character half raw, half encoded", "/%C3\xa4", "/%C3%A4", nil, "=", nil},
		{"four-byte character", "/%F0%9F%98%80😀", "/%F0%9F%98%80%F0%9F%98%80", nil, "=", nil},
		{"replacement character", "/%EF%BF%BD", "/%EF%BF%BD", nil, "=", nil},
		{"delete", "/a%7Fb", "", ErrControl, "", ErrControl},
		{"tab", "/a%09b", "", ErrControl, "", ErrControl},
		{"raw control", "/a\x01b", "", ErrControl, "", ErrControl},
		{"raw backslash", `/a\..\b`, "", ErrBackslash, "", ErrBackslash},
		{"raw space", "/a b", "/a%20b", nil, "=", nil},
		{"raw question mark", "/a?b", "", ErrDelimiter, "", ErrDelimiter},
		{"raw number sign", "/a#b", "", ErrDelimiter, "", ErrDelimiter},
		{"twice-encoded dots", "/%252e%252e/a", "", ErrEncodedPercent, "", ErrEncodedDot},
		{"thrice-encoded dots", "/%25252E/a", "", ErrEncodedPercent, "", ErrEncodedDot},
		{"twice-encoded dot in another way", "/%25%32%65/a", "", ErrEncodedPercent, "", ErrEncodedDot},
		{"twice-encoded backslash", "/%255c", "", ErrEncodedPercent, "", ErrBackslash},
		{"dots and a twice-encoded slash", "/..%252fa", "", ErrEncodedPercent, "", ErrDotSegment},
		{"dots between twice-encoded slashes", "/a%252f..%252Fb", "", ErrEncodedPercent, "", ErrDotSegment},
		{"twice-encoded slash", "/a%252fb", "", ErrEncodedPercent, "/a%252fb", nil},
		{"hundred percent", "/100%25", "", ErrEncodedPercent, "/100%25", nil},
		{"percent of percent", "/%2525", "", ErrEncodedPercent, "/%2525", nil},

		// Forms.
		{"no slash", "a/b", "", ErrNotAbsolute, "", ErrNotAbsolute},
		{"asterisk", "*", "", ErrNotAbsolute, "", ErrNotAbsolute},
		{"longest", "/" + strings.Repeat("a", MaxBytes-1), "/" + strings.Repeat("a", MaxBytes-1), nil, "=", nil},
		{"too long", "/" + strings.Repeat("a", MaxBytes), "", ErrTooLong, "", ErrTooLong},
		{"too long once encoded", "/" + strings.Repeat("[", MaxBytes/2), "", ErrTooLong, "", ErrTooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.sent, Options{}, tt.strict, tt.err)
			if tt.lenient == "=" {
				tt.lenient, tt.lerr = tt.strict, tt.err
			}
			check(t, tt.sent, all, tt.lenient, tt.lerr)
		})
	}
}

func check(t *testing.T, sent string, o Options, want string, wantErr *Error) {
	t.Helper()
	got, err := Path(sent, o)
	if wantErr == nil && err != nil || wantErr != nil && !errors.Is(err, wantErr) || got != want {
		t.Fatalf("options %+v: got %q, %v, want %q, %v", o, got, err, want, wantErr)
	}
}

func TestOptionsAreSeparate(t *testing.T) {
	tests := []struct {
		sent    string
		allowed Options
	}{
		{"/a%2Fb", Options{AllowEncodedSlash: true}},
		{"/a%25b", Options{AllowEncodedPercent: true}},
		{"/a//b", Options{AllowDoubleSlash: true}},
	}
	for i, tt := range tests {
		for j, o := range tests {
			_, err := Path(tt.sent, o.allowed)
			if (err == nil) != (i == j) {
				t.Errorf("%s with %+v: %v", tt.sent, o.allowed, err)
			}
		}
	}
}

func TestAllocations(t *testing.T) {
	for _, path := range []string{"/", "/ds1/a/b", "/ds1/%C3%A4/a%20b;v=1/...", "/a%2Fb//c%25d"} {
		allocs := testing.AllocsPerRun(100, func() {
			got, err := Path(path, all)
			if err != nil || got != path {
				t.Errorf("%s: got %q, %v", path, got, err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", path, allocs)
		}
	}
	for _, path := range []string{"/%2e%2e/a", "/..", "/a//b", "/%E4"} {
		allocs := testing.AllocsPerRun(100, func() {
			_, err := Path(path, Options{})
			if err == nil {
				t.Errorf("%s: accepted", path)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", path, allocs)
		}
	}
}

// What a server receives is what EscapedPath makes of it.
func TestPathOfRequestTargets(t *testing.T) {
	tests := []struct{ target, want string }{
		{"http://127.0.0.1/ds1/abs", "/ds1/abs"},
		{"http://127.0.0.1", "/"},
		{"/ds1/ä", "/ds1/%C3%A4"},
		{"/ds1/[x]|y", "/ds1/%5Bx%5D%7Cy"},
		{"/ds1/a%2fb?x=/../y", "/ds1/a%2Fb"},
	}
	for _, tt := range tests {
		u, err := url.ParseRequestURI(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Path(u.EscapedPath(), all)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v", tt.target, got, err)
		}
		err = Set(u, got)
		if err != nil || u.EscapedPath() != tt.want {
			t.Errorf("%s: set %q, %v", tt.target, u.EscapedPath(), err)
		}
	}
}

func TestSetRefusesWhatIsNotCanonical(t *testing.T) {
	for _, path := range []string{"/a b", "/%zz", "/ä", "/a?b", "/a%"} {
		u := &url.URL{Path: "/before"}
		err := Set(u, path)
		if !errors.Is(err, ErrBrokenEscape) || u.Path != "/before" || u.RawPath != "" {
			t.Errorf("%s: got %v, %+v", path, err, u)
		}
	}
}

func TestReason(t *testing.T) {
	_, err := Path("/%2e%2e/canary", Options{})
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Reason() != "encoded dot" || strings.Contains(err.Error(), "canary") {
		t.Fatalf("got %v", err)
	}
}

package canonical

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzPath(f *testing.F) {
	for _, s := range []string{
		"/ds1/a/../b", "/%2e%2e/x", "/..;/x", "/a%2F..%2Fb", "//a//../b", "/%C3\xa4", "/a%252e%25%32%65", "/ä[x]|y", "/a;../b", "/a/./..", "",
		"/ds1/..%3b/a", "*", "/%c0%ae/", "/a/b/../../..", "/.../a..b/.c",
	} {
		for bits := range byte(8) {
			f.Add(s, bits)
		}
	}
	f.Fuzz(func(t *testing.T, raw string, bits byte) {
		o := Options{AllowEncodedSlash: bits&1 != 0, AllowEncodedPercent: bits&2 != 0, AllowDoubleSlash: bits&4 != 0}
		got, err := Path(raw, o)
		if err != nil {
			if got != "" {
				t.Fatal("a path beside an error")
			}
			return
		}
		again, err := Path(got, o)
		if err != nil || again != got {
			t.Fatalf("not idempotent: %q, then %q, %v", got, again, err)
		}
		noClimb(t, got)

		u, err := url.ParseRequestURI(got)
		if !strings.HasPrefix(got, "//") { // which a parser without a request line in front takes for a host
			if err != nil || u.EscapedPath() != got || u.RawQuery != "" {
				t.Fatalf("%q reads as %+v, %v", got, u, err)
			}
		}
		var set url.URL
		err = Set(&set, got)
		if err != nil || set.EscapedPath() != got {
			t.Fatalf("%q: set %q, %v", got, set.EscapedPath(), err)
		}

		// Decoded, it is the path that was sent, as an independent reading resolves it.
		want, err := url.PathUnescape(raw)
		if err != nil {
			t.Fatalf("accepted %q: %v", raw, err)
		}
		if !strings.Contains(strings.ToLower(raw), "%2f") {
			want = resolve(want)
			if set.Path != want {
				t.Fatalf("%q decodes to %q, want %q", got, set.Path, want)
			}
		}

		joined, err := Join("/base", got)
		if err != nil {
			t.Fatalf("join %q: %v", got, err)
		}
		rest, ok := Under(joined, "/base")
		if !ok || rest != got && got != "/" {
			t.Fatalf("joined %q has the rest %q", joined, rest)
		}
		noClimb(t, joined)
	})
}

// noClimb fails if any reading of the path that a server is known for has a dot segment: split before or after decoding,
// decoded twice, cut at semicolons, with backslashes as slashes.
func noClimb(t *testing.T, path string) {
	t.Helper()
	for range 3 {
		if !utf8.ValidString(path) && strings.Contains(path, "%") {
			return // decoded twice into bytes that no decoder yields
		}
		for _, part := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' || r == ';' }) {
			if isDots(part) {
				t.Fatalf("%q has a dot segment", path)
			}
		}
		decoded, err := url.PathUnescape(path)
		if err != nil {
			return
		}
		path = decoded
	}
}

// resolve is RFC 3986 §5.2.4 in another way than build: on a list of segments.
func resolve(path string) string {
	if path == "" {
		return "/"
	}
	var out []string
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		switch s {
		case "..":
			out = out[:len(out)-1]
		case ".":
		default:
			out = append(out, s)
			continue
		}
		if i == len(segments)-1 {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/")
}

func FuzzJoin(f *testing.F) {
	for _, s := range [][2]string{{"/base", "/a"}, {"/base/", "/../x"}, {"", ""}, {"/b%20c/d%2Fe", "/..;/x"}, {"/a", "//.."}, {"/base", "/%2e."}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, base, rest string) {
		got, err := Join(base, rest)
		if err != nil {
			return
		}
		below, ok := Under(got, base)
		if !ok {
			t.Fatalf("Join(%q, %q) = %q", base, rest, got)
		}
		if rest != "" && rest != "/" && below != rest {
			t.Fatalf("Join(%q, %q) = %q, below %q", base, rest, got, below)
		}
		noClimb(t, got)
	})
}

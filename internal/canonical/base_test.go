package canonical

import (
	"errors"
	"strings"
	"testing"
)

func TestUnder(t *testing.T) {
	tests := []struct {
		path, prefix, rest string
		ok                 bool
	}{
		{"/ds1", "/ds1", "", true},
		{"/ds1/", "/ds1", "/", true},
		{"/ds1/a", "/ds1", "/a", true},
		{"/ds1/a", "/ds1/", "/a", true},
		{"/ds1", "/ds1/", "", true},
		{"/ds1//a", "/ds1", "//a", true},
		{"/a/b/c", "/a/b", "/c", true},
		{"/a", "/", "/a", true},
		{"/a", "", "/a", true},
		{"/", "/", "/", true},
		{"/ds1x", "/ds1", "", false},
		{"/DS1/a", "/ds1", "", false},
		{"/%64s1/a", "/ds1", "", false},
		{"/ds1;v=1/a", "/ds1", "", false},
		{"/ds1%2Fa", "/ds1", "", false},
		{"//ds1/a", "/ds1", "", false},
		{"/ds", "/ds1", "", false},
		{"/", "/ds1", "", false},
		{"/x/ds1", "/ds1", "", false},
	}
	for _, tt := range tests {
		rest, ok := Under(tt.path, tt.prefix)
		if rest != tt.rest || ok != tt.ok {
			t.Errorf("Under(%q, %q): got %q, %v", tt.path, tt.prefix, rest, ok)
		}
	}
}

func TestJoin(t *testing.T) {
	tests := []struct{ base, rest, want string }{
		{"/base", "", "/base"},
		{"/base", "/", "/base"},
		{"/base", "/a/b", "/base/a/b"},
		{"/base", "/a/", "/base/a/"},
		{"/base", "//a//b", "/base//a//b"},
		{"/base", "/a%2Fb/a%25b", "/base/a%2Fb/a%25b"},
		{"/base/", "", "/base/"},
		{"/base/", "/x", "/base/x"},
		{"", "", "/"},
		{"", "/x", "/x"},
		{"/", "/x", "/x"},
		{"/b%20c/d%2Fe", "/x", "/b%20c/d%2Fe/x"},
	}
	for _, tt := range tests {
		got, err := Join(tt.base, tt.rest)
		if err != nil || got != tt.want {
			t.Errorf("Join(%q, %q): got %q, %v", tt.base, tt.rest, got, err)
		}
	}
}

func TestJoinRefuses(t *testing.T) {
	tests := []struct {
		base, rest string
		want       *Error
	}{
		{"/base", "/../secret", ErrOutsideBase},
		{"/base", "/..", ErrOutsideBase},
		{"/base", "/a/../b", ErrOutsideBase}, // stays below, but was not canonical: something skipped Path
		{"/base", "/../../x", ErrAboveRoot},
		{"/base", "/%2e%2e/secret", ErrEncodedDot},
		{"/base", "/..;/secret", ErrDotSegment},
		{"/base", "/%c3%a4", ErrOutsideBase},
		{"/base", "a", ErrNotAbsolute},
		{"/base", "?x", ErrNotAbsolute},
		{"/base", "/a?x", ErrDelimiter},
		{"/base/../x", "/a", ErrNotCanonicalBase},
		{"/base%2f", "/a", ErrNotCanonicalBase},
		{"base", "/a", ErrNotCanonicalBase},
		{"/" + strings.Repeat("b", MaxBytes), "/a", ErrNotCanonicalBase},
	}
	for _, tt := range tests {
		got, err := Join(tt.base, tt.rest)
		if !errors.Is(err, tt.want) {
			t.Errorf("Join(%q, %q): got %q, %v, want %v", tt.base, tt.rest, got, err, tt.want)
		}
	}
}

// The longest path below the longest base is still joined: the consumer's path was measured before.
func TestJoinLongest(t *testing.T) {
	long := "/" + strings.Repeat("a", MaxBytes-1)
	got, err := Join(long, long)
	if err != nil || got != long+long {
		t.Fatal(err)
	}
}

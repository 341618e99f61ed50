// Package canonical computes the one path of a request that is both authorised and forwarded.
//
// A gateway that decides on one spelling of a path and forwards another one is walked around: "/public/%2e%2e/private",
// "/ds1/..;/ds2" and "/ds1/..%2fds2" each mean another resource to some backend than to some gateway. So there is one
// function, its result is what the decision is made on, and its result is what the backend gets. A path that two programs
// may read differently has no canonical form and is refused.
//
// Percent-encoded unreserved characters stay encoded. RFC 3986 §6.2.2.2 would decode them, but then the backend would get
// another path than the consumer sent, and a signed or logged path would no longer match. It follows that "/%64s1" is not
// "/ds1": it lies outside an endpoint /ds1, and is refused there rather than understood.
package canonical

import (
	"bytes"
	"net/url"
)

// MaxBytes is the length of the longest path, before and after canonicalisation. Longer ones are ErrTooLong.
const MaxBytes = 8 << 10 // 8 KiB

// Options say which ambiguous forms are kept as they are. The zero value refuses all of them, as the data plane of
// Tractus-X does.
type Options struct {
	// AllowEncodedSlash keeps %2F, for backends that have it in object names, in paths without "..". A backend that decodes
	// paths before it splits them reads another path than the one authorised; it still cannot climb.
	AllowEncodedSlash bool
	// AllowEncodedPercent keeps %25. A backend that decodes twice reads another path than the one authorised; it still
	// cannot climb.
	AllowEncodedPercent bool
	// AllowDoubleSlash keeps empty segments, in paths without "..".
	AllowDoubleSlash bool
}

// Error is a refusal of a path. There is one value for each reason, below.
type Error struct{ reason string }

// Reason returns a fixed text that may be shown to the client: it quotes nothing of the request.
func (e *Error) Reason() string { return e.reason }

func (e *Error) Error() string { return "path refused: " + e.reason }

// The reasons for which Path refuses.
var (
	ErrTooLong          = &Error{"path is too long"}
	ErrNotAbsolute      = &Error{"path does not start with a slash"}
	ErrBrokenEscape     = &Error{"broken percent-encoding"}
	ErrEncodedDot       = &Error{"encoded dot"}
	ErrEncodedSlash     = &Error{"encoded slash"}
	ErrEncodedPercent   = &Error{"encoded percent sign"}
	ErrBackslash        = &Error{"backslash"}
	ErrControl          = &Error{"control character"}
	ErrDelimiter        = &Error{"query or fragment inside the path"}
	ErrNotUTF8          = &Error{"not UTF-8"}
	ErrEmptySegment     = &Error{"empty segment"}
	ErrDotSegment       = &Error{"ambiguous dot segment"}
	ErrAboveRoot        = &Error{"path leads above the root"}
	ErrNotCanonicalBase = &Error{"base path is not canonical"}
	ErrOutsideBase      = &Error{"path leads outside the base path"}
)

// Path returns the canonical form of an escaped path, as url.URL.EscapedPath returns it; the empty path is "/". Dot
// segments are resolved (RFC 3986 §5.2.4), hex digits are upper case (RFC 3986 §6.2.2.1), bytes that a path may hold only
// encoded are encoded, and everything else stays. The error is one of the values above. A path that is canonical already
// is returned as it is, without an allocation.
func Path(escaped string, o Options) (string, error) {
	return canonical(escaped, o, MaxBytes)
}

func canonical(escaped string, o Options, limit int) (string, error) {
	if escaped == "" {
		return "/", nil // RFC 9110 §4.2.3
	}
	if len(escaped) > limit {
		return "", ErrTooLong
	}
	if escaped[0] != '/' {
		return "", ErrNotAbsolute // also the "*" of OPTIONS
	}
	s := scan{path: escaped, options: o}
	err := s.run()
	if err != nil {
		return "", err
	}
	if !s.changes {
		return escaped, nil
	}
	out := build(escaped)
	if len(out) > limit {
		return "", ErrTooLong
	}
	return out, nil
}

// build writes the canonical form of a path that the scan has let through. A dot segment here is a plain one, with a
// slash on either side, and none leads above the root.
func build(path string) string {
	out := make([]byte, 0, len(path)+16)
	for start := 1; start <= len(path); {
		end := start
		for end < len(path) && path[end] != '/' {
			end++
		}
		last := end == len(path)
		switch segment := path[start:end]; segment {
		case "..":
			out = out[:bytes.LastIndexByte(out, '/')]
			fallthrough
		case ".":
			if last {
				out = append(out, '/')
			}
		default:
			out = append(out, '/')
			out = appendEncoded(out, segment)
		}
		start = end + 1
	}
	return string(out)
}

const upperHex = "0123456789ABCDEF"

func appendEncoded(out []byte, segment string) []byte {
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		switch {
		case c == '%':
			b := unhex(segment[i+1])<<4 | unhex(segment[i+2])
			out = append(out, '%', upperHex[b>>4], upperHex[b&15])
			i += 2
		case plain[c]:
			out = append(out, c)
		default:
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return out
}

// Set makes u say exactly the canonical path: what u.EscapedPath, and so any client that sends u, writes from then on is
// that path, byte for byte. For a path that is not a result of Path, u stays as it is and the error is ErrBrokenEscape.
func Set(u *url.URL, path string) error {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return ErrBrokenEscape
	}
	v := url.URL{Path: decoded}
	if v.EscapedPath() != path {
		v.RawPath = path
	}
	if v.EscapedPath() != path {
		return ErrBrokenEscape
	}
	u.Path, u.RawPath, u.Opaque = v.Path, v.RawPath, ""
	return nil
}

package canonical

import "unicode/utf8"

// plain marks the bytes that stand for themselves in a segment: pchar of RFC 3986 §3.3 without "%".
var plain = func() [256]bool {
	var t [256]bool
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@") {
		t[c] = true
	}
	return t
}()

// scan passes once over a path, refuses what has no canonical form, and notes whether anything has to be rewritten.
//
// A segment is what lies between slashes. A piece is what lies between anything that some server takes for the end of a
// segment: a slash, plain or encoded, and a semicolon, plain or encoded, since servlet containers cut off everything
// behind it and so read "..;/x" as "../x".
type scan struct {
	path    string
	options Options
	changes bool

	at      int  // index of the next byte
	segment int  // index of the first byte of the segment
	piece   int  // index of the first byte of the piece
	depth   int  // segments below the root
	climbs  bool // there is a ".."
	folds   bool // there is an empty segment or an encoded slash: servers differ in how many segments there are
}

func (s *scan) run() error {
	s.at, s.segment, s.piece = 1, 1, 1
	for s.at < len(s.path) {
		c := s.path[s.at]
		var err error
		switch {
		case c == '/':
			err = s.endSegment(false)
		case c == ';':
			err = s.endPiece(1)
		case c == '%':
			err = s.escape()
		case plain[c]:
			s.at++
		default:
			err = s.raw(c)
		}
		if err != nil {
			return err
		}
	}
	err := s.endSegment(true)
	if err == nil && s.climbs && s.folds {
		// "/ds1/a%2Fb/../../ds2" is below /ds1 for a router that decodes or merges before it resolves, and below /ds2 here.
		return ErrDotSegment
	}
	return err
}

// endSegment handles a plain slash, or the end of the path.
func (s *scan) endSegment(last bool) error {
	segment := s.path[s.segment:s.at]
	switch {
	case s.piece != s.segment && isDots(s.path[s.piece:s.at]):
		return ErrDotSegment
	case segment == "..":
		s.changes, s.climbs = true, true
		s.depth--
		if s.depth < 0 {
			return ErrAboveRoot
		}
	case segment == ".":
		s.changes = true
	case segment == "" && !last && !s.options.AllowDoubleSlash:
		// Servers that merge slashes and servers that do not see different paths.
		return ErrEmptySegment
	default:
		s.folds = s.folds || segment == "" && !last
		s.depth++
	}
	s.at++
	s.segment, s.piece = s.at, s.at
	return nil
}

// endPiece handles a semicolon or an encoded delimiter of the given width. A dot segment that ends here, or that started
// at one of these, climbs for some servers only.
func (s *scan) endPiece(width int) error {
	if isDots(s.path[s.piece:s.at]) {
		return ErrDotSegment
	}
	s.at += width
	s.piece = s.at
	return nil
}

func isDots(piece string) bool { return piece == "." || piece == ".." }

// raw handles a byte that is not allowed in a path. Most arrive encoded, since EscapedPath does that; the brackets do not.
func (s *scan) raw(c byte) error {
	switch {
	case c == '\\':
		return ErrBackslash // a slash to some servers, also to those that follow browsers
	case c < 0x20 || c == 0x7f:
		return ErrControl
	case c == '?' || c == '#':
		return ErrDelimiter
	case c >= utf8.RuneSelf:
		return s.rune()
	}
	s.changes = true
	s.at++
	return nil
}

// escape handles a percent sign.
func (s *scan) escape() error {
	c, width := s.byteAt(s.at)
	if width == 0 {
		return ErrBrokenEscape
	}
	switch {
	case c == '.':
		return ErrEncodedDot // RFC 3986 §6.2.2.3 removes plain dot segments only
	case c == '\\':
		return ErrBackslash
	case c < 0x20 || c == 0x7f:
		return ErrControl // NUL ends the path for a C program, CR and LF end the header
	case c == '/' && !s.options.AllowEncodedSlash:
		return ErrEncodedSlash
	case c == '%' && !s.options.AllowEncodedPercent:
		return ErrEncodedPercent
	}
	if !s.isUpper(s.at) {
		s.changes = true
	}
	s.folds = s.folds || c == '/'
	switch {
	case c == '/' || c == ';':
		return s.endPiece(width)
	case c == '%':
		return s.percent()
	case c >= utf8.RuneSelf:
		return s.rune()
	}
	s.at += width
	return nil
}

// percent handles an encoded percent sign that is allowed. To a backend that decodes twice, "%252e" and "%25%32e" are dots
// and "%252F" is a slash, so they are treated as if they were encoded once, however often the percent sign was encoded.
func (s *scan) percent() error {
	end := s.at + 3
	for {
		high, w1 := s.byteAt(end)
		low, w2 := s.byteAt(end + w1)
		if w1 == 0 || w2 == 0 || !isHex(high) || !isHex(low) {
			break
		}
		end += w1 + w2
		switch c := unhex(high)<<4 | unhex(low); c {
		case '%':
			continue
		case '.':
			return ErrEncodedDot
		case '\\':
			return ErrBackslash
		case '/', ';':
			return s.endPiece(end - s.at)
		}
		break
	}
	s.at += 3
	return nil
}

// rune handles one character beyond ASCII, in any mixture of raw and encoded bytes. Overlong forms, such as "%c0%ae" for a
// dot, are not UTF-8 (RFC 3629 §3).
func (s *scan) rune() error {
	var buf [utf8.UTFMax]byte
	n, end := 0, s.at
	for n < len(buf) {
		c, width := s.byteAt(end)
		if width == 0 || c < utf8.RuneSelf {
			break
		}
		if n > 0 && utf8.RuneStart(c) {
			break
		}
		if width == 1 || !s.isUpper(end) {
			s.changes = true
		}
		buf[n] = c
		n++
		end += width
	}
	r, size := utf8.DecodeRune(buf[:n])
	if r == utf8.RuneError && size <= 1 || size != n {
		return ErrNotUTF8
	}
	s.at = end
	return nil
}

// byteAt decodes the byte at index i, and returns how many characters it takes: 0 at the end and for a broken escape.
func (s *scan) byteAt(i int) (byte, int) {
	if i >= len(s.path) {
		return 0, 0
	}
	if s.path[i] != '%' {
		return s.path[i], 1
	}
	if i+2 >= len(s.path) || !isHex(s.path[i+1]) || !isHex(s.path[i+2]) {
		return 0, 0
	}
	return unhex(s.path[i+1])<<4 | unhex(s.path[i+2]), 3
}

// isUpper reports whether the escape at index i has no lower-case digit.
func (s *scan) isUpper(i int) bool { return s.path[i+1] < 'a' && s.path[i+2] < 'a' }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

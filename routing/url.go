package routing

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// URL is a template of an absolute http or https URL. Placeholders can stand in the host, the port, segments of the path
// and values of the query. Each value stays in its place: it cannot end a segment or a parameter, nor begin a user, a
// fragment or another host.
type URL struct {
	source string
	parts  []urlPart
}

// urlPart is a fixed text or a placeholder, with the place in which it stands.
type urlPart struct {
	piece
	place place
}

// place is a part of a URL (RFC 3986 §3).
type place int

const (
	scheme place = iota
	authority
	path
	query
)

// ParseURL reads a template of a URL. literal is as for ParseTemplate. What the URL is without placeholders is for others to
// check, and what it is with them each time that it is rendered. Errors quote the source and nothing that literal returned.
func ParseURL(source string, literal func(string) (string, error)) (*URL, error) {
	t, err := ParseTemplate(source, literal)
	if err != nil {
		return nil, err
	}
	u := &URL{source: source}
	if t.Static() {
		for _, p := range t.pieces {
			u.parts = append(u.parts, urlPart{piece: p})
		}
		return u, nil
	}
	if t.pieces[0].value != nil {
		return nil, errors.New("a placeholder {edr.…} cannot stand for the scheme: begin with http:// or https://")
	}
	at := scheme
	for _, p := range t.pieces {
		if p.value == nil {
			at, err = u.addLiteral(p.literal, at)
		} else {
			err = u.addVariable(p, at)
		}
		if err != nil {
			return nil, err
		}
	}
	return u, u.checkPath()
}

// addLiteral adds the parts of a fixed text that begins in a place, and returns where it ends.
func (u *URL) addLiteral(text string, at place) (place, error) {
	if strings.ContainsAny(text, "#\\") {
		return at, errors.New("a URL with placeholders must have no fragment and no backslash")
	}
	add := func(text string) {
		if text != "" {
			u.parts = append(u.parts, urlPart{piece{literal: text}, at})
		}
	}
	if at == scheme {
		end := strings.Index(text, "://")
		if end < 0 {
			return at, errors.New("a placeholder {edr.…} cannot stand in the scheme: begin with http:// or https://")
		}
		name := strings.ToLower(text[:end])
		if name != "http" && name != "https" {
			return at, errors.New("the scheme must be http or https")
		}
		end += len("://")
		add(text[:end])
		at, text = authority, text[end:]
	}
	if at == authority {
		end := strings.IndexAny(text, "/?")
		if end < 0 {
			end = len(text)
		}
		if strings.Contains(text[:end], "@") {
			return at, errors.New("a URL must not hold a user or password")
		}
		add(text[:end])
		text = text[end:]
		if text != "" {
			at = path
		}
	}
	if at == path {
		end := strings.IndexByte(text, '?')
		if end < 0 {
			end = len(text)
		}
		err := checkEncoded(text[:end])
		if err != nil {
			return at, err
		}
		add(text[:end])
		text = text[end:]
		if text != "" {
			at = query
		}
	}
	if at == query {
		_, err := url.QueryUnescape(text)
		if err != nil {
			return at, errors.New("broken percent-encoding in the query")
		}
		add(text)
	}
	return at, nil
}

// checkEncoded refuses half an escape, which a value would complete, and what must be encoded: net/url encodes a path anew if
// any of it must be, and then takes an encoded slash of a value for one that ends the segment.
func checkEncoded(text string) error {
	decoded, err := url.PathUnescape(text)
	if err != nil {
		return errors.New("broken percent-encoding in the path")
	}
	if (&url.URL{Path: decoded, RawPath: text}).EscapedPath() != text {
		return errors.New("the path holds a character that must be percent-encoded")
	}
	return nil
}

func (u *URL) addVariable(p piece, at place) error {
	if at == query {
		var written strings.Builder
		for _, part := range u.parts {
			if part.place == query {
				written.WriteString(part.literal)
			}
		}
		parameter := written.String()
		parameter = parameter[strings.LastIndexAny(parameter, "?&;")+1:]
		if !strings.Contains(parameter, "=") {
			return fmt.Errorf("placeholder {%s}: in a query a placeholder stands in a value, as in ?name={%s}", p.value.name, p.value.name)
		}
	}
	u.parts = append(u.parts, urlPart{p, at})
	return nil
}

// checkPath refuses dot segments beside placeholders: they would take segments away that a value stands in.
func (u *URL) checkPath() error {
	if hasDotSegment(u.fill(path, func(*variable) string { return "x" })) {
		return errors.New("a path with placeholders must have no . and .. segments")
	}
	return nil
}

// String returns the text as configured.
func (u *URL) String() string { return u.source }

// Static reports whether the URL is the same for all flows.
func (u *URL) Static() bool {
	return !slices.ContainsFunc(u.parts, func(p urlPart) bool { return p.value != nil })
}

// StaticOrigin returns the URL without path and query; false if that differs between flows.
func (u *URL) StaticOrigin() (string, bool) {
	for _, p := range u.parts {
		if p.place == authority && p.value != nil {
			return "", false
		}
	}
	return u.fill(scheme, nil) + u.fill(authority, nil), true
}

// fill returns what stands in a place, with values from value.
func (u *URL) fill(at place, value func(*variable) string) string {
	var b strings.Builder
	for _, p := range u.parts {
		switch {
		case p.place != at:
		case p.value == nil:
			b.WriteString(p.literal)
		default:
			b.WriteString(value(p.value))
		}
	}
	return b.String()
}

// Render returns the URL for a flow. Errors name the placeholder and not what it stands for.
func (u *URL) Render(f *Facts) (string, error) {
	values := map[*variable]string{}
	for _, p := range u.parts {
		if p.value == nil {
			continue
		}
		value, err := p.value.of(f)
		if err != nil {
			return "", err
		}
		values[p.value], err = encode(value, p.place)
		if err != nil {
			return "", p.value.fault(err)
		}
	}
	value := func(v *variable) string { return values[v] }
	filledPath := u.fill(path, value)
	if len(values) > 0 && hasDotSegment(filledPath) {
		// Two values, or a value and what stands beside it.
		return "", fmt.Errorf("the path of %s comes to a segment of one or two dots", u.source)
	}
	return u.fill(scheme, value) + u.fill(authority, value) + filledPath + u.fill(query, value), nil
}

// hasDotSegment reports whether a path has a segment that leads elsewhere (RFC 3986 §5.2.4).
func hasDotSegment(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// hostCharacters are what a value may consist of that stands in a host or a port. None of them ends either.
const hostCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// encode returns a value so that it can stand in a place.
func encode(value string, at place) (string, error) {
	if value == "." || value == ".." {
		return "", errors.New("is . or .., which leads elsewhere")
	}
	switch at {
	case authority:
		if strings.Trim(value, hostCharacters) != "" {
			return "", errors.New("holds a character that cannot stand in a host name or port")
		}
		return value, nil
	case path:
		return url.PathEscape(value), nil
	}
	// Not + for a space: only forms read it so.
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20"), nil
}

package routing

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Template is a configured text with placeholders for what is known of a flow: {edr.dataset}, {edr.agreement},
// {edr.counterparty}, {edr.bpn}, {edr.profile}, {edr.flow}, {edr.metadata.<path>} and {edr.claims.<path>}.
type Template struct {
	source string
	pieces []piece
}

// piece is a fixed text, or a placeholder.
type piece struct {
	literal string
	value   *variable // nil: a fixed text
}

// variable is a placeholder for a fact.
type variable struct {
	name string // as configured, without the braces
	text func(*Facts) string
	in   func(*Facts) *document // with path, in place of text
	path Path
}

const (
	opening        = "{edr."
	metadataPrefix = "edr.metadata."
	claimsPrefix   = "edr.claims."
)

var variables = map[string]func(*Facts) string{
	"edr.dataset":      func(f *Facts) string { return f.dataset },
	"edr.agreement":    func(f *Facts) string { return f.agreement },
	"edr.counterparty": func(f *Facts) string { return f.counterparty },
	"edr.bpn":          func(f *Facts) string { return f.bpn },
	"edr.profile":      func(f *Facts) string { return f.profile },
	"edr.flow":         func(f *Facts) string { return f.flow },
}

// maxValueBytes is the length of the longest value that stands for a placeholder: what a template comes to is kept in
// memory with each token.
const maxValueBytes = 4 << 10

// ParseTemplate reads a text. What is outside of the placeholders for a flow goes through literal, which replaces those of
// the server; what it returns is taken as it is, so that nothing it reads from a file or the environment can become a
// placeholder. nil: nothing is replaced. Errors of literal are returned as they are.
func ParseTemplate(source string, literal func(string) (string, error)) (*Template, error) {
	t := &Template{source: source}
	addLiteral := func(text string) error {
		if text == "" {
			return nil
		}
		if literal != nil {
			var err error
			text, err = literal(text)
			if err != nil {
				return err
			}
		}
		t.pieces = append(t.pieces, piece{literal: text})
		return nil
	}
	done := 0
	for at := 0; at < len(source); at++ {
		if source[at] != '{' || at > 0 && source[at-1] == '\\' {
			continue // a brace behind a backslash is one that is meant
		}
		length := strings.IndexByte(source[at:], '}')
		if length < 0 {
			if strings.Contains(source[at:], opening) {
				return nil, errors.New("a placeholder is not closed")
			}
			break
		}
		name := source[at+1 : at+length]
		if !strings.HasPrefix(source[at:], opening) {
			if strings.Contains(name, opening) {
				return nil, fmt.Errorf("a placeholder {edr.…} inside of another one: {%s}", name)
			}
			at += length
			continue
		}
		v, err := newVariable(name)
		if err != nil {
			return nil, err
		}
		err = addLiteral(source[done:at])
		if err != nil {
			return nil, err
		}
		t.pieces = append(t.pieces, piece{value: v})
		at += length
		done = at + 1
	}
	err := addLiteral(source[done:])
	if err != nil {
		return nil, err
	}
	return t, nil
}

func newVariable(name string) (*variable, error) {
	text, known := variables[name]
	if known {
		return &variable{name: name, text: text}, nil
	}
	v := &variable{name: name}
	rest, ok := strings.CutPrefix(name, metadataPrefix)
	if ok {
		v.in = func(f *Facts) *document { return &f.metadata }
	} else {
		rest, ok = strings.CutPrefix(name, claimsPrefix)
		v.in = func(f *Facts) *document { return &f.claims }
	}
	if !ok {
		return nil, fmt.Errorf("unknown placeholder {%s}: there are {edr.dataset}, {edr.agreement}, {edr.counterparty}, {edr.bpn}, "+
			"{edr.profile}, {edr.flow}, {edr.metadata.<member>} and {edr.claims.<member>}", name)
	}
	if strings.ContainsAny(rest, "{}") {
		return nil, fmt.Errorf("placeholder {%s}: a member's name must not hold braces", name)
	}
	path, err := ParsePath(rest)
	if err != nil {
		return nil, fmt.Errorf("placeholder {%s}: %w", name, err)
	}
	v.path = path
	return v, nil
}

// String returns the text as configured.
func (t *Template) String() string { return t.source }

// Static reports whether the text is the same for all flows.
func (t *Template) Static() bool {
	for _, p := range t.pieces {
		if p.value != nil {
			return false
		}
	}
	return true
}

// Render returns the text for a flow. It never is a template again. Errors name the placeholder and not what it stands for.
func (t *Template) Render(f *Facts) (string, error) {
	var b strings.Builder
	for _, p := range t.pieces {
		if p.value == nil {
			b.WriteString(p.literal)
			continue
		}
		value, err := p.value.of(f)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

// of returns the value for a flow. One that is empty is refused: a backend would take what is left for something else.
func (v *variable) of(f *Facts) (string, error) {
	value, err := v.read(f)
	switch {
	case err != nil:
		return "", v.fault(err)
	case value == "":
		return "", v.fault(errors.New("is empty for this flow"))
	case len(value) > maxValueBytes:
		return "", v.fault(fmt.Errorf("is longer than %d bytes", maxValueBytes))
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", v.fault(errors.New("holds a control character"))
	}
	return value, nil
}

func (v *variable) read(f *Facts) (string, error) {
	if v.text != nil {
		return v.text(f), nil
	}
	raw := v.in(f).find(v.path)
	if raw == nil {
		return "", errors.New("is not in the start message")
	}
	s, err := readScalar(raw)
	if err != nil {
		return "", err
	}
	return s.written()
}

func (v *variable) fault(err error) error { return fmt.Errorf("{%s} %w", v.name, err) }

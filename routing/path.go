package routing

import (
	"errors"
	"strings"
	"unicode"
)

// Path leads to a member of metadata or claims: the names of the members, from the outside to the inside.
type Path []string

// ParsePath reads names that are separated by dots. A dot that belongs to a name is written \. and a backslash \\: EDC's
// names can be URLs.
func ParsePath(text string) (Path, error) {
	var path Path
	var name strings.Builder
	end := func() error {
		if name.Len() == 0 {
			return errors.New("a member has no name: want names separated by dots, such as backend.tenant")
		}
		path = append(path, name.String())
		name.Reset()
		return nil
	}
	escaped := false
	for _, c := range text {
		switch {
		case escaped:
			if c != '.' && c != '\\' {
				return nil, errors.New(`a backslash in the name of a member stands before a dot or another backslash`)
			}
			name.WriteRune(c)
			escaped = false
		case c == '\\':
			escaped = true
		case c == '.':
			err := end()
			if err != nil {
				return nil, err
			}
		case unicode.IsControl(c) || c == unicode.ReplacementChar:
			return nil, errors.New("the name of a member has a control character or is not UTF-8")
		default:
			name.WriteRune(c)
		}
	}
	if escaped {
		return nil, errors.New("the name of a member ends in a backslash")
	}
	err := end()
	if err != nil {
		return nil, err
	}
	return path, nil
}

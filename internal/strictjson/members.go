package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrMissing is wrapped by a getter when the object has no member of that name. A member that is null is present, and
	// of the wrong type.
	ErrMissing = errors.New("missing")
	// ErrType is wrapped by a getter when the member is not of the type asked for.
	ErrType = errors.New("wrong type")
	// ErrRange is wrapped by a getter when the member is a number beyond ±2^53.
	ErrRange = errors.New("number out of range")
)

// maxExact is the largest integer up to which every reader of JSON numbers agrees (RFC 7493 §2.2).
const maxExact = 1 << 53

// Members are the members of one object, by their exact names. Get them from Parse: the getters rely on its checks.
// Getters name the member in their errors, never its value.
type Members map[string]json.RawMessage

// Parse is Check for a document that must be an object, and returns its members, which are parts of data.
func Parse(data []byte, maxDepth int) (Members, error) {
	m := Members{}
	err := check(data, maxDepth, m)
	if err != nil {
		return nil, err
	}
	if first(data) != '{' {
		return nil, ErrNotObject
	}
	return m, nil
}

// Has reports whether the member is present, whatever its value, null included.
func (m Members) Has(name string) bool {
	_, ok := m[name]
	return ok
}

// String returns a member that must be a string.
func (m Members) String(name string) (string, error) {
	raw, err := m.typed(name, '"', "a string")
	if err != nil {
		return "", err
	}
	return text(name, raw)
}

// StringOrList returns a member that is a string or an array of strings, as "aud" may be (RFC 7519 §4.1.3). A string is a
// list of one. An empty array is an empty list.
func (m Members) StringOrList(name string) ([]string, error) {
	raw, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("member %q: %w", name, ErrMissing)
	}
	if first(raw) == '"' {
		s, err := text(name, raw)
		if err != nil {
			return nil, err
		}
		return []string{s}, nil
	}
	if first(raw) != '[' {
		return nil, fmt.Errorf("member %q: %w: want a string or an array of strings", name, ErrType)
	}
	var items []json.RawMessage
	err := json.Unmarshal(raw, &items)
	if err != nil {
		return nil, fmt.Errorf("member %q: %w", name, ErrSyntax)
	}
	list := make([]string, len(items))
	for i, item := range items {
		// json.Unmarshal takes null for an empty string, so look at the type first.
		if first(item) != '"' {
			return nil, fmt.Errorf("member %q: %w: want an array of strings", name, ErrType)
		}
		list[i], err = text(name, item)
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Bool returns a member that must be true or false. The strings "true" and "false" are refused: a lenient reader would
// take an introspection answer {"active":"false"} for a grant (RFC 7662 §2.2).
func (m Members) Bool(name string) (bool, error) {
	raw, ok := m[name]
	if !ok {
		return false, fmt.Errorf("member %q: %w", name, ErrMissing)
	}
	switch string(raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("member %q: %w: want true or false", name, ErrType)
}

// Int returns a member that must be a number without fraction and exponent, within ±2^53.
func (m Members) Int(name string) (int64, error) {
	raw, err := m.number(name)
	if err != nil {
		return 0, err
	}
	if strings.ContainsAny(raw, ".eE") {
		return 0, fmt.Errorf("member %q: %w: want an integer", name, ErrType)
	}
	return integer(name, raw)
}

// NumericDate returns a member that must be a number of seconds since 1970-01-01T00:00:00Z (RFC 7519 §2), within ±2^53. A
// fraction is cut off: an expiry is never later than written.
func (m Members) NumericDate(name string) (time.Time, error) {
	raw, err := m.number(name)
	if err != nil {
		return time.Time{}, err
	}
	if !strings.ContainsAny(raw, ".eE") {
		n, err := integer(name, raw)
		if err != nil {
			return time.Time{}, err
		}
		return time.Unix(n, 0), nil
	}
	// ParseFloat reports an exponent that it cannot represent. Converting such a value to an integer would give one that
	// differs between machines.
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil || math.Abs(f) > maxExact {
		return time.Time{}, fmt.Errorf("member %q: %w", name, ErrRange)
	}
	return time.Unix(int64(math.Floor(f)), 0), nil
}

// Object returns a member that must be an object.
func (m Members) Object(name string) (Members, error) {
	raw, err := m.typed(name, '{', "an object")
	if err != nil {
		return nil, err
	}
	var inner Members
	err = json.Unmarshal(raw, &inner)
	if err != nil {
		return nil, fmt.Errorf("member %q: %w", name, ErrSyntax)
	}
	return inner, nil
}

// Decode decodes a member into v as Object decodes a document.
func (m Members) Decode(name string, v any) error {
	raw, ok := m[name]
	if !ok {
		return fmt.Errorf("member %q: %w", name, ErrMissing)
	}
	err := decode(raw, v)
	if err != nil {
		return fmt.Errorf("member %q: %w", name, err)
	}
	return nil
}

func (m Members) typed(name string, start byte, want string) (json.RawMessage, error) {
	raw, ok := m[name]
	if !ok {
		return nil, fmt.Errorf("member %q: %w", name, ErrMissing)
	}
	if first(raw) != start {
		return nil, fmt.Errorf("member %q: %w: want %s", name, ErrType, want)
	}
	return raw, nil
}

func (m Members) number(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", fmt.Errorf("member %q: %w", name, ErrMissing)
	}
	c := first(raw)
	if c != '-' && (c < '0' || c > '9') {
		return "", fmt.Errorf("member %q: %w: want a number", name, ErrType)
	}
	return string(raw), nil
}

func integer(name, raw string) (int64, error) {
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || n > maxExact || n < -maxExact {
		return 0, fmt.Errorf("member %q: %w", name, ErrRange)
	}
	return n, nil
}

func text(name string, raw json.RawMessage) (string, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil // Parse has checked that it is a string of valid UTF-8
	}
	var s string
	err := json.Unmarshal(raw, &s)
	if err != nil {
		return "", fmt.Errorf("member %q: %w", name, ErrSyntax)
	}
	return s, nil
}

// first returns the first byte that is not white space, or 0. Values inside Members have no white space around them.
func first(data []byte) byte {
	for _, c := range data {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c
		}
	}
	return 0
}

// Package strictjson reads JSON that a stranger wrote and that two programs must understand alike.
//
// encoding/json is lenient where an attacker profits: of two members with one name the last wins, a member "Exp" fills
// a field "exp", broken UTF-8 and half of a surrogate pair become U+FFFD. A checker and a later reader that differ in one
// of these see two documents. So Check refuses what has more than one reading (RFC 8259 §4, RFC 7493 §2), and Members and
// Object match names byte for byte.
//
// No error quotes the document: it may be a token.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// DefaultDepth is the depth limit used when a caller passes 0.
const DefaultDepth = 32

var (
	// ErrSyntax is wrapped when the data is not exactly one JSON value (RFC 8259 §2).
	ErrSyntax = errors.New("not one valid JSON value")
	// ErrEncoding is wrapped for bytes that are not UTF-8 and for an escape that is half of a surrogate pair (RFC 8259
	// §8.1, RFC 7493 §2.1).
	ErrEncoding = errors.New("not valid unicode")
	// ErrDuplicate is wrapped when two members of one object have the same name (RFC 7493 §2.3, RFC 7515 §4).
	ErrDuplicate = errors.New("duplicate member name")
	// ErrDepth is wrapped when objects and arrays are nested deeper than allowed. (Beyond 10,000 levels the standard
	// library gives up first, with ErrSyntax.)
	ErrDepth = errors.New("nested too deeply")
	// ErrNotObject is returned when the value is not an object.
	ErrNotObject = errors.New("not a JSON object")
)

// Check reports whether data is exactly one JSON value that every reader understands alike: valid UTF-8, no lone
// surrogate escape, no member name twice in one object (names are compared after decoding, so "\u0061" equals "a"), at
// most maxDepth objects and arrays inside each other (0: DefaultDepth). Time and memory are linear in len(data); the
// size limit is the caller's.
func Check(data []byte, maxDepth int) error {
	return check(data, maxDepth, nil)
}

// check is Check, and puts the members of a document that is an object into members unless that is nil.
func check(data []byte, maxDepth int, members Members) error {
	if maxDepth <= 0 {
		maxDepth = DefaultDepth
	}
	if !utf8.Valid(data) {
		return ErrEncoding
	}
	// The grammar is the standard library's. The walk below relies on it, and looks only at what it does not check.
	if !json.Valid(data) {
		return ErrSyntax
	}
	w := walk{data: data, maxDepth: maxDepth, members: members}
	return w.run()
}

// linear is the number of members up to which names are compared one by one. Above it a map is used, so that an object of
// n members costs O(n) however its names were chosen.
const linear = 16

// level is an object or an array that has been opened and not closed.
type level struct {
	object bool
	named  bool // a name has been read and its value is still to come
	names  []string
	seen   map[string]struct{}
}

func (l *level) add(name string) bool {
	if l.seen != nil {
		_, dup := l.seen[name]
		l.seen[name] = struct{}{}
		return !dup
	}
	for _, n := range l.names {
		if n == name {
			return false
		}
	}
	l.names = append(l.names, name)
	if len(l.names) > linear {
		l.seen = make(map[string]struct{}, 2*len(l.names))
		for _, n := range l.names {
			l.seen[n] = struct{}{}
		}
	}
	return true
}

// walk passes once over a document whose grammar is known to be valid.
type walk struct {
	data     []byte
	maxDepth int
	open     []level

	members Members // of the outermost object; nil: nobody asks for them
	name    string  // of the member that is being read
	value   int     // where its value begins, or may after white space; 0: nowhere yet
}

func (w *walk) run() error {
	for i := 0; i < len(w.data); {
		switch w.data[i] {
		case '{', '[':
			if len(w.open) >= w.maxDepth {
				return fmt.Errorf("byte %d: %w", i, ErrDepth)
			}
			w.open = append(w.open, level{object: w.data[i] == '{'})
		case ':':
			if len(w.open) == 1 {
				w.value = i + 1
			}
		case '}', ']':
			w.endMember(i)
			w.open = w.open[:len(w.open)-1]
		case ',':
			w.endMember(i)
			w.open[len(w.open)-1].named = false
		case '"':
			end, err := w.text(i)
			if err != nil {
				return err
			}
			i = end
			continue
		}
		i++
	}
	return nil
}

// endMember notes the member of the outermost object that ends before data[end], if one does.
func (w *walk) endMember(end int) {
	if w.members == nil || len(w.open) != 1 || w.value == 0 {
		return
	}
	value := bytes.Trim(w.data[w.value:end], " \t\r\n") // RFC 8259 §2
	w.members[w.name] = value[:len(value):len(value)]
	w.value = 0
}

// text handles the string literal that starts at data[start] and returns the index behind it.
func (w *walk) text(start int) (int, error) {
	end := start + 1
	escaped := false
	for w.data[end] != '"' {
		if w.data[end] == '\\' {
			escaped = true
			end++
		}
		end++
	}
	body := w.data[start+1 : end]
	if escaped && hasLoneSurrogate(body) {
		return 0, fmt.Errorf("byte %d: lone surrogate escape: %w", start, ErrEncoding)
	}
	end++
	if len(w.open) == 0 {
		return end, nil
	}
	l := &w.open[len(w.open)-1]
	if !l.object || l.named {
		return end, nil
	}
	l.named = true
	name := string(body)
	if escaped {
		var decoded string // apart from name, which would otherwise live on the heap for every member
		err := json.Unmarshal(w.data[start:end], &decoded)
		if err != nil {
			return 0, fmt.Errorf("byte %d: %w", start, ErrSyntax)
		}
		name = decoded
	}
	if !l.add(name) {
		return 0, fmt.Errorf("byte %d: %w", start, ErrDuplicate)
	}
	if len(w.open) == 1 {
		w.name = name
	}
	return end, nil
}

// hasLoneSurrogate reports whether the inside of a valid string literal holds a \u escape of a surrogate that is not the
// first or second half of a pair.
func hasLoneSurrogate(body []byte) bool {
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		i++ // the escaped character
		if body[i] != 'u' {
			continue
		}
		r := hex4(body[i+1:])
		i += 4
		if !utf16.IsSurrogate(r) {
			continue
		}
		next := body[i+1:]
		if len(next) < 6 || next[0] != '\\' || next[1] != 'u' {
			return true
		}
		if utf16.DecodeRune(r, hex4(next[2:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// hex4 reads four hex digits that the grammar guarantees.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		r = r<<4 | rune(c)
	}
	return r
}

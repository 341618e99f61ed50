package routing

import (
	"encoding/json"
	"errors"
)

// scalar is a string, a number or a boolean.
type scalar struct {
	text     string // of a string or boolean
	number   decimal
	isNumber bool
}

// Errors name no value: metadata and claims can hold what is not meant for a log.
var (
	errNotScalar  = errors.New("is an object or a list, where a string, a number or a boolean is wanted")
	errLongNumber = errors.New("is a number that is too long to be written out")
)

// readScalar reads a value of a checked document.
func readScalar(raw json.RawMessage) (scalar, error) {
	switch raw[0] {
	case '"':
		var text string
		err := json.Unmarshal(raw, &text)
		if err != nil {
			return scalar{}, errNotScalar
		}
		return scalar{text: text}, nil
	case 't', 'f':
		return scalar{text: string(raw)}, nil
	case '{', '[', 'n':
		return scalar{}, errNotScalar
	}
	number, ok := parseDecimal(string(raw))
	if !ok {
		return scalar{}, errLongNumber
	}
	return scalar{number: number, isNumber: true}, nil
}

// written returns the text that stands for the value where text is wanted.
func (s scalar) written() (string, error) {
	if !s.isNumber {
		return s.text, nil
	}
	text, ok := s.number.text()
	if !ok {
		return "", errLongNumber
	}
	return text, nil
}

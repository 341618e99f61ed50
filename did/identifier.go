package did

import (
	"errors"
	"fmt"
	"strings"
)

// Methods that a Resolver knows.
const (
	methodWeb = "web"
	methodJWK = "jwk"
	methodKey = "key"
)

// Longest identifiers and fragments, in bytes. A did:jwk of an RSA key of 8192 bit has about 1,900.
const (
	maxDIDBytes      = 512
	maxLocalDIDBytes = 4096
	maxFragmentBytes = 512
)

// identifier is a DID that is well formed for its method.
type identifier struct {
	did    string   // as given: DIDs are compared byte for byte
	method string   // methodWeb, methodJWK or methodKey
	value  string   // what follows "did:<method>:"
	place  location // where the document of a did:web is
}

// parse reads a DID (DID Core 1.0 §3.1). Anything that one reader could take for another host or path than the next is
// refused here, before it becomes a URL.
func parse(did string) (identifier, *Error) {
	method, value, ok := strings.Cut(strings.TrimPrefix(did, "did:"), ":")
	if !strings.HasPrefix(did, "did:") || !ok || !isMethodName(method) {
		return identifier{}, &Error{Code: CodeMalformed, cause: errors.New("not a DID")}
	}
	id := identifier{did: did, method: method, value: value}
	limit := maxLocalDIDBytes
	if method == methodWeb {
		limit = maxDIDBytes
	}
	if len(did) > limit {
		return identifier{}, &Error{Code: CodeMalformed, cause: fmt.Errorf("DID is longer than %d bytes", limit)}
	}
	switch method {
	case methodWeb:
		place, err := parseWeb(value)
		if err != nil {
			return identifier{}, &Error{Code: CodeMalformed, cause: err}
		}
		id.place = place
	case methodJWK, methodKey:
		// Their own decoders are stricter than any syntax check here.
	default:
		return identifier{}, &Error{Code: CodeMethod, cause: errors.New("DID method is not supported")}
	}
	return id, nil
}

// label is the part of the DID that errors may show.
func (id identifier) label() string {
	if id.method == methodWeb {
		return "did:web:" + id.place.authority()
	}
	return "did:" + id.method
}

func (id identifier) fail(code Code, cause error) *Error {
	return &Error{Code: code, DID: id.label(), cause: cause}
}

// fragment returns the fragment that a key id names, or "" for the only key of the document. A key id is a DID URL with
// a fragment (RFC 7515 §4.1.4, DID Core 1.0 §3.2), the fragment alone, or the bare DID, which Tractus-X 0.12 accepts
// for a document with one key. A DID URL of another DID is refused: it would let the holder of any DID sign for this one.
func (id identifier) fragment(kid string) (string, *Error) {
	if kid == id.did {
		return "", nil
	}
	rest, absolute := strings.CutPrefix(kid, id.did+"#")
	if !absolute {
		if strings.HasPrefix(kid, "did:") {
			return "", id.fail(CodeMalformed, errors.New("key id is not of this DID"))
		}
		rest = strings.TrimPrefix(kid, "#")
	}
	if !isFragment(rest) {
		return "", id.fail(CodeMalformed, errors.New("key id has no well-formed fragment"))
	}
	return rest, nil
}

// isMethodName: DID Core 1.0 §3.1, method-name = 1*(%x61-7A / DIGIT).
func isMethodName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// isFragment: RFC 3986 §3.5, without decoding: fragments are compared as they are written.
func isFragment(s string) bool {
	if s == "" || len(s) > maxFragmentBytes {
		return false
	}
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && !strings.ContainsRune("-._~!$&'()*+,;=:@/?%", rune(s[i])) {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

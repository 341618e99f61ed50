package compactjws

import (
	"fmt"
	"strings"

	"github.com/edrgate/edrgate/internal/strictjson"
)

// refused are the parameters that no token may carry, whatever their value. Ignoring one would leave it to the next
// library to act on it.
var refused = []string{
	"crit", // we understand no extension, so every list of them is to be rejected (RFC 7515 §4.1.11)
	"b64",  // an unencoded payload changes what is signed (RFC 7797 §3)
	"zip",  // a JWE parameter; a small token that inflates (RFC 7516 §4.1.3, CVE-2024-28122)
	"enc",  // marks a JWE (RFC 7516 §9)

	// Keys come from our configuration or the signer's DID document, never from the token: a forger names his own key
	// (RFC 8725 §3.10), or has us fetch an address of his choice.
	"jwk", // RFC 7515 §4.1.3
	"jku", // RFC 7515 §4.1.2
	"x5c", // RFC 7515 §4.1.6
	"x5u", // RFC 7515 §4.1.5
}

func parseHeader(data []byte) (Header, error) {
	m, err := strictjson.Parse(data, headerDepth)
	if err != nil {
		return Header{}, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	for _, name := range refused {
		if m.Has(name) {
			return Header{}, fmt.Errorf("%w: parameter %q is not allowed", ErrHeader, name)
		}
	}
	var h Header
	h.Alg, err = m.String("alg") // required: RFC 7515 §4.1.1
	if err != nil {
		return Header{}, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	// RFC 8725 §3.2. Names of algorithms are case-sensitive (RFC 7518 §3.1), but a filter that knows one spelling has been
	// walked around before with "nOnE".
	if h.Alg == "" || strings.EqualFold(h.Alg, "none") {
		return Header{}, fmt.Errorf("%w: unsecured algorithm", ErrHeader)
	}
	for _, p := range []struct {
		name string
		dst  *string
	}{
		{"typ", &h.Typ}, // RFC 7515 §4.1.9
		{"kid", &h.Kid}, // RFC 7515 §4.1.4
		{"cty", &h.Cty}, // RFC 7515 §4.1.10
	} {
		if !m.Has(p.name) {
			continue
		}
		*p.dst, err = m.String(p.name)
		if err != nil {
			return Header{}, fmt.Errorf("%w: %w", ErrHeader, err)
		}
	}
	return h, nil
}

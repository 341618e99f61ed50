package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Headers that tell a backend for whom a request is. The names are those of the Tractus-X data plane.
const (
	headerBPN       = "Edc-Bpn"
	headerAgreement = "Edc-Contract-Agreement-Id"
)

// identityRules say what is taken from a request before it may reach a backend.
type identityRules struct {
	// denyList also removes what only matters where headers are passed on unless denied: edr_auth before a reverse
	// proxy. edr_proxy passes on what is allowed, and nothing else.
	denyList bool

	// keepUpgrade leaves the request for another protocol in place.
	keepUpgrade bool
}

// strip removes everything with which a consumer could pass for somebody else or have us say something else than we
// mean, and its credentials, which are no business of the backend.
func (rules identityRules) strip(r *http.Request) {
	h := r.Header

	// Trailers are merged into the headers by some backends, so one of them could be an identity header.
	r.Trailer = nil
	delete(h, "Trailer")

	rules.stripConnection(h)
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	for name := range h {
		if rules.drops(name, trusted) {
			delete(h, name)
		}
	}
	keepFromRepeats(h, "Idempotency-Key", "idempotency-key")
	keepFromRepeats(h, "X-Idempotency-Key", "x-idempotency-key")
}

// stripConnection removes the connection's own headers (RFC 9110 §7.6.1) now rather than in the proxy: there, after
// our headers are set, "Connection: Edc-Bpn" would remove them.
func (rules identityRules) stripConnection(h http.Header) {
	keepUpgrade := rules.keepUpgrade && wantsUpgrade(h)
	upgrade := h["Upgrade"]
	for _, value := range h["Connection"] {
		for value != "" {
			var name string
			name, value, _ = strings.Cut(value, ",")
			h.Del(strings.Trim(name, " \t"))
		}
	}
	delete(h, "Connection")
	delete(h, "Keep-Alive")
	delete(h, "Upgrade")
	delete(h, "Http2-Settings")
	if keepUpgrade {
		h["Upgrade"] = upgrade
		h["Connection"] = []string{"Upgrade"}
	}
}

// drops reports whether a header must not pass. Names are compared as a careless backend may read them: without case,
// and any character that is not alphanumeric like a hyphen (CGI makes HTTP_EDC_BPN of several).
func (rules identityRules) drops(name string, trusted bool) bool {
	if name == "" {
		return true
	}
	switch name[0] | 0x20 {
	case 'a':
		return foldsTo(name, "authorization")
	case 'c':
		return foldsTo(name, "cookie") || foldsTo(name, "cookie2")
	case 'e':
		return foldsTo(name, "edc-bpn") || foldsTo(name, "edc-contract-agreement-id")
	case 'p':
		return len(name) >= len("proxy-") && foldsTo(name[:len("proxy-")], "proxy-")
	case 'f':
		return rules.denyList && !trusted && foldsTo(name, "forwarded")
	case 'x':
		if !rules.denyList {
			return false
		}
		if foldsTo(name, "x-real-ip") {
			return !trusted
		}
		for _, denied := range deniedAlways {
			if foldsTo(name, denied) {
				return true
			}
		}
		if len(name) < len("x-forwarded-") || !foldsTo(name[:len("x-forwarded-")], "x-forwarded-") {
			return false
		}
		return !trusted || !setByProxy[name]
	}
	return false
}

// deniedAlways are credentials of other systems, and what has a backend take another path or method than the one that was
// decided on (IIS, Symfony and method-override middlewares).
var deniedAlways = []string{
	"x-api-key", "x-original-url", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override",
}

// setByProxy are the headers that reverse_proxy keeps from a peer which the operator named in trusted_proxies, and
// replaces for all others.
var setByProxy = map[string]bool{"X-Forwarded-For": true, "X-Forwarded-Proto": true, "X-Forwarded-Host": true}

// foldsTo reports whether name is another spelling of folded, which is in lower case with hyphens.
func foldsTo(name, folded string) bool {
	if len(name) != len(folded) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		default:
			c = '-'
		}
		if c != folded[i] {
			return false
		}
	}
	return true
}

// keepFromRepeats hides a header from net/http, which takes a request that has it, under its canonical key, for one
// that may be sent twice: an empty POST would then be delivered again on a connection that breaks. The name on the
// wire is the same.
func keepFromRepeats(h http.Header, canonicalName, lower string) {
	values, ok := h[canonicalName]
	if !ok {
		return
	}
	delete(h, canonicalName)
	h[lower] = values
}

// assert sets the headers that tell the backend for whom the request is. A name without a value is not set; strip has
// removed what the client sent.
func (g *grant) assert(h http.Header) {
	g.bpn[0] = g.access.BPN()
	if isFieldValue(g.bpn[0]) {
		h[headerBPN] = g.bpn[:]
	}
	g.agreement[0] = g.access.Agreement()
	if isFieldValue(g.agreement[0]) {
		h[headerAgreement] = g.agreement[:]
	}
}

// isFieldValue reports whether s is not empty and can stand in a header as it is (RFC 9110 §5.5). An id that cannot is
// left out: a changed one could be somebody else's.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' '
}

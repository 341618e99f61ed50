package signaling

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// spiffeScheme begins the name of a workload (SPIFFE ID §2).
const spiffeScheme = "spiffe"

// CertificateNames are the names by which a control plane is known in its TLS client certificate. That the server trusts
// the issuer is not enough: it issues to others as well, and each of them could make tokens.
type CertificateNames struct {
	dns  []string // in lower case
	uris []string
	now  func() time.Time
}

// NewCertificateNames reads names. One with a colon is a URI, such as the SPIFFE ID spiffe://trust.example/edc, and any
// other one is a DNS name. No name has a wildcard. now is the clock; nil: the system's.
func NewCertificateNames(names []string, now func() time.Time) (*CertificateNames, error) {
	if len(names) == 0 {
		return nil, errors.New("want at least one name of the client certificate")
	}
	c := &CertificateNames{now: now}
	if now == nil {
		c.now = time.Now
	}
	for _, name := range names {
		list := &c.dns
		canonical, err := dnsName(name)
		if strings.Contains(name, ":") {
			list = &c.uris
			canonical, err = uriName(name)
		}
		if err != nil {
			return nil, err
		}
		if slices.Contains(*list, canonical) {
			return nil, fmt.Errorf("name %q is listed twice", name)
		}
		*list = append(*list, canonical)
	}
	return c, nil
}

// dnsName accepts a host name as it stands in a certificate (RFC 5280 §4.2.1.6). IP addresses are none: they belong to
// whoever has them today.
func dnsName(name string) (string, error) {
	if net.ParseIP(name) != nil {
		return "", fmt.Errorf("name %q is an address: want a DNS name or a URI", name)
	}
	if len(name) > 253 { // RFC 1035 §2.3.4, in its text form
		return "", errors.New("a DNS name has at most 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, dnsCharacters) != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("name %q is neither a DNS name without wildcard nor a URI", name)
		}
	}
	return strings.ToLower(name), nil // RFC 4343: without regard to case
}

const dnsCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// uriName accepts a URI that is spelled as a certificate's is after parsing: names are compared byte by byte.
func uriName(name string) (string, error) {
	u, err := url.Parse(name)
	// A dot in the scheme is a host with a port, which no certificate has.
	if err != nil || u.Scheme == "" || strings.Contains(u.Scheme, ".") || u.String() != name || strings.ContainsFunc(name, notInURI) {
		return "", fmt.Errorf("name %q is not a URI in its usual spelling", name)
	}
	if u.Scheme != spiffeScheme {
		return name, nil
	}
	err = checkSPIFFE(u)
	if err != nil {
		return "", fmt.Errorf("name %q: %w", name, err)
	}
	return name, nil
}

// notInURI marks what RFC 3986 §2 has no place for.
func notInURI(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("\"<>\\^`{|}", c) }

// checkSPIFFE checks the form of SPIFFE ID §2: a trust domain in lower case and the path of a workload, nothing else.
func checkSPIFFE(u *url.URL) error {
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Port() != "" {
		return errors.New("a SPIFFE ID has no user, port, query or fragment")
	}
	if u.Host == "" || u.Host != strings.ToLower(u.Host) {
		return errors.New("a SPIFFE ID has a trust domain in lower case")
	}
	if u.Path == "" || u.Path == "/" {
		// X.509-SVID §4.2: a SPIFFE ID without path is that of a trust domain, which signs and never connects.
		return errors.New("a SPIFFE ID of a workload has a path")
	}
	return nil
}

// includes reports whether a certificate has one of the names. The common name is never looked at (RFC 9525 §2): it has no
// type, so a CA that checks DNS names may let anything stand there.
func (c *CertificateNames) includes(leaf *x509.Certificate) bool {
	for _, name := range leaf.DNSNames {
		if slices.Contains(c.dns, strings.ToLower(name)) {
			return true
		}
	}
	for _, u := range leaf.URIs {
		if u.Scheme == spiffeScheme && len(leaf.URIs) != 1 {
			continue // X.509-SVID §2: one with several URIs is no SVID, and may not count as one
		}
		if slices.Contains(c.uris, u.String()) {
			return true
		}
	}
	return false
}

// shares returns a name that both have.
func (c *CertificateNames) shares(other *CertificateNames) (string, bool) {
	for _, name := range slices.Concat(c.dns, c.uris) {
		if slices.Contains(other.dns, name) || slices.Contains(other.uris, name) {
			return name, true
		}
	}
	return "", false
}

// Why nobody was recognised by a certificate; for the log.
var (
	errNoTLS          = errors.New("not sent over TLS")
	errNoCertificate  = errors.New("no client certificate")
	errUnverified     = errors.New("the client certificate has not been verified: the listener's tls client_auth must require and verify it")
	errExpired        = errors.New("the client certificate has expired since the connection was made")
	errUnknownName    = errors.New("the client certificate has none of the configured names")
	errAmbiguousNames = errors.New("the client certificate has names of two control planes")
)

// verifiedLeaf returns the client certificate of a connection, whose chain the TLS server has verified.
func verifiedLeaf(r *http.Request) (*x509.Certificate, error) {
	if r.TLS == nil {
		return nil, errNoTLS
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return nil, errNoCertificate
	}
	// A server that asks for a certificate without verifying it shows what the client made itself.
	if len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil, errUnverified
	}
	return r.TLS.VerifiedChains[0][0], nil
}

// byCertificate returns the control plane whose name the client certificate has, or why there is none.
func (a *AccessList) byCertificate(r *http.Request) (tokens.Caller, error) {
	leaf, err := verifiedLeaf(r)
	if err != nil {
		return "", err
	}
	var caller tokens.Caller
	for _, rule := range a.certificates {
		if !rule.names.includes(leaf) {
			continue
		}
		// A connection can live for days, and the handshake was its only check.
		if rule.names.now().After(leaf.NotAfter) {
			return "", errExpired
		}
		if caller != "" && caller != rule.caller {
			return "", errAmbiguousNames
		}
		caller = rule.caller
	}
	if caller == "" {
		return "", errUnknownName
	}
	return caller, nil
}

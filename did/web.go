package did

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// location is where a did:web keeps its document.
type location struct {
	host string // lower case, never an IP address
	port string // decimal, empty for the scheme's own
	path string // of the document, beginning with "/"
}

const (
	maxHostBytes  = 253 // RFC 1035 §2.3.4, without the root's dot
	maxLabelBytes = 63
)

// parseWeb reads the method-specific identifier of a did:web (did:web method specification, "DID method syntax" and
// "Read (Resolve)").
//
// The host is plain letters, digits and hyphens (an internationalised name in its xn-- form), the only percent-encoding
// is the %3A before a port, and nothing is ever decoded as a whole: a resolver that decodes the finished URL lets %2F,
// %40, %3F or %23 in a DID choose another host or another document.
func parseWeb(value string) (location, error) {
	segments := strings.Split(value, ":")
	host, port, err := splitHost(segments[0])
	if err != nil {
		return location{}, err
	}
	if len(segments) == 1 {
		return location{host: host, port: port, path: "/.well-known/did.json"}, nil
	}
	for _, s := range segments[1:] {
		if !isSegment(s) {
			return location{}, errors.New("did:web path has a segment that is not plain")
		}
	}
	path := "/" + strings.Join(segments[1:], "/") + "/did.json"
	return location{host: host, port: port, path: path}, nil
}

func splitHost(s string) (string, string, error) {
	host, port := s, ""
	i := strings.IndexByte(s, '%')
	if i >= 0 {
		if !strings.EqualFold(s[i:min(i+3, len(s))], "%3A") {
			return "", "", errors.New("did:web host has a percent-encoding other than %3A")
		}
		host, port = s[:i], s[i+3:]
		if !isPort(port) {
			return "", "", errors.New("did:web port is not a number from 1 to 65535")
		}
	}
	if !isHostName(host) {
		return "", "", errors.New("did:web host is not a domain name")
	}
	return strings.ToLower(host), port, nil
}

// isHostName accepts names of the preferred syntax (RFC 1123 §2.1). IP addresses are no did:web hosts; a last label that
// is a number makes one to some parsers, in decimal, octal or hexadecimal ("127.1", "0x7f.1", "2130706433"; WHATWG URL
// §3.5 "ends in a number"), so it is refused in every form. It could not be a top-level domain either (RFC 3696 §2).
func isHostName(host string) bool {
	if host == "" || len(host) > maxHostBytes {
		return false
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > maxLabelBytes || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for i := range len(l) {
			if !isAlphanumeric(l[i]) && l[i] != '-' {
				return false
			}
		}
	}
	return !isNumber(labels[len(labels)-1])
}

func isNumber(label string) bool {
	hexadecimal := len(label) >= 2 && label[0] == '0' && label[1]|0x20 == 'x'
	if hexadecimal {
		return strings.Trim(label[2:], "0123456789abcdefABCDEF") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// isPort accepts one spelling of each port.
func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// isSegment accepts path segments that need no encoding and that no server takes for a step up.
func isSegment(s string) bool {
	if s == "" || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-' {
			return false
		}
	}
	return true
}

// authority is host[:port].
func (l location) authority() string {
	if l.port == "" {
		return l.host
	}
	return l.host + ":" + l.port
}

func (l location) url(scheme string) *url.URL {
	return &url.URL{Scheme: scheme, Host: l.authority(), Path: l.path}
}

// anyHost in Config.AllowHTTP stands for every host.
const anyHost = "*"

// reach is what the configuration says about schemes and ports.
type reach struct {
	http  map[string]bool // host or host:port, or anyHost
	ports map[string]bool // beside 443
}

func newReach(allowHTTP []string, allowPorts []uint16) (reach, error) {
	r := reach{http: make(map[string]bool), ports: map[string]bool{"": true, "443": true}}
	for _, entry := range allowHTTP {
		host, port, found := strings.Cut(entry, ":")
		valid := entry == anyHost || isHostName(host) && (!found || isPort(port))
		if !valid {
			return reach{}, fmt.Errorf("did: plain http host %q is not a host name, host:port or %q", entry, anyHost)
		}
		r.http[strings.ToLower(entry)] = true
	}
	for _, p := range allowPorts {
		if p == 0 {
			return reach{}, errors.New("did: port 0 cannot be allowed")
		}
		r.ports[strconv.Itoa(int(p))] = true
	}
	return r, nil
}

// document returns the URL of the document. Hosts named for plain http get plain http on the DID's port; all others get
// https, and only on an allowed port, so that a DID cannot be used to poke at services that are no web servers.
func (r reach) document(l location) (*url.URL, error) {
	if r.http[anyHost] || r.http[l.host] || r.http[l.authority()] {
		return l.url("http"), nil
	}
	if !r.ports[l.port] {
		return nil, fmt.Errorf("port %s is not allowed", l.port)
	}
	return l.url("https"), nil
}

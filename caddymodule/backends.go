package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/tokens"
)

// origin is a server as a URL names it. Host is in lower case and without a trailing dot, or an IP address in its one
// form without brackets; port is never empty.
type origin struct {
	scheme, host, port string
}

// authority is host:port, with the brackets of an IPv6 address.
func (o origin) authority() string { return net.JoinHostPort(o.host, o.port) }

// errNotInBackends is what a backend gets that the operator did not list.
var errNotInBackends = errors.New("not in backends")

// backendList is the list of servers that edr_proxy may talk to. Whoever may start a flow chooses its backend's URL, so
// without it a data address could reach any host of the network that the gateway stands in.
type backendList struct {
	origins map[origin]struct{} // an entry without a scheme is in it with both
	hosts   map[string]struct{}
	dials   map[string]struct{} // host:port
	ports   []uint16
}

// newBackendList reads entries scheme://host[:port] and host:port.
func newBackendList(entries []string) (*backendList, error) {
	if len(entries) == 0 {
		return nil, errors.New("backends is required: name the servers that flows may be proxied to, as scheme://host:port or host:port")
	}
	l := &backendList{origins: map[origin]struct{}{}, hosts: map[string]struct{}{}, dials: map[string]struct{}{}}
	for _, entry := range entries {
		err := l.add(entry)
		if err != nil {
			return nil, fmt.Errorf("backends: %q: %w", withoutUser(entry), err)
		}
	}
	return l, nil
}

func (l *backendList) add(entry string) error {
	schemes := []string{"http", "https"}
	text := entry
	scheme, rest, found := strings.Cut(entry, "://")
	if found {
		schemes, text = []string{strings.ToLower(scheme)}, strings.TrimSuffix(rest, "/")
	}
	if strings.ContainsAny(text, "/?#") {
		return errors.New("a path is not allowed: the list is of whole servers")
	}
	for _, s := range schemes {
		fallback := ""
		if found {
			fallback = defaultPort(s)
			if fallback == "" {
				return errors.New("the scheme must be http or https")
			}
		}
		host, port, err := parseAuthority(text, fallback)
		if err != nil {
			return err
		}
		o := origin{scheme: s, host: host, port: port}
		l.origins[o] = struct{}{}
		l.hosts[host] = struct{}{}
		l.dials[o.authority()] = struct{}{}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return fmt.Errorf("port: %w", err)
		}
		if !slices.Contains(l.ports, uint16(number)) {
			l.ports = append(l.ports, uint16(number))
		}
	}
	return nil
}

func (l *backendList) allows(o origin) bool {
	_, ok := l.origins[o]
	return ok
}

// allowsHostHeader reports whether a Host header may be sent: with a port it must be listed like that, without one any
// port of the host will do. A shared front end chooses its backend by it.
func (l *backendList) allowsHostHeader(value string) bool {
	host, port, err := parseAuthority(value, "")
	if err == nil {
		_, ok := l.dials[net.JoinHostPort(host, port)]
		return ok
	}
	host, _, err = parseAuthority(value, "80")
	if err != nil {
		return false
	}
	_, ok := l.hosts[host]
	return ok
}

// transport returns what connects to listed hosts only. That a host is listed allows its addresses, private and loopback
// ones too, for that is where backends live; addresses at which clouds hand out credentials stay denied whatever the name
// resolves to.
func (l *backendList) transport(connection string, o dialObserver, c dial.TransportConfig) (*http.Transport, error) {
	transport, err := checkedTransport(connection, o, dial.Config{AllowAddresses: everywhere(), AllowPorts: l.ports}, c)
	if err != nil {
		return nil, fmt.Errorf("backends: %w", err)
	}
	transport.DialContext = l.dialer(transport.DialContext)
	return transport, nil
}

// dialer wraps a dialer with the check of the name, so that nothing connects elsewhere even if a target was not
// checked. A connection is shared by all flows with the same scheme and authority, so the decision depends on these
// alone.
func (l *backendList) dialer(next dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", address, err)
		}
		_, ok := l.dials[net.JoinHostPort(strings.ToLower(host), port)]
		if !ok {
			return nil, fmt.Errorf("%s: %w", address, errNotInBackends)
		}
		return next(ctx, network, address)
	}
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func defaultPort(scheme string) string {
	switch scheme {
	case "http":
		return "80"
	case "https":
		return "443"
	}
	return ""
}

// parseAuthority reads host[:port] strictly. What passes holds no character that means something to Caddy's
// placeholders, to a URL or to a log.
func parseAuthority(text, fallback string) (string, string, error) {
	host, port := text, fallback
	colon := strings.LastIndexByte(text, ':')
	if colon >= 0 && !strings.HasSuffix(text, "]") {
		host, port = text[:colon], text[colon+1:]
	}
	if port == "" {
		return "", "", errors.New("the port is missing")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || strconv.FormatUint(number, 10) != port {
		return "", "", errors.New("the port must be a number from 1 to 65535")
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if !bracketed {
		host, err = parseHost(host)
		return host, port, err
	}
	inner, closed := strings.CutSuffix(inner, "]")
	addr, err := netip.ParseAddr(inner)
	if err != nil || !closed || !addr.Is6() || addr.Zone() != "" {
		return "", "", errors.New("the host is not an IPv6 address without a zone")
	}
	return addr.Unmap().String(), port, nil
}

// parseHost takes a DNS name or an IPv4 address.
func parseHost(host string) (string, error) {
	addr, err := netip.ParseAddr(host)
	if err == nil && addr.Is4() {
		return addr.String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 253 {
		return "", errors.New("the host is missing or too long")
	}
	var last string
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", errors.New("the host is neither a DNS name nor an IP address")
		}
		last = label
	}
	// Resolvers of the C library take 127.1, 0x7f.1 and 2130706433 for 127.0.0.1 (WHATWG URL §3.5: a host that ends in
	// a number is an IPv4 address).
	if last[0] >= '0' && last[0] <= '9' && (strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")) {
		return "", errors.New("the host ends in a number but is not an IPv4 address of four decimal parts")
	}
	return host, nil
}

// parseBackendURL reads an absolute http(s) URL without userinfo and fragment, and returns its origin and the canonical
// form of its path.
func parseBackendURL(text string) (*url.URL, origin, string, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error of url.Parse quotes the URL, which may hold credentials.
		return nil, origin{}, "", errors.New("not a URL")
	}
	port := defaultPort(u.Scheme) // url.Parse has put the scheme into lower case
	if port == "" {
		return nil, origin{}, "", errors.New("the scheme must be http or https")
	}
	if u.User != nil {
		return nil, origin{}, "", errors.New("a URL must not hold a user or password")
	}
	if u.Fragment != "" || u.RawFragment != "" || strings.Contains(text, "#") {
		return nil, origin{}, "", errors.New("a URL must not have a fragment")
	}
	host, port, err := parseAuthority(u.Host, port)
	if err != nil {
		return nil, origin{}, "", err
	}
	path, err := canonical.Path(u.EscapedPath(), backendPaths)
	if err != nil {
		return nil, origin{}, "", err
	}
	return u, origin{scheme: u.Scheme, host: host, port: port}, path, nil
}

// backendPaths are the rules for paths that operators and control planes write: escapes mean something there.
var backendPaths = canonical.Options{AllowEncodedSlash: true, AllowEncodedPercent: true, AllowDoubleSlash: true}

// BackendSecret is a credential that flows may have sent to their backend, or to its authorization server: a data address
// names it as secretName or oauth2:clientSecretKey.
type BackendSecret struct {
	// Value is the credential, usually a placeholder such as {file./run/secrets/backend-key}, which is replaced when
	// the config is loaded. Required.
	Value string `json:"value,omitempty"`

	// For are the destinations that the credential may be sent to, scheme://host[:port]/path: an equal scheme, host and
	// port, and a path that is equal or lies below. Required.
	For []string `json:"for,omitempty"`
}

// destination is where a secret may go.
type destination struct {
	origin origin
	path   string // canonical
}

// backendSecrets are the declared credentials by name. Names are never paths: a data address that could name a file
// would read any file that the gateway can.
type backendSecrets map[string]backendSecret

type backendSecret struct {
	value        tokens.Secret
	destinations []destination
}

// newBackendSecrets checks the declarations. resolve replaces placeholders.
func newBackendSecrets(declared map[string]*BackendSecret, backends *backendList, resolve func(string) (string, error)) (backendSecrets, error) {
	secrets := backendSecrets{}
	for name, d := range declared {
		if d == nil || d.Value == "" {
			return nil, fmt.Errorf("secret %s: a value is required, for example {file./run/secrets/%s}", name, name)
		}
		if len(d.For) == 0 {
			return nil, fmt.Errorf("secret %s: \"for\" and a destination are required: scheme://host[:port]/path", name)
		}
		value, err := resolve(d.Value)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", name, err)
		}
		secret := backendSecret{value: tokens.Secret(strings.TrimRight(value, "\r\n"))}
		if !isFieldValue(secret.value.Reveal()) {
			return nil, fmt.Errorf("secret %s: the value is empty or cannot stand in a header", name)
		}
		for _, text := range d.For {
			u, o, path, err := parseBackendURL(text)
			if err != nil {
				return nil, fmt.Errorf("secret %s: destination %q: %w", name, withoutUser(text), err)
			}
			if u.RawQuery != "" || u.ForceQuery {
				return nil, fmt.Errorf("secret %s: destination %q: a destination must not have a query", name, withoutUser(text))
			}
			if !backends.allows(o) {
				return nil, fmt.Errorf("secret %s: destination %q: %w", name, withoutUser(text), errNotInBackends)
			}
			secret.destinations = append(secret.destinations, destination{origin: o, path: path})
		}
		secrets[name] = secret
	}
	return secrets, nil
}

// Why a secret is not sent. The errors do not quote the name: whoever takes it for the place of the secret itself would
// have it sent to the other company.
var (
	errSecretUnknown   = errors.New("no secret of this name is declared")
	errSecretElsewhere = errors.New("the secret is not declared for this destination")
)

// reaches reports whether the secret may be sent to some path of a server.
func (s backendSecret) reaches(o origin) bool {
	return slices.ContainsFunc(s.destinations, func(d destination) bool { return d.origin == o })
}

// lookup returns the secret for a destination.
func (s backendSecrets) lookup(name string, o origin, path string) (tokens.Secret, error) {
	secret, ok := s[name]
	if !ok {
		return "", errSecretUnknown
	}
	for _, d := range secret.destinations {
		_, below := canonical.Under(path, d.path)
		if d.origin == o && below {
			return secret.value, nil
		}
	}
	return "", errSecretElsewhere
}

package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/edrgate/edrgate/internal/canonical"
)

// addresses are the outside addresses of a participant, the only source of what EDRs say. They are configured, never
// taken from a request: whoever could choose the Host header could otherwise have EDRs name his own host.
type addresses struct {
	public      string // as written into EDRs
	refreshPath string

	// renewals are the host and path pairs at which consumers renew, of public_url and of each route's own; keySets
	// those of the key sets beside them.
	renewals, keySets map[hostPath]struct{}

	insecure bool
}

// refreshEndpoint is where tokens of public_url are renewed; empty: nowhere.
func (a *addresses) refreshEndpoint() string {
	if a.public == "" {
		return ""
	}
	return a.public + a.refreshPath
}

type hostPath struct{ host, path string }

// newAddresses checks the addresses of a participant. Without public there are none: it gives no data.
func newAddresses(public, refreshPath string, insecure bool) (*addresses, error) {
	a := &addresses{refreshPath: refreshPath, insecure: insecure}
	a.renewals, a.keySets = map[hostPath]struct{}{}, map[hostPath]struct{}{}
	path, err := canonical.Path(refreshPath, canonical.Options{})
	if err != nil || path != refreshPath || !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") {
		return nil, fmt.Errorf("refresh_path %q must begin with / and be a plain path, without a trailing /", refreshPath)
	}
	if public == "" {
		return a, nil
	}
	a.public, err = a.add(public)
	if err != nil {
		return nil, fmt.Errorf("public_url %s: %w", withoutUser(public), err)
	}
	return a, nil
}

// add checks a public_url, remembers where it is renewed at, and returns it without a trailing slash.
func (a *addresses) add(public string) (string, error) {
	u, err := url.Parse(public)
	if err != nil {
		return "", errors.New("not a URL")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Hostname() == "" {
		return "", errors.New("must be an absolute https URL")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("must have no user, query or fragment")
	}
	if !isPort(u) {
		return "", errors.New("the port is not a number from 1 to 65535")
	}
	if u.Scheme == "http" && !a.insecure && !isLoopback(u.Hostname()) {
		// Tractus-X token refresh and DPS token renewal demand TLS.
		return "", errors.New("must be https: access tokens travel there; write `public_url <url> insecure` if TLS ends elsewhere")
	}
	path, err := canonical.Path(u.EscapedPath(), canonical.Options{})
	if err != nil {
		return "", fmt.Errorf("path: %w", err)
	}
	path = strings.TrimSuffix(path, "/")
	host := foldHost(u.Host)
	a.renewals[hostPath{host, path + a.refreshPath}] = struct{}{}
	a.keySets[hostPath{host, path + keySetPath(a.refreshPath)}] = struct{}{}
	return u.Scheme + "://" + strings.ToLower(u.Host) + path, nil
}

// isPort reports whether the port, if there is one, can be one. url.Parse takes any digits.
func isPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

// withoutUser is how an error names a URL of the configuration: a user part, which is refused everywhere, may be a password.
func withoutUser(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "", text
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return text
	}
	if found {
		scheme += "://"
	}
	return scheme + "redacted" + rest[at:]
}

func keySetPath(refreshPath string) string {
	return refreshPath[:strings.LastIndexByte(refreshPath, '/')] + "/jwks.json"
}

// addressBook tells whose renewals and key sets are at which address.
type addressBook struct {
	refreshPath       string
	renewals, keySets map[hostPath]*participant
}

func newAddressBook(refreshPath string) *addressBook {
	return &addressBook{refreshPath: refreshPath, renewals: map[hostPath]*participant{}, keySets: map[hostPath]*participant{}}
}

// add enters the addresses of a participant. Those of no two may be the same; that one lies below the other's does no harm,
// since whole addresses are compared.
func (b *addressBook) add(p *participant) error {
	for at := range p.address.renewals {
		other := b.renewals[at]
		if other != nil {
			return fmt.Errorf("participants %s and %s both renew tokens at %s: give each a public_url of its own, of a route too", other.name, p.name, at.host+at.path)
		}
		b.renewals[at] = p
	}
	for at := range p.address.keySets {
		b.keySets[at] = p
	}
	return nil
}

// renewal reports whether a request is one to a refresh endpoint, and whose: that of the address it was sent to. A request
// that is one only by its current path, as a prefix was stripped before it came here, is nobody's in particular.
func (b *addressBook) renewal(r *http.Request) (*participant, bool) {
	return find(r, b.refreshPath, b.renewals)
}

// keySet is renewal for the key set, which lies beside the refresh endpoint.
func (b *addressBook) keySet(r *http.Request) (*participant, bool) {
	return find(r, keySetPath(b.refreshPath), b.keySets)
}

func find(r *http.Request, path string, outside map[hostPath]*participant) (*participant, bool) {
	sent := r.URL
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request) // its Host is not set
	if ok && original.URL != nil {
		sent = original.URL
	}
	asSent, ok := plainPath(sent)
	if ok {
		p, found := outside[hostPath{foldHost(r.Host), asSent}]
		if found {
			return p, true
		}
	}
	current := asSent
	if sent.Path != r.URL.Path || sent.RawPath != r.URL.RawPath {
		current, ok = plainPath(r.URL)
	}
	return nil, ok && current == path
}

// plainPath returns the canonical path without a trailing slash; false if there is none. Empty segments are left out: a
// consumer that joins an endpoint and "/token" carelessly means the refresh endpoint.
func plainPath(u *url.URL) (string, bool) {
	path, err := canonical.Path(u.EscapedPath(), canonical.Options{AllowDoubleSlash: true})
	if err != nil {
		return "", false
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return strings.TrimSuffix(path, "/"), true
}

// foldHost makes hosts comparable: lower case, without the default ports (RFC 3986 §6.2.3).
func foldHost(host string) string {
	host = strings.ToLower(host)
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return host
	}
	if port != "80" && port != "443" && port != "" {
		return host
	}
	if strings.Contains(name, ":") {
		return "[" + name + "]"
	}
	return name
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

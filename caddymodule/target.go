package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/tokens"
)

// target is a flow's backend: what a data address or a route comes to under the rules of one edr_proxy. It is built
// when a token is first used there, shared by all its requests, and never changes.
type target struct {
	origin origin
	host   string // value of the Host header; empty: the origin's authority
	base   string // canonical path
	query  string // of the base URL
	params string // queryParams of the data address

	path        string // canonical path of requests where the client's path is not passed
	method      string // fixed method; empty: GET
	contentType string // of a body whose client did not say

	passPath, passQuery, passMethod, passBody bool

	// strict refuses bodies that the data address has no place for, as the Tractus-X data plane does. A route passes
	// whatever comes.
	strict bool

	// passStatus passes 401, 403 and 407 on: the consumer is told what the backend wants of it (ProxyHttpData).
	passStatus bool
	// flat is for HttpData: flatten_status applies.
	flat bool

	headers []headerField
	secrets []string // values that no answer may repeat

	oauth2 *authserver.Grant // what a token for the backend is asked for with; nil: it needs none
}

// headerField is a header that is sent with each request. The slice is shared and must not be changed.
type headerField struct {
	name   string
	values []string
}

// String names the server only: base, query and headers may hold credentials.
func (t *target) String() string { return t.origin.scheme + "://" + t.origin.authority() }

// newRouteTarget is for flows whose route has a backend: a reverse proxy without flags.
func newRouteTarget(r *routeTarget, backends *backendList, secrets backendSecrets) (*target, error) {
	t := &target{passPath: true, passQuery: true, passMethod: true, passBody: true}
	err := t.setBase(r.Backend, backends)
	if errors.Is(err, errNotInBackends) {
		err = errNotInBackends // the flow may have chosen the host
	}
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", r.Configured, err)
	}
	// What the operator says about the backend is sent whatever a consumer adds.
	t.params, t.query = t.query, ""
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		err = t.setHeader(name, r.Headers[name], backends)
		if err != nil {
			return nil, fmt.Errorf("header %w", err)
		}
	}
	for _, s := range r.Secrets {
		err = t.setSecret(s, backends, secrets)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.header, err)
		}
	}
	return t, nil
}

// setSecret adds a header with a declared secret, if that may be sent to this backend.
func (t *target) setSecret(s routeSecret, backends *backendList, secrets backendSecrets) error {
	secret, err := t.declared(s.name, secrets)
	if err != nil {
		return fmt.Errorf("%s: %w", s.configured, err)
	}
	value := secret.Reveal()
	if s.scheme != "" {
		value = s.scheme + " " + value
	}
	err = t.setHeader(s.header, value, backends)
	if err != nil {
		return err
	}
	t.addSecret(value)
	return nil
}

// declared returns a declared secret that may be sent to this backend: to the server that is connected to, and to the one that
// a Host header names, since a shared front end chooses its backend by it. Host is set before.
func (t *target) declared(name string, secrets backendSecrets) (tokens.Secret, error) {
	secret, err := secrets.lookup(name, t.origin, t.floor())
	if err != nil || t.host == "" {
		return secret, err
	}
	host, port, err := parseAuthority(t.host, t.origin.port)
	if err != nil {
		return "", err
	}
	return secrets.lookup(name, origin{scheme: t.origin.scheme, host: host, port: port}, t.floor())
}

func (t *target) setBase(text string, backends *backendList) error {
	u, o, path, err := parseBackendURL(text)
	if err != nil {
		return err
	}
	if !backends.allows(o) {
		return fmt.Errorf("%s: %w", o.authority(), errNotInBackends)
	}
	err = checkQuery(u.RawQuery)
	if err != nil {
		return err
	}
	t.origin, t.base, t.path, t.query = o, path, path, u.RawQuery
	return nil
}

// checkQuery takes what can stand in a request line as it is.
func checkQuery(query string) error {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c > '~' || c == '#' {
			return errors.New("a query must be percent-encoded")
		}
	}
	return nil
}

// connectionHeaders belong to a connection (RFC 9110 §7.6.1) or frame the message. A data address that could set them
// could split or smuggle requests on connections that other flows use.
var connectionHeaders = map[string]bool{
	"Connection":        true,
	"Content-Length":    true,
	"Expect":            true,
	"Http2-Settings":    true,
	"Keep-Alive":        true,
	"Te":                true,
	"Trailer":           true,
	"Transfer-Encoding": true,
	"Upgrade":           true,
}

func isConnectionHeader(canonicalName string) bool {
	return connectionHeaders[canonicalName] || strings.HasPrefix(canonicalName, "Proxy-")
}

// setHeader adds a configured header, in place of an earlier one of that name. Errors name the header and never quote
// its value.
func (t *target) setHeader(name, value string, backends *backendList) error {
	canonicalName, err := settableHeader(name)
	if err != nil {
		return err
	}
	if value != "" && !isFieldValue(value) {
		return fmt.Errorf("%s: the value cannot stand in a header", canonicalName)
	}
	switch canonicalName {
	case "Host":
		if !backends.allowsHostHeader(value) {
			return fmt.Errorf("%s: %w", canonicalName, errNotInBackends)
		}
		t.host = value
		return nil
	case headerBPN, headerAgreement:
		// The flow itself holds what these say, and grant.assert sends it.
		return nil
	case "Content-Type":
		t.contentType = value
	}
	field := headerField{name: canonicalName, values: []string{value}}
	t.headers = slices.DeleteFunc(t.headers, func(h headerField) bool { return h.name == canonicalName })
	t.headers = append(t.headers, field)
	if !harmlessHeader(canonicalName) {
		t.addSecret(value)
	}
	return nil
}

// settableHeader returns the canonical name of a header that may be set for a backend. Errors begin with the name.
func settableHeader(name string) (string, error) {
	if !isToken(name) {
		return "", fmt.Errorf("%q: not a header name", name)
	}
	canonicalName := http.CanonicalHeaderKey(name)
	if isConnectionHeader(canonicalName) {
		return "", fmt.Errorf("%s: belongs to the connection and cannot be set", canonicalName)
	}
	switch canonicalName {
	case "Host", headerBPN, headerAgreement, "Content-Type":
	case "Authorization", "Cookie":
		// The consumer's own are dropped, the backend's are what this is for.
	default:
		if (identityRules{}).drops(canonicalName, false) {
			return "", fmt.Errorf("%s: is another spelling of a header that has a meaning here", canonicalName)
		}
	}
	return canonicalName, nil
}

// addSecret notes a value that answers must not repeat, with and without a scheme before it.
func (t *target) addSecret(value string) {
	if value == "" {
		return
	}
	t.secrets = append(t.secrets, value)
	_, credentials, spaced := strings.Cut(value, " ")
	if spaced {
		t.secrets = append(t.secrets, credentials)
	}
}

// minSecretBytes keeps short credentials from being found inside other text by accident.
const minSecretBytes = 8

// repeats reports whether a header value of an answer gives a credential away.
func (t *target) repeats(value string) bool {
	return slices.ContainsFunc(t.secrets, func(secret string) bool { return givesAway(value, secret) })
}

func givesAway(value, secret string) bool {
	return value == secret || len(secret) >= minSecretBytes && strings.Contains(value, secret)
}

// harmlessHeader reports whether a header's value is no credential.
func harmlessHeader(canonicalName string) bool {
	return forwardedByDefault(canonicalName)
}

// isToken reports whether s is a token of RFC 9110 §5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		isAlphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !isAlphanumeric && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// url returns where a request goes. below is the canonical path below the flow's endpoint, rawQuery what the client
// sent, byte for byte: decoding and encoding it again changes it (%26 would become a separator).
func (t *target) url(below, rawQuery string) (*url.URL, error) {
	u := &url.URL{Scheme: t.origin.scheme, Host: t.origin.authority(), RawQuery: t.fullQuery(rawQuery)}
	path := t.path
	if t.passPath {
		var err error
		path, err = canonical.Join(t.base, below)
		if err != nil {
			return nil, err
		}
	}
	err := canonical.Set(u, path)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// fullQuery puts the query parameters of the data address before those of the client. The base URL's own query counts
// only where there are neither (Tractus-X HttpData).
func (t *target) fullQuery(rawQuery string) string {
	if !t.passQuery {
		rawQuery = ""
	}
	switch {
	case t.params == "" && rawQuery == "":
		return t.query
	case t.params == "":
		return rawQuery
	case rawQuery == "":
		return t.params
	}
	return t.params + "&" + rawQuery
}

// shape is how a request is passed on.
type shape struct {
	method string
	body   bool
}

// errNoBody and its like are told to the client.
var (
	errBodyUnwanted = errors.New("the backend of this flow takes no request body")
	errBodyMissing  = errors.New("the backend of this flow needs a request body")
)

// shape decides by the flags of the data address (Tractus-X HttpData). A body that would be lost silently is an error
// where the method needs one.
func (t *target) shape(r *http.Request) (shape, error) {
	s := shape{method: http.MethodGet}
	switch {
	case t.method != "":
		s.method = t.method
	case t.passMethod:
		s.method = r.Method
	}
	hasBody := r.ContentLength != 0
	s.body = t.passBody && (hasBody || takesBody(s.method))
	if !t.strict {
		return s, nil
	}
	switch {
	case s.method == http.MethodGet || s.method == http.MethodHead:
		if t.passBody && hasBody {
			return shape{}, errBodyUnwanted
		}
		s.body = false
	case takesBody(s.method):
		if !t.passBody {
			return shape{}, errBodyUnwanted
		}
		if t.method != "" && !hasBody && !takesBody(r.Method) {
			return shape{}, errBodyMissing
		}
	}
	return s, nil
}

// takesBody reports whether a method is about its body (RFC 9110 §9.3, RFC 5789).
func takesBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

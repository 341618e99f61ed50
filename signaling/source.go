package signaling

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/edrgate/edrgate/tokens"
)

// The types of source address that are served. ProxyHttpData also passes the backend's status and header fields on
// (Tractus-X DR 2025-07-21).
const (
	httpData      = "HttpData"
	proxyHTTPData = "ProxyHttpData"
)

// Properties of a source address that the gateway itself reads.
const (
	propBaseURL = "baseUrl"
	propAuthKey = "authKey"
	propHeader  = "header:" // a prefix: the rest is the name of a header field for the backend
	propOAuth2  = "oauth2:" // a prefix: client credentials for the backend

	headerBPN       = "Edc-Bpn"
	headerAgreement = "Edc-Contract-Agreement-Id"
)

// sourceAddress is the data address of a classic start message, as read.
type sourceAddress struct {
	source tokens.Source

	// What the control plane wants asserted to the backend about the consumer. Tractus-X up to 0.12 writes both into the
	// address as header fields; here they are values of the flow, since the gateway sets these fields itself.
	bpn, agreement string
}

// readSource reads a source address. Names lose the EDC namespace, so that a property has one name whatever its sender
// calls it.
func readSource(node ldNode) (*sourceAddress, error) {
	kind, err := node.text("endpointType", addressNS)
	if err != nil {
		return nil, invalid("member sourceDataAddress: endpointType: %s", err)
	}
	properties := node.all("endpointProperties", addressNS)
	a := &sourceAddress{source: tokens.Source{
		Type:       withoutNS(kind),
		Properties: make(map[string]string, len(properties)),
	}}
	fields := make(map[string]struct{}) // canonical names of header fields
	for _, p := range properties {
		name, value, err := readProperty(p)
		if err != nil {
			return nil, err
		}
		field, isField := strings.CutPrefix(name, propHeader)
		if isField {
			field = http.CanonicalHeaderKey(field)
			_, twice := fields[field]
			if twice {
				return nil, invalid("member sourceDataAddress: a header is given twice")
			}
			fields[field] = struct{}{}
		}
		_, twice := a.source.Properties[name]
		switch {
		case twice:
			return nil, invalid("member sourceDataAddress: a property is given twice")
		case isField && (field == headerBPN || field == headerAgreement):
			err := a.assert(field, value)
			if err != nil {
				return nil, err
			}
		default:
			a.source.Properties[name] = value
		}
	}
	return a, nil
}

// withoutNS takes the EDC namespace from a name, however often it is there: what is left must not change when it is read
// again.
func withoutNS(name string) string {
	for strings.HasPrefix(name, edcNS) {
		name = name[len(edcNS):]
	}
	return name
}

func readProperty(value any) (string, string, error) {
	node, err := object(value)
	if err != nil {
		return "", "", invalid("member sourceDataAddress: endpointProperties: %s", err)
	}
	name, err := node.text("name", addressNS)
	if err != nil {
		return "", "", invalid("member sourceDataAddress: name of a property: %s", err)
	}
	text, err := node.text("value", addressNS)
	if err != nil {
		return "", "", invalid("member sourceDataAddress: value of a property: %s", err)
	}
	name = withoutNS(name)
	if name == "" {
		return "", "", invalid("member sourceDataAddress: a property has no name")
	}
	return name, text, nil
}

func (a *sourceAddress) assert(field, value string) error {
	value = strings.TrimSpace(value)
	if value != "" && !validID(value) {
		return invalid("member sourceDataAddress: header %s: want at most %d printable characters", field, maxID)
	}
	if field == headerBPN {
		a.bpn = value
		return nil
	}
	a.agreement = value
	return nil
}

// hopByHop are the fields that belong to one connection (RFC 9110 §7.6.1) or frame the message. A backend that is sent
// one of them with a value from elsewhere sees another end of the message than we do.
var hopByHop = map[string]struct{}{
	"Connection":          {},
	"Content-Length":      {},
	"Keep-Alive":          {},
	"Proxy-Authenticate":  {},
	"Proxy-Authorization": {},
	"Proxy-Connection":    {},
	"Te":                  {},
	"Trailer":             {},
	"Transfer-Encoding":   {},
	"Upgrade":             {},
}

// servedOAuth2 are the oauth2 properties that can be served: client credentials with a shared secret (EDC's
// Oauth2DataAddressSchema; clientSecret is that of EDC up to 0.2). kid and validity go with a private key and mean
// nothing without.
var servedOAuth2 = map[string]bool{
	"oauth2:tokenUrl":        true,
	"oauth2:clientId":        true,
	"oauth2:clientSecretKey": true,
	"oauth2:clientSecret":    true,
	"oauth2:scope":           true,
	"oauth2:kid":             true,
	"oauth2:validity":        true,
}

// bareOAuth2 are names of oauth2 properties that may be repeated to the other company. Whatever else stands behind the
// prefix is text that somebody wrote.
var bareOAuth2 = regexp.MustCompile(`^oauth2:[A-Za-z0-9_]{1,40}$`)

// check refuses an address that can never be served, whatever the operator has configured.
func (a *sourceAddress) check() error {
	if a.source.Type != httpData && a.source.Type != proxyHTTPData {
		return invalid("source addresses of this type are not served, only HttpData and ProxyHttpData")
	}
	err := checkBaseURL(a.source.Properties[propBaseURL])
	if err != nil {
		return err
	}
	names := make([]string, 0, len(a.source.Properties))
	for name := range a.source.Properties {
		names = append(names, name)
	}
	slices.Sort(names) // one message, one answer
	for _, name := range names {
		err := checkProperty(name, a.source.Properties[name])
		if err != nil {
			return err
		}
	}
	return nil
}

func checkProperty(name, value string) error {
	if strings.HasPrefix(name, propOAuth2) && !servedOAuth2[name] {
		if !bareOAuth2.MatchString(name) {
			name = "oauth2:*"
		}
		return invalid("source address property %s is not supported", name)
	}
	field, ok := strings.CutPrefix(name, propHeader)
	if ok {
		if !httpguts.ValidHeaderFieldValue(value) {
			return invalid("source address has a header with an invalid value")
		}
		return checkField(field)
	}
	if name == propAuthKey {
		return checkField(value)
	}
	return nil
}

func checkField(field string) error {
	if !httpguts.ValidHeaderFieldName(field) {
		return invalid("source address has an invalid header name")
	}
	field = http.CanonicalHeaderKey(field)
	_, hop := hopByHop[field]
	if hop {
		return invalid("source address sets the header %s, which belongs to the connection", field)
	}
	return nil
}

// checkBaseURL accepts absolute http and https URLs (RFC 9110 §4.2). Userinfo is refused because it hides a credential
// where URLs are logged, and because it makes one host look like another (RFC 9110 §4.2.4); a fragment because it would
// be dropped in silence.
func checkBaseURL(s string) error {
	if s == "" {
		return invalid("source address has no baseUrl")
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return invalid("source address: baseUrl is no absolute http or https URL") // err quotes the URL
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return invalid("source address: baseUrl is no absolute http or https URL")
	case u.User != nil:
		return invalid("source address: baseUrl has user information")
	case strings.Contains(s, "#"):
		return invalid("source address: baseUrl has a fragment")
	}
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return invalid("source address: baseUrl has an invalid port")
		}
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return invalid("source address: baseUrl has an invalid port")
	}
	return nil
}

// bpnForm is the form of a business partner number of a legal entity, site or address (Catena-X CX-0010).
var bpnForm = regexp.MustCompile(`^BPN[LSA][0-9A-Z]{12}$`)

// assertedBPN is the business partner number that the backend is told: what the control plane wrote into the address,
// else its flow property, else the counterparty's id if that is one, else none. Never a DID: backends compare the value.
func assertedBPN(fromAddress, fromProperty, counterparty string) string {
	switch {
	case fromAddress != "":
		return fromAddress
	case fromProperty != "":
		return fromProperty
	case bpnForm.MatchString(counterparty):
		return counterparty
	}
	return ""
}

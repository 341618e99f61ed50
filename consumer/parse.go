package consumer

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// The namespaces of property names.
const (
	edcNamespace      = "https://w3id.org/edc/v0.0.1/ns/"
	tractusXNamespace = "https://w3id.org/tractusx/auth/"
)

// MaxEDRBytes is the size of the largest data address that is read.
const MaxEDRBytes = 128 << 10

// The types by which an EDR shows its dialect.
const (
	dpsProfile  = "https://w3id.org/dspace-sig/profile/" // followed by http-pull and the like
	classicHTTP = "https://w3id.org/idsa/v4.1/HTTP"
)

// ParseEDR reads a data address in one of the forms in which EDRs reach a consumer:
//
//   - DPS: {"endpoint":…, "endpointType":…, "endpointProperties":[{"name":…,"value":…}]}. EDC 0.18 writes a second
//     endpoint as a property, and the test kit writes none there;
//   - EDC's events: {"properties":{…}} with full IRIs as names;
//   - EDC's EDR API: flat, with plain names, with the prefixes edc: and tx-auth:, or with full IRIs.
//
// Where a value is given under several names, a DPS EDR means the plain one and a classic EDR the full IRI. Unknown
// properties are kept (DPS HTTP profile: ignored). Endpoints of http are accepted here and judged where the EDR is put
// (Config.AllowHTTP). An error has CodeInvalid, names the field, and quotes nothing.
func ParseEDR(data []byte) (*EDR, error) {
	if len(data) > MaxEDRBytes {
		return nil, refuse(CodeInvalid, "dataAddress is larger than %d bytes", MaxEDRBytes)
	}
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		return nil, invalid("dataAddress", err)
	}
	return readAddress(m)
}

func invalid(field string, cause error) *Error {
	return &Error{Code: CodeInvalid, Detail: field, cause: cause}
}

func readAddress(m strictjson.Members) (*EDR, error) {
	a := address{values: map[string]string{}}
	err := a.collect(m)
	if err != nil {
		return nil, err
	}
	if len(a.values) > maxProperties {
		return nil, refuse(CodeInvalid, "dataAddress has more than %d properties", maxProperties)
	}
	return a.edr()
}

// address collects the properties of a data address under the names they came with.
type address struct {
	values map[string]string
}

func (a *address) collect(m strictjson.Members) error {
	nested := 0
	for _, name := range slices.Sorted(maps.Keys(m)) {
		var err error
		switch name {
		case "endpointProperties":
			nested++
			err = a.list(m[name])
		case "properties":
			nested++
			err = a.object(m)
		case "@context", "@type", "@id":
		default:
			// In these forms other members than endpoint and endpointType are not the provider's word.
			if m.Has("endpointProperties") && name != "endpoint" && name != "endpointType" {
				continue
			}
			err = a.add(expand(name, m), m[name])
		}
		if err != nil {
			return err
		}
	}
	if nested > 1 {
		return refuse(CodeInvalid, "dataAddress has both properties and endpointProperties")
	}
	return nil
}

// expand gives the name of another property the namespace from which EDC's EDR API has compacted it.
func expand(name string, m strictjson.Members) string {
	if m.Has("@context") && role(name) == "" && !strings.Contains(name, ":") {
		return edcNamespace + name
	}
	return name
}

func (a *address) object(m strictjson.Members) error {
	inner, err := m.Object("properties")
	if err != nil {
		return invalid("dataAddress", err)
	}
	for name, value := range inner {
		err = a.add(name, value)
		if err != nil {
			return err
		}
	}
	return nil
}

// list reads endpointProperties. A single one may stand there without the array, as JSON-LD compacts it.
func (a *address) list(raw json.RawMessage) error {
	var items []json.RawMessage
	err := json.Unmarshal(raw, &items)
	if err != nil {
		items = []json.RawMessage{raw}
	}
	if len(items) > maxProperties {
		return refuse(CodeInvalid, "dataAddress has more than %d properties", maxProperties)
	}
	for _, item := range items {
		m, err := strictjson.Parse(item, 0)
		if err != nil {
			return invalid("endpointProperties", err)
		}
		name, err := m.String("name")
		if err != nil {
			return invalid("endpointProperties", err)
		}
		if !m.Has("value") {
			return refuse(CodeInvalid, "endpointProperties: member \"value\": missing")
		}
		err = a.add(name, m["value"])
		if err != nil {
			return err
		}
	}
	return nil
}

// add notes a property. Values are text; a number is taken as it is written, and anything else is no value of an EDR.
func (a *address) add(name string, raw json.RawMessage) error {
	value, err := propertyText(raw)
	if errors.Is(err, errNoText) {
		if role(name) == "" {
			return nil
		}
		return refuse(CodeInvalid, "%s is not a string", role(name))
	}
	if err != nil {
		return err
	}
	if len(name) > maxPropertyBytes || len(value) > maxPropertyBytes {
		return refuse(CodeInvalid, "a property of dataAddress is longer than %d bytes", maxPropertyBytes)
	}
	earlier, twice := a.values[name]
	if !twice {
		a.values[name] = value
		return nil
	}
	if earlier != value {
		field := role(name)
		if field == "" {
			field = "a property of dataAddress"
		}
		return refuse(CodeInvalid, "%s is there twice with different values", field)
	}
	return nil
}

var errNoText = errors.New("neither text nor a number")

func propertyText(raw json.RawMessage) (string, error) {
	switch {
	case len(raw) > 0 && raw[0] == '"':
		var s string
		err := json.Unmarshal(raw, &s)
		if err != nil {
			return "", refuse(CodeInvalid, "dataAddress has text that is not readable")
		}
		return s, nil
	case len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'):
		return string(raw), nil
	}
	return "", errNoText
}

// fields are the properties that mean something here, by their plain names, and their namespace.
var fields = map[string]string{
	"endpoint": edcNamespace, "endpointType": edcNamespace, "type": edcNamespace, "authorization": edcNamespace, "authType": edcNamespace,
	"refreshToken": tractusXNamespace, "refreshEndpoint": tractusXNamespace, "refreshAudience": tractusXNamespace, "expiresIn": tractusXNamespace,
}

// spellings returns the names of a field: plain, with its prefix, as full IRI. siglet writes authType in the namespace of
// Tractus-X.
func spellings(field string) []string {
	namespace := fields[field]
	names := []string{field, prefixes[namespace] + field, namespace + field}
	if field == "authType" {
		names = append(names, tractusXNamespace+field)
	}
	return names
}

var prefixes = map[string]string{edcNamespace: "edc:", tractusXNamespace: "tx-auth:"}

// role returns the field that a property name stands for, or "".
func role(name string) string {
	for field := range fields {
		if slices.Contains(spellings(field), name) {
			return field
		}
	}
	return ""
}

// take removes a field's spellings and returns the value that the dialect means.
func (a *address) take(field string, plainFirst bool) string {
	names := spellings(field)
	if !plainFirst {
		slices.Reverse(names)
	}
	value := ""
	for _, name := range names {
		if value == "" {
			value = a.values[name]
		}
		delete(a.values, name)
	}
	return value
}

// dialect tells the two worlds apart: by the endpoint's type where that says so, else by the names.
func (a *address) dialect() tokens.Dialect {
	iris := false
	for _, field := range []string{"endpointType", "type"} {
		for _, name := range spellings(field) {
			value := a.values[name]
			switch {
			case strings.HasPrefix(value, dpsProfile):
				return tokens.DPS
			case value == classicHTTP:
				return tokens.Classic
			}
		}
	}
	for name := range a.values {
		field := role(name)
		if field == "authorization" && name == field {
			return tokens.DPS
		}
		iris = iris || field != "" && name != field
	}
	if iris {
		return tokens.Classic
	}
	return tokens.DPS
}

func (a *address) edr() (*EDR, error) {
	e := &EDR{Dialect: a.dialect()}
	plain := e.Dialect == tokens.DPS
	e.Endpoint = a.take("endpoint", plain)
	if e.Endpoint == "" {
		return nil, refuse(CodeInvalid, "endpoint is missing")
	}
	e.EndpointType = a.take("endpointType", plain)
	kind := a.take("type", plain)
	if e.EndpointType == "" {
		e.EndpointType = kind
	}
	e.AuthType = a.take("authType", plain)
	if plain {
		e.Scheme = "Bearer"
	}
	token := a.take("authorization", plain)
	// Some providers put the scheme into the token (Tractus-X issue 894), and then mean it to be sent.
	const prefix = "Bearer "
	if len(token) > len(prefix) && strings.EqualFold(token[:len(prefix)], prefix) {
		token = strings.TrimLeft(token[len(prefix):], " ")
		e.Scheme = "Bearer"
	}
	e.AccessToken = tokens.Secret(token)
	e.RefreshToken = tokens.Secret(a.take("refreshToken", plain))
	e.RefreshEndpoint = a.take("refreshEndpoint", plain)
	if e.RefreshEndpoint == "" && e.RefreshToken != "" && plain {
		e.RefreshEndpoint = e.Endpoint // DPS token renewal profile: optional; default is the endpoint
	}
	e.RefreshAudience = a.take("refreshAudience", plain)
	life, err := parseSeconds(a.take("expiresIn", plain))
	if err != nil {
		return nil, invalid("expiresIn", err)
	}
	e.ExpiresIn = life
	if len(a.values) > 0 {
		e.Properties = a.values
	}
	err = e.Check(AnyHost)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// longestLife bounds what a provider may say. A token that lasts longer is asked for again all the same.
const longestLife = 10 * 365 * 24 * time.Hour

// parseSeconds reads a number of seconds. "null" is what a Tractus-X consumer up to 0.12.1 stores when the provider did
// not say.
func parseSeconds(s string) (time.Duration, error) {
	if s == "" || s == "null" {
		return 0, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	// ParseFloat also reads Infinity, hexadecimal and underscores, which no JSON number has (RFC 8259 §6).
	if err != nil && !errors.Is(err, strconv.ErrRange) || f < 0 || strings.Trim(s, "0123456789.eE+-") != "" {
		return 0, errors.New("not a number of seconds")
	}
	if f > longestLife.Seconds() {
		return longestLife, nil
	}
	return time.Duration(f) * time.Second, nil
}

package consumer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// Limits of what an EDR may hold.
const (
	maxTokenBytes    = 16 << 10 // a token
	maxURLBytes      = 4 << 10  // an endpoint
	maxPropertyBytes = 16 << 10 // any other property
	maxProperties    = 100
)

// bearer is the only authorization that is understood (DPS HTTP profile: mandatory to implement).
const bearer = "bearer"

// EDR is an Endpoint Data Reference: where data of another company is, the token that opens it, and how to renew that
// token. Get one from ParseEDR.
type EDR struct {
	// Dialect says how the token is presented and renewed. Classic data planes want the token without a scheme, and
	// "/token" behind their refresh endpoint; both were observed on Tractus-X 0.12.1.
	Dialect tokens.Dialect

	Endpoint     string // absolute URL; data requests lie under it
	EndpointType string // as the provider named it; empty if it did not

	AccessToken tokens.Secret // without a scheme; empty: the endpoint is open
	AuthType    string        // as the provider named it; empty if it did not
	// Scheme is what is sent before the access token: "Bearer", or "" for the classic data planes that take the whole
	// header for the token.
	Scheme string

	// The renewal properties (DPS token renewal profile; Tractus-X token refresh). No refresh token: it cannot be renewed.
	RefreshToken    tokens.Secret
	RefreshEndpoint string // absolute URL; never empty in a DPS EDR with a refresh token
	RefreshAudience string // whom the proof is for; empty if the provider did not say

	// ExpiresIn is the life of the access token from when the provider sent it. 0: not said.
	ExpiresIn time.Duration

	// Properties are the others, under the names that the provider gave them. They may hold anything.
	Properties map[string]string
}

// String returns the dialect and the endpoint's host.
func (e *EDR) String() string {
	if e == nil {
		return "no EDR"
	}
	host := "?"
	u, err := url.Parse(e.Endpoint)
	if err == nil {
		host = u.Host
	}
	return fmt.Sprintf("%s EDR of %s (redacted)", e.Dialect, host)
}

// GoString is String, so that no verb of package fmt prints the rest.
func (e *EDR) GoString() string { return e.String() }

// LogValue is String, for log/slog.
func (e *EDR) LogValue() slog.Value { return slog.StringValue(e.String()) }

// MarshalJSON writes String: an endpoint and other properties may hold secrets too. DataAddress gives them.
func (e *EDR) MarshalJSON() ([]byte, error) { return json.Marshal(e.String()) }

// Authorization returns the value of the Authorization header of a data request, "" for an open endpoint. The error has
// CodeAuthType if the EDR wants something other than a bearer token.
func (e *EDR) Authorization() (string, error) {
	if e.AccessToken == "" {
		return "", nil
	}
	if e.AuthType != "" && !strings.EqualFold(e.AuthType, bearer) {
		return "", refuse(CodeAuthType, "authType %.40q is not supported, only bearer", e.AuthType)
	}
	if e.Scheme == "" {
		return e.AccessToken.Reveal(), nil
	}
	return e.Scheme + " " + e.AccessToken.Reveal(), nil
}

// Check returns an error that names the first field which cannot be used: CodeInvalid, or CodeInsecure for an endpoint
// that is not https, unless its host is one of allowHTTP (Config.AllowHTTP). The DPS HTTP profile has receivers reject http.
func (e *EDR) Check(allowHTTP ...string) error {
	switch e.Dialect {
	case tokens.DPS, tokens.Classic:
	default:
		return refuse(CodeInvalid, "dialect is missing")
	}
	err := checkURL("endpoint", e.Endpoint, allowHTTP)
	if err != nil {
		return err
	}
	if e.RefreshEndpoint != "" {
		err = checkURL("refreshEndpoint", e.RefreshEndpoint, allowHTTP)
		if err != nil {
			return err
		}
	}
	for _, t := range []struct {
		name  string
		value tokens.Secret
	}{{"authorization", e.AccessToken}, {"refreshToken", e.RefreshToken}} {
		err = checkToken(t.name, t.value.Reveal())
		if err != nil {
			return err
		}
	}
	if e.ExpiresIn < 0 {
		return refuse(CodeInvalid, "expiresIn is negative")
	}
	return nil
}

// checkToken: what stands in a header field is visible ASCII (RFC 9110 §5.5, RFC 6750 §2.1), so that a token cannot add
// a header.
func checkToken(name, value string) error {
	if len(value) > maxTokenBytes {
		return refuse(CodeInvalid, "%s is longer than %d bytes", name, maxTokenBytes)
	}
	for i := range len(value) {
		if value[i] <= ' ' || value[i] > '~' {
			return refuse(CodeInvalid, "%s has a character that no token has", name)
		}
	}
	return nil
}

// checkURL: the provider chose this address, so nothing in it may be read in two ways. What it resolves to is checked
// where it is dialled.
func checkURL(name, value string, allowHTTP []string) error {
	if value == "" {
		return refuse(CodeInvalid, "%s is missing", name)
	}
	if len(value) > maxURLBytes {
		return refuse(CodeInvalid, "%s is longer than %d bytes", name, maxURLBytes)
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return refuse(CodeInvalid, "%s is not an absolute URL", name)
	}
	if u.User != nil || u.Fragment != "" || strings.HasSuffix(value, "#") {
		return refuse(CodeInvalid, "%s has user information or a fragment", name)
	}
	port := u.Port()
	number, err := strconv.ParseUint(port, 10, 16)
	if port != "" && (err != nil || number == 0) { // url.Parse takes any digits
		return refuse(CodeInvalid, "%s has a port that is none", name)
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && slices.ContainsFunc(allowHTTP, func(host string) bool { return isHost(u, host) }):
		return nil
	case u.Scheme == "http":
		return refuse(CodeInsecure, "%s is not https", name)
	}
	return refuse(CodeInvalid, "%s is not a URL of https", name)
}

// isHost reports whether an entry of Config.AllowHTTP means the host of a URL.
func isHost(u *url.URL, entry string) bool {
	return entry == AnyHost || strings.EqualFold(entry, u.Hostname()) || strings.EqualFold(entry, u.Host)
}

// audience returns whom a proof about the EDR is for. Signing for whomever the EDR names would let a provider have us
// make the proof that another provider wants to see, and renew that one's token with it. So what the EDR names must be
// the counterparty that signaling named, or ourselves, as Tractus-X up to 0.12 has it (docs/decisions: the consumer's
// side).
func (e *EDR) audience(own, counterparty string) (string, error) {
	switch {
	case e.RefreshAudience == own:
		return own, nil
	case counterparty == "":
		return "", refuse(CodeCounterparty, "the counterparty's DID is not known")
	case e.RefreshAudience == "", e.RefreshAudience == counterparty:
		return counterparty, nil
	}
	return "", refuse(CodeAudience, "refreshAudience is neither the counterparty's DID nor our own")
}

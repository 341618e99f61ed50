package signaling

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// Access tells which control plane a request comes from. Implementations are safe for concurrent use.
type Access interface {
	// Identify returns the configured name of the control plane that sent r. It decides by the header fields and the
	// connection, and leaves the body to be read. An error made by Unauthorized or Forbidden refuses the request; any other one means
	// that nobody can tell, and is answered with 503.
	Identify(r *http.Request) (tokens.Caller, error)
}

// DefaultControlPlane is the name of a control plane that was configured without one.
const DefaultControlPlane = "default"

// Unauthorized refuses a request whose credential is missing or wrong: 401 with the challenge as WWW-Authenticate
// (RFC 9110 §15.5.2). detail is for the log.
func Unauthorized(challenge, detail string) error {
	return &refusal{
		status: http.StatusUnauthorized, outcome: outcomeUnauthorized, text: "not authenticated",
		challenge: challenge, detail: detail,
	}
}

// Forbidden refuses a request that no credential would help: 403. detail is for the log.
func Forbidden(detail string) error {
	return &refusal{status: http.StatusForbidden, outcome: outcomeForbidden, text: "not allowed", detail: detail}
}

// unavailable says that nobody can tell now who sent a request: 503, with the time after which to ask again. A control
// plane gives a transfer up for a 401 (observed on EDC 0.18), so that would be a lie with consequences.
func unavailable(cause error) error {
	r := &refusal{status: http.StatusServiceUnavailable, outcome: outcomeUnavailable, text: textUnavailable, cause: cause}
	var later interface{ RetryAfter() time.Duration }
	if errors.As(cause, &later) {
		r.retryAfter = later.RetryAfter()
	}
	return r
}

// Digest is the SHA-256 of a bearer token, so that neither configuration nor memory holds the token.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a token.
func DigestOf(token string) Digest { return sha256.Sum256([]byte(token)) }

// digestPrefix tells a digest in a configuration from a token.
const digestPrefix = "sha256:"

// ParseDigest reads "sha256:" and 64 hexadecimal digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	digits, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(digits) != hex.EncodedLen(len(d)) {
		return Digest{}, errors.New("bearer token digest: want sha256: and 64 hexadecimal digits")
	}
	_, err := hex.Decode(d[:], []byte(digits))
	if err != nil {
		return Digest{}, errors.New("bearer token digest: want sha256: and 64 hexadecimal digits")
	}
	return d, nil
}

// String returns "redacted": a digest lets a guess be checked.
func (Digest) String() string { return "redacted" }

// Rule is one way in for one control plane. Exactly one of Bearer, Issuer, Certificates, Networks and Insecure is set; a
// control plane with several ways has several rules.
type Rule struct {
	// ControlPlane is the name that flows are owned by. Changing the credential does not change it. Empty:
	// DefaultControlPlane.
	ControlPlane string

	// Bearer are the digests of the tokens that may come in an Authorization header (RFC 6750 §2.1). Several let a
	// token be replaced without a gap.
	Bearer []Digest

	// Issuer checks the tokens of an authorization server that may come in an Authorization header.
	Issuer *Issuer

	// Certificates are the names that its TLS client certificate may have. The server must have verified its chain.
	Certificates *CertificateNames

	// Networks are the networks that a request may come from, by the address of the peer of the connection.
	// X-Forwarded-For is never looked at: whoever reaches the port can write it. This is the way for classic EDC, which
	// cannot authenticate.
	Networks []netip.Prefix

	// Insecure lets everybody in. It must be the only rule.
	Insecure bool
}

func (r Rule) name() tokens.Caller {
	if r.ControlPlane == "" {
		return DefaultControlPlane
	}
	return tokens.Caller(r.ControlPlane)
}

// AccessList is Access by configured rules.
type AccessList struct {
	bearers      []bearerRule
	issuers      []issuerRule
	certificates []certificateRule
	networks     []networkRule
	insecure     tokens.Caller // empty: no
	browsers     *http.CrossOriginProtection
}

type bearerRule struct {
	digest Digest
	caller tokens.Caller
}

type issuerRule struct {
	issuer *Issuer
	caller tokens.Caller
}

type certificateRule struct {
	names  *CertificateNames
	caller tokens.Caller
}

type networkRule struct {
	prefix netip.Prefix
	caller tokens.Caller
}

// NewAccessList checks rules. Where networks of two control planes overlap, the smaller network wins.
func NewAccessList(rules []Rule) (*AccessList, error) {
	if len(rules) == 0 {
		return nil, errors.New("nobody may signal: set a bearer token, an issuer of tokens, a client certificate or a network, or insecure for everybody")
	}
	a := &AccessList{browsers: http.NewCrossOriginProtection()}
	for _, rule := range rules {
		err := a.add(rule)
		if err != nil {
			return nil, fmt.Errorf("control plane %q: %w", rule.name(), err)
		}
	}
	if a.insecure != "" && len(rules) > 1 {
		return nil, fmt.Errorf("control plane %q: insecure lets everybody in, so it must be the only rule", a.insecure)
	}
	return a, nil
}

func (a *AccessList) add(rule Rule) error {
	ways := 0
	for _, set := range []bool{len(rule.Bearer) > 0, rule.Issuer != nil, rule.Certificates != nil, len(rule.Networks) > 0, rule.Insecure} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return errors.New("want exactly one of bearer tokens, issuer, client certificates, networks and insecure")
	}
	for _, d := range rule.Bearer {
		for _, other := range a.bearers {
			if other.digest == d && other.caller != rule.name() {
				return fmt.Errorf("bearer token is also that of %q", other.caller)
			}
		}
		a.bearers = append(a.bearers, bearerRule{d, rule.name()})
	}
	if rule.Issuer != nil {
		for _, other := range a.issuers {
			subject, shared := rule.Issuer.shares(other.issuer)
			if shared {
				// Even of the same control plane: each rule remembers the used tokens for itself.
				return fmt.Errorf("subject %s of the issuer is also that of %q", subject, other.caller)
			}
		}
		a.issuers = append(a.issuers, issuerRule{rule.Issuer, rule.name()})
	}
	if rule.Certificates != nil {
		for _, other := range a.certificates {
			name, shared := rule.Certificates.shares(other.names)
			if shared && other.caller != rule.name() {
				return fmt.Errorf("certificate name %s is also that of %q", name, other.caller)
			}
		}
		a.certificates = append(a.certificates, certificateRule{rule.Certificates, rule.name()})
	}
	for _, p := range rule.Networks {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("network %s: want an IPv4 or IPv6 prefix", p)
		}
		if p != p.Masked() {
			return fmt.Errorf("network %s has host bits set, want %s", p, p.Masked())
		}
		for _, other := range a.networks {
			if other.prefix == p && other.caller != rule.name() {
				return fmt.Errorf("network %s is also that of %q", p, other.caller)
			}
		}
		a.networks = append(a.networks, networkRule{p, rule.name()})
	}
	if rule.Insecure {
		a.insecure = rule.name()
	}
	return nil
}

// Identify implements Access. A bearer token counts before the client certificate, and that before the network, so that
// a control plane with a good credential is not taken for the one whose network it happens to be in. A credential that is
// refused counts as none: whoever sends it could as well leave it out.
func (a *AccessList) Identify(r *http.Request) (tokens.Caller, error) {
	token, presented := bearerToken(r.Header)
	why := "unknown bearer token"
	if presented {
		caller, ok := a.byToken(token)
		if ok {
			return caller, nil
		}
	}
	if presented && len(a.issuers) > 0 {
		caller, err := a.byIssuer(r, token)
		if err == nil {
			return caller, nil
		}
		if !errors.Is(err, errRefused) {
			// Not on to the network: it may be that of another control plane, whose flows these would then be.
			return "", unavailable(err)
		}
		why = err.Error()
	}
	caller, reason := a.byConnection(r)
	if caller != "" {
		// The peer's address or certificate is no credential that a web page lacks: a browser inside the network, or one
		// with the certificate, would send a forged terminate for it.
		err := a.browsers.Check(r)
		if err != nil {
			return "", Forbidden("sent by a web page of another origin")
		}
		return caller, nil
	}
	if len(a.bearers) == 0 && len(a.issuers) == 0 {
		return "", Forbidden(reason)
	}
	if presented {
		return "", Unauthorized(`Bearer error="invalid_token"`, why)
	}
	return "", Unauthorized("Bearer", "no bearer token") // RFC 6750 §3.1: no error code if nothing was presented
}

// byConnection identifies the control plane by what a request does not say itself, or says why it cannot.
func (a *AccessList) byConnection(r *http.Request) (tokens.Caller, string) {
	var reasons []string
	if len(a.certificates) > 0 {
		caller, err := a.byCertificate(r)
		if err == nil {
			return caller, ""
		}
		reasons = append(reasons, err.Error())
	}
	caller, ok := a.byNetwork(r.RemoteAddr)
	if ok {
		return caller, ""
	}
	if len(a.networks) > 0 {
		reasons = append(reasons, "peer is in no configured network")
	}
	return a.insecure, strings.Join(reasons, "; ")
}

// byToken compares with every digest, so that the time says nothing of which one was near.
func (a *AccessList) byToken(token string) (tokens.Caller, bool) {
	digest := DigestOf(token)
	var caller tokens.Caller
	for _, rule := range a.bearers {
		if subtle.ConstantTimeCompare(digest[:], rule.digest[:]) == 1 {
			caller = rule.caller
		}
	}
	return caller, caller != ""
}

// byIssuer checks a token of an authorization server. The error is errRefused, or says why nobody can tell.
func (a *AccessList) byIssuer(r *http.Request, token string) (tokens.Caller, error) {
	t, err := readIssued(token)
	if err != nil {
		return "", refused("%w", err)
	}
	for _, rule := range a.issuers {
		if !rule.issuer.names(t) {
			continue
		}
		err = rule.issuer.check(r, t)
		if err != nil {
			return "", err
		}
		return rule.caller, nil
	}
	return "", refused("iss and sub are those of no control plane")
}

func (a *AccessList) byNetwork(remote string) (tokens.Caller, bool) {
	if len(a.networks) == 0 {
		return "", false
	}
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "", false // a unix socket, for example
	}
	addr := peer.Addr().Unmap().WithZone("")
	bits := -1
	var caller tokens.Caller
	for _, rule := range a.networks {
		if rule.prefix.Contains(addr) && rule.prefix.Bits() > bits {
			bits, caller = rule.prefix.Bits(), rule.caller
		}
	}
	return caller, bits >= 0
}

// bearerToken returns the token of the one Authorization header. Two of them are none: the checker and whoever logs the
// request might choose differently.
func bearerToken(h http.Header) (string, bool) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}

package signaling

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/edrgate/edrgate/internal/compactjws"
	"github.com/edrgate/edrgate/internal/jwks"
	"github.com/edrgate/edrgate/internal/strictjson"
)

// issuedAlgorithms are what an issuer may sign with. Symmetric ones are not among them: with one in the list, a public key
// would be taken for a shared secret (RFC 8725 §2.1).
var issuedAlgorithms = map[string]jwa.SignatureAlgorithm{
	"ES256": jwa.ES256, "ES384": jwa.ES384, "EdDSA": jwa.EdDSA, "PS256": jwa.PS256, "RS256": jwa.RS256,
}

const (
	issuedLimit = 8 << 10 // bytes of a token

	// maxIssuedLife is how long a token may live. A longer one is a password, and its jti would be remembered for as long.
	maxIssuedLife = 24 * time.Hour

	// maxTokenID is the length of a jti in bytes. Real ones are UUIDs.
	maxTokenID = 256

	// replayEntries bounds the memory for token ids. One per message, each for some minutes, is far from it.
	replayEntries = 1 << 16
)

// Keys finds the keys of an issuer. An error that is jwks.ErrUnknownKey is a definite no; any other one means that nobody
// can tell.
type Keys interface {
	Keys(ctx context.Context, kid string) ([]crypto.PublicKey, error)
}

// IssuerConfig says which tokens of an authorization server let a control plane in: the profiles
// oauth2_client_credentials and, with Exchange, oauth2_token_exchange of Data Plane Signaling.
type IssuerConfig struct {
	// Issuer is the iss of the tokens, compared byte by byte. Required.
	Issuer string

	// Keys verify them. Required, although the profile would do without: a token whose signature nobody checks is written
	// by anybody.
	Keys Keys

	// Audience are the names by which a token can be meant for us; one of them must be in aud. Required.
	Audience []string

	// Subjects are the ids of the control plane, one of which must be the sub. An issuer serves others, too. Required.
	Subjects []string

	// Exchange says what tokens by exchange must say besides. Default: nil, they are by client credentials.
	Exchange *ExchangeConfig

	// ClockSkew is the tolerance for the issuer's clock. Default: none.
	ClockSkew time.Duration

	// MaxBodyBytes is the largest message, as that of the Handler. Default: 64 KiB.
	MaxBodyBytes int64

	// Now is the clock. Default: the system's.
	Now func() time.Time
}

// Issuer checks the tokens of one authorization server for one control plane. It is safe for concurrent use.
type Issuer struct {
	c    IssuerConfig
	seen *replays
}

// NewIssuer checks c. It asks nobody.
func NewIssuer(c IssuerConfig) (*Issuer, error) {
	if c.Issuer == "" {
		return nil, errors.New("issuer is required")
	}
	if c.Keys == nil {
		return nil, errors.New("the issuer's keys are required: without them no signature can be verified")
	}
	if len(c.Audience) == 0 || slices.Contains(c.Audience, "") {
		return nil, errors.New("audience is required: a token for another service must not open this one")
	}
	if len(c.Subjects) == 0 || slices.Contains(c.Subjects, "") {
		return nil, errors.New("subject is required: the issuer makes tokens for others than the control plane")
	}
	if c.Exchange != nil {
		err := c.Exchange.validate(c.Subjects)
		if err != nil {
			return nil, err
		}
	}
	if c.ClockSkew < 0 || c.MaxBodyBytes < 0 {
		return nil, errors.New("clock skew and the limit of messages must not be negative")
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = defaultBodyBytes
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Audience, c.Subjects = slices.Clone(c.Audience), slices.Clone(c.Subjects)
	return &Issuer{c: c, seen: newReplays(replayEntries)}, nil
}

// Name returns the iss of the tokens.
func (i *Issuer) Name() string { return i.c.Issuer }

// TakesTokensOf reports whether one token could be good for both.
func (i *Issuer) TakesTokensOf(other *Issuer) bool {
	_, shared := i.shares(other)
	return shared && i.c.Exchange.sharesContext(other.c.Exchange) && slices.ContainsFunc(i.c.Audience, func(name string) bool { return slices.Contains(other.c.Audience, name) })
}

// RememberWith has both remember used tokens together, so that one that was used at the one is used at the other. It must be
// called before a token is checked. Both must have the same Name: a jti is unique with its issuer only (RFC 7519 §4.1.7).
func (i *Issuer) RememberWith(other *Issuer) { i.seen = other.seen }

// shares returns a subject that both have at the same issuer.
func (i *Issuer) shares(other *Issuer) (string, bool) {
	if !i.c.Exchange.sharesClient(other.c.Exchange) {
		return "", false
	}
	for _, subject := range i.c.Subjects {
		if i.c.Issuer == other.c.Issuer && slices.Contains(other.c.Subjects, subject) {
			return subject, true
		}
	}
	return "", false
}

// issued is a token whose claims are read and not proven.
type issued struct {
	raw      string
	alg      jwa.SignatureAlgorithm
	kid      string
	issuer   string
	subject  string
	audience []string
	id       string // jti; empty: none
	expires  time.Time
	issuedAt time.Time
	notUntil time.Time // nbf; zero: none
	claims   strictjson.Members
}

// String prints nothing of it.
func (*issued) String() string { return "redacted" }

// tokenTypes are the values of typ, in lower case, that a token for requests can have (RFC 9068 §2.1; RFC 7519 §5.1).
// Others, such as logout+jwt, are the issuer's for other purposes (RFC 8725 §3.11).
var tokenTypes = []string{"", "jwt", "at+jwt", "application/at+jwt"}

// readIssued takes a token apart and returns what is missing or of the wrong form in it, without its values.
func readIssued(raw string) (*issued, error) {
	parsed, err := compactjws.Parse(raw, issuedLimit)
	if err != nil {
		return nil, err
	}
	alg, ok := issuedAlgorithms[parsed.Header.Alg]
	if !ok {
		return nil, errors.New("algorithm is not accepted")
	}
	if !slices.Contains(tokenTypes, strings.ToLower(parsed.Header.Typ)) {
		return nil, errors.New("typ is not that of an access token")
	}
	if parsed.Header.Kid == "" {
		return nil, errors.New("header names no key")
	}
	t := &issued{raw: raw, alg: alg, kid: parsed.Header.Kid, claims: parsed.Claims}
	claims := parsed.Claims
	for _, required := range []struct {
		name string
		to   *string
	}{{"iss", &t.issuer}, {"sub", &t.subject}} {
		*required.to, err = claims.String(required.name)
		if err != nil {
			return nil, err
		}
	}
	t.audience, err = claims.StringOrList("aud")
	if err != nil {
		return nil, err
	}
	for _, required := range []struct {
		name string
		to   *time.Time
	}{{"exp", &t.expires}, {"iat", &t.issuedAt}, {"nbf", &t.notUntil}} {
		if required.name == "nbf" && !claims.Has("nbf") {
			continue
		}
		*required.to, err = claims.NumericDate(required.name)
		if err != nil {
			return nil, err
		}
	}
	if !claims.Has("jti") { // the profile says it should be there; without it a repeat cannot be told
		return t, nil
	}
	t.id, err = claims.String("jti")
	if err != nil {
		return nil, err
	}
	if t.id == "" || len(t.id) > maxTokenID {
		return nil, errors.New("jti is empty or too long")
	}
	return t, nil
}

// names reports whether a token says to be of this issuer for this control plane.
func (i *Issuer) names(t *issued) bool {
	return t.issuer == i.c.Issuer && slices.Contains(i.c.Subjects, t.subject) && i.c.Exchange.hasClient(t)
}

// errRefused is wrapped by definite refusals of a token.
var errRefused = errors.New("token refused")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errRefused, fmt.Errorf(format, args...))
}

// errExpiredMeanwhile is no refusal: the token was good when it came, and we were slow.
var errExpiredMeanwhile = errors.New("the token expired while its key was fetched or the message read")

// check proves a token and uses it up. An error that is not errRefused means that nobody can tell now. What needs no key
// comes first, so that a stranger cannot make us ask the issuer, or fill the memory of ids.
func (i *Issuer) check(r *http.Request, t *issued) error {
	err := i.checkClaims(t)
	if err != nil {
		return err
	}
	keys, err := i.c.Keys.Keys(r.Context(), t.kid)
	if errors.Is(err, jwks.ErrUnknownKey) {
		return refused("%w", err)
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(keys, t.verifies) {
		return refused("the signature does not verify")
	}
	var request [sha256.Size]byte
	if t.id != "" {
		request, err = digestOf(r, t, i.c.MaxBodyBytes)
	}
	if err != nil {
		return err
	}
	// What was fetched and read takes time. The id of a token that expired meanwhile may be forgotten already.
	now, until := i.c.Now(), t.expires.Add(i.c.ClockSkew)
	if !now.Before(until) {
		return errExpiredMeanwhile
	}
	if t.id == "" {
		return nil
	}
	return i.seen.use(t.id, request, now, until)
}

// digestOf is equal for equal requests with equal tokens. It reads the body, which stays readable. The token is proven by
// then, so that strangers cannot make us do this.
func digestOf(r *http.Request, t *issued, maxBodyBytes int64) ([sha256.Size]byte, error) {
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
		if err != nil {
			return [sha256.Size]byte{}, fmt.Errorf("reading the message: %w", err)
		}
		r.Body = &restored{Reader: io.MultiReader(bytes.NewReader(body), r.Body), Closer: r.Body}
	}
	h := sha256.New()
	for _, part := range []string{t.raw, r.Method, r.URL.RequestURI(), string(body)} {
		fmt.Fprintf(h, "%d %s", len(part), part)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// restored is a body of which the beginning has been read.
type restored struct {
	io.Reader
	io.Closer
}

func (i *Issuer) checkClaims(t *issued) error {
	if !slices.ContainsFunc(t.audience, func(name string) bool { return slices.Contains(i.c.Audience, name) }) {
		return refused("aud does not name this data plane") // RFC 7519 §4.1.3
	}
	now, skew := i.c.Now(), i.c.ClockSkew
	if !now.Before(t.expires.Add(skew)) { // RFC 7519 §4.1.4
		return refused("expired %s ago", now.Sub(t.expires).Truncate(time.Second))
	}
	if t.notUntil.After(now.Add(skew)) { // RFC 7519 §4.1.5
		return refused("not valid yet")
	}
	if t.issuedAt.After(now.Add(skew)) { // RFC 7519 §4.1.6
		return refused("issued in the future")
	}
	if t.expires.After(t.issuedAt.Add(maxIssuedLife)) {
		return refused("lives longer than %s", maxIssuedLife)
	}
	if i.c.Exchange != nil {
		return i.c.Exchange.check(t)
	}
	return nil
}

// verifies reports whether the signature is that of a key. The algorithm has to be one of the key's kind, whatever the
// token says (RFC 8725 §3.1).
func (t *issued) verifies(key crypto.PublicKey) bool {
	fits := false
	switch public := key.(type) {
	case *ecdsa.PublicKey:
		fits = t.alg == jwa.ES256 && public.Curve == elliptic.P256() || t.alg == jwa.ES384 && public.Curve == elliptic.P384()
	case ed25519.PublicKey:
		fits = t.alg == jwa.EdDSA
	case *rsa.PublicKey:
		fits = t.alg == jwa.PS256 || t.alg == jwa.RS256
	}
	if !fits {
		return false
	}
	_, err := jws.Verify([]byte(t.raw), jws.WithKey(t.alg, key))
	return err == nil
}

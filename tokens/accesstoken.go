package tokens

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/edrgate/edrgate/internal/compactjws"
)

// accessTokenType marks a JWT access token (RFC 9068 §2.1), so that no other JWT of ours, or of anybody whose key we
// hold, is taken for one (RFC 8725 §3.11).
const accessTokenType = "at+jwt"

// accessClaims are the claims of an access token (RFC 9068 §2.2). Consumers treat the token as opaque.
type accessClaims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   string `json:"sub"`
	ClientID  string `json:"client_id"`
	ID        string `json:"jti"`
	IssuedAt  int64  `json:"iat"`
	Expires   int64  `json:"exp"`
	Flow      string `json:"flow_id"`
	Agreement string `json:"agreement_id,omitempty"`
	Dataset   string `json:"dataset_id,omitempty"`
}

// mint signs an access token for a flow. Never call it with a lock held or inside a store transaction: it costs a
// signature.
func (s *Service) mint(f *Flow, life time.Duration) (Secret, error) {
	id := make([]byte, 16)
	_, err := io.ReadFull(s.c.Rand, id)
	if err != nil {
		return "", unavailable(err, "reading random bytes")
	}
	subject := f.BoundDID
	if subject == "" {
		subject = f.Counterparty
	}
	now := s.c.Now().Unix()
	payload, err := json.Marshal(accessClaims{
		Issuer: s.c.DID, Audience: s.c.DID,
		Subject: subject, ClientID: subject,
		ID: base64.RawURLEncoding.EncodeToString(id), IssuedAt: now, Expires: now + int64(life/time.Second),
		Flow: f.ID, Agreement: f.Agreement, Dataset: f.Dataset,
	})
	if err != nil {
		return "", unavailable(err, "encoding claims")
	}
	token, err := s.c.Keys.active.sign(payload)
	if err != nil {
		return "", unavailable(err, "signing with key %s", s.c.Keys.active.kid)
	}
	s.issued.add(hashOf(token))
	return Secret(token), nil
}

// readAccessToken checks that a token is an access token signed by a key of this ring for this participant, and
// returns its claims. It does not look at the expiry: a renewal shows an expired token. hash is that of the token.
func (s *Service) readAccessToken(token string, hash *tokenHash) (*accessClaims, error) {
	t, err := compactjws.Parse(token, s.c.MaxTokenBytes)
	if err != nil {
		return nil, &Error{Code: CodeTokenMalformed, cause: err}
	}
	if t.Header.Typ != accessTokenType { // RFC 9068 §4
		return nil, refuse(CodeTokenMalformed, "typ is not %s", accessTokenType)
	}
	// The key is looked up by kid among our own, and its algorithm is the only one tried: the token's header chooses
	// neither (RFC 8725 §3.1).
	key := s.c.Keys.signing[t.Header.Kid]
	if key == nil {
		return nil, refuse(CodeTokenSignature, "signed by an unknown key")
	}
	if t.Header.Alg != key.alg.String() {
		return nil, refuse(CodeTokenSignature, "the algorithm is not that of the key")
	}
	if !isSmaller(key.alg, t.Signature) {
		return nil, refuse(CodeTokenSignature, "not the signature that we issue")
	}
	// Nobody can make another text with the hash of one that was signed here, or that was verified for a data request.
	if !s.issued.has(hash) && s.verdicts.get(hash) == nil {
		// The token has been taken apart already, by rules stricter than those of jws.Verify, which would do so again.
		err = key.check.Verify([]byte(t.SigningInput), t.Signature, key.public)
		if err != nil {
			return nil, refuse(CodeTokenSignature, "the signature does not verify")
		}
	}
	c, err := accessClaimsOf(t)
	if err != nil {
		return nil, &Error{Code: CodeTokenMalformed, cause: err}
	}
	// Two participants may share a key, but never a token (RFC 9068 §4: iss and aud).
	if c.Issuer != s.c.DID || c.Audience != s.c.DID {
		return nil, refuse(CodeTokenIssuer, "issued for another participant")
	}
	return c, nil
}

func accessClaimsOf(t *compactjws.Token) (*accessClaims, error) {
	c := new(accessClaims)
	for _, text := range []struct {
		name string
		to   *string
	}{
		{"iss", &c.Issuer},
		{"aud", &c.Audience},
		{"sub", &c.Subject},
		{"client_id", &c.ClientID},
		{"jti", &c.ID},
		{"flow_id", &c.Flow},
	} {
		var err error
		*text.to, err = t.Claims.String(text.name)
		if err != nil {
			return nil, err
		}
	}
	for _, text := range []struct {
		name string
		to   *string
	}{{"agreement_id", &c.Agreement}, {"dataset_id", &c.Dataset}} {
		if !t.Claims.Has(text.name) {
			continue
		}
		var err error
		*text.to, err = t.Claims.String(text.name)
		if err != nil {
			return nil, err
		}
	}
	expires, err := t.Claims.NumericDate("exp")
	if err != nil {
		return nil, err
	}
	issued, err := t.Claims.NumericDate("iat")
	if err != nil {
		return nil, err
	}
	c.Expires, c.IssuedAt = expires.Unix(), issued.Unix()
	if !ValidFlowID(c.Flow) {
		return nil, fmt.Errorf("flow_id is not an id of a flow")
	}
	return c, nil
}

// MaxFlowIDBytes is the length of the longest flow id (docs/decisions: identity of a flow).
const MaxFlowIDBytes = 255

// ValidFlowID holds for 1 to 255 printable ASCII characters without "/", which separates the parts of a record's id and
// of the paths that EDC puts the id into (docs/decisions: identity of a flow).
func ValidFlowID(id string) bool {
	if id == "" || len(id) > MaxFlowIDBytes {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' || id[i] == '/' {
			return false
		}
	}
	return true
}

// names reports whether the token was issued for this flow, and not for an earlier one of the same id.
func (c *accessClaims) names(f *Flow) bool {
	subject := f.BoundDID
	if subject == "" {
		subject = f.Counterparty
	}
	return c.Subject == subject && c.Agreement == f.Agreement && c.Dataset == f.Dataset
}

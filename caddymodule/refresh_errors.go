package caddymodule

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/edrgate/edrgate/internal/compactjws"
	"github.com/edrgate/edrgate/oauth"
	"github.com/edrgate/edrgate/tokens"
)

const textRenewalUnavailable = "The renewal cannot be decided at the moment"

// Texts of the Tractus-X refresh endpoint (observed on 0.12.1), which its tests look for.
const (
	edcAuthentication = "Authentication token validation failed: "
	edcAccess         = "Access token validation failed: "

	edcUndecodable   = "Failed to decode token"
	edcUnverified    = "Token verification failed"
	edcIssuer        = "The 'iss' and 'sub' claims must be non-null and identical."
	edcNoClaim       = "Required claim '%s' not present on token."
	edcNoTokenClaim  = "Required claim 'token' not present on token., Authentication token must contain a 'token' claim"
	edcNoExpiry      = "Required expiration time (exp) claim is missing in token"
	edcPrincipal     = "Principal '%s' is not authorized to refresh this token."
	edcNotFound      = "Token with id '%s' not found"
	edcNoKey         = "No public key could be resolved for key-ID '%s'"
	edcExpired       = "Token has expired (exp)"
	edcOtherRefresh  = "Provided refresh token does not match the stored refresh token."
	edcNoKeyID       = "No public key could be resolved for key-ID 'null': The provided DID is null"
	edcAudience      = "The 'aud' claim does not name this participant."
	edcTimes         = "The 'iat', 'nbf' and 'exp' claims are not those of a fresh token."
	edcProofReplayed = "The token was already used to refresh."
	edcDenied        = "The renewal is not permitted by policy."
)

// renewalRefusal is how one code is answered in the two formats. In the EDC format everything is 401 (observed on
// Tractus-X 0.12.1). In that of RFC 6749 §5.2, what is wrong with the proof is a failed client authentication, and what
// is wrong with the grant an invalid grant.
type renewalRefusal struct {
	code        string // RFC 6749 §5.2
	description string // fixed, for the format of RFC 6749
	edcText     func(p presented, e *tokens.Error) string
}

var renewalRefusals = map[tokens.Code]renewalRefusal{
	tokens.CodeProofMalformed:   {oauth.CodeInvalidClient, "the authentication token is malformed", fixed(edcAuthentication, edcUndecodable)},
	tokens.CodeProofAlgorithm:   {oauth.CodeInvalidClient, "the algorithm of the authentication token is not accepted", fixed(edcAuthentication, edcUnverified)},
	tokens.CodeProofClaims:      {oauth.CodeInvalidClient, "a claim of the authentication token is missing or malformed", edcClaim},
	tokens.CodeProofIssuer:      {oauth.CodeInvalidClient, "iss and sub of the authentication token differ", fixed(edcAuthentication, edcIssuer)},
	tokens.CodeProofNotBound:    {oauth.CodeInvalidClient, "the authentication token is not from the party that the token was issued to", edcNotBound},
	tokens.CodeRenewalForbidden: {oauth.CodeUnauthorizedClient, "tokens of this data flow cannot be renewed", edcNotBound},
	tokens.CodeProofAudience:    {oauth.CodeInvalidClient, "the audience of the authentication token is not this participant", fixed(edcAuthentication, edcAudience)},
	tokens.CodeProofExpired:     {oauth.CodeInvalidClient, "the authentication token has expired", fixed(edcAuthentication, edcExpired)},
	tokens.CodeProofTime:        {oauth.CodeInvalidClient, "the authentication token is not fresh", fixed(edcAuthentication, edcTimes)},
	tokens.CodeProofToken:       {oauth.CodeInvalidClient, "the token claim is not an access token of this participant", fixed(edcAccess, edcUnverified)},
	tokens.CodeProofKey:         {oauth.CodeInvalidClient, "the DID document does not have the key of the authentication token", edcKey},
	tokens.CodeProofSignature:   {oauth.CodeInvalidClient, "the signature of the authentication token does not verify", fixed(edcAuthentication, edcUnverified)},
	tokens.CodeProofReplayed:    {oauth.CodeInvalidClient, "the authentication token was used before", fixed(edcAuthentication, edcProofReplayed)},
	tokens.CodeProofTokenFlow:   {oauth.CodeInvalidGrant, "the data flow of the token does not exist", edcGone},
	tokens.CodeFlowUnknown:      {oauth.CodeInvalidGrant, "the data flow of the token does not exist", edcGone},
	tokens.CodeFlowNotStarted:   {oauth.CodeInvalidGrant, "the data flow of the token does not exist", edcGone},
	tokens.CodeFlowSuspended:    {oauth.CodeInvalidGrant, "the data flow is suspended", edcGone},
	tokens.CodeFlowEnded:        {oauth.CodeInvalidGrant, "the data flow has ended", edcGone},
	tokens.CodeRefreshInvalid:   {oauth.CodeInvalidGrant, "the refresh token is not valid", fixed(edcAccess, edcOtherRefresh)},
	tokens.CodePolicyDenied:     {oauth.CodeInvalidGrant, "the policy does not permit the renewal", fixed(edcAccess, edcDenied)},
	tokens.CodeRefreshReused:    {oauth.CodeInvalidGrant, "the refresh token is not valid", fixed(edcAccess, edcOtherRefresh)},
}

// refusalOfRenewal turns an error of Renew into an answer. What is not in the table is trouble of ours, and "cannot
// tell" must not read as "no": a consumer takes any 4xx for final.
func refusalOfRenewal(format oauth.Format, proof tokens.Secret, err error) oauth.Refusal {
	var refused *tokens.Error
	row, known := renewalRefusals[tokens.CodeOf(err)]
	if !known || !errors.As(err, &refused) {
		return oauth.Refusal{
			Status:     http.StatusServiceUnavailable,
			Code:       oauth.CodeTemporarilyUnavailable,
			Message:    textRenewalUnavailable,
			RetryAfter: tokens.RetryAfterOf(err),
		}
	}
	if format == oauth.EDC {
		return oauth.Refusal{Status: http.StatusUnauthorized, Code: row.code, Message: row.edcText(readPresented(proof), refused)}
	}
	status := http.StatusBadRequest
	if row.code == oauth.CodeInvalidClient {
		status = http.StatusUnauthorized // RFC 6749 §5.2: the client used the Authorization header
	}
	return oauth.Refusal{Status: status, Code: row.code, Message: row.description}
}

func fixed(prefix, message string) func(presented, *tokens.Error) string {
	return func(presented, *tokens.Error) string { return prefix + message }
}

func edcClaim(_ presented, e *tokens.Error) string {
	switch e.Claim {
	case "iss", "sub":
		return edcAuthentication + edcIssuer
	case "token":
		return edcAuthentication + edcNoTokenClaim
	case "exp":
		return edcAuthentication + edcNoExpiry
	case "aud", "jti":
		return edcAuthentication + fmt.Sprintf(edcNoClaim, e.Claim)
	}
	return edcAuthentication + edcTimes
}

func edcNotBound(p presented, _ *tokens.Error) string {
	return edcAuthentication + fmt.Sprintf(edcPrincipal, p.issuer)
}

func edcGone(p presented, e *tokens.Error) string {
	return edcAuthentication + fmt.Sprintf(edcNotFound, orDefault(e.TokenID, p.tokenID))
}

func edcKey(p presented, _ *tokens.Error) string {
	if p.keyID == "" {
		return edcAuthentication + edcNoKeyID
	}
	return edcAuthentication + fmt.Sprintf(edcNoKey, p.keyID)
}

// presented are the parts of a proof that the EDC texts quote back to whoever sent it. Nothing in it is proven.
type presented struct {
	issuer, keyID, tokenID string
}

// maxQuotedBytes limits what is quoted; longer values are left out.
const maxQuotedBytes = 512

func readPresented(proof tokens.Secret) presented {
	token, err := compactjws.Parse(proof.Reveal(), 0)
	if err != nil {
		return presented{}
	}
	p := presented{issuer: quotable(token.Claims.String("iss")), keyID: quotable(token.Header.Kid, nil)}
	inner, err := token.Claims.String("token")
	if err != nil {
		return p
	}
	about, err := compactjws.Parse(inner, 0)
	if err != nil {
		return p
	}
	p.tokenID = quotable(about.Claims.String("jti"))
	return p
}

// quotable returns a value that can be told back: DIDs, key ids and token ids have no other characters than these.
func quotable(value string, err error) string {
	if err != nil || len(value) > maxQuotedBytes {
		return ""
	}
	for i := range len(value) {
		if value[i] <= ' ' || value[i] > '~' || value[i] == '\'' || value[i] == '"' || value[i] == '\\' {
			return ""
		}
	}
	return value
}

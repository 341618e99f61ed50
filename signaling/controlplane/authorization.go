package controlplane

import (
	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/tokens"
)

// The authorization profiles of Data Plane Signaling (profiles, Authorization Profiles).
const (
	ProfileClientCredentials = "oauth2_client_credentials"
	ProfileTokenExchange     = "oauth2_token_exchange"
)

// Authorization is what calls to one control plane are authorized with.
type Authorization struct {
	Profile string // one of the profiles
	Grant   authserver.Grant
}

// grantFor returns what a token for the call is asked for with; nil: the call needs none. Credentials that the control plane
// registered take the place of the operator's, for that is how it changes them; but only for the token endpoint that the
// operator named.
func (a *Authorization) grantFor(said *tokens.PlaneAuthorization) *authserver.Grant {
	if a == nil {
		return nil
	}
	grant := a.Grant
	if a.Profile == ProfileClientCredentials && said != nil && a.differs(said) == "" {
		grant.ClientID, grant.ClientSecret = said.ClientID, said.ClientSecret
	}
	return &grant
}

// Differs names the member of a registered authorization object that is not what the operator configured, as the profile
// spells it; empty: they agree. nil for a: nothing is configured.
func (a *Authorization) Differs(said *tokens.PlaneAuthorization) string {
	if a == nil {
		return "type"
	}
	return a.differs(said)
}

func (a *Authorization) differs(said *tokens.PlaneAuthorization) string {
	if said.Type != a.Profile {
		return "type"
	}
	if a.Profile == ProfileClientCredentials {
		if said.TokenEndpoint != a.Grant.Endpoint {
			return "tokenEndpoint" // it would get the secret, and name any host
		}
		return ""
	}
	for _, member := range []struct{ name, said, configured string }{
		{"resource", said.Resource, a.Grant.Resource},
		{"audience", said.Audience, a.Grant.Audience},
		{"scope", said.Scope, a.Grant.Scope},
	} {
		if member.said != "" && member.said != member.configured {
			return member.name
		}
	}
	if said.TokenEndpoint != a.Grant.Endpoint {
		return "tokenExchangeEndpoint"
	}
	return ""
}

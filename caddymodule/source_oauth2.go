package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/internal/canonical"
	"github.com/edrgate/edrgate/tokens"
)

// Properties of a data address whose backend wants a token of an authorization server (EDC's data-plane-http-oauth2,
// Oauth2DataAddressSchema).
const (
	oauth2Prefix          = "oauth2:"
	oauth2TokenURL        = oauth2Prefix + "tokenUrl"
	oauth2ClientID        = oauth2Prefix + "clientId"
	oauth2ClientSecretKey = oauth2Prefix + "clientSecretKey"
	oauth2ClientSecret    = oauth2Prefix + "clientSecret" // EDC up to 0.2
	oauth2Scope           = oauth2Prefix + "scope"
	oauth2PrivateKeyName  = oauth2Prefix + "privateKeyName"
	oauth2KeyID           = oauth2Prefix + "kid"      // of a private key
	oauth2Validity        = oauth2Prefix + "validity" // of what it signs
)

// setOAuth2 reads how the token for the backend is got: client credentials with a shared secret. EDC leaves an address
// alone that names only a part of what that needs, and so sends requests without the token that the address asks for;
// here that is an error.
func (t *target) setOAuth2(properties map[string]string, backends *backendList, secrets backendSecrets) error {
	asked := false
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if !strings.HasPrefix(name, oauth2Prefix) {
			continue
		}
		asked = true
		switch name {
		case oauth2TokenURL, oauth2ClientID, oauth2ClientSecretKey, oauth2ClientSecret, oauth2Scope:
		case oauth2KeyID, oauth2Validity:
			// They mean something beside a private key only.
		case oauth2PrivateKeyName:
			return fmt.Errorf("%s: edr_proxy authenticates by %s only", name, oauth2ClientSecretKey)
		default:
			return fmt.Errorf("%q is not known", name)
		}
	}
	if !asked {
		return nil
	}
	endpoint, o, path, err := tokenEndpoint(properties[oauth2TokenURL], backends)
	if err != nil {
		return fmt.Errorf("%s: %w", oauth2TokenURL, err)
	}
	grant := &authserver.Grant{Endpoint: endpoint, ClientID: properties[oauth2ClientID], Scope: properties[oauth2Scope]}
	if grant.ClientID == "" {
		return fmt.Errorf("%s is missing", oauth2ClientID)
	}
	grant.ClientSecret = tokens.Secret(properties[oauth2ClientSecret])
	name := properties[oauth2ClientSecretKey]
	if name != "" {
		grant.ClientSecret, err = secrets.lookup(name, o, path)
		if err != nil {
			return fmt.Errorf("%s: %w", oauth2ClientSecretKey, err)
		}
	}
	if grant.ClientSecret == "" {
		return fmt.Errorf("%s is missing", oauth2ClientSecretKey)
	}
	t.oauth2 = grant
	t.addSecret(grant.ClientSecret.Reveal())
	return nil
}

// tokenEndpoint checks the URL of a token endpoint, and returns it as it was understood, with its origin and canonical
// path.
func tokenEndpoint(text string, backends *backendList) (string, origin, string, error) {
	if text == "" {
		return "", origin{}, "", errors.New("is missing")
	}
	given, o, path, err := parseBackendURL(text)
	if err != nil {
		return "", origin{}, "", err
	}
	if !backends.allows(o) {
		return "", origin{}, "", fmt.Errorf("%s: %w", o.authority(), errNotInBackends)
	}
	err = checkQuery(given.RawQuery)
	if err != nil {
		return "", origin{}, "", err
	}
	u := &url.URL{Scheme: o.scheme, Host: o.authority(), RawQuery: given.RawQuery}
	err = canonical.Set(u, path)
	if err != nil {
		return "", origin{}, "", err
	}
	return u.String(), o, path, nil
}

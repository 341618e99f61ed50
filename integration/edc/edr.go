package edc

import (
	"context"
	"fmt"
)

// EDR is the endpoint data reference that a consumer's control plane keeps: text by absolute name. Its zero value has
// nothing.
type EDR map[string]string

const tractusxAuthNS = "https://w3id.org/tractusx/auth/"

// Endpoint is where the data is.
func (e EDR) Endpoint() string { return e[edcNS+"endpoint"] }

// AccessToken opens the endpoint.
func (e EDR) AccessToken() string { return e[edcNS+"authorization"] }

// AuthType is how the token is presented.
func (e EDR) AuthType() string { return e[edcNS+"authType"] }

// RefreshToken, RefreshEndpoint, RefreshAudience and ExpiresIn (seconds) are what a renewal needs, by the names that
// consumers of Tractus-X look them up by.
func (e EDR) RefreshToken() string { return e[tractusxAuthNS+"refreshToken"] }

// RefreshEndpoint is described with RefreshToken.
func (e EDR) RefreshEndpoint() string { return e[tractusxAuthNS+"refreshEndpoint"] }

// RefreshAudience is described with RefreshToken.
func (e EDR) RefreshAudience() string { return e[tractusxAuthNS+"refreshAudience"] }

// ExpiresIn is described with RefreshToken.
func (e EDR) ExpiresIn() string { return e[tractusxAuthNS+"expiresIn"] }

// String names the endpoint only: the rest is secret.
func (e EDR) String() string { return "EDR of " + e.Endpoint() + " (tokens redacted)" }

// EDR waits until the consumer has an EDR of a transfer, other than the one with the access token old if that is not
// empty.
func (p *ControlPlane) EDR(ctx context.Context, transfer, old string) (EDR, error) {
	var found EDR
	err := await(ctx, func() error {
		var address node
		err := p.get(ctx, "/v3/edrs/"+transfer+"/dataaddress", &address)
		if isNotFound(err) {
			return fmt.Errorf("%w: no EDR of %s", errIdle, transfer)
		}
		if err != nil {
			return err
		}
		found = address.fullNames()
		if old != "" && found.AccessToken() == old {
			return fmt.Errorf("%w: no new EDR of %s", errNotYet, transfer) // the token is the gateway's
		}
		return nil
	})
	return found, err
}

// AwaitNoEDR waits until the consumer has no EDR of a transfer any more.
func (p *ControlPlane) AwaitNoEDR(ctx context.Context, transfer string) error {
	return await(ctx, func() error {
		err := p.get(ctx, "/v3/edrs/"+transfer+"/dataaddress", nil)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: the EDR of %s is still there", errIdle, transfer)
	})
}

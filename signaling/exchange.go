package signaling

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// ExchangeConfig says what a token by exchange must say beside what any token of an issuer must: the profile
// oauth2_token_exchange of Data Plane Signaling. A broker made it for a workload that has no credential of its own here, so
// its sub names a principal, and what it may do stands in it.
type ExchangeConfig struct {
	// Clients are the values of client_id that the control plane has: one principal can have several components. Default:
	// sub alone tells.
	Clients []string

	// Scopes must all be granted to a token. Default: it must have a scope, whichever.
	Scopes []string

	// ParticipantContexts are the participant contexts that a token can be for; it must then name one of them. Default:
	// it need not name one.
	ParticipantContexts []string

	// Participant are the names of our own participant, one of which a token must name if it names any and
	// ParticipantContexts are not set. Required.
	Participant []string
}

func (c *ExchangeConfig) validate(subjects []string) error {
	for _, subject := range subjects {
		u, err := url.Parse(subject)
		if err != nil || !u.IsAbs() {
			// Profile, Principal Resource: an absolute URI, which is the sub verbatim.
			return fmt.Errorf("subject %q: want the absolute URI of a principal; ids of control planes are the client's", subject)
		}
	}
	if len(c.Participant) == 0 {
		return errors.New("names of the participant are required")
	}
	for _, list := range [][]string{c.Clients, c.Scopes, c.ParticipantContexts, c.Participant} {
		if slices.Contains(list, "") {
			return errors.New("client, scope or participant context is empty")
		}
	}
	return nil
}

// hasClient reports whether a token is of the component that is meant (profile, Receiver Validation 5).
func (c *ExchangeConfig) hasClient(t *issued) bool {
	if c == nil || len(c.Clients) == 0 {
		return true
	}
	client, err := t.claims.String("client_id") // RFC 8693 §4.3
	return err == nil && slices.Contains(c.Clients, client)
}

// sharesClient reports whether both can be meant by one token.
func (c *ExchangeConfig) sharesClient(other *ExchangeConfig) bool {
	if c == nil || other == nil || len(c.Clients) == 0 || len(other.Clients) == 0 {
		return true
	}
	return slices.ContainsFunc(c.Clients, func(client string) bool { return slices.Contains(other.Clients, client) })
}

// sharesContext reports whether both can be meant by one token. One that must name its participant context is for one of
// those that are listed.
func (c *ExchangeConfig) sharesContext(other *ExchangeConfig) bool {
	if c == nil || other == nil || len(c.ParticipantContexts) == 0 || len(other.ParticipantContexts) == 0 {
		return true
	}
	return slices.ContainsFunc(c.ParticipantContexts, func(context string) bool {
		return slices.Contains(other.ParticipantContexts, context)
	})
}

// check proves what the claims of an exchange say. act is left alone: it is for audits, and no ground to decide on
// (profile, Token Claims).
func (c *ExchangeConfig) check(t *issued) error {
	scope, err := t.claims.String("scope") // RFC 8693 §4.2
	if err != nil {
		return refused("%w", err)
	}
	granted := strings.Split(scope, " ") // RFC 6749 §3.3
	for _, needed := range c.Scopes {
		if !slices.Contains(granted, needed) {
			return refused("scope %s is not granted", needed)
		}
	}
	if strings.Trim(scope, " ") == "" {
		return refused("scope is empty")
	}
	// Not part of the profile since 2026-08, but brokers that have it mean it.
	if !t.claims.Has("participant_context") {
		if len(c.ParticipantContexts) > 0 {
			return refused("participant_context is missing")
		}
		return nil
	}
	of := c.ParticipantContexts
	if len(of) == 0 {
		of = c.Participant
	}
	context, err := t.claims.String("participant_context")
	if err != nil {
		return refused("%w", err)
	}
	if !slices.Contains(of, context) {
		return refused("participant_context is another one")
	}
	return nil
}

package policy

import (
	"crypto/tls"
	"errors"
	"testing"

	"github.com/edrgate/edrgate/internal/dial/dialtest"
	"github.com/edrgate/edrgate/tokens"
)

// Whatever trouble the policy server is in, it has decided nothing: neither yes nor no.
func TestPolicyHostsInTrouble(t *testing.T) {
	dialtest.EachTrouble(t, func(t *testing.T, h *dialtest.Host) {
		seen := newWatcher()
		client := newClient(t, h.URL, func(c *Config) {
			c.Resolver, c.TLS, c.AllowAddresses = h.Resolver, &tls.Config{RootCAs: h.Roots}, h.Allow
			c.Timeout, c.Observer = min(h.Timeout, MaxTimeout), seen
		})
		permit, err := client.Decide(t.Context(), question(tokens.PolicyRenew))
		for _, reason := range seen.denied {
			h.ObserveReason(reason)
		}
		var failure *Error
		if permit || !errors.As(err, &failure) {
			t.Fatalf("permit %t, %v", permit, err)
		}
		if (h.Denied != "") != (failure.Reason == ReasonAddress) {
			t.Errorf("reason %s", failure.Reason)
		}
	})
}

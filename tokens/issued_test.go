package tokens

import (
	"crypto/sha256"
	"strconv"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jws"
)

// TestOwnSignaturesAreNotVerified: what was signed here is known to be good, at its first use and at its renewal. Another
// gateway verifies it, once.
func TestOwnSignaturesAreNotVerified(t *testing.T) {
	x := newFixture(t)
	key := x.c.Keys.active
	counted := &countedVerifier{Verifier: key.check}
	key.check = counted
	edr := x.start(dpsStart("flow-1"))
	err := x.verify(edr.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	renewed := x.mustRenew(edr.RefreshToken, edr.AccessToken)
	x.mustRenew(renewed.RefreshToken, renewed.AccessToken)
	if counted.calls != 0 {
		t.Errorf("verified %d times", counted.calls)
	}

	other := x.other(func(*Config) {})
	token := x.start(dpsStart("flow-2"))
	for range 2 {
		err = other.verifyFresh(token.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = other.Renew(t.Context(), RenewRequest{RefreshToken: token.RefreshToken.Reveal(), Proof: x.wallet.Proof(providerDID, token.AccessToken.Reveal(), x.clock.Now())})
	if err != nil {
		t.Fatal(err)
	}
	if counted.calls != 1 {
		t.Errorf("verified %d times", counted.calls)
	}
}

// countedVerifier counts the signatures that it verifies.
type countedVerifier struct {
	jws.Verifier
	calls int
}

func (v *countedVerifier) Verify(payload, signature []byte, key any) error {
	v.calls++
	return v.Verifier.Verify(payload, signature, key)
}

// TestIssuedIsBounded: the younger half of what is remembered is always there, and never more than both.
func TestIssuedIsBounded(t *testing.T) {
	const entries = 64
	remembered := newIssued(entries)
	key := func(n int) tokenHash { return sha256.Sum256([]byte(strconv.Itoa(n))) }
	for n := range 10 * entries {
		remembered.add(key(n))
		kept := 0
		for earlier := range n + 1 {
			hash := key(earlier)
			found := remembered.has(&hash)
			if found {
				kept++
			}
			if !found && earlier > n-entries/2 {
				t.Fatalf("%d of %d is forgotten", earlier, n)
			}
		}
		if kept > entries {
			t.Fatalf("%d are kept", kept)
		}
	}
	unknown := key(-1)
	if remembered.has(&unknown) {
		t.Error("what was never added is there")
	}
}

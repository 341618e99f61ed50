package authserver

import (
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
	"github.com/edrgate/edrgate/tokens"
)

// FuzzClaims: whatever an authorization server gives as a token, its expiry is a date or there is none.
func FuzzClaims(f *testing.F) {
	wallet := testkit.NewWallet("did:web:login.example")
	claims := wallet.Claims("did:web:cp.example", "t", testkit.NewClock().Now())
	for _, token := range append(wallet.BadTokens(claims), wallet.Sign(claims)) {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		expires := claimsOf(tokens.Secret(token)).expires()
		if !expires.IsZero() && (expires.Unix() < 0 || expires.Unix() > maxNumericDate) {
			t.Errorf("%q expires at %s", token, expires)
		}
	})
}

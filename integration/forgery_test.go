package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestRenewalsThatAreNotTheConsumers: the data plane that this one takes the place of fetches the DID that the proof's
// key id names before it looks at a claim, and lets any DID renew.
func TestRenewalsThatAreNotTheConsumers(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			victim := newParty(g, p, hosts, "victim", "weather")
			other := newParty(g, p, hosts, "other", "weather")
			thief := hosts.wallet("thief")

			cases := map[string]func() renewal{
				"proof of another DID": func() renewal { return renewalOf(g, thief, victim.edr) },
				"key of another DID": func() renewal {
					w := *victim.wallet
					w.Key, w.KID = thief.Key, thief.KID
					return renewalOf(g, &w, victim.edr)
				},
				"issuer of another DID, key id of the consumer": func() renewal {
					w := *thief
					w.KID = victim.wallet.KID
					return renewalOf(g, &w, victim.edr)
				},
				"refresh token of another flow": func() renewal {
					e := victim.edr
					e.refresh = other.edr.refresh
					return renewalOf(g, victim.wallet, e)
				},
				"access token of another flow": func() renewal {
					e := victim.edr
					e.access = other.edr.access
					return renewalOf(g, victim.wallet, e)
				},
				"proof for another audience": func() renewal {
					r := renewalOf(g, victim.wallet, victim.edr)
					r.proof = "Bearer " + victim.wallet.Proof("did:web:elsewhere.example", victim.edr.access, time.Now())
					return r
				},
				"proof that has expired": func() renewal {
					r := renewalOf(g, victim.wallet, victim.edr)
					r.proof = "Bearer " + victim.wallet.Proof(g.did, victim.edr.access, time.Now().Add(-time.Hour))
					return r
				},
				"access token as proof": func() renewal {
					r := renewalOf(g, victim.wallet, victim.edr)
					r.proof = "Bearer " + victim.edr.access
					return r
				},
			}
			for name, build := range cases {
				wantRenewalRefused(t, build().send(g), name)
			}
			n := hosts.fetches()
			if n != 0 {
				t.Errorf("%d DID documents were fetched for proofs that could be refused without", n)
			}

			// With the consumer's names but another key, the document has to be looked at.
			forger := testkit.NewWallet(victim.wallet.DID)
			wantRenewalRefused(t, renewalOf(g, forger, victim.edr).send(g), "signed with another key")
			if hosts.fetches() == 0 {
				t.Error("a proof was refused for its signature without a look at the DID document")
			}
			for _, c := range []*party{victim, other} {
				shown := showFlow(g, c.terms.flow)
				if shown.Generation != 1 {
					t.Errorf("a refused renewal moved a flow on to generation %d", shown.Generation)
				}
				renew(g, c.wallet, c.edr)
			}
		})
	}
}

// TestChangedByteAnywhereIsRefused: there is one spelling of each token.
func TestChangedByteAnywhereIsRefused(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "weather")
	wantData(t, g, "/", c.edr.access, "data of weather")
	served := len(weather.saw())

	for i := range c.edr.access {
		answer := g.get("/", changed(c.edr.access, i))
		if answer.status != http.StatusUnauthorized {
			t.Fatalf("access token with character %d changed: status %d: %s", i, answer.status, answer.body)
		}
	}
	for _, longer := range []string{c.edr.access + "=", c.edr.access + "A", c.edr.access + "."} {
		g.get("/", longer).want(t, http.StatusUnauthorized)
	}
	n := len(weather.saw())
	if n != served {
		t.Fatalf("the backend got %d requests with a changed token", n-served)
	}

	for i := range c.edr.refresh {
		e := c.edr
		e.refresh = changed(e.refresh, i)
		answer := renewalOf(g, c.wallet, e).send(g)
		if answer.status != http.StatusBadRequest {
			t.Fatalf("refresh token with character %d changed: status %d: %s", i, answer.status, answer.body)
		}
	}
	proof := c.wallet.Proof(g.did, c.edr.access, time.Now())
	for i := 0; i < len(proof); i += 7 { // a proof has some 1,500 characters; each step meets all of its parts
		r := renewalOf(g, c.wallet, c.edr)
		r.proof = "Bearer " + changed(proof, i)
		answer := r.send(g)
		if answer.status != http.StatusUnauthorized && answer.status != http.StatusBadRequest {
			t.Fatalf("proof with character %d changed: status %d: %s", i, answer.status, answer.body)
		}
	}
	shown := showFlow(g, c.terms.flow)
	if shown.Generation != 1 {
		t.Errorf("a changed token moved the flow on to generation %d", shown.Generation)
	}
	renew(g, c.wallet, c.edr)
}

// changed returns the token with one character replaced by another of its alphabet. For the last character of a part,
// which has spare bits, the next one of the alphabet differs in these only.
func changed(token string, i int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	at := strings.IndexByte(alphabet, token[i]) // -1 for a dot
	return token[:i] + alphabet[(at+1)%len(alphabet):][:1] + token[i+1:]
}

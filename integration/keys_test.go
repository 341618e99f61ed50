package integration

import (
	"net/http"
	"strings"
	"testing"
)

// TestKeyRotatedBetweenRenewalAndReplay: the answer of a renewal was lost, then the operator made another signing key
// active, and the consumer comes again.
func TestKeyRotatedBetweenRenewalAndReplay(t *testing.T) {
	t.Parallel()
	for _, p := range planes {
		t.Run(p.name(), func(t *testing.T) {
			t.Parallel()
			hosts, weather := newDIDHost(t), newBackend(t, "weather")
			g := startGateway(t, config{site: serves("weather", weather)})
			c := newParty(g, p, hosts, "consumer", "weather")
			r := renewalOf(g, c.wallet, c.edr)
			renewed, err := c.edr.renewedBy(g, r.send(g).want(t, http.StatusOK))
			if err != nil {
				t.Fatal(err)
			}

			old, next := "signing_key "+g.keyFile("signing"), "signing_key "+g.newKey("next")
			g.config.keys = old + "\n" + next + " next"
			g.reload()
			verifyPublished(g, renewed.access)
			g.config.keys = old + " verify\n" + next + " active"
			g.reload()

			again, err := c.edr.renewedBy(g, r.send(g).want(t, http.StatusOK))
			if err != nil {
				t.Fatal(err)
			}
			if again.refresh != renewed.refresh {
				t.Error("the replay after the rotation got another refresh token than the renewal before")
			}
			before, _ := jwsParts(t, renewed.access)
			after, _ := jwsParts(t, again.access)
			if before["kid"] == after["kid"] {
				t.Error("the access token after the rotation is signed with the old key")
			}
			for _, e := range []edr{c.edr, renewed, again} { // of the old key and of the new one
				wantData(t, g, "/", e.access, "data of weather")
				verifyPublished(g, e.access)
			}
			last := renew(g, c.wallet, again)
			fresh := newParty(g, p, hosts, "fresh", "weather")

			g.config.keys = next
			g.reload()
			wantRefusal(t, g.get("/", renewed.access), "of a dropped key", http.StatusUnauthorized, "")
			wantData(t, g, "/", last.access, "data of weather")
			renew(g, c.wallet, last)
			renew(g, fresh.wallet, fresh.edr)
		})
	}
}

// TestKeysCommandTellsWhenAKeyCanGo: an old key is needed as long as a flow has a refresh token or a secret of it.
func TestKeysCommandTellsWhenAKeyCanGo(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "weather")
	old := keyUse(g)
	if len(old) != 1 {
		t.Fatalf("one flow needs the keys %v", old)
	}
	g.config.keys = "signing_key " + g.keyFile("signing") + " verify\nsigning_key " + g.newKey("next")
	g.reload()
	c.edr = renew(g, c.wallet, c.edr)
	both := keyUse(g)
	if len(both) != 2 {
		t.Errorf("after one renewal the flow needs the keys %v, want the old and the new one", both)
	}
	classic := newParty(g, classicPlane{}, newDIDHost(t), "classic", "weather")
	for key, flows := range keyUse(g) {
		_, isOld := old[key]
		if isOld && flows != 1 {
			t.Errorf("the old key is needed by %d flows, want 1", flows)
		}
	}
	classicPlane{}.terminate(g, classic.terms.flow).want(t, http.StatusNoContent)
	dpsPlane{}.terminate(g, c.terms.flow).want(t, http.StatusOK)
	left := keyUse(g)
	if len(left) != 0 {
		t.Errorf("ended flows still need the keys %v", left)
	}
	stdout, stderr, err := g.cli("edr", "keys", "--address", "unix/"+g.socket())
	if err != nil || strings.Count(stdout, `"kid"`) != 2 {
		t.Errorf("caddy edr keys: %v: %s%s", err, stdout, stderr)
	}
}

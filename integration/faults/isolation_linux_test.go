//go:build postgres

package faults

import (
	"net/http"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/integration/cluster"
)

// TestReplicasKnowNothingOfEachOther: a gateway that reaches no other one lacks nothing, since all it needs is the database.
// None has a connection to another, and each learns of what the others do.
func TestReplicasKnowNothingOfEachOther(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	c := cluster.New(t, server, cluster.Options{})
	f := begin(t, c, c.Gateways[0], false)
	for _, g := range c.Gateways {
		f.renew(t, g)
		f.wantStatus(t, g, http.StatusOK)
	}
	f.end(t, c.Gateways[1])
	for _, g := range c.Gateways {
		c.Eventually("the end is known at "+g.Name, func() bool { return f.status(t, g) == f.refused() })
	}
	for _, g := range c.Gateways {
		peers, err := g.Peers()
		if err != nil {
			t.Fatal(err)
		}
		if len(peers) == 0 {
			t.Errorf("%s has no connection at all, not even to the database", g.Name)
		}
		for _, other := range c.Gateways {
			for _, listener := range other.Listeners() {
				if strings.Contains(strings.Join(peers, " ")+" ", listener+" ") {
					t.Errorf("%s has a connection to %s at %s", g.Name, other.Name, listener)
				}
			}
		}
	}
}

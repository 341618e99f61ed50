//go:build postgres

package faults

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
)

// lostRenewals is how often a refresh token came that was newer than its record.
func lostRenewals(c *cluster.Cluster) float64 {
	sum := 0.0
	for _, g := range c.Gateways {
		sum += g.Metric("edrgate_events_total", `event="rollforward"`)
	}
	return sum
}

// TestPrimaryIsKilled: the database's server is lost, and a synchronous standby takes over. Between the two, nobody is
// told no; afterwards nothing that was acknowledged is missing, and no gateway was restarted.
func TestPrimaryIsKilled(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	standby := newFollower(t, server)
	c := cluster.New(t, server, cluster.Options{MaxStaleness: time.Minute})
	c.Execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
	c.Execute("postgres", "SELECT pg_reload_conf()")
	var flows []*transfer
	for i := range 6 {
		flows = append(flows, begin(t, c, c.Gateways[i%len(c.Gateways)], i%2 == 0))
	}
	kept, ended := begin(t, c, c.Gateways[0], false), begin(t, c, c.Gateways[0], true)
	for _, g := range c.Gateways {
		kept.wantStatus(t, g, http.StatusOK)
	}
	ended.end(t, c.Gateways[1])

	load := renewing(t, c, flows)
	const enough = 100
	c.Eventually("some renewals are done", func() bool { return load.soFar() > enough })
	err := server.Kill()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range c.Gateways {
		kept.wantComeAgain(t, g)
		kept.wantStatus(t, g, http.StatusOK)
	}
	takeOver(t, c, standby)
	before := load.soFar()
	c.Eventually("renewals go on", func() bool { return load.soFar() > before+enough })
	load.done(t)
	for _, f := range append(flows, kept) {
		for _, g := range c.Gateways {
			f.renew(t, g)
			f.wantStatus(t, g, http.StatusOK)
		}
	}
	for _, g := range c.Gateways {
		ended.wantStatus(t, g, ended.refused())
		if g.Metric("edrgate_store_rollback") != 0 {
			t.Errorf("%s takes the store for a restored one, though nothing was lost", g.Name)
		}
	}
	if lost := lostRenewals(c); lost != 0 {
		t.Errorf("%v renewals were answered before they were durable", lost)
	}
}

// TestStandbyWithoutTheLastWrites takes over: an asynchronous standby that had been cut off. The gateways notice, give it the
// ends that it has not got, refuse nobody, and go on with the newest refresh tokens when an operator has said so.
func TestStandbyWithoutTheLastWrites(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	standby := newFollower(t, server)
	c := cluster.New(t, server, cluster.Options{MaxStaleness: time.Minute})
	kept, ended, endedClassic := begin(t, c, c.Gateways[0], false), begin(t, c, c.Gateways[1], false), begin(t, c, c.Gateways[2], true)
	for _, g := range c.Gateways {
		for _, f := range []*transfer{kept, ended, endedClassic} {
			f.wantStatus(t, g, http.StatusOK)
		}
	}
	kept.renew(t, c.Gateways[0])
	c.Execute("postgres", "CREATE TABLE shipped ()") // in the same log: it has arrived when this has
	c.Eventually("the standby has what was written so far", func() bool {
		return cluster.Holds(t, standby, "postgres", "SELECT to_regclass('shipped') IS NOT NULL")
	})
	err := standby.Halt() // as if the line to it was down
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		kept.renew(t, c.Gateways[1])
	}
	ended.end(t, c.Gateways[1])
	endedClassic.end(t, c.Gateways[2])
	lost := begin(t, c, c.Gateways[0], false)
	for _, g := range c.Gateways {
		c.Eventually("the ends are known at "+g.Name, func() bool {
			return ended.status(t, g) == ended.refused() && endedClassic.status(t, g) == endedClassic.refused() &&
				g.Metric("edrgate_store_endings_remembered") == 2
		})
	}

	err = server.Kill()
	if err == nil {
		err = standby.Run(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	takeOver(t, c, standby)
	for _, g := range c.Gateways {
		c.Eventually(g.Name+" notices", func() bool { return g.Metric("edrgate_store_rollback") == 1 })
		kept.wantComeAgain(t, g)
		lost.wantComeAgain(t, g)
		c.Eventually("a flow that the standby has is served at "+g.Name, func() bool { return kept.status(t, g) == http.StatusOK })
		ended.wantStatus(t, g, ended.refused())
		endedClassic.wantStatus(t, g, endedClassic.refused())
		if got := lost.status(t, g); got != http.StatusOK && got != http.StatusServiceUnavailable {
			t.Errorf("a flow that was lost, at %s: status %d", g.Name, got)
		}
	}
	said, err := c.Gateways[2].Edr("accept-restore")
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for _, g := range c.Gateways {
		c.Eventually(g.Name+" goes on", func() bool { return g.Metric("edrgate_store_rollback") == 0 })
		kept.renew(t, g)
	}
	if rolled := lostRenewals(c); rolled != 1 {
		t.Errorf("%v renewals were rolled forward, want the first", rolled)
	}
	for _, g := range c.Gateways { // by what is in the database, not by what is remembered
		err = g.Kill()
		if err == nil {
			err = g.TryLaunch()
		}
		if err != nil {
			t.Fatal(err)
		}
		g.AwaitReady()
		kept.wantStatus(t, g, http.StatusOK)
		ended.wantStatus(t, g, ended.refused())
		endedClassic.wantStatus(t, g, endedClassic.refused())
	}
}

// TestSlowDatabase: each answer of the database is later than a call may take, and many come at once. All are told to come
// again, with no more connections than are allowed; data is served as if nothing was.
func TestSlowDatabase(t *testing.T) {
	t.Parallel()
	const connections, parallel = 2, 64
	server := newServer(t)
	c := cluster.New(t, server, cluster.Options{Gateways: 2, MaxStaleness: time.Minute, Store: "max_connections 2"})
	slow, other := c.Gateways[0], c.Gateways[1]
	known := begin(t, c, slow, false)
	flows := make([]*transfer, parallel)
	for i := range flows {
		flows[i] = begin(t, c, other, i%2 == 0)
	}
	known.wantStatus(t, slow, http.StatusOK)
	err := slow.Link.Delay(2500 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for _, f := range flows {
		wait.Go(func() { f.wantComeAgain(t, slow) })
	}
	answered := make(chan struct{})
	go func() { wait.Wait(); close(answered) }()
	served := 0
	for waiting := true; waiting; served++ {
		known.wantStatus(t, slow, http.StatusOK)
		if used := slow.Metric("edrgate_store_connections", `state="used"`); used > connections {
			t.Errorf("%v connections are in use", used)
		}
		select {
		case <-answered:
			waiting = false
		default:
		}
	}
	t.Logf("%d data requests were served while %d renewals waited", served, parallel)
	for _, f := range flows[:4] {
		f.renew(t, other)
		f.wantStatus(t, other, http.StatusOK)
	}
	slow.Link.Release(context.Background())
	c.Eventually("the gateway is ready again", func() bool { return slow.Ready() == http.StatusOK })
	// Connections that were slow are given up one after the other.
	for _, f := range append(flows, known) {
		c.Eventually("renewals go on", func() bool {
			tokens, answer, err := slow.Renew(within(t), f.Flow, f.tokens)
			if err != nil || answer.Status != http.StatusOK && answer.Status != http.StatusServiceUnavailable {
				t.Fatalf("renewal: %v, %v", answer, err)
			}
			if answer.Status == http.StatusOK {
				f.tokens = tokens
			}
			return answer.Status == http.StatusOK
		})
	}
	if errors := slow.Metric("edrgate_store_errors_total"); errors == 0 {
		t.Error("no error of the store was counted")
	}
}

// TestStoppedReplica goes on after it was stopped for longer than max_staleness (SIGSTOP, or a machine that was paused): what it
// remembers is not served before it has read what has happened meanwhile.
func TestStoppedReplica(t *testing.T) {
	t.Parallel()
	const staleness = 2 * time.Second
	c := cluster.New(t, newServer(t), cluster.Options{Gateways: 2, MaxStaleness: staleness})
	stopped, other := c.Gateways[0], c.Gateways[1]
	for _, classic := range []bool{false, true} {
		ended, kept := begin(t, c, stopped, classic), begin(t, c, stopped, classic)
		ended.wantStatus(t, stopped, http.StatusOK)
		kept.wantStatus(t, stopped, http.StatusOK)
		err := stopped.Pause()
		if err != nil {
			t.Fatal(err)
		}
		since := time.Now()
		ended.end(t, other)
		kept.renew(t, other)
		c.Eventually("what it remembers is too old", func() bool { return time.Since(since) > staleness+time.Second })
		err = stopped.Continue()
		if err != nil {
			t.Fatal(err)
		}
		c.Eventually("the end is known", func() bool {
			got := ended.status(t, stopped)
			if got != ended.refused() && got != http.StatusServiceUnavailable {
				t.Fatalf("a gateway that was stopped answers %d for a flow that has ended meanwhile", got)
			}
			return got == ended.refused()
		})
		c.Eventually("the other flow is served again", func() bool { return kept.status(t, stopped) == http.StatusOK })
		kept.renew(t, stopped)
	}
}

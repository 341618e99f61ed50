//go:build postgres

package replicas

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/integration/cluster"
	"github.com/edrgate/edrgate/replica"
)

// pollEvery is how often a gateway is asked whether it has heard of an end: what the lag is measured by.
const pollEvery = 5 * time.Millisecond

// TestRevocationLag measures how long a terminate takes from one gateway to another under load: from its answer until the
// last data request at the other that was still served was sent. What is promised is max_staleness.
func TestRevocationLag(t *testing.T) {
	const terminates, workers, renewers = 1000, 8, 4
	c := cluster.New(t, server, cluster.Options{})
	wallet := c.DIDs.Wallet("consumer")

	ctx, cancel := context.WithCancel(t.Context())
	var renewals atomic.Int64
	var load sync.WaitGroup
	began := time.Now()
	for i := range renewers {
		f := cluster.NewFlow(wallet, i%2 == 1)
		tokens := started(t, c.Gateways[i%len(c.Gateways)], f)
		load.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				next, answer, err := c.Gateways[n%len(c.Gateways)].Renew(ctx, f, tokens)
				if ctx.Err() != nil {
					return
				}
				if err != nil || answer.Status != http.StatusOK {
					t.Errorf("renewal under load: %v, %v", answer, err)
					return
				}
				tokens = next
				renewals.Add(1)
			}
		})
	}

	var mu sync.Mutex
	var lags []time.Duration
	var left atomic.Int64
	left.Store(terminates)
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for n := w; left.Add(-1) >= 0; n++ {
				here, there := c.Gateways[n%len(c.Gateways)], c.Gateways[(n+1)%len(c.Gateways)]
				lag, problem := lagOf(t, here, there, cluster.NewFlow(wallet, n%2 == 1))
				if problem != "" {
					t.Error(problem)
					return
				}
				mu.Lock()
				lags = append(lags, lag)
				mu.Unlock()
			}
		})
	}
	working.Wait()
	took := time.Since(began)
	cancel()
	load.Wait()
	if len(lags) != terminates {
		t.Fatalf("%d of %d terminates measured", len(lags), terminates)
	}
	slices.Sort(lags)
	t.Logf("revocation lag of %d terminates beside %.0f renewals/s: p50 %s, p99 %s, max %s", len(lags),
		float64(renewals.Load())/took.Seconds(), lags[len(lags)/2].Round(time.Millisecond), lags[len(lags)*99/100].Round(time.Millisecond),
		lags[len(lags)-1].Round(time.Millisecond))
	if lags[len(lags)-1] > replica.DefaultMaxStaleness {
		t.Errorf("an ended flow was served for %s", lags[len(lags)-1])
	}
}

// lagOf starts a flow, has both gateways serve it, terminates it here and asks there until it is refused.
func lagOf(t *testing.T, here, there *cluster.Gateway, f *cluster.Flow) (time.Duration, string) {
	ctx := timeout(t)
	tokens, answer, err := here.StartFlow(ctx, f)
	if err != nil || answer.Status != http.StatusOK {
		return 0, "start: " + answer.String()
	}
	answer, err = there.Data(ctx, tokens.Access)
	if err != nil || answer.Status != http.StatusOK {
		return 0, "data before the end: " + answer.String()
	}
	answer, err = here.Terminate(ctx, f)
	ended := time.Now()
	if err != nil || answer.Status >= http.StatusBadRequest {
		return 0, "terminate: " + answer.String()
	}
	lag := time.Duration(0)
	for {
		sent := time.Since(ended)
		answer, err = there.Data(ctx, tokens.Access)
		switch {
		case err == nil && answer.Status == http.StatusOK:
			lag = sent
			time.Sleep(pollEvery)
		case err == nil && answer.Status == refused(f):
			return lag, ""
		default:
			return 0, "data after the end: " + answer.String()
		}
	}
}

package tokens

import (
	"context"
	"runtime"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

func (x *fixture) access(r StartRequest) *Access {
	x.t.Helper()
	a, err := x.Verify(context.Background(), x.start(r).AccessToken.Reveal(), atEndpoint, anySite)
	if err != nil {
		x.t.Fatal(err)
	}
	return a
}

// TestRequestsAreCounted by flow and by consumer, whatever the token.
func TestRequestsAreCounted(t *testing.T) {
	x := newFixture(t)
	first := x.access(dpsStart("flow-1"))
	again := x.access(dpsStart("flow-1")) // a repeat: another token of the same flow
	second := x.access(dpsStart("flow-2"))
	request := dpsStart("flow-3")
	request.Terms.Counterparty = "did:web:other.example"
	other := x.access(request)
	limits := RequestLimits{PerFlow: 2, PerConsumer: 3}
	begin := func(a *Access, want Code) {
		t.Helper()
		err := a.Begin(limits)
		if want == "" {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		wantCode(t, err, want)
		if DialectOf(err) != DPS {
			t.Errorf("dialect %q", DialectOf(err))
		}
	}
	begin(first, "")
	begin(again, "")
	begin(first, CodeFlowBusy)
	begin(second, "")
	begin(second, CodeConsumerBusy)
	begin(other, "") // another consumer
	first.End()
	begin(second, "")
	begin(first, CodeConsumerBusy)
	// What was refused is not counted.
	again.End()
	second.End()
	second.End()
	other.End()
	for _, a := range []*Access{first, again, second, other} {
		if a.live.requests.Load() != 0 || a.consumer.requests.Load() != 0 {
			t.Errorf("flow %s: %d of the flow and %d of the consumer are left", a.FlowID(), a.live.requests.Load(), a.consumer.requests.Load())
		}
	}
}

func TestRequestsWithoutLimits(t *testing.T) {
	x := newFixture(t)
	a := x.access(dpsStart("flow-1"))
	for range 5000 {
		err := a.Begin(RequestLimits{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	x := newFixture(t)
	a := x.access(dpsStart("flow-1"))
	n := testing.AllocsPerRun(100, func() {
		if a.Begin(RequestLimits{PerFlow: 1, PerConsumer: 1}) != nil {
			t.Error("refused")
		}
		a.End()
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestConsumersAreForgotten: memory follows use.
func TestConsumersAreForgotten(t *testing.T) {
	live := NewLive()
	key := consumerKey{"default", "did:web:consumer.example"}
	held := live.consumer(key)
	if live.consumer(key) != held {
		t.Fatal("two entries for one consumer")
	}
	if live.consumer(consumerKey{"other", key.consumer}) == held {
		t.Error("participants share an entry")
	}
	held.requests.Add(1)
	runtime.KeepAlive(held)
	held = nil
	testkit.Eventually(t, "the entries go", func() bool {
		runtime.GC()
		live.mu.Lock()
		defer live.mu.Unlock()
		return len(live.consumers) == 0
	})
}

// TestRenewalsOfOneConsumer: one whose DID host does not answer keeps nobody else from renewing.
func TestRenewalsOfOneConsumer(t *testing.T) {
	asked, leave := make(chan struct{}, 8), make(chan struct{})
	other := testkit.NewWallet("did:web:other.example")
	x := newFixture(t, func(c *Config) {
		c.RenewalsPerConsumer = 2
		quick := c.Resolver
		c.Resolver = resolverFunc(func(ctx context.Context, did, kid string) (any, error) {
			if did == consumerDID {
				asked <- struct{}{}
				<-leave
			}
			return quick.ResolveKey(ctx, did, kid)
		})
	})
	x.resolver.publish(other)
	renew := func(edr *EDR, wallet *testkit.Wallet) error {
		_, err := x.Renew(context.Background(), RenewRequest{
			RefreshToken: edr.RefreshToken.Reveal(), Proof: wallet.Proof(providerDID, edr.AccessToken.Reveal(), x.clock.Now()),
		})
		return err
	}
	first, second := x.start(dpsStart("flow-1")), x.start(dpsStart("flow-2"))
	request := dpsStart("flow-3")
	request.Terms.Counterparty = other.DID
	third := x.start(request)
	done := make(chan error, 2)
	for _, edr := range []*EDR{first, second} {
		go func() { done <- renew(edr, x.wallet) }()
		<-asked
	}
	wantCode(t, renew(first, x.wallet), CodeConsumerBusy)
	err := renew(third, other)
	if err != nil {
		t.Errorf("another consumer: %v", err)
	}
	// Who does not hold the refresh token takes no room, and learns nothing of it.
	_, err = x.renewWith("no-refresh-token", first.AccessToken)
	wantCode(t, err, CodeRefreshInvalid)
	close(leave)
	for range 2 {
		err := <-done
		if err != nil {
			t.Error(err)
		}
	}
	err = renew(first, x.wallet)
	if err != nil {
		t.Errorf("there is no room again: %v", err)
	}
}

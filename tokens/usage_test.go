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

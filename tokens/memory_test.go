package tokens

import (
	"context"
	"fmt"
	"runtime"
	"testing"
)

// TestMemoryOfRememberedTokens keeps what a token takes while it is remembered, one flow each: memory follows active tokens.
func TestMemoryOfRememberedTokens(t *testing.T) {
	x := newFixture(t)
	const flows = 4000
	issued := make([]string, flows)
	for i := range issued {
		request := dpsStart(fmt.Sprintf("00000000-0000-4000-8000-%012d", i))
		request.BPN, request.AgreementID = "BPNL0000CONSUMER", fmt.Sprintf("agreement-%d", i)
		request.Claims, request.Metadata = []byte(`{"of":"the other party"}`), []byte(`{"size":"chosen by it"}`)
		issued[i] = x.start(request).AccessToken.Reveal()
	}
	_ = liveHeap()
	before := liveHeap()
	for _, token := range issued {
		_, err := x.Verify(context.Background(), token, atEndpoint, anySite)
		if err != nil {
			t.Fatal(err)
		}
	}
	got := float64(liveHeap()-before) / flows
	if got > 1024 {
		t.Errorf("a remembered token and its flow take %.0f bytes, want at most 1024", got)
	}
	runtime.KeepAlive(x)
	runtime.KeepAlive(issued) // else they make up for what is remembered
}

// TestTokensOfAFlowShareWhatItSays: a token more takes what differs from the others.
func TestTokensOfAFlowShareWhatItSays(t *testing.T) {
	x := newFixture(t)
	const remembered = 4000
	issued := make([]string, remembered)
	for i := range issued {
		edr := x.start(classicStart("flow-1"))
		issued[i] = edr.AccessToken.Reveal() // a repeat signs another token
	}
	_ = liveHeap()
	before := liveHeap()
	for _, token := range issued {
		_, err := x.Verify(context.Background(), token, atEndpoint, anySite)
		if err != nil {
			t.Fatal(err)
		}
	}
	got := float64(liveHeap()-before) / remembered
	if got > 400 {
		t.Errorf("a remembered token takes %.0f bytes, want at most 400", got)
	}
	runtime.KeepAlive(x)
	runtime.KeepAlive(issued) // else they make up for what is remembered
}

// TestFactsAreSharedWhileTheySayTheSame: a token that was issued when the flow said something else keeps what it said.
func TestFactsAreSharedWhileTheySayTheSame(t *testing.T) {
	live := new(liveFlow)
	first := live.share(&facts{id: "a", dataset: "d", source: &Sealed{Key: "k", Data: []byte("x")}})
	if got := live.share(&facts{id: "a", dataset: "d", source: &Sealed{Key: "k", Data: []byte("x")}}); got != first {
		t.Error("the same is kept twice")
	}
	for name, other := range map[string]*facts{
		"dataset":    {id: "a", dataset: "e", source: &Sealed{Key: "k", Data: []byte("x")}},
		"ciphertext": {id: "a", dataset: "e", source: &Sealed{Key: "k", Data: []byte("y")}},
		"key":        {id: "a", dataset: "e", source: &Sealed{Key: "l", Data: []byte("y")}},
		"no source":  {id: "a", dataset: "e"},
	} {
		if live.share(other) != other {
			t.Errorf("another %s is not noticed", name)
		}
	}
	if first.dataset != "d" {
		t.Error("facts of an earlier token have changed")
	}
}

// liveHeap returns the bytes that are in use once what is not has been freed: twice, for what finalizers and cleanups let go.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

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
	got := x.bytesOfEach(issued)
	if got > 1024 {
		t.Errorf("a remembered token and its flow take %.0f bytes, want at most 1024", got)
	}
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
	got := x.bytesOfEach(issued)
	if got > 400 {
		t.Errorf("a remembered token takes %.0f bytes, want at most 400", got)
	}
}

// TestFactsAreSharedWhileTheySayTheSame: a token that was issued when the flow said something else keeps what it said.
func TestFactsAreSharedWhileTheySayTheSame(t *testing.T) {
	of := func(dataset string, key KeyID, data string) *facts {
		return &facts{id: "a", dataset: dataset, source: &Sealed{Key: key, Data: []byte(data)}}
	}
	for name, c := range map[string]struct {
		other *facts
		same  bool
	}{
		"the same":           {of("d", "k", "x"), true},
		"another dataset":    {of("e", "k", "x"), false},
		"another key":        {of("d", "l", "x"), false},
		"another ciphertext": {of("d", "k", "y"), false},
		"no source":          {&facts{id: "a", dataset: "d"}, false},
	} {
		live := new(liveFlow)
		first := live.share(of("d", "k", "x"))
		if got := live.share(c.other); (got == first) != c.same || !c.same && got != c.other {
			t.Errorf("%s: shared %t", name, got == first)
		}
		if !first.same(of("d", "k", "x")) {
			t.Errorf("%s: facts of an earlier token have changed", name)
		}
	}
}

// bytesOfEach uses tokens for the first time, and returns what each of them takes from then on.
func (x *fixture) bytesOfEach(issued []string) float64 {
	x.t.Helper()
	_ = liveHeap()
	before := liveHeap()
	for _, token := range issued {
		_, err := x.Verify(context.Background(), token, atEndpoint, anySite)
		if err != nil {
			x.t.Fatal(err)
		}
	}
	each := float64(liveHeap()-before) / float64(len(issued))
	runtime.KeepAlive(x)
	runtime.KeepAlive(issued) // else they make up for what is remembered
	return each
}

// liveHeap returns the bytes that are in use once what is not has been freed: twice, for what finalizers and cleanups let go.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

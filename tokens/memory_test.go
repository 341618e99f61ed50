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
	before := liveHeap()
	for _, token := range issued {
		_, err := x.Verify(context.Background(), token, atEndpoint, anySite)
		if err != nil {
			t.Fatal(err)
		}
	}
	got := float64(liveHeap()-before) / flows
	if got > 640 {
		t.Errorf("a remembered token takes %.0f bytes, want at most 640", got)
	}
	runtime.KeepAlive(x)
}

// liveHeap returns the bytes that are in use once what is not has been freed: twice, for what finalizers and cleanups let go.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

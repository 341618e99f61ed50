package did

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// gate holds requests until it is opened, and tells when one has come.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func newGate() *gate {
	return &gate{arrived: make(chan struct{}, 1000), open: make(chan struct{})}
}

// hold wraps what a host serves.
func (g *gate) hold(h *host) {
	h.mu.Lock()
	inner := h.handler
	h.mu.Unlock()
	h.handle(func(w http.ResponseWriter, r *http.Request) {
		g.arrived <- struct{}{}
		select {
		case <-g.open:
			inner(w, r)
		case <-r.Context().Done():
		}
	})
}

type outcome struct {
	key crypto.PublicKey
	err error
}

func (b *bench) async(ctx context.Context, did, kid string) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		key, err := b.ResolveKey(ctx, did, kid)
		c <- outcome{key, err}
	}()
	return c
}

func TestOneFetchForAll(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	const callers = 50
	var waiting []<-chan outcome
	for range callers {
		waiting = append(waiting, b.async(context.Background(), h.did(), "#k"))
	}
	testkit.Eventually(t, "all wait for one flight", func() bool { return b.waiters(h.did()) == callers })
	close(g.open)
	for _, c := range waiting {
		o := <-c
		wantKey(t, o.key, o.err, key)
	}
	h.wantRequests(t, 1)
}

// The first caller goes away; those who joined it still get their answer, from the same fetch.
func TestFirstCallerGoesAway(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	ctx, cancel := context.WithCancel(context.Background())
	first := b.async(ctx, h.did(), "#k")
	<-g.arrived
	second := b.async(context.Background(), h.did(), "#k")
	testkit.Eventually(t, "both wait", func() bool { return b.waiters(h.did()) == 2 })
	cancel()
	o := <-first
	wantCode(t, o.err, CodeCanceled)
	if !errors.Is(o.err, context.Canceled) {
		t.Errorf("the cause is lost: %v", o.err)
	}
	close(g.open)
	o = <-second
	wantKey(t, o.key, o.err, key)
	h.wantRequests(t, 1)
}

// When nobody waits any more, the fetch ends, and it says nothing about the host.
func TestLastCallerGoesAway(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	ctx, cancel := context.WithCancel(context.Background())
	only := b.async(ctx, h.did(), "#k")
	<-g.arrived
	cancel()
	o := <-only
	wantCode(t, o.err, CodeCanceled)
	b.fetching.Wait() // nothing is left to wait for
	if got := b.results.all(); len(got) != 1 || got[0] != string(CodeCanceled) {
		t.Errorf("results %v", got)
	}
	close(g.open)
	b.wantAsked(t, h, key)
	h.wantRequests(t, 2)
}

func TestCallerWithDeadline(t *testing.T) {
	h := newHost(t)
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := b.ResolveKey(ctx, h.did(), "#k")
	e := wantCode(t, err, CodeCanceled)
	if !errors.Is(err, context.DeadlineExceeded) || e.Refused() {
		t.Errorf("refused %t: %v", e.Refused(), err)
	}
}

// Who joins a fetch that had begun before may see a document from before. It looks again before it says no.
func TestJoinedFetchIsNoRefusal(t *testing.T) {
	h := newHost(t)
	old, fresh := testkit.ECKey(t), testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", old))
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	first := b.async(context.Background(), h.did(), "#k")
	<-g.arrived

	const late = 5
	var waiting []<-chan outcome
	for range late {
		waiting = append(waiting, b.async(context.Background(), h.did(), "#k2"))
	}
	past := make(chan outcome, 1)
	go func() {
		key, err := b.RefetchKey(context.Background(), h.did(), "#k2")
		past <- outcome{key, err}
	}()
	testkit.Eventually(t, "all wait", func() bool { return b.waiters(h.did()) == late+2 })
	body := testkit.JSON(t, documentOf(t, h.did(), "k2", fresh))
	var once atomic.Bool
	h.handle(func(w http.ResponseWriter, _ *http.Request) {
		once.Store(true)
		_, _ = w.Write(body)
	})
	close(g.open)
	o := <-first
	wantKey(t, o.key, o.err, old)
	for _, c := range append(waiting, past) {
		o = <-c
		wantKey(t, o.key, o.err, fresh)
	}
	if !once.Load() {
		t.Error("nobody looked again")
	}
	if n := h.requests.Load(); n < 2 || n > 3 {
		t.Errorf("%d requests, want 2, or 3 if the refetch came last", n)
	}
}

func TestFetchesPerHostAreBounded(t *testing.T) {
	h := newHost(t)
	var running, most atomic.Int64
	h.handle(func(w http.ResponseWriter, _ *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		w.WriteHeader(http.StatusNotFound)
	})
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	const callers = 6
	var waiting []<-chan outcome
	for i := range callers {
		waiting = append(waiting, b.async(context.Background(), fmt.Sprintf("%s:p%d", h.did(), i), "#k"))
	}
	for range maxFetchesPerHost {
		<-g.arrived
	}
	testkit.Eventually(t, "all wait for a slot", func() bool { return b.slots.users(walletName) == callers })
	h.wantRequests(t, maxFetchesPerHost)
	close(g.open)
	for _, c := range waiting {
		wantCode(t, (<-c).err, CodeStatus)
	}
	if most.Load() > maxFetchesPerHost {
		t.Errorf("%d fetches ran at once, want at most %d", most.Load(), maxFetchesPerHost)
	}
	h.wantRequests(t, callers)
	if b.slots.users(walletName) != 0 || len(b.slots.hosts) != 0 || len(b.slots.all) != 0 {
		t.Errorf("slots are left in use: %d hosts, %d in all", len(b.slots.hosts), len(b.slots.all))
	}
}

// users counts who waits for a slot of the host or has one.
func (s *slots) users(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[host]
	if h == nil {
		return 0
	}
	return h.users
}

// A fetch that finds no slot in time says nothing about the host, so the next one tries again.
func TestNoSlotInTime(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.serve(t, documentOf(t, h.did(), "k", key))
	b := newBench(t, nil, h)
	var releases []func()
	for range maxFetchesPerHost {
		release, err := b.slots.acquire(context.Background(), walletName)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	b.fetchTimeout = 20 * time.Millisecond
	_, err := b.ask(h)
	e := wantCode(t, err, CodeBusy)
	if e.Refused() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("refused %t: %v", e.Refused(), err)
	}
	h.wantRequests(t, 0)
	for _, release := range releases {
		release()
	}
	b.fetchTimeout = defaultFetchTimeout
	b.wantAsked(t, h, key)
}

// A slow host takes none of the slots of the others.
func TestSlowHostDelaysNobody(t *testing.T) {
	slow, good := newHost(t), newHost(t)
	g := newGate()
	g.hold(slow)
	key := testkit.ECKey(t)
	b := newBench(t, nil, slow, good)
	b.names.SetAddress("slow.hosts.example", "127.0.0.1")
	good.serve(t, documentOf(t, good.did(), "k", key))
	ctx, cancel := context.WithCancel(context.Background())
	var waiting []<-chan outcome
	for i := range 2 * maxFetches {
		waiting = append(waiting, b.async(ctx, fmt.Sprintf("%s:p%d", slow.didOf("slow.hosts.example"), i), "#k"))
	}
	for range maxFetchesPerHost {
		<-g.arrived
	}
	b.wantAsked(t, good, key)
	cancel()
	for _, c := range waiting {
		wantCode(t, (<-c).err, CodeCanceled)
	}
	slow.wantRequests(t, maxFetchesPerHost)
}

func TestFetchesAreBounded(t *testing.T) {
	s := newSlots()
	var releases []func()
	for i := range maxFetches {
		release, err := s.acquire(context.Background(), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := s.acquire(ctx, "one more")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("one more than the bound: %v", err)
	}
	releases[0]()
	release, err := s.acquire(context.Background(), "one more")
	if err != nil {
		t.Fatal(err)
	}
	release()
	for _, release := range releases[1:] {
		release()
	}
	if len(s.hosts) != 0 || len(s.all) != 0 {
		t.Errorf("%d hosts, %d slots left", len(s.hosts), len(s.all))
	}
}

func TestClose(t *testing.T) {
	h := newHost(t)
	g := newGate()
	g.hold(h)
	b := newBench(t, nil, h)
	_, err := b.ResolveKey(context.Background(), keyP256, keyP256)
	if err != nil {
		t.Fatal(err)
	}
	waiting := b.async(context.Background(), h.did(), "#k")
	<-g.arrived
	err = b.Close()
	if err != nil {
		t.Fatal(err)
	}
	o := <-waiting
	e := wantCode(t, o.err, CodeClosed)
	if !errors.Is(o.err, ErrClosed) || e.Refused() {
		t.Errorf("refused %t: %v", e.Refused(), o.err)
	}
	for _, did := range []string{h.did(), keyP256, keyEd25519} {
		_, err = b.ResolveKey(context.Background(), did, did)
		wantCode(t, err, CodeClosed)
	}
	err = b.Close()
	if err != nil {
		t.Errorf("second close: %v", err)
	}
	h.wantRequests(t, 1)
}

// Many callers, many DIDs, comings and goings: for the race detector.
func TestConcurrentUse(t *testing.T) {
	h := newHost(t)
	key := testkit.ECKey(t)
	h.handle(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[1 : len(r.URL.Path)-len("/did.json")]
		_, _ = w.Write(testkit.JSON(t, documentOf(t, h.did()+":"+name, "k", key)))
	})
	b := newBench(t, func(c *Config) { c.MaxEntries = 3 }, h)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 20 {
				did := fmt.Sprintf("%s:p%d", h.did(), (i+j)%6)
				ctx, cancel := context.WithCancel(context.Background())
				if j%7 == 0 {
					cancel()
				}
				got, err := b.ResolveKey(ctx, did, "#k")
				if err == nil && !equal(got, key) {
					t.Error("another key")
				}
				var e *Error
				if err != nil && (!errors.As(err, &e) || e.Refused()) {
					t.Errorf("refused: %v", err)
				}
				if j%5 == 0 {
					_, _ = b.RefetchKey(ctx, did, "#k")
				}
				b.clock.Advance(10 * time.Second)
				cancel()
			}
		})
	}
	all.Wait()
}

package did

import (
	"context"
	"sync"
)

// Bounds of fetches in flight, over all DIDs and to one host. One slow host holds two of them, so it takes sixteen slow
// hosts to delay the others.
const (
	maxFetches        = 32
	maxFetchesPerHost = 2
)

// slots bounds how many fetches run at once.
type slots struct {
	all chan struct{}

	mu    sync.Mutex
	hosts map[string]*hostSlots
}

type hostSlots struct {
	free  chan struct{}
	users int // waiting or holding
}

func newSlots() *slots {
	return &slots{all: make(chan struct{}, maxFetches), hosts: make(map[string]*hostSlots)}
}

// acquire waits for a slot and returns the function that gives it back. The host's slot comes first: those who wait for
// a slow host must not keep the others from theirs.
func (s *slots) acquire(ctx context.Context, host string) (func(), error) {
	h := s.enter(host)
	select {
	case h.free <- struct{}{}:
	case <-ctx.Done():
		s.leave(host, h)
		return nil, ctx.Err()
	}
	select {
	case s.all <- struct{}{}:
	case <-ctx.Done():
		<-h.free
		s.leave(host, h)
		return nil, ctx.Err()
	}
	return func() {
		<-s.all
		<-h.free
		s.leave(host, h)
	}, nil
}

func (s *slots) enter(host string) *hostSlots {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[host]
	if h == nil {
		h = &hostSlots{free: make(chan struct{}, maxFetchesPerHost)}
		s.hosts[host] = h
	}
	h.users++
	return h
}

// leave forgets a host that nobody uses: DIDs come and go with flows, and the map must not grow with them.
func (s *slots) leave(host string, h *hostSlots) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.users--
	if h.users == 0 {
		delete(s.hosts, host)
	}
}

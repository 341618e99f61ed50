package tokens

import (
	"runtime"
	"sync/atomic"
	"weak"
)

// RequestLimits bound the data requests that are under way at once. 0: no limit.
type RequestLimits struct {
	PerFlow     int // of one flow
	PerConsumer int // of all flows of one consumer: of the DID that they are bound to, otherwise of the counterparty
}

// liveConsumer counts what one consumer of a participant has under way. Like a liveFlow it is shared by all configurations
// over a store, and goes when no remembered token or renewal points at it any more.
type liveConsumer struct {
	requests atomic.Int64
	renewals atomic.Int64
}

type consumerKey struct{ participant, consumer string }

// consumer returns the entry of a consumer, made if there is none.
func (l *Live) consumer(key consumerKey) *liveConsumer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.consumers[key].Value(); c != nil {
		return c
	}
	c := new(liveConsumer)
	l.consumers[key] = weak.Make(c)
	runtime.AddCleanup(c, l.forgetConsumer, key)
	return c
}

// forgetConsumer drops the entry of a consumer nobody uses any more, unless another has taken its place.
func (l *Live) forgetConsumer(key consumerKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.consumers[key].Value() == nil {
		delete(l.consumers, key)
	}
}

// consumerOf tells whose requests those of a flow are.
func consumerOf(f *Flow) consumerKey {
	if f.BoundDID != "" {
		return consumerKey{f.Participant, f.BoundDID}
	}
	return consumerKey{f.Participant, f.Counterparty}
}

// Begin counts a data request as under way, until End is called. Where there are as many already as the limits allow, it
// is not counted and the error is CodeFlowBusy or CodeConsumerBusy. Requests of all configurations count, each with the
// limits of its own.
func (a *Access) Begin(limits RequestLimits) error {
	if !enter(&a.live.requests, limits.PerFlow) {
		return &Error{Code: CodeFlowBusy, Dialect: a.flow.dialect, TokenID: a.id}
	}
	if !enter(&a.consumer.requests, limits.PerConsumer) {
		a.live.requests.Add(-1)
		return &Error{Code: CodeConsumerBusy, Dialect: a.flow.dialect, TokenID: a.id}
	}
	return nil
}

// End takes back a Begin without an error.
func (a *Access) End() {
	a.consumer.requests.Add(-1)
	a.live.requests.Add(-1)
}

// beginRenewal counts a renewal of a flow's consumer as under way, until the function is called. A consumer whose DID host is
// slow waits for it with all its renewals, and must not take the room of others for that.
func (s *Service) beginRenewal(f *Flow) (func(), error) {
	c := s.c.Live.consumer(consumerOf(f))
	if !enter(&c.renewals, s.c.RenewalsPerConsumer) {
		return nil, refuse(CodeConsumerBusy, "%d renewals of one consumer are under way", s.c.RenewalsPerConsumer)
	}
	return func() { c.renewals.Add(-1) }, nil
}

func enter(requests *atomic.Int64, limit int) bool {
	now := requests.Add(1)
	if limit > 0 && now > int64(limit) {
		requests.Add(-1)
		return false
	}
	return true
}

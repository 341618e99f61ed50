package tokens

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/edrgate/edrgate/store"
)

// How the policy is asked again about flows that were started without its answer.
const (
	recheckEvery    = time.Second // how often the loop looks for what is due
	recheckLongest  = 30 * time.Second
	recheckAtOnce   = 8
	recheckTimeout  = 15 * time.Second // of one, with what it reads and writes; the policy has a shorter one of its own
	maxRechecks     = 64 << 10         // held in memory; further ones are found by the count of flows
	maxRecheckSteps = 5                // of the doubled wait
)

// rechecks are the flows of a participant that this process knows to be unchecked. The store is the truth: it is read anew
// at every count of flows.
type rechecks struct {
	mu      sync.Mutex
	flows   map[string]recheck
	wake    chan struct{}
	flights singleflight.Group
}

type recheck struct {
	due      time.Time
	asked    time.Time
	attempts int
}

func newRechecks() *rechecks {
	return &rechecks{flows: map[string]recheck{}, wake: make(chan struct{}, 1)}
}

// put notes a flow, if there is room and it is not noted yet.
func (r *rechecks) put(flow string, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, noted := r.flows[flow]
	if !noted && len(r.flows) < maxRechecks {
		r.flows[flow] = recheck{due: due}
	}
}

// hurry has a flow asked about now, since somebody waits for it; at most once a second.
func (r *rechecks) hurry(flow string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, noted := r.flows[flow]
	if !noted && len(r.flows) >= maxRechecks || noted && (!c.due.After(now) || now.Before(c.asked.Add(recheckEvery))) {
		return
	}
	c.due = now
	r.flows[flow] = c
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// failed puts a flow off whose answer is still not known.
func (r *rechecks) failed(flow string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, noted := r.flows[flow]
	if !noted && len(r.flows) >= maxRechecks {
		return
	}
	wait := min(recheckLongest, recheckEvery<<min(c.attempts, maxRecheckSteps))
	r.flows[flow] = recheck{due: now.Add(wait), asked: now, attempts: c.attempts + 1}
}

func (r *rechecks) drop(flow string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.flows, flow)
}

// due returns the flows to ask about now, those that wait longest first.
func (r *rechecks) due(now time.Time) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due []string
	for flow, c := range r.flows {
		if !c.due.After(now) {
			due = append(due, flow)
		}
	}
	slices.SortFunc(due, func(a, b string) int { return r.flows[a].due.Compare(r.flows[b].due) })
	return due
}

// hasten makes all due: the policy answers again.
func (r *rechecks) hasten(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for flow, c := range r.flows {
		if c.due.After(now) {
			c.due = now
			r.flows[flow] = c
		}
	}
}

func (r *rechecks) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.flows)
}

// recheckLater notes a flow that was just started unchecked.
func (s *Service) recheckLater(f *Flow) {
	s.c.Observer.Event(EventUnchecked)
	s.rechecks.put(f.ID, s.c.Now().Add(recheckEvery))
	s.c.Observer.Unchecked(s.rechecks.len())
}

// keepRechecking asks about what is due until ctx ends.
func (s *Service) keepRechecking(ctx context.Context) {
	look := time.NewTicker(recheckEvery)
	defer look.Stop()
	for {
		s.recheckDue(ctx)
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		case <-s.rechecks.wake:
		}
	}
}

// recheckDue asks about the flows that are due, a few at once. It stops where none of a few is answered: the policy, or
// the store, is still away.
func (s *Service) recheckDue(ctx context.Context) {
	due := s.rechecks.due(s.c.Now())
	if len(due) == 0 {
		return
	}
	for few := range slices.Chunk(due, recheckAtOnce) {
		var unanswered atomic.Int32
		var asking sync.WaitGroup
		for _, flow := range few {
			asking.Go(func() {
				err := s.settle(ctx, flow)
				if err != nil && CodeOf(err) == CodeUnavailable {
					unanswered.Add(1)
				}
			})
		}
		asking.Wait()
		if ctx.Err() != nil || int(unanswered.Load()) == len(few) {
			break
		}
		s.rechecks.hasten(s.c.Now())
	}
	s.c.Observer.Unchecked(s.rechecks.len())
}

// settle gets the policy's answer about the start of an unchecked flow and carries it out. All who ask at the same time
// share one question. nil: the flow is permitted, and the record says so.
func (s *Service) settle(ctx context.Context, flow string) error {
	if s.Replaced() {
		return unavailable(nil, "flow %s waits for the policy of a newer configuration", flow)
	}
	_, err, _ := s.rechecks.flights.Do(flow, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, recheckTimeout)
		defer cancel()
		err := s.recheck(ctx, flow)
		if err != nil && CodeOf(err) == CodeUnavailable {
			s.rechecks.failed(flow, s.c.Now())
			return nil, err
		}
		s.rechecks.drop(flow)
		return nil, err
	})
	var shared *Error
	if !errors.As(err, &shared) {
		return err
	}
	own := *shared // callers complete theirs
	return &own
}

func (s *Service) recheck(ctx context.Context, flow string) error {
	key := flowKey(s.c.Participant, flow)
	record, err := s.c.Store.Get(ctx, flowKind, key)
	if errors.Is(err, store.ErrNotFound) {
		return refuse(CodeFlowEnded, "flow %s is gone", flow)
	}
	if err != nil {
		return unavailable(err, "reading flow %s", flow)
	}
	f, err := decodeFlow(record)
	if err != nil {
		return unavailable(err, "flow %s", flow)
	}
	if f.Unchecked.IsZero() {
		// It has ended, or another gateway over the same store has the answer.
		s.c.Live.saw(key, record.Version, f.effective())
		return nil
	}
	s.applyPin(f)
	if f.State.Ended() {
		return refuse(CodeFlowEnded, "flow %s has ended", flow)
	}
	permit, err := s.ask(ctx, f, PolicyRecheck)
	if err != nil {
		return err
	}
	if !permit {
		s.endDenied(ctx, f)
		return &Error{Code: CodePolicyDenied, Detail: "the policy denies flow " + flow, Dialect: f.Dialect}
	}
	return s.clear(ctx, key)
}

// clear takes the mark from a flow that the policy permits.
func (s *Service) clear(ctx context.Context, key string) error {
	var f *Flow
	record, err := s.c.Store.Update(ctx, flowKind, key, func(old store.Record) (store.Edit, error) {
		var err error
		f, err = decodeFlow(old)
		if err != nil {
			return store.Edit{}, err
		}
		if f.Unchecked.IsZero() {
			return store.Edit{}, store.ErrKeep
		}
		f.Unchecked = time.Time{}
		data, err := f.encode()
		return store.Edit{Data: data, Event: string(f.effective())}, err
	})
	if errors.Is(err, store.ErrNotFound) {
		return refuse(CodeFlowEnded, "flow is gone")
	}
	if err != nil {
		return unavailable(err, "recording the policy's answer")
	}
	s.c.Live.saw(key, record.Version, f.effective())
	s.c.Logger.Info("policy permits a flow that was started unchecked", "flow", f.ID)
	return nil
}

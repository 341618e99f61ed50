package tokens

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/edrgate/edrgate/store"
)

const (
	sweepEvery  = time.Minute
	pinsEvery   = 5 * time.Second
	settleEvery = time.Second // at most, where the store can be reached
	countEvery  = 5 * time.Minute
	countPause  = 20 * time.Millisecond // between two pages of a count
	maxMarks    = 1024

	// One record that cannot be read must not keep back the endings of the others.
	maxPinFailures = 5

	listPage = 500
)

// mark is the first use of a flow, to be recorded.
type mark struct {
	flow string
	at   time.Time
	live *liveFlow
}

// Run does what no request waits for, until ctx ends: it records first uses, tries again what the store did not take, asks
// the policy about flows that are unchecked, removes expired tombstones, watches the clock, and counts flows. It returns
// when all of that has ended.
func (s *Service) Run(ctx context.Context) {
	s.c.Live.begin(s)
	defer s.c.Live.end(s)
	var beside sync.WaitGroup
	beside.Go(func() { s.keepCounting(ctx) })
	beside.Go(func() { s.keepRechecking(ctx) })
	defer beside.Wait()
	s.retryPins(ctx) // what a process before has left in the journal
	watch := newClockWatch(s.c.Now, s.c.Elapsed)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	pins := time.NewTicker(pinsEvery)
	defer pins.Stop()
	settled := s.c.Elapsed() - settleEvery
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.marks:
			s.record(ctx, m)
		case <-pins.C:
			s.retryPins(ctx)
		case <-s.reached:
			now := s.c.Elapsed()
			if now-settled >= settleEvery {
				settled = now
				s.retryPins(ctx)
			}
		case <-sweep.C:
			s.tend(ctx, watch)
		}
	}
}

// tend does what is done once for all participants over a store.
func (s *Service) tend(ctx context.Context, watch *clockWatch) {
	if s.c.StoreIsTended {
		return
	}
	s.watchClock(watch)
	s.sweep(ctx)
}

// keepCounting counts now and then. A count reads the whole store, page by page with a pause between them, so that it is
// not felt by requests. The first comes at once: after a restart nothing else knows which reports are owed.
func (s *Service) keepCounting(ctx context.Context) {
	for {
		wait := countEvery
		if !s.count(ctx) {
			wait = storeTrouble
		}
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		}
	}
}

// watchClock raises an alarm if the clock was set.
func (s *Service) watchClock(watch *clockWatch) {
	jump := watch.look()
	if jump == 0 {
		return
	}
	s.c.Observer.Event(EventClockJump)
	s.c.Logger.Error("the machine's clock was set: expiry of tokens is off by as much until they are renewed", "by", jump.String())
}

// record writes the first use of a flow, once. What fails is left to a later request.
func (s *Service) record(ctx context.Context, m mark) {
	var f *Flow
	_, err := s.c.Store.Update(ctx, flowKind, flowKey(s.c.Participant, m.flow), func(old store.Record) (store.Edit, error) {
		var err error
		f, err = decodeFlow(old)
		if err != nil {
			return store.Edit{}, err
		}
		if !f.Used.IsZero() || f.State.Ended() {
			return store.Edit{}, store.ErrKeep
		}
		f.Used = m.at.UTC()
		f.startKnown()
		data, err := f.encode()
		return store.Edit{Data: data, Expires: old.Expires}, err
	})
	if err == nil {
		s.owe(f)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		m.live.marked.Store(false)
		s.c.Logger.Debug("first use of a flow not recorded", "flow", m.flow, "error", err)
	}
}

// retryPins gives the store the endings that it did not take before. What a later message has lifted or replaced
// meanwhile is left alone.
func (s *Service) retryPins(ctx context.Context) {
	settle := s.c.Live.settling()
	defer settle(s.c.Logger)
	failures := 0
	for key, p := range s.c.Live.waiting() {
		if key != s.keyOf(p) || s.c.Live.pinned(key) != p {
			continue // another participant's, or no longer the one that waits
		}
		_, err := s.carryOut(ctx, p)
		if err == nil {
			s.c.Logger.Info("ending recorded that was held in memory", "flow", p.message.ProcessID, "operation", p.op.name)
			continue
		}
		failures++
		if failures == maxPinFailures || ctx.Err() != nil {
			return // the store is still in trouble
		}
	}
}

// sweep removes what has expired. Log entries must outlive every access token that they stop.
func (s *Service) sweep(ctx context.Context) {
	keepLog := max(s.c.TokenTTL, s.c.TokenTTLWithoutRenewal, s.c.TombstoneTTL) + s.c.ClockSkew
	for {
		n, err := s.c.Store.Sweep(ctx, s.c.Now(), keepLog)
		if err != nil {
			if !errors.Is(err, store.ErrClosed) && ctx.Err() == nil {
				s.c.Logger.Warn("sweeping the store failed", "error", err)
			}
			return
		}
		if n == 0 || ctx.Err() != nil {
			return
		}
	}
}

// expiringWithin is how long before the end of a token that cannot be renewed an operator should know of it.
const expiringWithin = 30 * 24 * time.Hour

// count reports how many flows there are, and says so if some belong to nobody who could end them. On the way it ends those
// that were never used, and finds the reports that are owed. A record that cannot be read must not keep any of this
// from the flows behind it: it is left out, with an error in the log. It reports whether it came to the end.
func (s *Service) count(ctx context.Context) bool {
	c := FlowCount{ByState: map[State]int{Starting: 0, Started: 0, Suspended: 0, Completed: 0, Terminated: 0}}
	ended := 0
	skip := func(record string, err error) error {
		s.c.Logger.Error("flow record cannot be read and is left out of the count", "record", record, "error", err)
		return nil
	}
	err := s.each(ctx, countPause, skip, func(f *Flow) {
		if s.unused(f) && ended < maxUnusedEndings {
			ended++
			f = s.endUnused(ctx, f)
		}
		s.add(&c, f)
	})
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			s.c.Logger.Warn("counting flows failed", "error", err)
		}
		return false
	}
	s.c.Observer.Flows(c)
	s.c.Observer.Unchecked(s.rechecks.len())
	if c.Orphaned > 0 {
		s.c.Logger.Warn("flows of control planes that are not configured: name the former one, or end the flows", "flows", c.Orphaned)
	}
	return true
}

func (s *Service) add(c *FlowCount, f *Flow) {
	c.ByState[f.State]++
	// A flow that lives and owes nothing may have come to owe something since it was read.
	if f.Report != nil || f.State.Ended() {
		s.owe(f)
	}
	if f.State.Ended() {
		return
	}
	if !f.Unchecked.IsZero() {
		s.rechecks.put(f.ID, s.c.Now())
	}
	if !s.controlPlanes[s.owner(f)] {
		c.Orphaned++
	}
	// The last token that a consumer can have got is that of the start or of the last resume.
	end := f.Changed.Add(s.c.TokenTTLWithoutRenewal)
	if f.State == Started && !f.Renewable && end.Sub(s.c.Now()) < expiringWithin {
		c.Expiring++
	}
}

// each calls visit for every flow of the participant, with a pause between two pages. unreadable decides about a record that
// cannot be read: an error of it ends the round.
func (s *Service) each(
	ctx context.Context, pause time.Duration, unreadable func(record string, err error) error, visit func(*Flow),
) error {
	after := ""
	for {
		records, err := s.page(ctx, after, listPage)
		if err != nil {
			return err
		}
		for _, r := range records {
			f, err := decodeFlow(r)
			if err != nil {
				err = unreadable(r.ID, err)
				if err != nil {
					return err
				}
				continue
			}
			visit(f)
		}
		if len(records) < listPage {
			return nil
		}
		after = records[len(records)-1].ID
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// page returns the records of the participant's flows behind the one with record id after.
func (s *Service) page(ctx context.Context, after string, limit int) ([]store.Record, error) {
	records, err := s.c.Store.List(ctx, store.Query{
		Kind: flowKind, Label: "participant", Value: s.c.Participant, After: after, Limit: limit,
	})
	if err != nil {
		return nil, unavailable(err, "listing flows")
	}
	return records, nil
}

// unreadable is for rounds whose result would be wrong without a record.
func unreadable(record string, err error) error { return unavailable(err, "flow record %s", record) }

// Flows returns a page of the participant's flows behind the one with id after, in the order of their ids.
func (s *Service) Flows(ctx context.Context, after string, limit int) ([]*Flow, error) {
	if after != "" {
		after = flowKey(s.c.Participant, after)
	}
	records, err := s.page(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	flows := make([]*Flow, 0, len(records))
	for _, r := range records {
		f, err := decodeFlow(r)
		if err != nil {
			return nil, unreadable(r.ID, err)
		}
		flows = append(flows, f)
	}
	return flows, nil
}

// KeyUse counts the flows, and the control planes, whose refresh tokens or sealed values need each secret key. A signing key can be dropped when
// no flow needs what was derived from it and no access token of it can still be presented.
func (s *Service) KeyUse(ctx context.Context) (map[KeyID]int, error) {
	use := map[KeyID]int{}
	err := s.each(ctx, 0, unreadable, func(f *Flow) {
		needed := map[KeyID]struct{}{}
		for _, id := range []KeyID{f.CurrentKey, f.PreviousKey, f.FirstKey} {
			needed[id] = struct{}{}
		}
		if f.Source != nil {
			needed[f.Source.Key] = struct{}{}
		}
		delete(needed, "")
		for id := range needed {
			use[id]++
		}
	})
	if err != nil {
		return nil, err
	}
	for _, name := range s.c.ControlPlanes {
		key, err := s.controlPlaneSeal(ctx, name)
		if err != nil {
			return nil, err
		}
		if key != "" {
			use[key]++
		}
	}
	return use, nil
}

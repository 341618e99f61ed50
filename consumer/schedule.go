package consumer

import (
	"context"
	"sync"
	"time"
)

// maxQueued is how many due times wait for Run. What does not fit is found by the next scan.
const maxQueued = 1024

type dueEDR struct {
	id  string
	due time.Time
}

// fallsDue tells Run of an EDR. It never blocks.
func (r *Renewer) fallsDue(id string, due time.Time) {
	select {
	case r.due <- dueEDR{id, due}:
	default:
	}
}

// Run renews EDRs ahead of their expiry, at about 80 % of their tokens' life, until ctx ends. It finds what is due in the
// store, so nothing is lost when it starts anew. It returns when the renewals that it began have ended.
//
// Without Run, EDRs are renewed when they are used.
func (r *Renewer) Run(ctx context.Context) {
	s := schedule{renewer: r, due: map[string]time.Time{}, slots: make(chan struct{}, r.c.Parallel)}
	defer s.running.Wait()
	scan := time.NewTicker(r.c.Scan)
	defer scan.Stop()
	s.scan(ctx)
	next := time.NewTimer(s.begin(ctx))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-r.due:
			s.note(d.id, d.due)
		case <-scan.C:
			s.scan(ctx)
		case <-next.C:
		}
		next.Reset(s.begin(ctx))
	}
}

// schedule is what Run knows: the EDRs that fall due before the next scan.
type schedule struct {
	renewer *Renewer
	due     map[string]time.Time
	slots   chan struct{}
	running sync.WaitGroup
}

// note remembers what falls due soon. The rest is found by a scan, when it is due.
func (s *schedule) note(id string, due time.Time) {
	if due.After(s.renewer.cache.c.Now().Add(s.renewer.c.Scan)) {
		delete(s.due, id)
		return
	}
	s.due[id] = due
}

// scan reads the whole cache.
func (s *schedule) scan(ctx context.Context) {
	clear(s.due)
	err := s.renewer.cache.each(ctx, func(rec *record) {
		if rec.State == Started && !rec.Due.IsZero() {
			s.note(rec.ID, rec.Due)
		}
	})
	if err != nil && ctx.Err() == nil {
		s.renewer.cache.c.Logger.Warn("looking for EDRs that fall due failed", "error", err)
	}
}

// begin starts the renewals that are due, as many as may run, and returns when to look again.
func (s *schedule) begin(ctx context.Context) time.Duration {
	now := s.renewer.cache.c.Now()
	soonest := s.renewer.c.Scan
	for id, due := range s.due {
		if due.After(now) {
			soonest = min(soonest, due.Sub(now))
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			return waitTick // all are busy
		}
		delete(s.due, id)
		s.running.Go(func() {
			defer func() { <-s.slots }()
			s.renewAhead(ctx, id)
		})
	}
	return soonest
}

// renewAhead renews an EDR if it is still due: another process may have been first.
func (s *schedule) renewAhead(ctx context.Context, id string) {
	e, err := s.renewer.cache.Get(ctx, id)
	if err != nil || e.State != Started || e.Due.IsZero() || e.Due.After(s.renewer.cache.c.Now()) {
		return
	}
	_, err = s.renewer.renew(ctx, id, want{seen: e.Generation})
	if err != nil {
		s.renewer.cache.c.Logger.Debug("EDR not renewed ahead", "edr", id, "code", string(CodeOf(err)))
	}
}

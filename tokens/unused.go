package tokens

import (
	"context"
	"errors"

	"github.com/edrgate/edrgate/store"
)

// maxUnusedEndings bounds the flows that one count ends, so that a clock that was set wrongly does not end all of them
// before anybody has seen the alarm.
const maxUnusedEndings = 100

// unused reports whether a flow's EDR was never used for so long that nobody can be expected to have it. Control planes
// orphan flows: where the answer to a start does not reach EDC, it ends its side and never tells the data plane, and the
// EDR stays good for ever (observed on EDC 0.11 to 0.18).
func (s *Service) unused(f *Flow) bool {
	return s.c.UnacknowledgedTTL > 0 && f.Used.IsZero() && !f.State.Ended() &&
		!s.c.Now().Before(f.Created.Add(s.c.UnacknowledgedTTL))
}

// endUnused ends a flow that is still unused and returns it as it is then. What the store does not take is left to the
// next count.
func (s *Service) endUnused(ctx context.Context, f *Flow) *Flow {
	if s.c.Live.marked(f.key()) {
		return f // it was used just now, and that is about to be recorded
	}
	if s.c.Live.pinned(f.key()) != nil {
		return f // an ending or suspension that somebody asked for waits for the store, and must not be replaced
	}
	p := &pin{caller: Caller(s.owner(f)), op: opUnused, message: Message{ProcessID: f.ID, Reason: "its EDR was never used"}}
	ending, err := s.endKnown(ctx, p)
	s.c.Live.unpin(f.key(), p) // recorded, or nobody asked for it
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrClosed) && ctx.Err() == nil {
			s.c.Logger.Warn("flow whose EDR was never used could not be ended", "flow", f.ID, "error", err)
		}
		return f
	}
	if ending.Outcome == Applied {
		s.c.Observer.Event(EventUnused)
		s.c.Logger.Info("flow ended, since its EDR was never used",
			"flow", f.ID, "control_plane", s.owner(f), "created", f.Created, "report", string(ending.Report))
	}
	return ending.Flow
}

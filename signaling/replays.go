package signaling

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

// replays remembers the ids of tokens until they have expired, so that each is used once (RFC 7519 §4.1.7). It never
// forgets one earlier: with room for a bounded number, more of them are put off until there is room again.
type replays struct {
	limit int

	mu      sync.Mutex
	expires map[[sha256.Size]byte]time.Time
	swept   time.Time // when expired ids were last looked for
}

// sweepInterval is the least time between two looks for expired ids, so that a full memory does not cost each request one.
const sweepInterval = time.Second

var errReplaysFull = errors.New("too many tokens in use: the memory of their ids is full")

func newReplays(limit int) *replays {
	return &replays{limit: limit, expires: map[[sha256.Size]byte]time.Time{}}
}

// use takes an id that may be used once until it expires. The error is a refusal if it was used, errReplaysFull if it
// cannot be remembered.
func (r *replays) use(id string, now, expires time.Time) error {
	key := sha256.Sum256([]byte(id)) // of one size, however long the id
	r.mu.Lock()
	defer r.mu.Unlock()
	until, used := r.expires[key]
	if used && now.Before(until) {
		return refused("jti was used before")
	}
	if !used && len(r.expires) >= r.limit {
		r.sweep(now)
	}
	if !used && len(r.expires) >= r.limit {
		return errReplaysFull
	}
	r.expires[key] = expires
	return nil
}

func (r *replays) sweep(now time.Time) {
	if now.Sub(r.swept).Abs() < sweepInterval {
		return
	}
	r.swept = now
	for key, until := range r.expires {
		if !now.Before(until) {
			delete(r.expires, key)
		}
	}
}

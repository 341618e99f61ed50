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

	mu    sync.Mutex
	uses  map[[sha256.Size]byte]use
	swept time.Time // when expired ids were last looked for
}

// use is the use of a token.
type use struct {
	request     [sha256.Size]byte // digest of the request that it came with
	at, expires time.Time
}

// repeatFor is how long the very same request may come again with its token. A control plane whose connection breaks off
// sends one up to eight times, the token included, gives each 30 s, and takes a 401 for final (observed on EDC 0.18).
const repeatFor = 5 * time.Minute

// sweepInterval is the least time between two looks for expired ids, so that a full memory does not cost each request one.
const sweepInterval = time.Second

var errReplaysFull = errors.New("too many tokens in use: the memory of their ids is full")

func newReplays(limit int) *replays {
	return &replays{limit: limit, uses: map[[sha256.Size]byte]use{}}
}

// use takes an id that may be used for one request until it expires. The error is a refusal if it was used for another
// one, errReplaysFull if it cannot be remembered.
func (r *replays) use(id string, request [sha256.Size]byte, now, expires time.Time) error {
	key := sha256.Sum256([]byte(id)) // of one size, however long the id
	r.mu.Lock()
	defer r.mu.Unlock()
	before, used := r.uses[key]
	if used && now.Before(before.expires) {
		if before.request == request && now.Sub(before.at) < repeatFor {
			return nil
		}
		return refused("jti was used before")
	}
	if !used && len(r.uses) >= r.limit {
		r.sweep(now)
	}
	if !used && len(r.uses) >= r.limit {
		return errReplaysFull
	}
	r.uses[key] = use{request: request, at: now, expires: expires}
	return nil
}

func (r *replays) sweep(now time.Time) {
	if now.Sub(r.swept).Abs() < sweepInterval {
		return
	}
	r.swept = now
	for key, u := range r.uses {
		if !now.Before(u.expires) {
			delete(r.uses, key)
		}
	}
}

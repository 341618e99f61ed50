package tokens

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
)

// verdicts remembers verified tokens by the SHA-256 of their text. It belongs to one Service, that is to one
// configuration, participant and key ring. Only tokens whose signature verified get in, so nobody without our key can
// fill it. It is bounded, and gives up what was not used lately (second chance).
type verdicts struct {
	shards [verdictShards]verdictShard
}

const verdictShards = 64

type tokenHash [sha256.Size]byte

type verdictShard struct {
	mu    sync.RWMutex
	byKey map[tokenHash]*verdict
	ring  []*verdict
	hand  int
	limit int
}

type verdict struct {
	key    tokenHash
	access *Access
	used   atomic.Bool
}

func newVerdicts(entries int) *verdicts {
	v := new(verdicts)
	limit := max(1, entries/verdictShards)
	for i := range v.shards {
		v.shards[i].byKey = map[tokenHash]*verdict{}
		v.shards[i].limit = limit
	}
	return v
}

// shard picks by bytes of a cryptographic hash: nobody can choose tokens that crowd one shard.
func (v *verdicts) shard(key *tokenHash) *verdictShard { return &v.shards[key[0]%verdictShards] }

func (v *verdicts) get(key *tokenHash) *Access {
	s := v.shard(key)
	s.mu.RLock()
	e := s.byKey[*key]
	s.mu.RUnlock()
	if e == nil {
		return nil
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.access
}

// put remembers a verified token and returns what is remembered: the earlier entry if another request came first, unless
// its flow had to be read again.
func (v *verdicts) put(key *tokenHash, a *Access) *Access {
	s := v.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.byKey[*key]
	if old != nil && !old.access.live.isUnread() {
		return old.access
	}
	e := &verdict{key: *key, access: a}
	s.byKey[*key] = e
	if old != nil {
		s.ring[slices.Index(s.ring, old)] = e
		return a
	}
	if len(s.ring) < s.limit {
		s.ring = append(s.ring, e)
		return a
	}
	for s.ring[s.hand].used.Swap(false) {
		s.hand = (s.hand + 1) % len(s.ring)
	}
	delete(s.byKey, s.ring[s.hand].key)
	s.ring[s.hand] = e
	s.hand = (s.hand + 1) % len(s.ring)
	return a
}

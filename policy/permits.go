package policy

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxPermits bounds the permits that are kept.
const maxPermits = 8192

// permits are the questions that were permitted a moment ago. Denials and missing answers are never kept: both must be
// able to change at once.
type permits struct {
	ttl time.Duration

	mu    sync.Mutex
	until map[[sha256.Size]byte]time.Time
}

func newPermits(ttl time.Duration) *permits {
	return &permits{ttl: ttl, until: map[[sha256.Size]byte]time.Time{}}
}

func (p *permits) has(question [sha256.Size]byte, now time.Time) bool {
	if p.ttl == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	until, kept := p.until[question]
	// A clock that was set back must not make a permit last.
	return kept && now.Before(until) && !now.Before(until.Add(-p.ttl))
}

func (p *permits) put(question [sha256.Size]byte, now time.Time) {
	if p.ttl == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.until) >= maxPermits {
		p.makeRoom(now)
	}
	p.until[question] = now.Add(p.ttl)
}

// makeRoom drops what has expired, or else any one: it is only asked about again. The caller holds the lock.
func (p *permits) makeRoom(now time.Time) {
	for question, until := range p.until {
		if !now.Before(until) {
			delete(p.until, question)
		}
	}
	for question := range p.until {
		if len(p.until) < maxPermits {
			return
		}
		delete(p.until, question)
	}
}

package jwks

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Bounds of the cache.
const (
	// MaxAge is how long a set is used without asking again, and so how long a withdrawn key may go on working.
	MaxAge = 5 * time.Minute

	// staleIfError is how much longer a set is used while its source fails. It has an end: whoever stole a key and can
	// keep the issuer away would otherwise never lose it.
	staleIfError = time.Hour

	// minInterval is the least time between two tries. Anybody can write a key id into a token.
	minInterval = 10 * time.Second
)

// ErrUnknownKey is returned if a set that has just been fetched has no key of that id: a definite no.
var ErrUnknownKey = errors.New("the key set has no key of this id")

// UnavailableError says that nobody can tell now whether there is such a key.
type UnavailableError struct {
	// After is when to ask again.
	After time.Duration

	cause error
}

// Error says why, for the log.
func (e *UnavailableError) Error() string { return "key set is not available: " + e.cause.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.cause }

// RetryAfter returns when to ask again.
func (e *UnavailableError) RetryAfter() time.Duration { return e.After }

var (
	errTooSoon = errors.New("key id is unknown and the set was fetched a moment ago")
	errWait    = errors.New("the wait for another fetch was given up")
)

// Set is the key set of one issuer. It is safe for concurrent use. It has no goroutines of its own.
type Set struct {
	source source
	now    func() time.Time

	fetching chan struct{} // held by the one who fetches

	mu      sync.Mutex // guards what follows; never held while fetching
	keys    keys       // last good one; nil: none yet
	fetched time.Time  // when it was asked for
	tried   time.Time  // when anything was last asked for
	failure error      // of the last try
}

// state is what was known at one moment.
type state struct {
	keys    keys
	fetched time.Time
	tried   time.Time
	failure error
}

func (s *Set) state() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state{s.keys, s.fetched, s.tried, s.failure}
}

// Keys returns the keys with an id, of which there can be several of different kinds (RFC 7517 §4.5). The error is
// ErrUnknownKey, or an *UnavailableError if that cannot be told.
//
// An id that is not in the set has it fetched again, since issuers begin to use a new key without notice; but not more
// often than every 10 s.
func (s *Set) Keys(ctx context.Context, kid string) ([]crypto.PublicKey, error) {
	asked := s.now()
	known := s.state()
	if known.keys[kid] != nil && within(asked, known.fetched, MaxAge) {
		return known.keys[kid], nil
	}
	usable := known.keys[kid] != nil && within(asked, known.fetched, MaxAge+staleIfError)
	known, err := s.refresh(ctx, asked, usable)
	if err != nil {
		return nil, &UnavailableError{After: minInterval, cause: err}
	}
	// What was fetched after the token came is an answer, even if another request asked for it.
	if known.failure == nil && !known.fetched.Before(asked) {
		found := known.keys[kid]
		if found == nil {
			return nil, ErrUnknownKey
		}
		return found, nil
	}
	// The source fails, or it is too early to ask it again.
	if known.keys[kid] != nil && within(asked, known.fetched, MaxAge+staleIfError) {
		return known.keys[kid], nil
	}
	reason := known.failure
	if reason == nil {
		reason = errTooSoon
	}
	return nil, &UnavailableError{After: max(time.Second, known.tried.Add(minInterval).Sub(asked)), cause: reason}
}

// within reports whether now is in the time that begins at start. A clock that was set back is not.
func within(now, start time.Time, long time.Duration) bool {
	return !now.Before(start) && now.Before(start.Add(long))
}

// refresh fetches the set unless that was tried a moment ago, and returns what is known then. One request fetches; the
// others wait for it, or go on with what they have if that is usable.
func (s *Set) refresh(ctx context.Context, asked time.Time, usable bool) (state, error) {
	select {
	case s.fetching <- struct{}{}:
	default:
		if usable {
			return s.state(), nil
		}
		select {
		case s.fetching <- struct{}{}:
		case <-ctx.Done():
			return state{}, fmt.Errorf("%w: %w", errWait, ctx.Err())
		}
	}
	defer func() { <-s.fetching }()
	known := s.state()
	if within(s.now(), known.tried, minInterval) {
		return known, nil
	}
	began := s.now()
	// Not with the request's context: a stranger who sends a token and leaves would end the fetch for all who wait, and
	// use up the try. The source has a timeout of its own.
	fetched, err := s.source.fetch(context.WithoutCancel(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried, s.failure = began, err
	if err == nil {
		s.keys, s.fetched = fetched, began
	}
	return state{s.keys, s.fetched, s.tried, s.failure}, nil
}

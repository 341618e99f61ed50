package authserver

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// Config holds what a Source needs.
type Config struct {
	// Transport connects to the token endpoints. It must check what it dials and follow no redirect. Required.
	Transport http.RoundTripper

	// OncePerJTI is for receivers that refuse a token whose jti they have seen (RFC 7519 §4.1.7), as EDC does: such a
	// token is given out once. Default: every token is used until it expires.
	OncePerJTI bool

	// Timeout bounds one request. Default: 5 s.
	Timeout time.Duration

	// Now is the clock. Default: the system's.
	Now func() time.Time
}

// Bounds of a Source.
const (
	// maxEntries bounds the grants that are remembered. The one not used for longest goes first.
	maxEntries = 1024

	// refusedAge and troubleAge are how long a server is left alone for a grant that it refused, or after trouble.
	refusedAge = 10 * time.Second
	troubleAge = 2 * time.Second
)

// Source gives tokens. It is safe for concurrent use and has no goroutines of its own.
type Source struct {
	client *http.Client
	once   bool

	timeout time.Duration // of one request
	now     func() time.Time

	mu      sync.Mutex // guards what follows; never held while a server is asked
	entries map[Grant]*entry
	used    *list.List // of *entry, the one used last in front
}

// entry is what is known for one grant.
type entry struct {
	grant   Grant
	element *list.Element

	kept    fetched   // zero: none
	failure *Error    // of the last try
	retry   time.Time // no try before it
	flight  *flight   // nil: nobody asks now
}

// flight is one request to a server that any number of callers wait for.
type flight struct {
	done  chan struct{} // closed when what follows is set
	token tokens.Secret // empty: none, or not to be shared
	err   *Error
}

// New returns a Source that knows no token yet.
func New(c Config) *Source {
	s := &Source{
		client: &http.Client{
			Transport: plainTransport{c.Transport},
			// Another host must not get the secret.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		once:    c.OncePerJTI,
		timeout: cmp.Or(c.Timeout, fetchTimeout),
		now:     c.Now,
		entries: map[Grant]*entry{},
		used:    list.New(),
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Token returns a token for the grant, and whether it was kept from earlier: then one that is refused may have been
// withdrawn, see Drop. The error is an *Error, or the context's.
//
// One caller asks the server. It goes on when that caller's context ends, since others may wait for the answer.
func (s *Source) Token(ctx context.Context, g Grant) (tokens.Secret, bool, error) {
	for {
		s.mu.Lock()
		e := s.entryOf(g)
		now := s.now()
		if e.kept.token != "" && now.Before(e.kept.until) {
			token := e.kept.token
			s.mu.Unlock()
			return token, true, nil
		}
		if e.failure != nil && now.Before(e.retry) {
			failure := *e.failure
			s.mu.Unlock()
			failure.After = e.retry.Sub(now)
			return "", false, &failure
		}
		f := e.flight
		if f == nil {
			f = &flight{done: make(chan struct{})}
			e.flight = f
			s.mu.Unlock()
			return s.ask(ctx, e, f)
		}
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return "", false, context.Cause(ctx)
		}
		if f.err != nil {
			return "", false, f.err
		}
		if f.token != "" {
			return f.token, false, nil
		}
	}
}

// errPanicked stands for a fetch that did not come to an end.
var errPanicked = errors.New("the request for a token panicked")

// ask makes the flight and shares its outcome.
func (s *Source) ask(ctx context.Context, e *entry, f *flight) (tokens.Secret, bool, error) {
	got, failed := fetched{}, &Error{Server: e.grant.Server(), reason: errPanicked.Error(), cause: errPanicked}
	defer func() { s.land(e, f, got, failed) }()
	got, failed = s.fetch(context.WithoutCancel(ctx), e.grant)
	if failed != nil {
		failed.After = troubleAge
		if failed.Refused {
			failed.After = refusedAge
		}
		return "", false, failed
	}
	return got.token, false, nil
}

func (s *Source) land(e *entry, f *flight, got fetched, failed *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	e.flight = nil
	e.kept, e.failure = fetched{}, failed
	if failed != nil {
		f.err = failed
		e.retry = s.now().Add(failed.After)
		return
	}
	if s.once && claimsOf(got.token).JTI != nil {
		return
	}
	f.token, e.kept = got.token, got
}

// entryOf returns the entry of a grant, a new one if need be. The caller holds s.mu.
func (s *Source) entryOf(g Grant) *entry {
	e := s.entries[g]
	if e != nil {
		s.used.MoveToFront(e.element)
		return e
	}
	e = &entry{grant: g}
	e.element = s.used.PushFront(e)
	s.entries[g] = e
	if s.used.Len() > maxEntries {
		oldest, _ := s.used.Remove(s.used.Back()).(*entry)
		delete(s.entries, oldest.grant) // who waits for its flight has the flight
	}
	return e
}

// Drop forgets a token that was refused, so that the next request has a new one, and reports whether it did. It keeps
// one that has only just been fetched: a receiver that refuses whatever it is shown would have the server asked for each
// request.
func (s *Source) Drop(g Grant, token tokens.Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[g]
	if e == nil || e.kept.token != token || s.now().Sub(e.kept.began) < refusedAge {
		return false
	}
	e.kept = fetched{}
	return true
}

package did

import (
	"context"
	"crypto"
	"fmt"
	"net/url"
	"time"
)

// flight is one fetch that any number of callers wait for.
type flight struct {
	number  uint64 // counts up over all flights
	waiters int    // guarded by Resolver.mu
	cancel  context.CancelCauseFunc

	done chan struct{} // closed when doc and err are set
	doc  *document
	err  *Error
}

// findWeb returns a key of a did:web.
//
// A definite no needs a document that was asked for after this call began: the consumer publishes its key before it
// signs, but a fetch that was already under way may have seen the document of before. So a caller that joined such a
// fetch in vain looks once more.
func (r *Resolver) findWeb(ctx context.Context, id identifier, fragment string, past bool) (crypto.PublicKey, *Error) {
	place, err := r.reach.document(id.place)
	if err != nil {
		return nil, id.fail(CodeDenied, err).after(defaultNegativeAge)
	}
	r.mu.Lock()
	before := r.started
	r.mu.Unlock()
	for {
		key, f, err := r.look(ctx, id, place, fragment, past)
		if f == nil {
			return key, err
		}
		err = r.wait(ctx, id, f)
		if err != nil {
			return nil, err
		}
		if f.err != nil {
			return r.standIn(id, fragment, past, f.err)
		}
		key, err = f.doc.key(fragment)
		if f.number > before || err == nil && !past {
			return key, err
		}
	}
}

// look answers from what is known, or returns the flight to wait for. The caller counts as one of its waiters.
func (r *Resolver) look(
	ctx context.Context, id identifier, place *url.URL, fragment string, past bool,
) (crypto.PublicKey, *flight, *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, id.fail(CodeClosed, ErrClosed)
	}
	now := r.now()
	rec := r.cache.get(id.did)
	forced := past
	if !past && rec.isFresh(now) {
		key, err := rec.doc.key(fragment)
		if err == nil {
			return key, nil, nil
		}
		forced = true
	}
	f := r.flights[id.did]
	if f != nil {
		f.waiters++
		return nil, f, nil
	}
	if rec.failure != nil && now.Before(rec.retry) {
		failure := rec.failure.after(rec.retry.Sub(now))
		key, err := rec.standIn(fragment, past, now, failure)
		return key, nil, err
	}
	if forced {
		wait := rec.limited(now)
		if wait > 0 && past && rec.isRecent(now) {
			// Nobody can have a newer one. Otherwise whoever sends wrong signatures would have them answered with "cannot
			// tell", and be asked to come again.
			key, err := rec.doc.key(fragment)
			return key, nil, err
		}
		if wait > 0 {
			return nil, nil, id.fail(CodeLimited, ErrRefetchLimited).after(wait)
		}
	}
	return nil, r.start(ctx, id, place), nil
}

// standIn returns a key seen before while the host fails, or the failure.
func (r *Resolver) standIn(id identifier, fragment string, past bool, failure *Error) (crypto.PublicKey, *Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, failure
	}
	return r.cache.get(id.did).standIn(fragment, past, r.now(), failure)
}

// standIn: a caller who wants to look past the cache has tried the old key already.
func (r *record) standIn(fragment string, past bool, now time.Time, failure *Error) (crypto.PublicKey, *Error) {
	if past || !r.isUsable(now) {
		return nil, failure
	}
	key, err := r.doc.key(fragment)
	if err != nil {
		return nil, failure
	}
	return key, nil
}

// start begins a flight. Its context has the values of the first caller's, for tracing, but not its end: a caller who
// goes away must not take the answer from the others.
func (r *Resolver) start(ctx context.Context, id identifier, place *url.URL) *flight {
	r.started++
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &flight{number: r.started, waiters: 1, cancel: cancel, done: make(chan struct{})}
	r.flights[id.did] = f
	r.fetching.Add(1)
	go r.fly(ctx, f, id, place)
	return f
}

func (r *Resolver) fly(ctx context.Context, f *flight, id identifier, place *url.URL) {
	defer r.fetching.Done()
	defer f.cancel(nil)
	ctx, cancel := context.WithTimeout(ctx, r.fetchTimeout)
	defer cancel()
	began := r.now()
	answer, err := r.fetchSafely(ctx, id, place)
	now := r.now()
	result := ResultOK
	switch {
	case err != nil:
		result = string(err.Code)
	case answer.doc.refusal != nil:
		result = string(answer.doc.refusal.Code)
	}
	r.observer.Fetched(result, now.Sub(began))
	r.land(f, id, answer, err, began, now)
}

// fetchSafely keeps a panic over a hostile document from ending the process: this goroutine has no server above it that
// would recover.
func (r *Resolver) fetchSafely(ctx context.Context, id identifier, place *url.URL) (fetched, *Error) {
	var answer fetched
	var failure *Error
	func() {
		defer func() {
			p := recover()
			if p != nil {
				failure = id.fail(CodeInternal, fmt.Errorf("panic: %v", p))
			}
		}()
		answer, failure = r.fetch(ctx, id, place)
	}()
	return answer, failure
}

// land writes the outcome down and wakes those who wait.
func (r *Resolver) land(f *flight, id identifier, answer fetched, err *Error, began, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(f.done)
	if r.flights[id.did] == f {
		delete(r.flights, id.did)
	}
	f.doc, f.err = answer.doc, err
	if err != nil && !err.ofHost() {
		return
	}
	rec := r.cache.get(id.did)
	if err != nil {
		age := time.Duration(float64(r.negativeAge) * (0.75 + r.rand()/2))
		f.err = err.after(age)
		rec.failure, rec.retry = f.err, now.Add(age)
		return
	}
	rec.failure = nil
	rec.doc, rec.fetched = answer.doc, began
	rec.fresh = began.Add(answer.fresh)
	rec.stale = rec.fresh
	if !answer.strict {
		rec.stale = rec.fresh.Add(r.staleIfError)
	}
	r.cache.account(rec)
}

// wait returns when f is done, or with an error when the caller's context is. The last caller to leave ends the fetch and
// sees it end, so that none outlives the calls it was made for.
func (r *Resolver) wait(ctx context.Context, id identifier, f *flight) *Error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && r.flights[id.did] == f {
		delete(r.flights, id.did)
	}
	r.mu.Unlock()
	if last {
		f.cancel(context.Canceled)
		<-f.done
	}
	return id.fail(CodeCanceled, context.Cause(ctx))
}

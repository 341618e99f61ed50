package consumer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// DefaultMaxReplayBytes is how much of a request's body is kept, so that the request can be sent again.
const DefaultMaxReplayBytes = 64 << 10 // 64 KiB

// closeWait is how long the transport may take to let go of a request body after the answer has come. It does so at once
// where it has sent all of it.
const closeWait = 250 * time.Millisecond

// Why a request was not sent again.
const (
	NotReplayedTooLarge = "request body is larger than what is kept of it"
	NotReplayedSending  = "request body is still being sent"
	NotReplayedBody     = "request body cannot be had again"
	NotReplayedMoved    = "the transfer was started anew with another endpoint"
)

// keptBody is a request body that remembers its first bytes while it is sent. Nothing is read ahead, so a streamed body
// streams. If the provider refuses the token, what was read is sent again, followed by what was not read yet.
type keptBody struct {
	source io.ReadCloser
	limit  int

	mu       sync.Mutex
	kept     []byte
	over     bool // more was read than is kept
	reading  bool // a Read of the transport is going on
	letGo    bool // the transport has closed it
	released bool // nobody will send it again
	closed   chan struct{}
}

func keepBody(source io.ReadCloser, limit int) *keptBody {
	return &keptBody{source: source, limit: limit, closed: make(chan struct{})}
}

var errBodyClosed = errors.New("edr: request body is closed")

// Read implements io.Reader for the transport.
func (b *keptBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.letGo {
		b.mu.Unlock()
		return 0, errBodyClosed
	}
	b.reading = true
	b.mu.Unlock()
	n, err := b.source.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	switch {
	case b.over || b.released:
	case len(b.kept)+n > b.limit:
		b.over, b.kept = true, nil
	default:
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}

// Close implements io.Closer for the transport. The source stays open for another attempt.
func (b *keptBody) Close() error {
	b.mu.Lock()
	first := !b.letGo
	b.letGo = true
	released := b.released
	b.mu.Unlock()
	if !first {
		return nil
	}
	close(b.closed)
	if released {
		return b.source.Close()
	}
	return nil
}

// release says that there will be no other attempt. The source is closed when the transport lets go of it.
func (b *keptBody) release() {
	b.mu.Lock()
	done := b.letGo && !b.released
	b.released, b.kept = true, nil
	b.mu.Unlock()
	if done {
		_ = b.source.Close()
	}
}

// again returns the body for another attempt, or why there can be none.
func (b *keptBody) again() (io.ReadCloser, string) {
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-b.closed:
	case <-timer.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over:
		return nil, NotReplayedTooLarge
	case !b.letGo || b.reading:
		return nil, NotReplayedSending
	}
	b.released = true
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b.kept), b.source), b.source}, ""
}

// attempt is a request whose body may be needed twice.
type attempt struct {
	request *http.Request
	kept    *keptBody // nil: there is no body, or the request can make it anew
}

// newAttempt prepares a request, which it may change.
func newAttempt(r *http.Request, limit int) *attempt {
	a := &attempt{request: r}
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		a.kept = keepBody(r.Body, limit)
		r.Body = a.kept
	}
	return a
}

// again returns the request for the second time, or why it cannot be sent.
func (a *attempt) again() (*http.Request, string) {
	r := a.request.Clone(a.request.Context())
	r.Trailer = a.request.Trailer // filled while the body is read
	switch {
	case a.kept != nil:
		body, why := a.kept.again()
		if why != "" {
			return nil, why
		}
		r.Body = body
	case a.request.GetBody != nil:
		body, err := a.request.GetBody()
		if err != nil {
			return nil, NotReplayedBody
		}
		r.Body = body
	}
	return r, ""
}

// release says that the request will not be sent again.
func (a *attempt) release() {
	if a.kept != nil {
		a.kept.release()
	}
}

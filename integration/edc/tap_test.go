//go:build interop

package edc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// exchange is one message of a control plane and the answer to it.
type exchange struct {
	method, path, message string
	status                int // 0: the gateway was away
	answer                string
}

func (e exchange) String() string {
	return fmt.Sprintf("%s %s\n%s\n-> %d\n%s", e.method, e.path, e.message, e.status, e.answer)
}

// tap stands between a control plane and the gateway and notes everything. It changes nothing, except that it can lose an answer.
type tap struct {
	server *httptest.Server

	mu        sync.Mutex
	exchanges []exchange
	open      int  // messages without an answer
	losing    bool // the next answer
}

// newTap puts a tap before a listener, host:port. If the test fails it says what went over the line at last.
func newTap(t testing.TB, behind string) *tap {
	line := &tap{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: behind}) },
		ModifyResponse: func(r *http.Response) error {
			answer, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			r.Body = io.NopCloser(bytes.NewReader(answer))
			line.note(r.Request, r.StatusCode, string(answer))
			if line.loses(r.Request) {
				return errLost
			}
			return nil
		},
		// A control plane sees what it would see without the tap: the connection is gone.
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			if !errors.Is(err, errLost) {
				line.note(r, 0, "")
			}
			panic(http.ErrAbortHandler)
		},
	}
	line.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line.opened(1)
		defer line.opened(-1)
		message, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(message))
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), messageKey{}, string(message))))
	}))
	t.Cleanup(func() {
		line.server.Close()
		if t.Failed() {
			line.show(t)
		}
	})
	return line
}

// show logs the last messages.
func (l *tap) show(t testing.TB) {
	const last = 5
	exchanges := l.saw()
	for _, e := range exchanges[max(0, len(exchanges)-last):] {
		t.Logf("signaling: %s", e)
	}
}

// messageKey is where the context of a request has its body, for when that was read.
type messageKey struct{}

func (l *tap) note(r *http.Request, status int, answer string) {
	if r.Method == http.MethodGet && status != 0 && status < 300 {
		return // a check, each second
	}
	message, _ := r.Context().Value(messageKey{}).(string)
	e := exchange{method: r.Method, path: r.URL.Path, message: message, status: status, answer: answer}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exchanges = append(l.exchanges, e)
}

// errLost is how an answer gets lost.
var errLost = errors.New("the answer is lost")

// loseAnswer loses the answer to the next message.
func (l *tap) loseAnswer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losing = true
}

func (l *tap) loses(r *http.Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.losing || r.Method != http.MethodPost {
		return false
	}
	l.losing = false
	return true
}

func (l *tap) opened(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open += n
}

// allAnswered reports whether no message waits for its answer, the last one was answered well, and all before unless the
// gateway was away.
func (l *tap) allAnswered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	away := false
	for _, e := range l.exchanges {
		away = e.status == 0
		if !away && e.status/100 != 2 {
			return false
		}
	}
	return l.open == 0 && !away
}

// saw returns the exchanges so far, without checks that were answered well.
func (l *tap) saw() []exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]exchange(nil), l.exchanges...)
}

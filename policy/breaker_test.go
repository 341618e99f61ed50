package policy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// server is a policy server without a network, so that the clock can be the test's.
type server struct {
	asked  atomic.Int32
	answer atomic.Value // func(*http.Request) (*http.Response, error)
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	return s.answer.Load().(func(*http.Request) (*http.Response, error))(r)
}

func answers(status int, body string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

func refuses(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (s *server) now(answer func(*http.Request) (*http.Response, error)) { s.answer.Store(answer) }

func newBreakerClient(t *testing.T, s *server) *Client {
	t.Helper()
	return newClient(t, "https://pdp.example/", func(c *Config) { c.next = s })
}

func (s *server) ask(t *testing.T, c *Client, want Reason) {
	t.Helper()
	_, err := c.Decide(t.Context(), question(tokens.PolicyStart))
	if want == "" {
		if err != nil {
			t.Errorf("got %v", err)
		}
		return
	}
	wantReason(t, err, want)
}

// TestBreaker: a server that is away is not asked for a while, then once, and then again as before.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(server)
		c := newBreakerClient(t, s)
		w := c.c.Observer.(*watcher)
		s.now(refuses)
		for range breakAfter {
			s.ask(t, c, ReasonConnect)
		}
		s.ask(t, c, ReasonBreaker)
		_, err := c.Decide(t.Context(), question(tokens.PolicyStart))
		var e *Error
		if !errors.As(err, &e) || e.RetryAfter() != breakFor || e.Request != "" {
			t.Errorf("got %v", err)
		}
		if s.asked.Load() != breakAfter || w.breaker != "open" {
			t.Errorf("asked %d times, the breaker is %s", s.asked.Load(), w.breaker)
		}

		time.Sleep(breakFor + time.Nanosecond) // of the test's clock
		s.ask(t, c, ReasonConnect)             // the one that looks whether it is back
		s.ask(t, c, ReasonBreaker)
		if s.asked.Load() != breakAfter+1 {
			t.Errorf("asked %d times", s.asked.Load())
		}

		time.Sleep(breakFor + time.Nanosecond)
		s.now(answers(200, `{"decision":true}`))
		s.ask(t, c, "")
		if w.breaker != "closed" {
			t.Errorf("the breaker is %s", w.breaker)
		}
	})
}

func TestWhatTheBreakerCounts(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		counts bool
	}{
		"connect":   {refuses, true},
		"timeout":   {hangs, true},
		"500":       {answers(500, ""), true},
		"429":       {answers(429, ""), true},
		"401":       {answers(401, ""), false},
		"400":       {answers(400, ""), false},
		"nonsense":  {answers(200, "nonsense"), false},
		"redirect":  {answers(302, ""), false},
		"a denial":  {answers(200, `{"decision":false}`), false},
		"a permit":  {answers(200, `{"decision":true}`), false},
		"too large": {answers(200, strings.Repeat(" ", maxAnswerBytes+1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := new(server)
				c := newBreakerClient(t, s)
				s.now(test.answer)
				for range 2 * breakAfter {
					_, _ = c.Decide(t.Context(), question(tokens.PolicyRenew))
				}
				if broke := s.asked.Load() == breakAfter; broke != test.counts {
					t.Errorf("asked %d times", s.asked.Load())
				}
			})
		})
	}
}

// TestCallersThatGiveUpAreNoFailures of the server.
func TestCallersThatGiveUpAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(server)
		c := newBreakerClient(t, s)
		s.now(hangs)
		for range 2 * breakAfter {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := c.Decide(ctx, question(tokens.PolicyRenew))
			cancel()
			wantReason(t, err, ReasonCanceled)
		}
		if s.asked.Load() != 2*breakAfter {
			t.Errorf("asked %d times", s.asked.Load())
		}
	})
}

// TestQuestionsAtOnce: a server that hangs is not given more than so many, and nobody waits for his turn longer than for
// an answer.
func TestQuestionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(server)
		c := newBreakerClient(t, s)
		var most, running atomic.Int32
		s.now(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			return hangs(r)
		})
		began := time.Now()
		var busy atomic.Int32
		done := make(chan struct{})
		const all = 3 * maxAtOnce
		for range all {
			go func() {
				_, err := c.Decide(t.Context(), question(tokens.PolicyRenew))
				if isOf(err, []Reason{ReasonBusy}) {
					busy.Add(1)
				}
				done <- struct{}{}
			}()
		}
		for range all {
			<-done
		}
		if most.Load() != maxAtOnce || busy.Load() == 0 || time.Since(began) > 2*DefaultTimeout {
			t.Errorf("%d at once, %d without a turn, after %s", most.Load(), busy.Load(), time.Since(began))
		}
	})
}

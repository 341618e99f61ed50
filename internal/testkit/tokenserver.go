package testkit

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TokenServer is the token endpoint of an authorization server (RFC 6749 §3.2) over a real socket.
type TokenServer struct {
	*httptest.Server

	mu     sync.Mutex
	forms  []url.Values
	answer http.HandlerFunc
}

// NewTokenServer returns a server that gives token-1, token-2 and so on for an hour each.
func NewTokenServer(t testing.TB) *TokenServer {
	t.Helper()
	s := new(TokenServer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := r.ParseForm()
		if err != nil || r.Method != http.MethodPost {
			t.Errorf("token endpoint: %s, %v", r.Method, err)
		}
		s.mu.Lock()
		s.forms = append(s.forms, r.PostForm)
		n, answer := len(s.forms), s.answer
		s.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		WriteToken(w, fmt.Sprintf("token-%d", n))
	}))
	t.Cleanup(s.Close)
	return s
}

// WriteToken answers with a token that lasts an hour.
func WriteToken(w http.ResponseWriter, token string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, token)
}

// Answer has the server answer so from now on.
func (s *TokenServer) Answer(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// AnswerText has the server answer with a status and a JSON body from now on.
func (s *TokenServer) AnswerText(status int, body string) {
	s.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// Forms are the requests so far.
func (s *TokenServer) Forms() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.forms)
}

// HostPort is where the server listens.
func (s *TokenServer) HostPort() string { return strings.TrimPrefix(s.URL, "http://") }

package caddymodule

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// seen is a request as the backend got it.
type seen struct {
	method, target, host, body string
	header, trailer            http.Header
	length                     int64
	chunked                    bool
}

// recordingBackend keeps what it gets and answers as told.
type recordingBackend struct {
	*httptest.Server
	mu       sync.Mutex
	requests []seen
}

func newRecordingBackend(t *testing.T, answer http.HandlerFunc) *recordingBackend {
	b := new(recordingBackend)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		b.requests = append(b.requests, seen{
			method: r.Method, target: r.RequestURI, host: r.Host, body: string(body), header: r.Header, trailer: r.Trailer,
			length: r.ContentLength, chunked: len(r.TransferEncoding) > 0,
		})
		b.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "data")
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *recordingBackend) hostport() string { return strings.TrimPrefix(b.URL, "http://") }

// last returns the only request since the last call.
func (b *recordingBackend) last(t *testing.T) seen {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) != 1 {
		t.Fatalf("the backend got %d requests, want 1", len(b.requests))
	}
	got := b.requests[0]
	b.requests = nil
	return got
}

func (b *recordingBackend) none(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) != 0 {
		t.Fatalf("the backend got %s %s, want nothing", b.requests[0].method, b.requests[0].target)
	}
}

// scriptedBackend reads requests and answers each with raw bytes; an empty answer closes the connection.
type scriptedBackend struct {
	listener net.Listener
	mu       sync.Mutex
	requests int
	conns    int
}

func newScriptedBackend(t *testing.T, answer func(n int, r *http.Request) string) *scriptedBackend {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	b := &scriptedBackend{listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			b.mu.Unlock()
			go b.serve(conn, answer)
		}
	}()
	return b
}

func (b *scriptedBackend) serve(conn net.Conn, answer func(int, *http.Request) string) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		b.mu.Lock()
		b.requests++
		n := b.requests
		b.mu.Unlock()
		text := answer(n, r)
		if text == "" {
			return
		}
		_, err = io.WriteString(conn, text)
		if err != nil {
			return
		}
	}
}

func (b *scriptedBackend) url() string { return "http://" + b.listener.Addr().String() }

func (b *scriptedBackend) counts() (requests, conns int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests, b.conns
}

// count returns how many requests came.
func (b *recordingBackend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.requests)
}

package demo

import (
	"io"
	"net"
	"net/http"
	"time"
)

// RequestTimeout bounds each request. The gateway itself waits for a DID host for 4 s.
const RequestTimeout = 10 * time.Second

// Greeting is the data that is worth all this.
const Greeting = "hello from the backend"

// NewBackend is the provider's own system, which knows nothing of tokens. It complains if it sees one.
func NewBackend() http.Handler {
	mux := http.NewServeMux()
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "the consumer's token has reached the backend", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, Greeting) // a gateway that has gone asks again
	}
	mux.HandleFunc("GET /orders/today", serve)
	mux.HandleFunc("GET /weather/today", serve)
	return mux
}

// Serve serves a handler on a free port of the loopback interface.
func Serve(handler http.Handler) (*http.Server, string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: RequestTimeout}
	go func() {
		_ = server.Serve(listener) // returns when the server is closed; requests would fail if it did earlier
	}()
	return server, PortOf(listener), nil
}

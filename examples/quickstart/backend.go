package main

import (
	"io"
	"net/http"
)

// greeting is the data that is worth all this.
const greeting = "hello from the backend"

// newBackend is the provider's own system, which knows nothing of tokens. It complains if it sees one.
func newBackend() http.Handler {
	mux := http.NewServeMux()
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "the consumer's token has reached the backend", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, greeting) // a gateway that has gone asks again
	}
	mux.HandleFunc("GET /orders/today", serve)
	mux.HandleFunc("GET /weather/today", serve)
	return mux
}

package caddymodule

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
)

// answeringPanics serves a request of a control plane or a renewal, and answers 500 if that panics. net/http would cut the
// connection instead, after which HTTP clients send the request again at once, up to five times in EDC. The store discards
// what a panicking change had begun.
func answeringPanics(w http.ResponseWriter, logger *slog.Logger, serve func(http.ResponseWriter)) {
	tracked := &writtenTracker{ResponseWriter: w}
	defer func() {
		fault := recover()
		if fault == nil {
			return
		}
		if fault == http.ErrAbortHandler {
			panic(fault)
		}
		logger.Error("a request was not carried out since its handler panicked: please report this", "panic", describePanic(fault), "stack", string(debug.Stack()))
		if tracked.written {
			panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
		}
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusInternalServerError)
	}()
	serve(tracked)
}

// describePanic says what was thrown. Only the runtime's own errors are quoted: others may hold what a request brought.
func describePanic(fault any) string {
	if err, ok := fault.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("a %T", fault)
}

// writtenTracker knows whether an answer has begun.
type writtenTracker struct {
	http.ResponseWriter
	written bool
}

// WriteHeader implements http.ResponseWriter.
func (w *writtenTracker) WriteHeader(status int) {
	w.written = true
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writtenTracker) Write(p []byte) (int, error) {
	w.written = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *writtenTracker) Unwrap() http.ResponseWriter { return w.ResponseWriter }

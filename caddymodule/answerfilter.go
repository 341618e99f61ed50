package caddymodule

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// backendHeaders are what handlers behind edr_auth may not say to the consumer: what tells of the backend and its
// software, and what sets state for our host or sends clients elsewhere. The last one has an option.
var backendHeaders = [...]string{"Server", "Via", "X-Powered-By", "Alt-Svc", "Set-Cookie"}

// backendTrailers are the same names, as handlers write trailers that they have not announced.
var backendTrailers = func() (names [len(backendHeaders)]string) {
	for i, name := range backendHeaders {
		names[i] = http.TrailerPrefix + name
	}
	return names
}()

// setCookieAt is the place of Set-Cookie in backendHeaders.
const setCookieAt = len(backendHeaders) - 1

// answerFilter keeps backendHeaders of an answer as they were before the next handler: what Caddy and handlers before us
// say stays. It is part of the grant, so that it costs no allocation.
type answerFilter struct {
	caddyhttp.ResponseWriterWrapper
	before      [len(backendHeaders)][]string
	withCookies bool
	written     bool
}

// of makes the filter one of w, and returns it.
func (f *answerFilter) of(w http.ResponseWriter, withCookies bool) http.ResponseWriter {
	f.ResponseWriter = w
	f.withCookies = withCookies
	header := w.Header()
	for i, name := range backendHeaders {
		f.before[i] = header[name]
	}
	return f
}

// filter is called before each header that is sent, of an interim answer (1xx) too.
func (f *answerFilter) filter() {
	header := f.Header()
	for i, name := range backendHeaders {
		switch {
		case i == setCookieAt && f.withCookies:
		case f.before[i] == nil:
			delete(header, name)
		default:
			header[name] = f.before[i]
		}
	}
}

// end is called when the next handler is done: what it has set by then goes out as trailers, or with the answer that somebody
// else gives to its error.
func (f *answerFilter) end() {
	f.filter()
	header := f.Header()
	for i, name := range backendTrailers {
		if i != setCookieAt || !f.withCookies {
			delete(header, name)
		}
	}
}

// WriteHeader implements http.ResponseWriter.
func (f *answerFilter) WriteHeader(status int) {
	f.filter()
	f.written = f.written || status >= http.StatusOK || status == http.StatusSwitchingProtocols
	f.ResponseWriter.WriteHeader(status)
}

// begin filters the header of an answer that a handler does not begin by itself.
func (f *answerFilter) begin() {
	if !f.written {
		f.filter()
		f.written = true
	}
}

// Write implements http.ResponseWriter.
func (f *answerFilter) Write(p []byte) (int, error) {
	f.begin()
	return f.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (f *answerFilter) ReadFrom(r io.Reader) (int64, error) {
	f.begin()
	return f.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError is what http.ResponseController looks for.
func (f *answerFilter) FlushError() error {
	f.begin()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

// Interface guards
var (
	_ http.ResponseWriter = (*answerFilter)(nil)
	_ io.ReaderFrom       = (*answerFilter)(nil)
)

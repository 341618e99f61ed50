package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// RequestRules say which data requests may pass, beside what the token opens. Those of a route and those of the site must
// both be met.
type RequestRules struct {
	// Methods are the methods that may pass; others get 405. GET stands for HEAD too. Default: all that are served at all.
	Methods []string `json:"methods,omitempty"`

	// Query are the names of the query parameters that may be there, decoded and compared exactly; a request with another
	// one gets 400. Default: any.
	Query []string `json:"query,omitempty"`

	// NoQuery lets no query parameter pass. Default: see Query.
	NoQuery bool `json:"no_query,omitempty"`
}

// options are the ones of the Caddyfile.
func (o *RequestRules) options() map[string]func(*caddyfile.Dispenser) error {
	return map[string]func(*caddyfile.Dispenser) error{
		"methods":  o.parseMethods,
		"query":    func(d *caddyfile.Dispenser) error { return appendNames(d, &o.Query) },
		"no_query": func(d *caddyfile.Dispenser) error { return setFlag(d, &o.NoQuery) },
	}
}

func (o *RequestRules) parseMethods(d *caddyfile.Dispenser) error {
	err := appendNames(d, &o.Methods)
	if err != nil {
		return err
	}
	err = o.check()
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (o *RequestRules) check() error {
	for _, method := range o.Methods {
		switch {
		case !isToken(method): // RFC 9110 §9.1
			return fmt.Errorf("methods: %q is not a method", method)
		case method != strings.ToUpper(method):
			// RFC 9110 §9.1: methods are case-sensitive, and "get" is none that anybody serves.
			return fmt.Errorf("methods: %q: methods are written in upper case", method)
		case method == http.MethodConnect || method == http.MethodTrace:
			return fmt.Errorf("methods: %s is never served", method)
		}
	}
	if slices.Contains(o.Query, "") {
		return errors.New("query takes no empty names")
	}
	if o.NoQuery && len(o.Query) > 0 {
		return errors.New("no_query together with query says two different things")
	}
	return nil
}

// isZero reports whether everything passes.
func (o *RequestRules) isZero() bool { return len(o.Methods)+len(o.Query) == 0 && !o.NoQuery }

// requestRules are RequestRules ready for use. nil lets everything pass.
type requestRules struct {
	methods map[string]bool // nil: any
	allow   string          // of the Allow header
	query   map[string]bool // nil: any
}

func newRequestRules(o RequestRules) *requestRules {
	if o.isZero() {
		return nil
	}
	r := new(requestRules)
	if len(o.Methods) > 0 {
		r.methods = map[string]bool{}
		var names []string
		add := func(method string) {
			if !r.methods[method] {
				r.methods[method] = true
				names = append(names, method)
			}
		}
		for _, method := range o.Methods {
			add(method)
			if method == http.MethodGet {
				add(http.MethodHead) // RFC 9110 §9.3.2: the same without the content
			}
		}
		r.allow = strings.Join(names, ", ")
	}
	if len(o.Query) > 0 || o.NoQuery {
		r.query = map[string]bool{}
		for _, name := range o.Query {
			r.query[name] = true
		}
	}
	return r
}

// takesMethod reports whether a method may pass. CONNECT gets here only as the way in which HTTP/2 and HTTP/3 open a
// WebSocket, which is a GET in HTTP/1.1 (RFC 8441 §5).
func (r *requestRules) takesMethod(method string) bool {
	if r == nil || r.methods == nil {
		return true
	}
	if method == http.MethodConnect {
		method = http.MethodGet
	}
	return r.methods[method]
}

// maxToldBytes is how much of the name of a parameter is told back.
const maxToldBytes = 64

// checkQuery returns "" if a raw query may pass, else why not, for the client. Where names count, everything counts on
// which two parsers of queries differ: a backend that splits at ";" too, as many did, would find a parameter there that
// is part of a value here.
func (r *requestRules) checkQuery(raw string) string {
	if r == nil || r.query == nil || raw == "" {
		return ""
	}
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		if strings.Contains(pair, ";") {
			return "a semicolon in the query must be encoded"
		}
		name, _, _ := strings.Cut(pair, "=")
		if strings.ContainsAny(name, "%+") {
			decoded, err := url.QueryUnescape(name)
			if err != nil {
				return "broken percent-encoding in the query"
			}
			name = decoded
		}
		if !r.query[name] {
			return fmt.Sprintf("query parameter %q is not allowed", strings.ToValidUTF8(name[:min(len(name), maxToldBytes)], ""))
		}
	}
	return ""
}

package caddymodule

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func contextWithLocalAddr(r *http.Request, local net.Addr) context.Context {
	return context.WithValue(r.Context(), http.LocalAddrContextKey, local)
}

func TestAddresses(t *testing.T) {
	for public, want := range map[string]string{
		"https://data.example":             "https://data.example",
		"https://Data.Example/":            "https://data.example",
		"https://data.example:443/public/": "https://data.example:443/public",
		"https://data.example:80":          "https://data.example:80",
		"https://[2001:DB8::1]:8443/x":     "https://[2001:db8::1]:8443/x",
		"http://localhost:8080":            "http://localhost:8080",
		"http://127.0.0.1":                 "http://127.0.0.1",
		"http://[::1]":                     "http://[::1]",
	} {
		a, err := newAddresses(public, "/token", false)
		if err != nil || a.public != want {
			t.Errorf("%s: %v, %v", public, a, err)
		}
	}
	for _, public := range []string{
		"data.example", "//data.example", "ftp://data.example", "https://", "https://u:p@data.example",
		"https://data.example/a//b", "https://data.example/%2e%2e/x", "https://data.example/?", "https://data.example#x",
		"https://data.example:99999", "https://data.example:0", "https://data.example:",
		"http://data.example", "http://localhost.example", "http://10.0.0.1", "https://data.example/\x00",
	} {
		_, err := newAddresses(public, "/token", false)
		if err == nil {
			t.Errorf("%q was accepted", public)
		}
	}
	none, err := newAddresses("", "/token", false)
	if err != nil || none.refreshEndpoint() != "" || len(none.renewals)+len(none.keySets) != 0 {
		t.Errorf("of a participant that gives no data: %+v, %v", none, err)
	}
	_, err = newAddresses("http://data.example", "/token", true)
	if err != nil {
		t.Errorf("insecure: %v", err)
	}
}

// A password in a URL of the configuration is refused, and must not be in the error: it goes to the log of whoever reloads.
func TestRefusedURLIsNamedWithoutItsUser(t *testing.T) {
	for text, want := range map[string]string{
		"https://data.example/x":           "https://data.example/x",
		"https://user:CANARY@data.example": "https://redacted@data.example",
		"user:CANARY@data.example:80":      "redacted@data.example:80",
		"https://a:CANARY@b@c":             "https://redacted@c",
	} {
		if got := withoutUser(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	_, public := newAddresses("https://user:CANARY@data.example", "/token", false)
	_, backends := newBackendList([]string{"http://user:CANARY@data.example"})
	backend := checkBackend("http://user:CANARY@data.example", "http://user:CANARY@data.example")
	for _, err := range []error{public, backends, backend} {
		if err == nil || strings.Contains(err.Error(), "CANARY") {
			t.Error(err)
		}
	}
}

func TestFoldHost(t *testing.T) {
	for host, want := range map[string]string{
		"Data.Example": "data.example", "data.example:443": "data.example", "data.example:80": "data.example",
		"data.example:8443": "data.example:8443", "[2001:DB8::1]:443": "[2001:db8::1]", "[::1]": "[::1]", "": "",
	} {
		if got := foldHost(host); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
}

func FuzzRenewalPath(f *testing.F) {
	a, err := newAddresses("https://data.example/public", "/token", false)
	if err != nil {
		f.Fatal(err)
	}
	owner, book := &participant{address: a}, newAddressBook("/token")
	err = book.add(owner)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"/token", "/public/token/", "/x/../token", "/%74oken", "//token", "/token;v=1", "/\x00"} {
		f.Add(seed, "data.example")
	}
	f.Fuzz(func(t *testing.T, path, host string) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.URL.Path, r.Host = path, host
		p, ok := book.renewal(r)
		if !ok {
			if p != nil {
				t.Error("an owner of what is no renewal")
			}
			return
		}
		// Whatever is taken for a renewal is one to the handlers of the data path as well, and to nobody an encoding of
		// something else.
		current, ok := plainPath(r.URL)
		if !ok || current != "/token" && current != "/public/token" {
			t.Errorf("%q is taken for a renewal", path)
		}
		if (p == owner) != (current == "/public/token" && foldHost(host) == "data.example") {
			t.Errorf("%q at %q is that of %v", path, host, p)
		}
	})
}

// An address decides before the current path does: one that was stripped of its prefix is still that of who it was sent to.
func TestAddressBook(t *testing.T) {
	book := newAddressBook("/token")
	owners := map[string]*participant{}
	for name, public := range map[string][]string{
		"outer": {"https://data.example", "https://data.example/special"},
		"inner": {"https://data.example/inner"}, "deep": {"https://data.example/inner/deep"}, "host": {"https://host.example/inner"},
	} {
		a, err := newAddresses(public[0], "/token", false)
		if err != nil {
			t.Fatal(err)
		}
		for _, more := range public[1:] {
			_, err = a.add(more)
			if err != nil {
				t.Fatal(err)
			}
		}
		owners[name] = &participant{name: name, address: a}
		err = book.add(owners[name])
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		sent, current string // URL as sent, and the path that handlers before left
		owner         string
		renewal       bool
	}{
		{"http://data.example/token", "", "outer", true},
		{"http://data.example/special/token/", "", "outer", true},
		{"http://data.example/inner/token", "", "inner", true},
		{"http://data.example/inner/token", "/token", "inner", true},
		{"http://data.example/inner//token", "", "inner", true},
		{"http://data.example/inner/deep/token", "/deep/token", "deep", true},
		{"http://data.example/inner/deep/token", "/token", "deep", true},
		{"http://host.example:443/inner/token", "", "host", true},
		{"http://host.example/token", "", "", true},
		{"http://data.example/other/token", "/token", "", true},
		{"http://data.example/other/token", "", "", false},
		{"http://data.example/inner/tokens", "", "", false},
		{"http://data.example/Inner/token", "", "", false},
	} {
		r := httptest.NewRequest(http.MethodPost, tt.sent, nil)
		if tt.current != "" {
			r = withOriginal(r, tt.current)
		}
		p, ok := book.renewal(r)
		if ok != tt.renewal || p != owners[tt.owner] {
			t.Errorf("%s as %q: %v, %v", tt.sent, tt.current, p, ok)
		}
	}
	twice, err := newAddresses("https://data.example/inner/", "/token", false)
	if err != nil {
		t.Fatal(err)
	}
	err = book.add(&participant{name: "twice", address: twice})
	if err == nil {
		t.Error("one address of two participants")
	}
}

// withOriginal is the request as handlers see it after its path was rewritten.
func withOriginal(r *http.Request, current string) *http.Request {
	original := *r
	u := *r.URL
	original.URL = &u
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
	r.URL.Path = current
	return r
}

package caddymodule

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
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
		"", "data.example", "//data.example", "ftp://data.example", "https://", "https://u:p@data.example",
		"https://data.example/a//b", "https://data.example/%2e%2e/x", "https://data.example/?", "https://data.example#x",
		"http://data.example", "http://localhost.example", "http://10.0.0.1", "https://data.example/\x00",
	} {
		_, err := newAddresses(public, "/token", false)
		if err == nil {
			t.Errorf("%q was accepted", public)
		}
	}
	_, err := newAddresses("http://data.example", "/token", true)
	if err != nil {
		t.Errorf("insecure: %v", err)
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

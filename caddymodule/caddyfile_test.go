package caddymodule

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// A duration of 0 would be taken for the default, which is anything but 0.
func TestDurationsAboveZero(t *testing.T) {
	for _, option := range []string{"token_ttl", "token_ttl_without_renewal", "tombstone_ttl", "clock_skew"} {
		for _, value := range []string{"0", "0s", "-5m"} {
			wantOptionRefused(t, option+" "+value, option+`: "`+value+`" is not a duration above 0, such as 5m or 30d, at Testfile:2`)
		}
	}
	for _, option := range []string{"cache_ttl", "timeout"} {
		wantOptionRefused(t, "resolver {\n"+option+" 0s\n}", option+`: "0s" is not a duration above 0, such as 5m or 30d, at Testfile:3`)
	}
	err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\nrefresh_ttl 0s\n}"))
	if err != nil {
		t.Errorf("refresh_ttl 0s, which is its default: %v", err)
	}
}

func TestAsyncRouteCaddyfile(t *testing.T) {
	app := new(App)
	err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\nroute r {\ndataset a\nasync\n}\nroute s {\ndataset b\n}\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if !app.Routes["r"].Async || app.Routes["s"].Async {
		t.Errorf("%+v, %+v", app.Routes["r"], app.Routes["s"])
	}
	wantOptionRefused(t, "route r {\ndataset a\nasync yes\n}", "wrong argument count")
	wantOptionRefused(t, "route r {\ndataset a\nasync {\nx\n}\n}", "no block is expected here")
}

func wantOptionRefused(t *testing.T, line, want string) {
	t.Helper()
	err := new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser("edrgate {\n" + line + "\n}"))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %s", line, err, want)
	}
}

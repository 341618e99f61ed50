package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

// TestConfigurationsAreFilledIn: what is left would be an empty variable of the environment to Caddy.
func TestConfigurationsAreFilledIn(t *testing.T) {
	values := map[string]string{
		"BACKEND_PORT": "1", "WALLET_PORT": "2", "PUBLIC_PORT": "3", "KEY_FILE": "/k", "DSN": "postgres://h/db", "PASSWORD_FILE": "/p",
		"DATA_UPSTREAMS": "127.0.0.1:4 127.0.0.1:5", "SIGNALING_UPSTREAMS": "127.0.0.1:6",
	}
	for name, test := range map[string]struct{ caddyfile, line string }{
		"gateway": {gatewayCaddyfile, "\t\t\tpassword \"{file./p}\"\n"},
		"front":   {frontCaddyfile, "\treverse_proxy 127.0.0.1:4 127.0.0.1:5 {\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &demo.Gateway{
				Caddyfile: test.caddyfile, Values: values, DID: "did:web:some.example", Dir: t.TempDir(),
				DataPort: "7", SignalingPort: "8", AdminPort: "9",
			}
			err := g.Configure(tokenTTL)
			if err != nil {
				t.Fatal(err)
			}
			written, err := os.ReadFile(g.ConfigFile())
			if err != nil {
				t.Fatal(err)
			}
			left := regexp.MustCompile(`\{\$\w+\}`).FindString(string(written))
			if left != "" || !strings.Contains(string(written), test.line) {
				t.Errorf("%q is left, or there is no %q:\n%s", left, test.line, written)
			}
		})
	}
}

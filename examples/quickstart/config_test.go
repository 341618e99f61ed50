package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

func TestConfigureFillsEverythingIn(t *testing.T) {
	for _, test := range []struct{ name, caddyfile, line string }{
		{"provider", providerCaddyfile, "\ttoken_ttl 5m\n"},
		{"consumer", consumerCaddyfile, "\nhttp://127.0.0.1:6 {\n\tedr_egress\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &demo.Gateway{
				Caddyfile: test.caddyfile, DID: "did:web:some.example", Dir: t.TempDir(),
				Values:   map[string]string{"BACKEND_PORT": "1", "WALLET_PORT": "2"},
				DataPort: "3", SignalingPort: "4", AdminPort: "5", EgressPort: "6",
			}
			err := g.Configure(5 * time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			written, err := os.ReadFile(g.ConfigFile())
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(written), "{$") {
				t.Errorf("a placeholder is left:\n%s", written)
			}
			for _, line := range []string{"\tdid did:web:some.example\n", test.line} {
				if !strings.Contains(string(written), line) {
					t.Errorf("no %q:\n%s", line, written)
				}
			}
		})
	}
}

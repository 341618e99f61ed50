package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestConfigureFillsEverythingIn(t *testing.T) {
	for _, test := range []struct{ name, caddyfile, line string }{
		{"provider", providerCaddyfile, "\ttoken_ttl 5m\n"},
		{"consumer", consumerCaddyfile, "\nhttp://127.0.0.1:6 {\n\tedr_egress\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &gateway{
				caddyfile: test.caddyfile, did: "did:web:some.example", dir: t.TempDir(), backendPort: "1", walletPort: "2",
				dataPort: "3", signalingPort: "4", adminPort: "5", egressPort: "6",
			}
			err := g.configure(5 * time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			written, err := os.ReadFile(g.configFile())
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

func TestBrief(t *testing.T) {
	for want, d := range map[string]time.Duration{"4s": 4 * time.Second, "5m": 5 * time.Minute, "1m30s": 90 * time.Second, "10s": 10 * time.Second} {
		if brief(d) != want {
			t.Errorf("%s is written %q", d, brief(d))
		}
	}
}

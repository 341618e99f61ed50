package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestConfigureFillsEverythingIn(t *testing.T) {
	g := &gateway{dir: t.TempDir(), backendPort: "1", walletPort: "2", dataPort: "3", signalingPort: "4", adminPort: "5"}
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
	if !strings.Contains(string(written), "\ttoken_ttl 5m\n") {
		t.Errorf("no token_ttl 5m:\n%s", written)
	}
}

func TestBrief(t *testing.T) {
	for want, d := range map[string]time.Duration{"4s": 4 * time.Second, "5m": 5 * time.Minute, "1m30s": 90 * time.Second, "10s": 10 * time.Second} {
		if brief(d) != want {
			t.Errorf("%s is written %q", d, brief(d))
		}
	}
}

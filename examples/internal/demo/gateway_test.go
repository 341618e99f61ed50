package demo

import (
	"testing"
	"time"
)

func TestBrief(t *testing.T) {
	for want, d := range map[string]time.Duration{"4s": 4 * time.Second, "5m": 5 * time.Minute, "1m30s": 90 * time.Second, "10s": 10 * time.Second} {
		if Brief(d) != want {
			t.Errorf("%s is written %q", d, Brief(d))
		}
	}
}

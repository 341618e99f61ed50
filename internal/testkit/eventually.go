package testkit

import (
	"testing"
	"time"
)

// patience is how long Eventually waits: a bound for a broken test, not a measure of speed.
const patience = 30 * time.Second

// Eventually waits until holds does, and fails the test if it never does. what says what was waited for.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

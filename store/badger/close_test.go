package badger

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// A call that does not end (a disk that does not answer) keeps Close from returning for a while, not for ever, and the
// database stays open under it.
func TestCloseIsBounded(t *testing.T) {
	s := open(t, Options{closeWait: time.Millisecond})
	create(t, s, "a")
	l := hold(t, s, "a")
	err := s.Close()
	if err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("close while a call is held: got error %v", err)
	}
	l.finish(t)
	testkit.Eventually(t, "close succeeds", func() bool { return s.Close() == nil })
	if !s.db.IsClosed() {
		t.Error("the engine is still open")
	}
}

// Close ends all goroutines of the store and of the engine.
func TestCloseEndsGoroutines(t *testing.T) {
	s := open(t, Options{})
	create(t, s, "a", "b")
	if goroutines() == 0 {
		t.Fatal("no goroutine of an open store found: the test looks for the wrong thing")
	}
	err := s.Close()
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "goroutines end", func() bool { return goroutines() == 0 })
}

// goroutines counts those of the store and of the engine, but for the test's own.
func goroutines() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		ours := strings.Contains(stack, "store/badger.") || strings.Contains(stack, "dgraph-io/")
		if ours && !strings.Contains(stack, "testing.tRunner") {
			n++
		}
	}
	return n
}

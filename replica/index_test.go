package replica

import (
	"testing"
	"time"
)

func TestClosed(t *testing.T) {
	w, p := newWorld(t), newProcess()
	f := w.follower(t.TempDir(), w.store, p, func(c *Config) { c.Keep = time.Hour })
	w.look(f)
	w.change("flow-1", "TERMINATED")
	w.look(f)
	version, ok := f.Closed("flow", "flow-1")
	if !ok || version != 2 {
		t.Errorf("version %d, %v", version, ok)
	}
	for _, id := range []string{"flow-2", ""} {
		if _, ok := f.Closed("flow", id); ok {
			t.Errorf("%q is closed", id)
		}
	}
	w.clock.Advance(2 * time.Hour)
	if _, ok := f.Closed("flow", "flow-1"); ok {
		t.Error("remembered for longer than it may be: the id can be another flow's")
	}
}

package hostile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// leastShapes is how many distinct bad inputs there have to be.
const leastShapes = 1000

// category is one family of bad inputs.
type category struct {
	name   string
	shapes func(w *world) []shape // sent one after the other to the one gateway
	tests  func(t *testing.T) int // for what is no request: runs the tests and returns how many distinct shapes they had
}

var categories = []category{
	{name: "paths", shapes: pathShapes},
	{name: "JWS", shapes: jwsShapes},
	{name: "claims", shapes: claimShapes},
	{name: "refresh tokens", shapes: refreshTokenShapes},
	{name: "forms", shapes: formShapes},
	{name: "headers", shapes: headerShapes},
	{name: "HTTP", shapes: httpShapes},
	{name: "signaling", shapes: signalingShapes},
	{name: "DIDs", shapes: didShapes},
	{name: "EDRs", shapes: edrShapes},
	{name: "egress", shapes: egressShapes},
	{name: "providers", shapes: providerShapes},
	{name: "admin API", shapes: adminShapes},
	{name: "rules", shapes: ruleShapes},
	{name: "placeholders", shapes: placeholderShapes},
	{name: "h2", shapes: http2Shapes},
	{name: "config", tests: configTests},
	{name: "store rows", tests: rowTests},
	{name: "EDR rows", tests: edrRowTests},
}

// TestHostile sends every bad input to one process.
func TestHostile(t *testing.T) {
	w := newWorld(t)
	problems := w.works()
	if len(problems) > 0 {
		t.Fatalf("before any bad input: %s", strings.Join(problems, "\n"))
	}
	o, err := newWatch(w)
	if err != nil {
		t.Fatal(err)
	}
	total, summary := 0, ""
	for _, c := range categories {
		count := 0
		t.Run(c.name, func(t *testing.T) {
			if c.tests != nil {
				count = c.tests(t)
				return
			}
			count = o.runCategory(t, c.shapes(w))
		})
		total += count
		summary += fmt.Sprintf(", %s %d", c.name, count)
	}
	if total < leastShapes {
		t.Errorf("only %d distinct bad inputs, want %d", total, leastShapes)
	}
	w.stop()
	for _, problem := range o.readLogs() { // what was written at the end
		t.Error(problem)
	}
	verdict := "all as expected"
	if t.Failed() {
		verdict = "NOT all as expected"
	}
	t.Logf("hostile: %d cases%s, %s", total, summary, verdict)
}

// runCategory sends the shapes, then checks what must hold after all of them. It returns how many there were.
func (o *watch) runCategory(t *testing.T, shapes []shape) int {
	t.Helper()
	for _, name := range duplicates(shapes) {
		t.Errorf("two shapes have the name %q", name)
	}
	// No shape may need another one before it, and a failure should come again.
	slices.SortFunc(shapes, func(a, b shape) int { return strings.Compare(a.name, b.name) })
	for _, s := range shapes {
		for _, problem := range append(o.w.run(s), o.readLogs()...) {
			t.Errorf("%s: %s", s.name, problem)
		}
		if !o.w.running() {
			t.Fatalf("the process has ended after %q", s.name)
		}
	}
	for _, problem := range o.afterCategory() {
		t.Errorf("after the category: %s", problem)
	}
	return len(shapes)
}

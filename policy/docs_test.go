package policy

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// documented returns the JSON blocks of docs/policy.md, without their white space.
func documented(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split(string(page), "```") {
		text, isJSON := strings.CutPrefix(part, "json\n")
		if i%2 == 0 || !isJSON {
			continue
		}
		var compact bytes.Buffer
		err := json.Compact(&compact, []byte(text))
		if err != nil {
			t.Fatalf("docs/policy.md: %v: %s", err, text)
		}
		blocks = append(blocks, compact.String())
	}
	return blocks
}

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCaddyfilesInTheDocsAreAdapted: what a page tells to write must be what the binary reads.
func TestCaddyfilesInTheDocsAreAdapted(t *testing.T) {
	t.Parallel()
	blocks := 0
	for _, page := range documents(t) {
		for _, block := range caddyfileBlocks(read(t, page)) {
			blocks++
			t.Run(fmt.Sprintf("%s:%d", strings.TrimPrefix(page, moduleRoot+string(filepath.Separator)), block.line), func(t *testing.T) {
				t.Parallel()
				g := &gateway{t: t, dir: t.TempDir()}
				writeFile(t, g.caddyfile(), block.text)
				stdout, stderr, err := g.cli("adapt", "--config", g.caddyfile(), "--adapter", "caddyfile")
				if err != nil {
					t.Fatalf("caddy adapt: %v: %s", err, stderr)
				}
				if !json.Valid([]byte(stdout)) {
					t.Errorf("caddy adapt prints %s", stdout)
				}
				wantFormatted(g)
			})
		}
	}
	if blocks == 0 {
		t.Error("no page has a Caddyfile")
	}
}

// documents are the README and all pages of the docs.
func documents(t testing.TB) []string {
	t.Helper()
	pages := []string{filepath.Join(moduleRoot, "README.md")}
	err := filepath.WalkDir(filepath.Join(moduleRoot, "docs"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// block is one fenced block of a page.
type block struct {
	line int // of its first line
	text string
}

// caddyfileBlocks returns the blocks that are marked as Caddyfiles.
func caddyfileBlocks(page string) []block {
	var blocks []block
	var inside *block
	for i, line := range strings.SplitAfter(page, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case inside != nil && trimmed == "```":
			blocks = append(blocks, *inside)
			inside = nil
		case inside != nil:
			inside.text += line
		case trimmed == "```caddyfile":
			inside = &block{line: i + 2}
		}
	}
	return blocks
}

// wantFormatted checks that `caddy fmt` would leave the Caddyfile as it is.
func wantFormatted(g *gateway) {
	g.t.Helper()
	stdout, stderr, err := g.cli("fmt", "--diff", g.caddyfile())
	number := 0
	for line := range strings.Lines(stdout) {
		if !strings.HasPrefix(line, "+ ") {
			number++
		}
		if !strings.HasPrefix(line, "  ") {
			g.t.Errorf("caddy fmt would change line %d: %s", number, line)
		}
	}
	if err != nil {
		g.t.Errorf("caddy fmt: %v: %s", err, stderr)
	}
}

// TestExampleIsValid: Caddyfile.example is formatted, and needs no more than the directories that its variables name, with
// the files in them.
func TestExampleIsValid(t *testing.T) {
	t.Parallel()
	g := &gateway{t: t, dir: t.TempDir(), canaries: newCanaries()}
	example := read(t, filepath.Join(moduleRoot, "Caddyfile.example"))
	writeFile(t, g.caddyfile(), example)
	wantFormatted(g)

	// The directories are those of a server unless variables say otherwise.
	environment := g.environment()
	local := namedDirectories.ReplaceAllStringFunc(example, func(placeholder string) string {
		name, directory, _ := strings.Cut(strings.Trim(placeholder, "{$}"), ":")
		directory = g.path("root", directory)
		environment = append(environment, name+"="+directory)
		return directory
	})
	local = comment.ReplaceAllString(local, "")
	for _, key := range namedKeys.FindAllStringSubmatch(local, -1) {
		g.writeBelow(key[1], read(t, g.newKey("example")))
	}
	for _, secret := range namedFiles.FindAllStringSubmatch(local, -1) {
		g.writeBelow(secret[1], "a-secret-of-at-least-thirty-two-characters\n")
	}
	cmd := g.command("validate", "--config", g.caddyfile(), "--adapter", "caddyfile")
	cmd.Env = environment
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("caddy validate: %v: %s", err, output)
	}
	_, err = os.Stat(g.path("root", "var", "lib"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("caddy validate has made the directory of the store: %v", err)
	}
}

// writeBelow writes a file, if it is one of the test's own.
func (g *gateway) writeBelow(path, content string) {
	g.t.Helper()
	if !strings.HasPrefix(path, g.dir+string(filepath.Separator)) {
		g.t.Fatalf("the example names the file %s outside of the directories of its variables", path)
	}
	writeFile(g.t, path, content)
}

var (
	comment = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	// namedDirectories are variables whose default is a directory of a server.
	namedDirectories = regexp.MustCompile(`\{\$[A-Z_]+:/[^}]*\}`)
	// namedKeys and namedFiles are files that must be there.
	namedKeys  = regexp.MustCompile(`(?m)^\s*signing_key (\S+)`)
	namedFiles = regexp.MustCompile(`\{file\.([^}]+)\}`)
)

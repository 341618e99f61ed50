package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestCaddyfilesInTheDocsAreAdapted: what a page tells to write must be what the binary reads.
func TestCaddyfilesInTheDocsAreAdapted(t *testing.T) {
	t.Parallel()
	blocks := 0
	for _, page := range documents(t) {
		for _, block := range fencedBlocks(read(t, page), "caddyfile") {
			blocks++
			t.Run(fmt.Sprintf("%s:%d", strings.TrimPrefix(page, moduleRoot+string(filepath.Separator)), block.line), func(t *testing.T) {
				t.Parallel()
				g := &gateway{t: t, dir: t.TempDir()}
				writeFile(t, g.caddyfile(), block.text)
				stdout, stderr, err := g.cli("adapt", "--config", g.caddyfile(), "--adapter", "caddyfile")
				if err != nil {
					t.Fatalf("caddy adapt: %v: %s", err, stderr)
				}
				wantSignalingBound(t, stdout)
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
	pages := []string{filepath.Join(moduleRoot, "README.md"), filepath.Join(moduleRoot, "SECURITY.md")}
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

// fencedBlocks returns the blocks that are marked as being in a language.
func fencedBlocks(page, language string) []block {
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
		case trimmed == "```"+language:
			inside = &block{line: i + 2}
		}
	}
	return blocks
}

// wantSignalingBound checks that no server with edr_signaling listens on all interfaces, and returns how many there are. A
// site's address does not bind: whoever copies a page without bind would let everybody make tokens.
func wantSignalingBound(t *testing.T, adapted string) int {
	t.Helper()
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Listen []string        `json:"listen"`
					Routes json.RawMessage `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	err := json.Unmarshal([]byte(adapted), &config)
	if err != nil {
		t.Fatalf("caddy adapt prints %s: %v", adapted, err)
	}
	signaling := 0
	for name, server := range config.Apps.HTTP.Servers {
		if !strings.Contains(string(server.Routes), `"edr_signaling"`) {
			continue
		}
		signaling++
		for _, listen := range server.Listen {
			host, _, err := net.SplitHostPort(listen)
			address, _ := netip.ParseAddr(host)
			if err != nil || host == "" || address.IsUnspecified() {
				t.Errorf("server %s has edr_signaling and listens on %s", name, listen)
			}
		}
	}
	return signaling
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
	g := &gateway{t: t, dir: t.TempDir(), canaries: &canaries{testkit.NewCanaries()}}
	example := read(t, filepath.Join(moduleRoot, "Caddyfile.example"))
	writeFile(t, g.caddyfile(), example)
	wantFormatted(g)
	stdout, stderr, err := g.cli("adapt", "--config", g.caddyfile(), "--adapter", "caddyfile")
	if err != nil {
		t.Fatalf("caddy adapt: %v: %s", err, stderr)
	}
	if wantSignalingBound(t, stdout) == 0 {
		t.Error("the example has no edr_signaling")
	}

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
	wantNoStore(g)
}

// TestJSONInTheDocsIsValid, with the files that it names.
func TestJSONInTheDocsIsValid(t *testing.T) {
	t.Parallel()
	blocks := fencedBlocks(read(t, filepath.Join(moduleRoot, "README.md")), "json")
	if len(blocks) == 0 {
		t.Error("the README has no JSON")
	}
	for _, block := range blocks {
		t.Run(fmt.Sprintf("README.md:%d", block.line), func(t *testing.T) {
			t.Parallel()
			g := &gateway{t: t, dir: t.TempDir(), canaries: &canaries{testkit.NewCanaries()}}
			local := absolutePaths.ReplaceAllString(block.text, "${1}"+g.path("root")+"${2}")
			for _, key := range namedKeysInJSON.FindAllStringSubmatch(local, -1) {
				g.writeBelow(key[1], read(t, g.newKey("example")))
			}
			for _, secret := range namedFiles.FindAllStringSubmatch(local, -1) {
				g.writeBelow(secret[1], "a-secret-of-at-least-thirty-two-characters\n")
			}
			writeFile(t, g.path("caddy.json"), local)
			output, err := g.command("validate", "--config", g.path("caddy.json")).CombinedOutput()
			if err != nil {
				t.Errorf("caddy validate: %v: %s", err, output)
			}
			wantNoStore(g)
			wantSignalingBound(t, local)
		})
	}
}

// wantNoStore checks that validating has not made the directory of the store.
func wantNoStore(g *gateway) {
	g.t.Helper()
	_, err := os.Stat(g.path("root", "var", "lib"))
	if !errors.Is(err, fs.ErrNotExist) {
		g.t.Errorf("caddy validate has made the directory of the store: %v", err)
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
	// namedKeysInJSON are namedKeys in JSON, where absolutePaths are all paths of files.
	namedKeysInJSON = regexp.MustCompile(`"file": "([^"]+)"`)
	absolutePaths   = regexp.MustCompile(`("|\{file\.)(/[a-z])`)
)

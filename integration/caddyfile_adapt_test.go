package integration

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the golden files expect")

// separator stands between a Caddyfile and what it is adapted to: JSON, or the text of the error.
const separator = "\n----------\n"

// TestCaddyfileAdapt adapts the Caddyfiles in caddyfile_adapt. Adapting is pure: it reads no other file, asks no host,
// and gives the same each time.
func TestCaddyfileAdapt(t *testing.T) {
	files, err := filepath.Glob("caddyfile_adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, found := strings.Cut(string(data), separator)
			if !found && !*update {
				t.Fatal("no line of dashes")
			}
			input = strings.TrimRight(input, "\n") + "\n"
			a := newAdapting(t, input)
			formatted := a.run("fmt", "Caddyfile")
			if formatted != input {
				t.Errorf("`caddy fmt` would change it to:\n%s", formatted)
			}
			got := a.run("adapt", "--config", "Caddyfile", "--pretty")
			if again := a.run("adapt", "--config", "Caddyfile", "--pretty"); got != again {
				t.Errorf("a second time gives something else:\n%s", again)
			}
			if *update {
				err = os.WriteFile(file, []byte(strings.TrimRight(input, "\n")+separator+got), 0o644)
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// adapting is a directory with nothing but a Caddyfile.
type adapting struct {
	t   *testing.T
	dir string
}

func newAdapting(t *testing.T, caddyfile string) adapting {
	t.Helper()
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(caddyfile), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return adapting{t, dir}
}

// run returns what the binary prints, or the text of its error.
func (a adapting) run(args ...string) string {
	a.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "HOME="+a.dir, "XDG_DATA_HOME="+a.dir, "XDG_CONFIG_HOME="+a.dir)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err == nil {
		return out.String()
	}
	lines := strings.Split(strings.TrimSpace(complaint.String()), "\n")
	var logged struct{ Level, Msg string }
	last := lines[len(lines)-1]
	if json.Unmarshal([]byte(last), &logged) != nil || logged.Level != "error" {
		a.t.Fatalf("%v: %v: %s", args, err, complaint.String())
	}
	return logged.Msg + "\n"
}

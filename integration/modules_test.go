package integration

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBothBuildsHaveTheSameModules: the binary that everybody builds with xcaddy, and the one from xcaddy/main.go and its
// pins, which releases are built from.
func TestBothBuildsHaveTheSameModules(t *testing.T) {
	t.Parallel()
	pinned, err := filepath.Abs(filepath.Join(moduleRoot, "bin", "caddy-pinned"))
	if err != nil {
		t.Fatal(err)
	}
	stale, err := isStale(pinned)
	if err != nil {
		t.Fatal(err)
	}
	if stale {
		err = makeTarget("build-pinned")
		if err != nil {
			t.Fatal(err)
		}
	}
	ours, theirs := modulesOf(t, binary), modulesOf(t, pinned)
	if !slices.Equal(ours, theirs) {
		t.Errorf("%s has the modules\n%s\nand %s has\n%s", binary, strings.Join(ours, "\n"), pinned, strings.Join(theirs, "\n"))
	}
	for _, wanted := range []string{
		"edrgate", "edrgate.policies.authzen", "edrgate.policies.webhook", "edrgate.stores.badger", "admin.api.edrgate", "http.handlers.edr_auth", "http.handlers.edr_health",
		"http.handlers.edr_proxy", "http.handlers.edr_refresh", "http.handlers.edr_signaling",
	} {
		if !slices.Contains(ours, wanted) {
			t.Errorf("module %s is missing", wanted)
		}
	}
}

// modulesOf lists the modules of a binary, in order.
func modulesOf(t testing.TB, path string) []string {
	t.Helper()
	output, err := exec.Command(path, "list-modules").Output()
	if err != nil {
		t.Fatalf("%s list-modules: %v", path, err)
	}
	var modules []string
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.Contains(line, " ") { // the others are counts
			modules = append(modules, line)
		}
	}
	slices.Sort(modules)
	return modules
}

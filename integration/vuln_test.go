package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVulnerabilitiesThatWereNotLookedFor: `make vuln` passes only if every module was checked, and says so where it was not.
func TestVulnerabilitiesThatWereNotLookedFor(t *testing.T) {
	t.Parallel()
	script, err := filepath.Abs(filepath.Join(moduleRoot, "tools", "vuln.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		govulncheck string // what it does; $2 is the directory, after -C
		exit        int
		says        string
	}{
		"none found":            {"exit 0", 0, "vuln: checked, none found"},
		"found":                 {"exit 3", 3, "vuln: vulnerabilities were found"},
		"found in one":          {"case $2 in */xcaddy) exit 3;; esac", 3, "vuln: vulnerabilities were found"},
		"no database":           {`echo "govulncheck: fetching vulnerabilities: no such host"; exit 1`, 75, "NOT CHECKED: the vulnerability database"},
		"no database any more":  {`case $2 in */tools) echo "govulncheck: fetching vulnerabilities: EOF"; exit 1;; esac`, 75, "NOT CHECKED"},
		"code does not compile": {`echo "govulncheck: loading packages: there are errors"; exit 1`, 1, "NOT CHECKED: govulncheck has failed with exit code 1"},
		"no govulncheck":        {"exit 127", 1, "NOT CHECKED: govulncheck has failed with exit code 127"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := filepath.Join(t.TempDir(), "govulncheck")
			err := os.WriteFile(fake, fmt.Appendf(nil, "#!/bin/sh\n%s\n", c.govulncheck), 0o700)
			if err != nil {
				t.Fatal(err)
			}
			command := exec.Command(script)
			command.Env = append(os.Environ(), "GOVULNCHECK="+fake, "VULNDB=")
			output, err := command.CombinedOutput()
			var failed *exec.ExitError
			if err != nil && !errors.As(err, &failed) {
				t.Fatal(err)
			}
			if got := command.ProcessState.ExitCode(); got != c.exit || !strings.Contains(string(output), c.says) {
				t.Errorf("exit code %d, want %d: %s", got, c.exit, output)
			}
		})
	}
}

package hostile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	// patience is how long anything that ought to happen may take. It is long since the machine may be busy.
	patience = 30 * time.Second
	// moduleRoot is the directory of the module, seen from this one.
	moduleRoot = "../.."
)

// binaryPath is the path of the binary under test: the one that EDRGATE_BINARY names, or bin/caddy, built if it is missing.
var binaryPath string

func TestMain(m *testing.M) {
	path, err := findBinary()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile: no binary to test:", err)
		os.Exit(1)
	}
	binaryPath = path
	os.Exit(m.Run())
}

func findBinary() (string, error) {
	named := os.Getenv("EDRGATE_BINARY")
	if named == "" {
		named = filepath.Join(moduleRoot, "bin", "caddy")
		_, err := os.Stat(named)
		if errors.Is(err, fs.ErrNotExist) {
			build := exec.Command("make", "-C", moduleRoot, "build")
			build.Stdout, build.Stderr = os.Stderr, os.Stderr
			err = build.Run()
		}
		if err != nil {
			return "", err
		}
	}
	path, err := filepath.Abs(named)
	if err != nil {
		return "", err
	}
	_, err = os.Stat(path)
	return path, err
}

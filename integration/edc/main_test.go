//go:build interop

package edc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	// patience is how long one step may take. Control planes act once a second, and the machine may be busy.
	patience = 90 * time.Second
	// moduleRoot is the directory of the module, seen from this one.
	moduleRoot = "../.."
)

// binary is the path of the binary under test: the one that EDRGATE_BINARY names, or bin/caddy, built if it is missing.
var binary string

func TestMain(m *testing.M) {
	path, err := findBinary()
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop: no binary to test:", err)
		os.Exit(1)
	}
	binary = path
	status := m.Run()
	for _, failure := range failures { // behind all logs, where a reader of the last lines sees it
		fmt.Fprintln(os.Stderr, "interop: failed:", failure)
	}
	os.Exit(status)
}

// failures is the steps that were not taken.
var failures []string

func findBinary() (string, error) {
	named := os.Getenv("EDRGATE_BINARY")
	if named == "" {
		named = filepath.Join(moduleRoot, "bin", "caddy")
		_, err := os.Stat(named)
		if errors.Is(err, fs.ErrNotExist) {
			err = makeBinary(os.Stderr)
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

// makeBinary builds it in the one way there is.
func makeBinary(log io.Writer) error {
	build := exec.Command("make", "-C", moduleRoot, "build")
	build.Stdout, build.Stderr = log, log
	err := build.Run()
	if err != nil {
		return fmt.Errorf("make build: %w", err)
	}
	return nil
}

// Package integration drives the built binary over real sockets, as control planes, consumers, backends and operators do.
// Nothing in it reaches into the gateway: it starts the process, sends requests, sends signals, and reads what comes back.
//
// The binary is ../bin/caddy, made with `make build` when it is missing or older than the sources, or the one that
// EDRGATE_BINARY names, taken as it is.
package integration

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binary is the path of the binary under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	path, err := findBinary()
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration: no binary to test:", err)
		os.Exit(1)
	}
	binary = path
	os.Exit(m.Run())
}

// moduleRoot is the directory of the module, seen from this one.
const moduleRoot = ".."

func findBinary() (string, error) {
	named := os.Getenv("EDRGATE_BINARY")
	if named != "" {
		path, err := filepath.Abs(named)
		if err != nil {
			return "", err
		}
		_, err = os.Stat(path)
		return path, err
	}
	path, err := filepath.Abs(filepath.Join(moduleRoot, "bin", "caddy"))
	if err != nil {
		return "", err
	}
	stale, err := isStale(path)
	if err != nil {
		return "", err
	}
	if !stale {
		return path, nil
	}
	// The Makefile has the one xcaddy command, with its pins.
	err = makeTarget("build")
	if err != nil {
		return "", err
	}
	_, err = os.Stat(path)
	return path, err
}

func makeTarget(target string) error {
	build := exec.Command("make", "-C", moduleRoot, target)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	err := build.Run()
	if err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	return nil
}

// isStale reports whether the binary is missing, or older than a file that it is built from.
func isStale(path string) (bool, error) {
	built, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	newest, err := newestSource()
	return built.ModTime().Before(newest), err
}

func newestSource() (time.Time, error) {
	var newest time.Time
	err := filepath.WalkDir(moduleRoot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != moduleRoot && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "integration") {
				return filepath.SkipDir
			}
			return nil
		}
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") || name == "go.mod" || name == "go.sum" || strings.HasSuffix(name, ".sql")
		if !source {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return nil
	})
	return newest, err
}

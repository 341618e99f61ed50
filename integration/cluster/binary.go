package cluster

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// Binary returns the path of the binary under test.
var Binary = sync.OnceValues(func() (string, error) {
	named := os.Getenv("EDRGATE_BINARY")
	if named == "" {
		_, file, _, _ := runtime.Caller(0)
		root := filepath.Join(filepath.Dir(file), "..", "..")
		named = filepath.Join(root, "bin", "caddy")
		_, err := os.Stat(named)
		if errors.Is(err, fs.ErrNotExist) {
			build := exec.Command("make", "-C", root, "build")
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
})

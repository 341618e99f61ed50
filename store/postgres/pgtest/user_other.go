//go:build !unix

package pgtest

import (
	"errors"
	"os/exec"
)

var errUnix = errors.New("the test server runs on Unix only")

func giveAway(string) error { return nil }

func runUnprivileged(*exec.Cmd, string) error { return errUnix }

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
)

// CanPin reports whether processes can be kept on cores of their own: taskset is there, and there are two cores.
func CanPin() bool {
	_, err := exec.LookPath("taskset")
	return err == nil && runtime.NumCPU() >= 2
}

// PinSelf keeps this process on the given cores from now on, with as many threads of Go as there are, and reports whether it
// could.
func PinSelf(cpus string, threads int) (bool, error) {
	if !CanPin() {
		return false, nil
	}
	output, err := exec.Command("taskset", "-a", "-c", "-p", cpus, strconv.Itoa(os.Getpid())).CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("taskset: %w: %s", err, output)
	}
	runtime.GOMAXPROCS(threads)
	return true, nil
}

func pinned(cpus, path string, args []string) (string, []string) {
	if cpus == "" || !CanPin() {
		return path, args
	}
	return "taskset", append([]string{"-c", cpus, path}, args...)
}

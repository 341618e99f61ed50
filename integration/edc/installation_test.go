//go:build interop

package edc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// installation is the built binary with a directory for its key, Caddyfile, store and logs; the process comes and goes.
type installation struct {
	t       testing.TB
	name    string // for messages
	dir     string
	listens []string // host:port of each listener

	process *exec.Cmd
	exited  chan error // gives the one result of the process
}

func newInstallation(t testing.TB, name string, listens ...string) *installation {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has at most 104 characters on some systems.
	dir, err := os.MkdirTemp("", "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	i := &installation{t: t, name: name, dir: dir, listens: listens}
	t.Cleanup(i.cleanUp)
	return i
}

func (i *installation) path(name string) string { return filepath.Join(i.dir, name) }

// command returns a run of the binary that is not yet started: nothing of our environment but the search path.
func (i *installation) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir = i.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + i.dir,
		"XDG_CONFIG_HOME=" + i.path("xdg-config"), "XDG_DATA_HOME=" + i.path("xdg-data"),
	}
	return cmd
}

// cli runs a command of the binary and returns what it prints.
func (i *installation) cli(args ...string) []byte {
	i.t.Helper()
	var stderr bytes.Buffer
	cmd := i.command(args...)
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		i.t.Fatalf("%v: %v\n%s%s", args, err, output, stderr.Bytes())
	}
	return output
}

// write writes a file of the installation.
func (i *installation) write(name, content string) {
	i.t.Helper()
	err := os.WriteFile(i.path(name), []byte(content), 0o600)
	if err != nil {
		i.t.Fatal(err)
	}
}

// start starts the process and waits until it serves.
func (i *installation) start(ctx context.Context) error {
	output, err := os.OpenFile(i.path("process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := i.command("run", "--config", i.path("Caddyfile"), "--adapter", "caddyfile")
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Start()
	if err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	i.process, i.exited = cmd, exited
	return await(ctx, func() error {
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("the %s ended at start: %w\n%s", i.name, err, i.log("process.log"))
		default:
		}
		for _, address := range i.listens {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return fmt.Errorf("%w: the %s does not serve: %w", errNotYet, i.name, err)
			}
			err = conn.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// kill ends the process as a power cut does.
func (i *installation) kill() error { return i.end(syscall.SIGKILL) }

func (i *installation) end(s os.Signal) error {
	process := i.process
	i.process = nil
	err := process.Process.Signal(s)
	if err != nil {
		return fmt.Errorf("the %s is gone already: %w", i.name, err)
	}
	select {
	case <-i.exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the %s did not end within %s of %s", i.name, patience, s)
	}
}

// log returns the end of a log.
func (i *installation) log(name string) string { return endOf(i.path(name)) }

// endOf returns the end of a file, for messages.
func endOf(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	return string(data[max(0, len(data)-most):])
}

func (i *installation) cleanUp() {
	if i.process != nil {
		err := i.end(syscall.SIGTERM)
		if err != nil {
			i.t.Error(err)
		}
	}
	if i.t.Failed() {
		i.t.Logf("end of the %s's log:\n%s", i.name, i.log("gateway.log"))
	}
	err := os.RemoveAll(i.dir)
	if err != nil {
		i.t.Error(err)
	}
}

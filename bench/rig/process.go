package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience is how long a process may take until it serves, and until it has ended.
const patience = 60 * time.Second

// Command is a process to be started.
type Command struct {
	Name string   // for messages and the file of its output
	Path string   // of the binary
	Args []string // without the binary
	Env  []string // added to the search path, which is all that is handed on
	Dir  string   // its working directory, where its output goes too
	CPUs string   // cores it may use, as taskset takes them ("1", "0,1"); empty: all
}

// Process is one that runs, with all that it has started itself.
type Process struct {
	name   string
	log    string
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // why it ended; read after exited is closed
}

// Start starts a process. It leads a group of its own, so that its children are counted and ended with it.
func Start(c Command) (*Process, error) {
	err := os.MkdirAll(c.Dir, 0o700)
	if err != nil {
		return nil, err
	}
	p := &Process{name: c.Name, log: filepath.Join(c.Dir, c.Name+".log"), exited: make(chan struct{})}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	path, args := pinned(c.CPUs, c.Path, c.Args)
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = c.Dir, output, output
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.Dir}, c.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = p.cmd.Start()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Await waits until somebody listens at the address.
func (p *Process) Await(ctx context.Context, address string) error {
	return p.AwaitTrue(ctx, "listens at "+address, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		return err == nil && conn.Close() == nil
	})
}

// AwaitTrue waits until holds does. what says what was waited for. It looks every millisecond: some wait to know when.
func (p *Process) AwaitTrue(ctx context.Context, what string, holds func() bool) error {
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended (%w) before it %s:\n%s", p.name, errOr(p.err, "status 0"), what, p.Tail())
		case <-deadline:
			return fmt.Errorf("%s has not come so far that it %s in %s:\n%s", p.name, what, patience, p.Tail())
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

// Tail returns the end of what the process has printed.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 2 << 10
	return strings.TrimSpace(string(data[max(0, len(data)-most):]))
}

// Stop ends the process and its children, and waits for it.
func (p *Process) Stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
	}
	p.Kill()
}

// Kill ends the process and its children at once, as a crash does, and waits for it.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// FreeAddress returns a loopback address that nobody listens at. Two calls return two addresses as long as the first one
// is in use.
func FreeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := listener.Addr().String()
	return address, listener.Close()
}

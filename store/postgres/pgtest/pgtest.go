// Package pgtest runs a PostgreSQL server of its own for tests and demonstrations: in a new directory, with its own socket
// and port, TLS and passwords, and with fsync as in production. It needs the server's programs, which requirements.sh
// in this directory installs or names. As root it runs them as the user postgres or nobody, since they refuse root.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// Admin is the role of a server's superuser.
	Admin = "postgres"
	// Password is that of Admin by TCP. By the socket nobody needs one.
	Password = "admin-canary-7f1d"

	startWithin = 30 * time.Second
	stopWithin  = 20 * time.Second
)

// Server is a running PostgreSQL.
type Server struct {
	dir  string // of everything; short, because a socket's path must be
	bin  string
	port int
	ca   string

	mu      sync.Mutex
	process *process // nil: not running
}

// Start makes and starts a server. Stop must be called.
func Start(ctx context.Context) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "edrgate-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin}
	err = s.prepare(ctx)
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// programs finds the directory of initdb and postgres.
func programs() (string, error) {
	var places []string
	path, err := exec.LookPath("initdb")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil {
		places = append(places, filepath.Dir(path))
	}
	output, err := exec.Command("pg_config", "--bindir").Output()
	if err == nil {
		places = append(places, strings.TrimSpace(string(output)))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			places = append(places, found...)
		}
	}
	for _, place := range places {
		if isFile(filepath.Join(place, "initdb")) && isFile(filepath.Join(place, "postgres")) {
			return place, nil
		}
	}
	return "", errors.New("PostgreSQL's server is missing: neither PATH nor pg_config leads to initdb and postgres (Debian: apt-get install postgresql)")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (s *Server) prepare(ctx context.Context) error {
	password := filepath.Join(s.dir, "password")
	err := os.WriteFile(password, []byte(Password), 0o600)
	if err != nil {
		return err
	}
	s.ca, err = writeCertificate(s.dir)
	if err != nil {
		return err
	}
	s.port, err = FreePort()
	if err != nil {
		return err
	}
	err = giveAway(s.dir)
	if err != nil {
		return err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "--pgdata", s.data(), "--username", Admin, "--pwfile", password,
		"--auth-local", "trust", "--auth-host", "scram-sha-256", "--encoding", "UTF8", "--no-locale")
	err = runUnprivileged(initdb, s.dir)
	if err != nil {
		return err
	}
	output, err := initdb.CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, output)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Run starts the server again after Stop or Kill, at the same address.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return errors.New("the server is running")
	}
	started, err := begin(s.dir, filepath.Join(s.bin, "postgres"), "-D", s.data(),
		"-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(s.port), "-c", "unix_socket_directories="+s.dir,
		"-c", "ssl=on", "-c", "ssl_cert_file="+filepath.Join(s.dir, "server.crt"), "-c", "ssl_key_file="+filepath.Join(s.dir, "server.key"),
		"-c", "fsync=on", "-c", "max_connections=200", "-c", "log_statement=none")
	if err != nil {
		return err
	}
	err = started.answers(ctx, s.Address())
	if err != nil {
		return errors.Join(err, started.end(syscall.SIGQUIT))
	}
	s.process = started
	return nil
}

// Halt ends the server in good order (PostgreSQL's fast shutdown). Run starts it again.
func (s *Server) Halt() error { return s.end(syscall.SIGINT) }

// Kill ends the server at once, as a crash does: what has not been synced is recovered from its log, or lost.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

// Stop ends the server and removes its directory.
func (s *Server) Stop() error {
	return errors.Join(s.end(syscall.SIGINT), os.RemoveAll(s.dir))
}

func (s *Server) end(signal os.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	ended := s.process
	s.process = nil
	return ended.end(signal)
}

// Program returns the path of one of PostgreSQL's programs that is as new as the server, such as pg_dump.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

// Address is the host and port of the server.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// DSN returns a connection string for TCP and TLS.
func (s *Server) DSN(user, password, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password), Host: s.Address(), Path: "/" + database,
		RawQuery: url.Values{"sslmode": {"verify-full"}, "sslrootcert": {s.ca}}.Encode(),
	}
	return u.String()
}

// Socket is the directory and the port by which PostgreSQL's programs find the socket.
func (s *Server) Socket() (directory string, port int) { return s.dir, s.port }

// SocketDSN returns a connection string for the socket, by which nobody needs a password.
func (s *Server) SocketDSN(user, database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", s.dir, s.port, user, database)
}

// Standby starts a server that shows what this one had when it was halted, and takes no writes. This one must not be
// running. Stop must be called.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	dir, err := os.MkdirTemp("", "edrgate-pg-")
	if err != nil {
		return nil, err
	}
	standby := &Server{dir: dir, bin: s.bin}
	standby.ca, err = writeCertificate(dir)
	if err == nil {
		err = os.CopyFS(standby.data(), os.DirFS(s.data()))
	}
	if err == nil {
		err = os.Chmod(standby.data(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(standby.data(), "standby.signal"), nil, 0o600)
	}
	if err == nil {
		err = giveAway(dir)
	}
	if err == nil {
		standby.port, err = FreePort()
	}
	if err == nil {
		err = standby.Run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return standby, nil
}

// Follower starts a standby that gets what this server writes, as long as both run. It takes no writes, has the same
// certificate, and waits for nobody: what had not arrived when this server was lost is lost. Stop must be called.
func (s *Server) Follower(ctx context.Context) (*Server, error) {
	dir, err := os.MkdirTemp("", "edrgate-pg-")
	if err != nil {
		return nil, err
	}
	f := &Server{dir: dir, bin: s.bin, ca: s.ca}
	err = f.prepareToFollow(ctx, s)
	if err == nil {
		err = f.Run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return f, nil
}

func (s *Server) prepareToFollow(ctx context.Context, primary *Server) error {
	for _, name := range []string{"server.key", "server.crt"} {
		content, err := os.ReadFile(filepath.Join(primary.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, name), content, 0o600)
		}
		if err != nil {
			return err
		}
	}
	var err error
	s.port, err = FreePort()
	if err == nil {
		err = giveAway(s.dir)
	}
	if err != nil {
		return err
	}
	backup := exec.CommandContext(ctx, filepath.Join(s.bin, "pg_basebackup"), "--host", primary.dir, "--port", strconv.Itoa(primary.port),
		"--username", Admin, "--pgdata", s.data(), "--write-recovery-conf", "--checkpoint", "fast")
	err = runUnprivileged(backup, s.dir)
	if err != nil {
		return err
	}
	output, err := backup.CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, output)
	}
	return nil
}

// Promote makes a standby a server that takes writes.
func (s *Server) Promote(ctx context.Context) error {
	promote := exec.CommandContext(ctx, filepath.Join(s.bin, "pg_ctl"), "promote", "--pgdata", s.data(), "--wait")
	err := runUnprivileged(promote, s.dir)
	if err != nil {
		return err
	}
	output, err := promote.CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_ctl promote: %w: %s", err, output)
	}
	return nil
}

// FreePort returns a TCP port of the loopback interface that nobody listens on.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// process is a program that runs until it is ended.
type process struct {
	command *exec.Cmd
	output  *tail
	exited  chan struct{}
}

func begin(dir, program string, args ...string) (*process, error) {
	p := &process{command: exec.Command(program, args...), output: &tail{}, exited: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = p.output, p.output
	err := runUnprivileged(p.command, dir)
	if err != nil {
		return nil, err
	}
	err = p.command.Start()
	if err != nil {
		return nil, err
	}
	go func() {
		_ = p.command.Wait() // how it ended is in its output
		close(p.exited)
	}()
	return p, nil
}

// answers waits until the program says that it is ready and takes connections. A PostgreSQL that still starts up lets
// one connect too.
func (p *process) answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		if p.output.has("ready to accept") || p.output.has("process up:") {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				return conn.Close()
			}
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s has ended: %s", p.command.Path, p.output)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer at %s: %s", p.command.Path, address, p.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *process) end(signal os.Signal) error {
	err := p.command.Process.Signal(signal)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopWithin):
		return errors.Join(fmt.Errorf("%s does not end: %s", p.command.Path, p.output), p.command.Process.Kill())
	}
}

// tail keeps the end of what a program prints.
type tail struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const tailBytes = 64 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text.Len() > tailBytes {
		_, _ = io.CopyN(io.Discard, &t.text, tailBytes/2)
	}
	return t.text.Write(b)
}

func (t *tail) has(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Contains(t.text.String(), text)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// Patience is how long anything that ought to happen may take. It is long since the machine may be busy.
const Patience = 60 * time.Second

// Gateway is one of the cluster's: a directory of its own, a line to the database and a process that comes and goes. Its
// methods may be called by many goroutines at once.
type Gateway struct {
	t    testing.TB
	c    *Cluster
	Name string
	dir  string
	Link *Link // to the database

	public, signaling, health string // host:port of the listeners
	More                      string // of Options.Sites

	client, admin *http.Client

	mu      sync.Mutex
	process *exec.Cmd
	exited  chan struct{} // closed when the process has ended
}

const site = `{
	admin unix/{dir}/admin.sock
	default_bind 127.0.0.1
	persist_config off
	log {
		output file {dir}/error.log
		format json
	}
	edrgate {
		did {did}
		signing_key {dir}/keys/signing.pem
		public_url http://{host} insecure
		token_ttl {ttl}
		resolver {
			allow_http localhost
			allow_addresses 127.0.0.0/8 ::1/128
		}
		store postgres {
			dsn {dsn}
			password {file.{dir}/keys/runtime}
			state_dir {dir}/state
			canary 1s
			{store}
		}
		{app}
	}
}

http://:{public} {
	edr_refresh
	edr_auth {
		dataset {dataset}
	}
	reverse_proxy {backend}
}

http://:{signaling} {
	edr_signaling {
		auth network 127.0.0.0/8
	}
}

http://:{health} {
	edr_health
}

{sites}
`

func newGateway(c *Cluster, name string) *Gateway {
	t := c.t
	t.Helper()
	// Not t.TempDir: the path of a unix socket has at most 104 characters on some systems.
	dir, err := os.MkdirTemp("", "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{
		t: t, c: c, Name: name, dir: dir, Link: newLink(t, c.Server.Address()),
		public: freeAddress(t), signaling: freeAddress(t), health: freeAddress(t), More: freeAddress(t),
	}
	g.client = &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	g.admin = &http.Client{Timeout: Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.path("admin.sock"))
		},
	}}
	g.write("keys/signing.pem", string(c.key))
	g.write("keys/runtime", runtimePassword+"\n")
	options := c.options.Store
	if c.options.MaxStaleness != 0 {
		options += "\nmax_staleness " + c.options.MaxStaleness.String()
	}
	g.write("Caddyfile", strings.NewReplacer(
		"{sites}", c.options.Sites, "{app}", c.options.App, "{store}", options).Replace(site))
	text, err := os.ReadFile(g.path("Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	g.write("Caddyfile", strings.NewReplacer(
		"{dir}", g.dir, "{did}", ProviderDID, "{host}", PublicHost, "{ttl}", c.options.TokenTTL.String(),
		"{dsn}", c.dsn(runtimeRole, g.Link.Address()), "{public}", port(g.public), "{signaling}", port(g.signaling),
		"{health}", port(g.health), "{more}", g.More, "{dataset}", Dataset, "{backend}", c.Backend.address(),
	).Replace(string(text)))
	t.Cleanup(g.cleanUp)
	return g
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func (g *Gateway) path(name string) string { return filepath.Join(g.dir, filepath.FromSlash(name)) }

func (g *Gateway) write(name, content string) string {
	g.t.Helper()
	writeFile(g.t, g.path(name), []byte(content))
	return g.path(name)
}

func (g *Gateway) command(args ...string) (*exec.Cmd, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "XDG_CONFIG_HOME=" + g.path("config"), "XDG_DATA_HOME=" + g.path("data"),
	}
	cmd.Dir = g.dir
	return cmd, nil
}

// Command runs a command of the binary beside the process, as an operator does, and returns what it printed.
func (g *Gateway) Command(args ...string) (string, error) {
	cmd, err := g.command(args...)
	if err != nil {
		return "", err
	}
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// Edr runs `caddy edr` with the gateway's admin socket.
func (g *Gateway) Edr(args ...string) (string, error) {
	return g.Command(append(append([]string{"edr"}, args...), "--address", "unix/"+g.path("admin.sock"))...)
}

// Launch starts the process and does not wait for it.
func (g *Gateway) Launch() {
	g.t.Helper()
	err := g.TryLaunch()
	if err != nil {
		g.t.Fatal(err)
	}
}

// TryLaunch is Launch for goroutines that must not end the test.
func (g *Gateway) TryLaunch() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	output, err := os.OpenFile(g.path("process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd, err := g.command("run", "--config", g.path("Caddyfile"), "--adapter", "caddyfile")
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Start()
	if err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	g.process, g.exited = cmd, exited
	return nil
}

// Running reports whether the process is there.
func (g *Gateway) Running() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.process == nil {
		return false
	}
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// AwaitReady waits until the gateway says that it is ready.
func (g *Gateway) AwaitReady() {
	g.t.Helper()
	deadline := time.Now().Add(Patience)
	for g.Ready() != http.StatusOK {
		if !g.Running() {
			g.t.Fatalf("%s has ended: %s%s", g.Name, tail(g.path("process.log")), tail(g.path("error.log")))
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s is not ready: %s", g.Name, tail(g.path("error.log")))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Revive has the gateway run and be ready, whatever was done to it, and starts it again when it ends, as an init system
// does.
func (g *Gateway) Revive() {
	g.t.Helper()
	deadline := time.Now().Add(Patience)
	for g.Ready() != http.StatusOK {
		if time.Now().After(deadline) {
			g.t.Fatalf("%s does not get ready: %s", g.Name, tail(g.path("error.log")))
		}
		if !g.Running() {
			g.Launch()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Log is what the process has logged.
func (g *Gateway) Log() string {
	g.t.Helper()
	data, err := os.ReadFile(g.path("error.log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(data)
}

// Ready returns the status of the probe; 0: there is no answer.
func (g *Gateway) Ready() int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := g.Get(ctx, g.health, "/ready")
	if err != nil {
		return 0
	}
	return answer.Status
}

// Kill ends the process as a power cut does.
func (g *Gateway) Kill() error { return g.end(syscall.SIGKILL) }

// Stop ends the process as an init system does.
func (g *Gateway) Stop() error { return g.end(syscall.SIGTERM) }

// Pause stops the process from running (SIGSTOP), and Continue lets it go on.
func (g *Gateway) Pause() error { return g.tell(syscall.SIGSTOP) }

// Continue ends a Pause.
func (g *Gateway) Continue() error { return g.tell(syscall.SIGCONT) }

func (g *Gateway) tell(s syscall.Signal) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.process.Process.Signal(s)
}

func (g *Gateway) end(s syscall.Signal) error {
	err := g.tell(s)
	if err != nil {
		return err
	}
	select {
	case <-g.exited:
	case <-time.After(Patience):
		return fmt.Errorf("%s does not end at %s", g.Name, s)
	}
	g.client.CloseIdleConnections()
	return nil
}

// Metric returns the sum of the series of a metric that have all the labels, each as name="value". Without one it is 0.
func (g *Gateway) Metric(name string, labels ...string) float64 {
	g.t.Helper()
	response, err := g.admin.Get("http://127.0.0.1/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || series != name && !strings.HasPrefix(series, name+"{") || !hasAll(series, labels) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			g.t.Fatalf("metric %s: %v", name, err)
		}
		sum += number
	}
	return sum
}

func hasAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// Eventually waits for a condition with the tests' patience.
func (c *Cluster) Eventually(what string, holds func() bool) {
	c.t.Helper()
	testkit.Eventually(c.t, what, holds)
}

// tail returns the end of a file, for messages.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(data[max(0, len(data)-most):])
}

func (g *Gateway) cleanUp() {
	if g.t.Failed() {
		g.t.Logf("end of the log of %s:\n%s", g.Name, tail(g.path("error.log")))
	}
	if g.Running() {
		err := g.Kill()
		if err != nil {
			g.t.Error(err)
		}
	}
	err := os.RemoveAll(g.dir)
	if err != nil {
		g.t.Error(err)
	}
}

package integration

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// patience is how long anything that ought to happen may take. It is long since the machine may be busy.
const patience = 30 * time.Second

// gateway is one installation: a directory with a key, a Caddyfile and a store, and a process that comes and goes.
type gateway struct {
	t   testing.TB
	dir string
	did string

	public, signaling, health string // host:port of the listeners

	config   config
	under    []string // program that starts the process, with its arguments; default: none
	extra    []string // further variables of the environment
	canaries *canaries
	process  *exec.Cmd
	exited   chan error // gives the one result of the process
	admin    *http.Client
	client   *http.Client // for data and renewals
}

// newGateway makes an installation that is not yet started. When the test ends it is looked through for secrets and
// taken away.
func newGateway(t testing.TB, c config) *gateway {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has at most 104 characters on some systems.
	dir, err := os.MkdirTemp("", "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{
		t: t, dir: dir, did: providerDID, config: c, canaries: &canaries{testkit.NewCanaries()},
		public: freeAddress(t), signaling: freeAddress(t), health: freeAddress(t),
	}
	g.admin = &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.socket())
		},
	}}
	g.client = newClient()
	g.newKey("signing")
	if g.config.storePath == "" {
		g.config.storePath = g.path("store")
	}
	t.Cleanup(g.cleanUp)
	return g
}

// startGateway makes an installation and starts it.
func startGateway(t testing.TB, c config) *gateway {
	t.Helper()
	g := newGateway(t, c)
	g.start()
	return g
}

func (g *gateway) path(elements ...string) string {
	return filepath.Join(append([]string{g.dir}, elements...)...)
}

func (g *gateway) socket() string    { return g.path("admin.sock") }
func (g *gateway) caddyfile() string { return g.path("Caddyfile") }
func (g *gateway) publicURL() string { return "http://" + g.public }

// accessLog and errorLog are where the process logs requests and everything else.
func (g *gateway) accessLog() string { return g.path("log", "access.log") }
func (g *gateway) errorLog() string  { return g.path("log", "error.log") }

// autosave is where Caddy keeps the last configuration that it loaded.
func (g *gateway) autosave() string { return g.path("xdg-config", "caddy", "autosave.json") }

// environment of the process: nothing of ours but the search path, and all of Caddy's directories inside g.dir.
func (g *gateway) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir,
		"XDG_CONFIG_HOME=" + g.path("xdg-config"), "XDG_DATA_HOME=" + g.path("xdg-data"),
	}
}

// runCommand returns what start starts.
func (g *gateway) runCommand() *exec.Cmd {
	line := append(slices.Clone(g.under), binary, "run", "--config", g.caddyfile(), "--adapter", "caddyfile")
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(g.environment(), g.extra...)
	cmd.Dir = g.dir
	return cmd
}

// command returns a run of the binary that is not yet started.
func (g *gateway) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = g.environment()
	cmd.Dir = g.dir
	return cmd
}

// cli runs a command of the binary and returns what it printed.
func (g *gateway) cli(args ...string) (stdout, stderr string, err error) {
	g.t.Helper()
	cmd := g.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// writeConfig writes the Caddyfile of g.config.
func (g *gateway) writeConfig() {
	g.t.Helper()
	writeFile(g.t, g.caddyfile(), g.config.caddyfile(g))
}

// start starts the process and waits until it serves.
func (g *gateway) start() {
	g.t.Helper()
	g.writeConfig()
	output, err := os.OpenFile(g.path("process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer output.Close()
	cmd := g.runCommand()
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Start()
	if err != nil {
		g.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	g.process, g.exited = cmd, exited
	g.awaitReady()
}

func (g *gateway) awaitReady() {
	g.t.Helper()
	testkit.Eventually(g.t, "the gateway serves", func() bool {
		select {
		case err := <-g.exited:
			g.process = nil
			g.t.Fatalf("the process ended at start: %v\n%s", err, tail(g.path("process.log")))
		default:
		}
		if !answers(g.public) || !answers(g.signaling) {
			return false
		}
		response, err := g.admin.Get("http://127.0.0.1/edrgate/status")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// answers reports whether somebody listens at the address.
func answers(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// stop ends the process as an init system does, and waits for it.
func (g *gateway) stop() {
	g.t.Helper()
	err := g.signal(syscall.SIGTERM)
	if err != nil {
		g.t.Errorf("the process did not end well: %v\n%s", err, tail(g.path("process.log")))
	}
}

// kill ends the process as a power cut does.
func (g *gateway) kill() {
	g.t.Helper()
	err := g.signal(syscall.SIGKILL)
	var killed *exec.ExitError
	if !errors.As(err, &killed) {
		g.t.Errorf("the process was to be killed, but ended with %v", err)
	}
}

func (g *gateway) restart() {
	g.t.Helper()
	g.stop()
	g.start()
}

func (g *gateway) signal(s os.Signal) error {
	g.t.Helper()
	err := g.process.Process.Signal(s)
	if err != nil {
		return err
	}
	return g.awaitExit(s)
}

// awaitExit waits for the end of a process that was sent a signal.
func (g *gateway) awaitExit(s os.Signal) error {
	g.t.Helper()
	g.process = nil
	g.client.CloseIdleConnections()
	g.admin.CloseIdleConnections()
	select {
	case err := <-g.exited:
		return err
	case <-time.After(patience):
		g.t.Fatalf("the process did not end within %s of %s", patience, s)
		return nil
	}
}

// running reports whether the process is there.
func (g *gateway) running() bool {
	if g.process == nil {
		return false
	}
	select {
	case err := <-g.exited:
		g.exited <- err
		return false
	default:
		return true
	}
}

// reload loads the Caddyfile of g.config into the running process, as an operator does.
func (g *gateway) reload() {
	g.t.Helper()
	g.writeConfig()
	output, err := g.tryReload()
	if err != nil {
		g.t.Fatalf("reload: %v\n%s", err, output)
	}
}

// tryReload loads the Caddyfile as it is.
func (g *gateway) tryReload() (string, error) {
	g.t.Helper()
	stdout, stderr, err := g.cli("reload", "--config", g.caddyfile(), "--adapter", "caddyfile",
		"--address", "unix/"+g.socket(), "--force")
	return stdout + stderr, err
}

// adminGet returns an answer of the admin API.
func (g *gateway) adminGet(path string) reply {
	g.t.Helper()
	return g.adminDo(http.MethodGet, path, "")
}

func (g *gateway) adminDo(method, path, body string) reply {
	g.t.Helper()
	request, err := http.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	return send(g.t, g.admin, request)
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

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// cleanUp looks for secrets, stops the process and takes the directory away.
func (g *gateway) cleanUp() {
	defer func() {
		if g.running() { // what came before has failed
			_ = g.process.Process.Kill()
			<-g.exited
		}
		err := os.RemoveAll(g.dir)
		if err != nil {
			g.t.Error(err)
		}
	}()
	if g.t.Failed() {
		g.t.Logf("end of the log:\n%s", tail(g.errorLog()))
	}
	if g.running() {
		g.canaries.readAnswers(g)
		g.stop()
	}
	g.canaries.readFiles(g)
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

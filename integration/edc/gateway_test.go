//go:build interop

package edc

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// providerDID is the participant that the gateway speaks for.
const providerDID = "did:web:provider.example"

// gateway is the built binary with a key, a Caddyfile and a store; the process comes and goes.
type gateway struct {
	t       testing.TB
	dir     string
	public  string // host:port
	signals string // host:port
	config  *strings.Replacer

	process *exec.Cmd
	exited  chan error // gives the one result of the process
}

// caddyfile is what an operator writes for a classic control plane, which sends no credential, and flows that name their
// own backend.
const caddyfile = `{
	admin unix/DIR/admin.sock
	default_bind 127.0.0.1
	log {
		output file DIR/gateway.log
	}
	edrgate {
		did PROVIDER
		signing_key DIR/signing.pem
		public_url http://PUBLIC
		resolver {
			allow_http localhost
			allow_addresses 127.0.0.0/8 ::1/128
		}
		store badger {
			path DIR/store
			min_free 64MiB
			reserve 1MiB
		}
		control_plane provider {
			callback CONTROL
			register classic CONTROL/v1/dataplanes {
				signaling_url SIGNALED
				id edrgate
			}
		}
	}
}

http://PUBLIC {
	edr_refresh
	edr_proxy {
		backends http://BACKEND
	}
}

http://SIGNALS {
	edr_signaling {
		auth network 127.0.0.0/8 {
			control_plane provider
		}
		protocol edc
	}
}
`

// newGateway makes an installation in front of a backend, host:port.
func newGateway(t testing.TB, backend string) *gateway {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has at most 104 characters on some systems.
	dir, err := os.MkdirTemp("", "edrgate")
	if err != nil {
		t.Fatal(err)
	}
	base := freePorts(t)
	g := &gateway{t: t, dir: dir, public: fmt.Sprintf("127.0.0.1:%d", base+1), signals: fmt.Sprintf("127.0.0.1:%d", base+2)}
	t.Cleanup(g.cleanUp)
	g.cli("edr", "keygen", g.path("signing.pem"))
	g.config = strings.NewReplacer("DIR", dir, "PROVIDER", providerDID, "PUBLIC", g.public, "SIGNALS", g.signals, "BACKEND", backend)
	return g
}

// configure writes the Caddyfile for a control plane, whose control API is given, and which reaches us at signaled.
func (g *gateway) configure(control, signaled string) {
	g.t.Helper()
	config := strings.NewReplacer("CONTROL", control, "SIGNALED", signaled).Replace(g.config.Replace(caddyfile))
	err := os.WriteFile(g.path("Caddyfile"), []byte(config), 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) path(name string) string { return filepath.Join(g.dir, name) }

// command returns a run of the binary that is not yet started: nothing of our environment but the search path.
func (g *gateway) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir = g.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir,
		"XDG_CONFIG_HOME=" + g.path("xdg-config"), "XDG_DATA_HOME=" + g.path("xdg-data"),
	}
	return cmd
}

// cli runs a command of the binary.
func (g *gateway) cli(args ...string) {
	g.t.Helper()
	output, err := g.command(args...).CombinedOutput()
	if err != nil {
		g.t.Fatalf("%v: %v\n%s", args, err, output)
	}
}

// revoke ends a flow as an operator does.
func (g *gateway) revoke(flow string) {
	g.t.Helper()
	g.cli("edr", "revoke", flow, "--address", "unix/"+g.path("admin.sock"))
}

// start starts the process and waits until it serves.
func (g *gateway) start(ctx context.Context) error {
	output, err := os.OpenFile(g.path("process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := g.command("run", "--config", g.path("Caddyfile"), "--adapter", "caddyfile")
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Start()
	if err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	g.process, g.exited = cmd, exited
	return await(ctx, func() error {
		select {
		case err := <-exited:
			exited <- err
			return fmt.Errorf("the gateway ended at start: %w\n%s", err, g.log("process.log"))
		default:
		}
		for _, address := range []string{g.public, g.signals} {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return fmt.Errorf("%w: the gateway does not serve: %w", errNotYet, err)
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
func (g *gateway) kill() error { return g.end(syscall.SIGKILL) }

func (g *gateway) end(s os.Signal) error {
	process := g.process
	g.process = nil
	err := process.Process.Signal(s)
	if err != nil {
		return fmt.Errorf("the gateway is gone already: %w", err)
	}
	select {
	case <-g.exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the gateway did not end within %s of %s", patience, s)
	}
}

// log returns the end of a log.
func (g *gateway) log(name string) string { return endOf(g.path(name)) }

// endOf returns the end of a file, for messages.
func endOf(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	return string(data[max(0, len(data)-most):])
}

func (g *gateway) cleanUp() {
	if g.process != nil {
		err := g.end(syscall.SIGTERM)
		if err != nil {
			g.t.Error(err)
		}
	}
	if g.t.Failed() {
		g.t.Logf("end of the gateway's log:\n%s", g.log("gateway.log"))
	}
	err := os.RemoveAll(g.dir)
	if err != nil {
		g.t.Error(err)
	}
}

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The configurations of the gateways. They are Caddyfiles as they stand: Caddy itself would take the values from the
// environment. They are filled in here so that the files in the working directories can be read and tried out.
var (
	//go:embed Caddyfile.provider
	providerCaddyfile string

	//go:embed Caddyfile.consumer
	consumerCaddyfile string
)

// How long Caddy may take. They bound a hang and are far above what it needs.
const (
	startWithin   = 30 * time.Second
	stopWithin    = 15 * time.Second
	commandWithin = 30 * time.Second
	pollEvery     = 50 * time.Millisecond
)

// gateway is a Caddy with the plugin, run as its operator would run it.
type gateway struct {
	binary      string
	caddyfile   string // with placeholders
	did         string // of the company
	dir         string // holds all that it reads and writes, its signing key among it
	backendPort string
	walletPort  string

	dataPort, egressPort, signalingPort, adminPort string // a provider has no egress

	stop   context.CancelFunc
	exited chan struct{} // closed when the process has ended, with err
	err    error
}

func (g *gateway) keyFile() string    { return filepath.Join(g.dir, "signing.pem") }
func (g *gateway) configFile() string { return filepath.Join(g.dir, "Caddyfile") }
func (g *gateway) logFile() string    { return filepath.Join(g.dir, "caddy.log") }
func (g *gateway) signaling() string  { return "http://127.0.0.1:" + g.signalingPort }
func (g *gateway) data() string       { return "http://127.0.0.1:" + g.dataPort }
func (g *gateway) egress() string     { return "http://127.0.0.1:" + g.egressPort }
func (g *gateway) admin() string      { return "127.0.0.1:" + g.adminPort }

// generateKey makes the signing key.
func (g *gateway) generateKey(ctx context.Context) error {
	return g.command(ctx, "edr", "keygen", g.keyFile(), "--did", g.did)
}

// start makes a configuration, starts Caddy and waits until it is ready.
func (g *gateway) start(ctx context.Context, client *http.Client, tokenTTL time.Duration) error {
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	g.dataPort, g.egressPort, g.signalingPort, g.adminPort = ports[0], ports[1], ports[2], ports[3]
	err = g.configure(tokenTTL)
	if err != nil {
		return err
	}
	err = g.launch()
	if err != nil {
		return err
	}
	return g.waitReady(ctx, client)
}

// configure writes the Caddyfile.
func (g *gateway) configure(tokenTTL time.Duration) error {
	filled := strings.NewReplacer(
		"{$ADMIN_PORT}", g.adminPort,
		"{$BACKEND_PORT}", g.backendPort,
		"{$DATA_PORT}", g.dataPort,
		"{$DID}", g.did,
		"{$DIR}", g.dir,
		"{$EGRESS_PORT}", g.egressPort,
		"{$SIGNALING_PORT}", g.signalingPort,
		"{$TOKEN_TTL}", brief(tokenTTL),
		"{$WALLET_PORT}", g.walletPort,
	).Replace(g.caddyfile)
	return os.WriteFile(g.configFile(), []byte(filled), 0o600)
}

// brief writes a duration without a rest of nothing: 5m, not 5m0s.
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		return strings.TrimSuffix(text, "0s")
	}
	return text
}

// reload gives the running Caddy a changed configuration.
func (g *gateway) reload(ctx context.Context, tokenTTL time.Duration) error {
	err := g.configure(tokenTTL)
	if err != nil {
		return err
	}
	return g.command(ctx, "reload", "--config", g.configFile(), "--adapter", "caddyfile", "--address", g.admin())
}

// environment keeps Caddy's own files, the copy of the last configuration among them, inside the working directory.
func (g *gateway) environment() []string {
	return append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(g.dir, "config"), "XDG_DATA_HOME="+filepath.Join(g.dir, "data"))
}

// command runs one of the binary's commands to its end.
func (g *gateway) command(ctx context.Context, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.binary, arguments...)
	cmd.Env = g.environment()
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", g.binary, strings.Join(arguments, " "), err, output)
	}
	return nil
}

// launch starts `caddy run`. Its life is not bound to the context of the steps: on Ctrl-C it must still be stopped in
// order.
func (g *gateway) launch() error {
	log, err := os.Create(g.logFile())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, g.binary, "run", "--config", g.configFile(), "--adapter", "caddyfile")
	cmd.Env = g.environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	err = cmd.Start()
	if err != nil {
		stop()
		return errors.Join(fmt.Errorf("starting caddy: %w", err), log.Close())
	}
	g.stop, g.exited = stop, make(chan struct{})
	go func() {
		defer close(g.exited)
		g.err = errors.Join(cmd.Wait(), log.Close())
	}()
	return nil
}

// close stops Caddy, if it runs, and waits until it has ended.
func (g *gateway) close() {
	if g.stop == nil {
		return
	}
	g.stop()
	<-g.exited
}

// waitReady polls the probe of edr_health.
func (g *gateway) waitReady(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	last := errors.New("it was not asked yet")
	for {
		select {
		case <-g.exited:
			return fmt.Errorf("caddy ended while starting: %w", g.ended())
		case <-ctx.Done():
			return fmt.Errorf("caddy is not ready: %w: %w", ctx.Err(), last)
		case <-ticker.C:
		}
		last = probe(ctx, client, g.signaling()+"/ready")
		if last == nil {
			return nil
		}
	}
}

// ended says how the process ended. It may be called once exited is closed.
func (g *gateway) ended() error {
	if g.err == nil {
		return errors.New("exit status 0")
	}
	return g.err
}

func probe(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// freePorts returns ports of the loopback interface that nothing listened on a moment ago. All are held until the last
// is found, so that no two are the same.
func freePorts(n int) ([]string, error) {
	ports := make([]string, 0, n)
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		defer listener.Close()
		ports = append(ports, portOf(listener))
	}
	return ports, nil
}

func portOf(listener net.Listener) string {
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		panic(err) // the address of a TCP listener has a port
	}
	return port
}

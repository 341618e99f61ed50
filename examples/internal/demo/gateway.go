// Package demo has what the demonstrations have in common: who is there (gateways, wallets, a backend, control planes of
// both dialects) and how the steps are told. It uses no code of the gateway, so that another JOSE library and another
// reading of the protocols meet it.
package demo

import (
	"context"
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

// How long Caddy may take. They bound a hang and are far above what it needs.
const (
	startWithin   = 30 * time.Second
	stopWithin    = 15 * time.Second
	commandWithin = 30 * time.Second
)

// PollEvery is how often is looked for what takes its time.
const PollEvery = 50 * time.Millisecond

// Gateway is a Caddy with the plugin, run as its operator would run it.
type Gateway struct {
	Binary    string
	Caddyfile string            // with placeholders
	Values    map[string]string // of the placeholders, by their names, beside those that the gateway knows itself
	DID       string            // of the company
	Dir       string            // holds all that it reads and writes, its signing key among it

	// Start chooses those that are empty. A provider has no egress.
	DataPort, EgressPort, SignalingPort, AdminPort string

	// Exited is closed when the process has ended.
	Exited chan struct{}

	stop    context.CancelFunc
	process *os.Process
	err     error
}

// KeyFile is where the signing key is.
func (g *Gateway) KeyFile() string { return filepath.Join(g.Dir, "signing.pem") }

// ConfigFile is the Caddyfile with everything filled in.
func (g *Gateway) ConfigFile() string { return filepath.Join(g.Dir, "Caddyfile") }

func (g *Gateway) logFile() string { return filepath.Join(g.Dir, "caddy.log") }

// Signaling is the URL of what the control plane reaches.
func (g *Gateway) Signaling() string { return "http://127.0.0.1:" + g.SignalingPort }

// Data is the URL of what consumers reach.
func (g *Gateway) Data() string { return "http://127.0.0.1:" + g.DataPort }

// Egress is the URL of what applications reach.
func (g *Gateway) Egress() string { return "http://127.0.0.1:" + g.EgressPort }

// Admin is the address of Caddy's admin API.
func (g *Gateway) Admin() string { return "127.0.0.1:" + g.AdminPort }

// GenerateKey makes the signing key.
func (g *Gateway) GenerateKey(ctx context.Context) error {
	return g.Command(ctx, "edr", "keygen", g.KeyFile(), "--did", g.DID)
}

// Start makes a configuration, starts Caddy and waits until it is ready.
func (g *Gateway) Start(ctx context.Context, client *http.Client, tokenTTL time.Duration) error {
	ports, err := FreePorts(4)
	if err != nil {
		return err
	}
	for i, port := range []*string{&g.DataPort, &g.EgressPort, &g.SignalingPort, &g.AdminPort} {
		if *port == "" {
			*port = ports[i]
		}
	}
	err = g.Configure(tokenTTL)
	if err != nil {
		return err
	}
	err = g.launch()
	if err != nil {
		return err
	}
	return g.waitReady(ctx, client)
}

// Configure writes the Caddyfile.
func (g *Gateway) Configure(tokenTTL time.Duration) error {
	pairs := []string{
		"{$ADMIN_PORT}", g.AdminPort,
		"{$DATA_PORT}", g.DataPort,
		"{$DID}", g.DID,
		"{$DIR}", g.Dir,
		"{$EGRESS_PORT}", g.EgressPort,
		"{$SIGNALING_PORT}", g.SignalingPort,
		"{$TOKEN_TTL}", Brief(tokenTTL),
	}
	for name, value := range g.Values {
		pairs = append(pairs, "{$"+name+"}", value)
	}
	filled := strings.NewReplacer(pairs...).Replace(g.Caddyfile)
	return os.WriteFile(g.ConfigFile(), []byte(filled), 0o600)
}

// Brief writes a duration without a rest of nothing: 5m, not 5m0s.
func Brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		return strings.TrimSuffix(text, "0s")
	}
	return text
}

// Reload gives the running Caddy a changed configuration.
func (g *Gateway) Reload(ctx context.Context, tokenTTL time.Duration) error {
	err := g.Configure(tokenTTL)
	if err != nil {
		return err
	}
	return g.Command(ctx, "reload", "--config", g.ConfigFile(), "--adapter", "caddyfile", "--address", g.Admin())
}

// environment keeps Caddy's own files, the copy of the last configuration among them, inside the working directory.
func (g *Gateway) environment() []string {
	return append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(g.Dir, "config"), "XDG_DATA_HOME="+filepath.Join(g.Dir, "data"))
}

// Command runs one of the binary's commands to its end.
func (g *Gateway) Command(ctx context.Context, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.Binary, arguments...)
	cmd.Env = g.environment()
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", g.Binary, strings.Join(arguments, " "), err, output)
	}
	return nil
}

// launch starts `caddy run`. Its life is not bound to the context of the steps: on Ctrl-C it must still be stopped in
// order.
func (g *Gateway) launch() error {
	log, err := os.OpenFile(g.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, g.Binary, "run", "--config", g.ConfigFile(), "--adapter", "caddyfile")
	cmd.Env = g.environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	err = cmd.Start()
	if err != nil {
		stop()
		return errors.Join(fmt.Errorf("starting caddy: %w", err), log.Close())
	}
	g.stop, g.Exited, g.process = stop, make(chan struct{}), cmd.Process
	go func() {
		defer close(g.Exited)
		g.err = errors.Join(cmd.Wait(), log.Close())
	}()
	return nil
}

// Close stops Caddy, if it runs, and waits until it has ended.
func (g *Gateway) Close() {
	if g.stop == nil {
		return
	}
	g.stop()
	<-g.Exited
}

// Kill ends Caddy as a crash of its machine does, and waits until it has ended.
func (g *Gateway) Kill() error {
	err := g.process.Kill()
	if err != nil {
		return err
	}
	<-g.Exited
	return nil
}

// waitReady polls the probe of edr_health.
func (g *Gateway) waitReady(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	ticker := time.NewTicker(PollEvery)
	defer ticker.Stop()
	last := errors.New("it was not asked yet")
	for {
		select {
		case <-g.Exited:
			return fmt.Errorf("caddy ended while starting: %w", g.Ended())
		case <-ctx.Done():
			return fmt.Errorf("caddy is not ready: %w: %w", ctx.Err(), last)
		case <-ticker.C:
		}
		last = probe(ctx, client, g.Signaling()+"/ready")
		if last == nil {
			return nil
		}
	}
}

// Ended says how the process ended. It may be called once exited is closed.
func (g *Gateway) Ended() error {
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

// FreePorts returns ports of the loopback interface that nothing listened on a moment ago. All are held until the last
// is found, so that no two are the same.
func FreePorts(n int) ([]string, error) {
	ports := make([]string, 0, n)
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		defer listener.Close()
		ports = append(ports, PortOf(listener))
	}
	return ports, nil
}

func PortOf(listener net.Listener) string {
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		panic(err) // the address of a TCP listener has a port
	}
	return port
}

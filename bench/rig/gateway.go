package rig

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ProviderDID is the participant that gateways of benchmarks speak for.
const ProviderDID = "did:web:provider.example"

// Gateway is one installation of the binary: a directory with its Caddyfile, key and store, and the process.
type Gateway struct {
	Public    string // host:port of the data
	Signaling string // host:port of signaling; empty of a bare Caddy
	Process   *Process

	command Command
}

// GatewayConfig is what differs between installations.
type GatewayConfig struct {
	Name   string
	Binary string
	Dir    string
	CPUs   string
	Site   string  // directives of the public site
	Bare   bool    // Caddy as it comes: nothing of EDRgate is configured
	Signer *Signer // of access tokens, unless Bare
	App    string  // further lines of the edrgate block
	Public string  // host:port of the data; empty: any
	Store  string  // directory of the store; empty: one of its own
}

// NewGateway writes an installation and starts it.
func NewGateway(ctx context.Context, c GatewayConfig) (*Gateway, error) {
	g := &Gateway{Public: c.Public}
	addresses := []*string{&g.Public}
	if !c.Bare {
		addresses = append(addresses, &g.Signaling)
	}
	for _, address := range addresses {
		if *address != "" {
			continue
		}
		var err error
		*address, err = FreeAddress()
		if err != nil {
			return nil, err
		}
	}
	caddyfile := filepath.Join(c.Dir, "Caddyfile")
	err := os.MkdirAll(c.Dir, 0o700)
	if err == nil {
		err = os.WriteFile(caddyfile, []byte(g.caddyfile(c)), 0o600)
	}
	if err == nil && !c.Bare {
		var key []byte
		key, err = c.Signer.PEM()
		if err == nil {
			err = os.WriteFile(filepath.Join(c.Dir, "signing.pem"), key, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	g.command = Command{
		Name: c.Name, Path: c.Binary, Dir: c.Dir, CPUs: c.CPUs,
		Args: []string{"run", "--config", caddyfile, "--adapter", "caddyfile"},
		Env:  []string{"XDG_CONFIG_HOME=" + c.Dir, "XDG_DATA_HOME=" + c.Dir},
	}
	return g, g.Start(ctx)
}

// Start starts the process, and waits until it serves.
func (g *Gateway) Start(ctx context.Context) error {
	var err error
	g.Process, err = Start(g.command)
	if err == nil {
		err = g.Process.Await(ctx, g.Public)
	}
	if err == nil && g.Signaling != "" {
		err = g.Process.Await(ctx, g.Signaling)
	}
	if err != nil && g.Process != nil {
		g.Process.Stop()
	}
	return err
}

// caddyfile renders the configuration. All that is not the gateway's own is the same with and without it.
func (g *Gateway) caddyfile(c GatewayConfig) string {
	app, signaling := "", ""
	if !c.Bare {
		app = fmt.Sprintf(`edrgate {
		did %s
		signing_key %s
		public_url http://%s
		resolver {
			allow_http localhost
			allow_addresses 127.0.0.0/8 ::1/128
		}
		store badger {
			path %s
			min_free 64MiB
			reserve 1MiB
		}
		%s
	}`, ProviderDID, filepath.Join(c.Dir, "signing.pem"), g.Public, cmp.Or(c.Store, filepath.Join(c.Dir, "store")), c.App)
		signaling = fmt.Sprintf("http://%s {\n\tedr_signaling {\n\t\tauth network 127.0.0.0/8\n\t}\n}\n", g.Signaling)
	}
	return fmt.Sprintf(`{
	admin off
	persist_config off
	default_bind 127.0.0.1
	log {
		level WARN
	}
	%s
}

http://%s {
	%s
}

%s`, app, g.Public, c.Site, signaling)
}

// StartFlow starts a flow as a classic control plane does, and returns its EDR.
func (g *Gateway) StartFlow(ctx context.Context, f Flow) (*EDR, error) {
	return f.start(ctx, "http://"+g.Signaling+"/v1/dataflows/start")
}

// client is for messages of control planes, which are not measured.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}

// ReverseProxy is the directive for a proxy to one backend, with as many connections kept as a benchmark has.
func ReverseProxy(backend string) string {
	return strings.ReplaceAll(`reverse_proxy {backend} {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}`, "{backend}", backend)
}

// Command quickstart shows the gateway at work on one machine. It starts the built Caddy twice, each with a small Caddyfile,
// as the gateway of a provider and as that of a consumer, and plays everybody around them: the control planes, the
// provider's backend, the consumer with its wallet and an application, and a thief. Each step is one line; a step that does
// not go as it must ends the program with an error.
//
// It uses no code of the gateway, so that another JOSE library and another reading of the protocols meet it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	caddy    string
	once     bool
	tokenTTL time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.caddy, "caddy", "bin/caddy", "the Caddy `binary` with the gateway")
	flag.BoolVar(&o.once, "once", false, "end when all steps are done, with status 0 if all went well")
	flag.DurationVar(&o.tokenTTL, "token-ttl", 4*time.Second, "life of the first tokens; raise it on a very slow machine")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// requestTimeout bounds each request. The gateway itself waits for a DID host for 4 s.
const requestTimeout = 10 * time.Second

// run plays the demonstration in a directory of its own, which it leaves behind only where something went wrong.
func run(ctx context.Context, o options, out io.Writer) error {
	_, err := exec.LookPath(o.caddy)
	if err != nil {
		return fmt.Errorf("%w: build it with `make build`, or name another one with -caddy", err)
	}
	dir, err := os.MkdirTemp("", "edrgate-quickstart-")
	if err != nil {
		return err
	}
	err = playIn(ctx, dir, o, out)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w\nwhat each Caddy logged and read is below %s: caddy.log, Caddyfile", err, dir)
	}
	if ctx.Err() != nil {
		fmt.Fprintln(out, "\nstopped")
	}
	removed := os.RemoveAll(dir)
	if o.once && err != nil {
		return errors.Join(errors.New("interrupted"), removed)
	}
	return removed
}

func playIn(ctx context.Context, dir string, o options, out io.Writer) error {
	backend, backendPort, err := serve(newBackend())
	if err != nil {
		return err
	}
	defer backend.Close()

	wallets := http.NewServeMux()
	walletHost, walletPort, err := serve(wallets)
	if err != nil {
		return err
	}
	defer walletHost.Close()
	consumer, err := newWallet(walletPort, "consumer")
	if err != nil {
		return err
	}
	thief, err := newWallet(walletPort, "thief")
	if err != nil {
		return err
	}
	wallets.Handle("GET /consumer/did.json", consumer)
	wallets.Handle("GET /thief/did.json", thief)
	wallets.HandleFunc("POST /consumer/proof", consumer.serveProofs)

	// Without a proxy of the environment: all hosts are this one.
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{}}
	gate := &gateway{
		binary: o.caddy, caddyfile: providerCaddyfile, did: providerDID, dir: filepath.Join(dir, "provider"),
		backendPort: backendPort, walletPort: walletPort,
	}
	consumerGate := &gateway{binary: o.caddy, caddyfile: consumerCaddyfile, did: consumer.did, dir: filepath.Join(dir, "consumer")}
	err = errors.Join(os.Mkdir(gate.dir, 0o700), os.Mkdir(consumerGate.dir, 0o700))
	if err != nil {
		return err
	}
	// The consumer's key stands in its DID document, which is there before its gateway.
	err = errors.Join(gate.generateKey(ctx), consumer.writeKey(consumerGate.keyFile()))
	if err != nil {
		return err
	}
	for _, g := range []*gateway{gate, consumerGate} {
		defer g.close()
		err = g.start(ctx, client, o.tokenTTL)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "Caddy is running with %s\n", g.configFile())
	}

	s := &stage{
		narrator: narrator{out: out}, client: client, gateway: gate, consumerGateway: consumerGate,
		consumer: consumer, thief: thief, tokenTTL: o.tokenTTL,
	}
	kept, err := s.play(ctx, "http://127.0.0.1:"+backendPort)
	if err != nil {
		return err
	}
	if o.once {
		return nil
	}
	err = kept.invite(out)
	if err != nil {
		return err
	}
	ended := gate
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-gate.exited:
	case <-consumerGate.exited:
		ended = consumerGate
	}
	if ctx.Err() != nil {
		return ctx.Err() // Ctrl-C reaches Caddy too
	}
	return fmt.Errorf("caddy with %s has ended: %w", ended.configFile(), ended.ended())
}

// serve serves a handler on a free port of the loopback interface.
func serve(handler http.Handler) (*http.Server, string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: requestTimeout}
	go func() {
		_ = server.Serve(listener) // returns when the server is closed; requests would fail if it did earlier
	}()
	return server, portOf(listener), nil
}

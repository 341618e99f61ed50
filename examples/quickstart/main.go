// Command quickstart shows the gateway at work on one machine. It starts the built Caddy twice, each with a small Caddyfile,
// as the gateway of a provider and as that of a consumer, and plays everybody around them: the control planes, the
// provider's backend, the consumer with its wallet and an application, and a thief. Each step is one line; a step that does
// not go as it must ends the program with an error.
//
// It uses no code of the gateway, so that another JOSE library and another reading of the protocols meet it.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

// The configurations of the gateways. They are Caddyfiles as they stand: Caddy itself would take the values from the
// environment. They are filled in here so that the files in the working directories can be read and tried out.
var (
	//go:embed Caddyfile.provider
	providerCaddyfile string

	//go:embed Caddyfile.consumer
	consumerCaddyfile string
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
	backend, backendPort, err := demo.Serve(demo.NewBackend())
	if err != nil {
		return err
	}
	defer backend.Close()

	wallets := http.NewServeMux()
	walletHost, walletPort, err := demo.Serve(wallets)
	if err != nil {
		return err
	}
	defer walletHost.Close()
	consumer, err := demo.NewWallet(walletPort, "consumer")
	if err != nil {
		return err
	}
	thief, err := demo.NewWallet(walletPort, "thief")
	if err != nil {
		return err
	}
	wallets.Handle("GET /consumer/did.json", consumer)
	wallets.Handle("GET /thief/did.json", thief)
	wallets.HandleFunc("POST /consumer/proof", consumer.ServeProofs)

	// Without a proxy of the environment: all hosts are this one.
	client := &http.Client{Timeout: demo.RequestTimeout, Transport: &http.Transport{}}
	gate := &demo.Gateway{
		Binary: o.caddy, Caddyfile: providerCaddyfile, DID: demo.ProviderDID, Dir: filepath.Join(dir, "provider"),
		Values: map[string]string{"BACKEND_PORT": backendPort, "WALLET_PORT": walletPort},
	}
	consumerGate := &demo.Gateway{Binary: o.caddy, Caddyfile: consumerCaddyfile, DID: consumer.DID, Dir: filepath.Join(dir, "consumer")}
	err = errors.Join(os.Mkdir(gate.Dir, 0o700), os.Mkdir(consumerGate.Dir, 0o700))
	if err != nil {
		return err
	}
	// The consumer's key stands in its DID document, which is there before its gateway.
	err = errors.Join(gate.GenerateKey(ctx), consumer.WriteKey(consumerGate.KeyFile()))
	if err != nil {
		return err
	}
	for _, g := range []*demo.Gateway{gate, consumerGate} {
		defer g.Close()
		err = g.Start(ctx, client, o.tokenTTL)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "Caddy is running with %s\n", g.ConfigFile())
	}

	s := &stage{
		Narrator: demo.Narrator{Out: out}, client: client, gateway: gate, consumerGateway: consumerGate,
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
	case <-gate.Exited:
	case <-consumerGate.Exited:
		ended = consumerGate
	}
	if ctx.Err() != nil {
		return ctx.Err() // Ctrl-C reaches Caddy too
	}
	return fmt.Errorf("caddy with %s has ended: %w", ended.ConfigFile(), ended.Ended())
}

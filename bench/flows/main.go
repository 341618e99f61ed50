// Command flows measures what the number of flows costs. For each size it makes a store of that many flows, starts the binary
// over it, kills it and starts it again, and looks at memory, start-up, first uses, renewals and disk. docs/performance.md says
// how to read it.
//
//	make bench-flows
//	make bench-flows ARGS="-sizes 10000,100000"
//	make bench-flows ARGS="-generate 1000000 -dir /var/tmp/flows"
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

func main() {
	b := new(growth)
	sizes := flag.String("sizes", "10000,100000,1000000", "numbers of flows to measure")
	results := flag.String("results", "bench/results.json", "file that gets the results; other tables stay in it")
	generate := flag.Int("generate", 0, "make a store of that many flows in -dir, and measure nothing")
	flag.StringVar(&b.dir, "dir", "", "directory for the stores; default: one for temporary files, removed afterwards")
	flag.StringVar(&b.binary, "binary", "bin/caddy", "Caddy with EDRgate")
	flag.IntVar(&b.rotations, "rotations", 10, "how many times each record is rewritten before the disk is looked at")
	limit := flag.Duration("limit", time.Hour, "when to give up")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, *limit)
	var err error
	if *generate > 0 {
		err = b.generateOnly(ctx, *generate)
	} else {
		err = b.run(ctx, *sizes, *results)
	}
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-flows:", err)
		os.Exit(1)
	}
}

// generateOnly leaves a store and the key of its gateway behind.
func (b *growth) generateOnly(ctx context.Context, n int) error {
	if b.dir == "" {
		return fmt.Errorf("-generate needs -dir")
	}
	signer, err := rig.NewSigner()
	if err != nil {
		return err
	}
	key, err := signer.PEM()
	if err == nil {
		err = os.MkdirAll(b.dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "signing.pem"), key, 0o600)
	}
	if err != nil {
		return err
	}
	s := &flowStore{dir: filepath.Join(b.dir, "store"), public: "127.0.0.1:8080", signer: signer, flows: n}
	return s.generate(ctx, progress)
}

func (b *growth) run(ctx context.Context, sizes, results string) error {
	var err error
	b.binary, err = filepath.Abs(b.binary)
	if err == nil {
		_, err = os.Stat(b.binary)
	}
	if err == nil && b.dir == "" {
		b.dir, err = os.MkdirTemp("", "edrgate-flows")
		defer os.RemoveAll(b.dir)
	}
	if err != nil {
		return err
	}
	t := &rig.Table{
		Name: "flows", Title: "Growth: what the number of flows costs",
		Machine:  fmt.Sprintf("all cores; %d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		Measures: measures, Chart: anonymous,
	}
	for _, text := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < sampled {
			return fmt.Errorf("-sizes: %q is not a number of at least %d", text, sampled)
		}
		values, err := b.measure(ctx, n)
		if err != nil {
			return fmt.Errorf("%d flows: %w", n, err)
		}
		t.Rows = append(t.Rows, rowOf(fmt.Sprintf("%d flows", n), values))
		// With each size: what comes before the largest one is not lost if that fails.
		t.Ratios = ratios(t.Rows)
		progress("")
		err = t.Put(results, rig.Order)
		if err != nil {
			return err
		}
	}
	return t.Print(os.Stdout)
}

// progress says on standard error how far it is.
func progress(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "\r\033[K"+format, values...)
}

// Command peers measures the gateway beside what it is compared with: bare Caddy, other gateways that check tokens, and the
// data plane of EDC. All sides run on this machine, on loopback addresses, and take turns in short rounds; what is printed are
// medians, the spread, and the ratios of rounds beside each other. docs/performance.md says how to read it.
//
//	make bench-peers
//	make bench-peers ARGS="-only data,renewal"
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// The tables, in order.
var order = slices.DeleteFunc(slices.Clone(rig.Order), func(name string) bool { return name == "flows" })

// benchmark is what the tables have in common.
type benchmark struct {
	dir      string // of this run
	cache    string // of what is built or downloaded once
	binary   string // Caddy with EDRgate
	root     string // of the module
	rounds   int
	duration time.Duration
	signer   *rig.Signer
	backend  *backend

	caddyJWT string // a directory with the source of caddy-jwt; empty: the module proxy's

	proxyCPUs, loadCPUs string
	pinned              bool
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "backend" {
		exit(runBackend(os.Args[2], os.Args[3]))
	}
	b := new(benchmark)
	only := flag.String("only", strings.Join(order, ","), "tables to measure")
	results := flag.String("results", "bench/results.json", "file that gets the results; tables that are not measured stay in it")
	flag.StringVar(&b.binary, "binary", "bin/caddy", "Caddy with EDRgate")
	flag.StringVar(&b.cache, "cache", "bin/bench", "directory for what is built or downloaded once")
	flag.IntVar(&b.rounds, "rounds", 20, "rounds of each table of requests")
	flag.DurationVar(&b.duration, "duration", time.Second, "of one round of one side")
	flag.StringVar(&b.caddyJWT, "caddy-jwt", "", "directory with the source of github.com/ggicci/caddy-jwt, where the module proxy has none")
	limit := flag.Duration("limit", 40*time.Minute, "when to give up")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	err := b.run(ctx, strings.Split(*only, ","), *results)
	cancel()
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-peers:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (b *benchmark) run(ctx context.Context, tables []string, results string) error {
	measured := map[string]func(context.Context) (*rig.Table, error){
		"data": b.data, "peers": b.peers, "edc": b.edc, "slow": b.slow, "renewal": b.renewal, "rotation": b.rotation, "bodies": b.bodies,
	}
	for _, name := range tables {
		if measured[name] == nil {
			return fmt.Errorf("no table is named %q: there are %s", name, strings.Join(order, ", "))
		}
	}
	err := b.prepare(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.backend.process.Stop()
	for _, name := range order {
		if !slices.Contains(tables, name) {
			continue
		}
		t, err := measured[name](ctx)
		if err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		t.Name, t.Machine = name, b.machine(t.Machine)
		b.progress("")
		err = t.Print(os.Stdout)
		if err != nil {
			return err
		}
		err = t.Put(results, rig.Order)
		if err != nil {
			return err
		}
	}
	return nil
}

// prepare makes what all tables need.
func (b *benchmark) prepare(ctx context.Context) error {
	for _, path := range []*string{&b.binary, &b.cache} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	_, err := os.Stat(b.binary)
	if err == nil {
		err = os.MkdirAll(b.cache, 0o755)
	}
	if err == nil {
		b.root, err = os.Getwd()
	}
	if err == nil {
		// Not below the cache: the store is to be on the disk that temporary files are on, which TMPDIR chooses.
		b.dir, err = os.MkdirTemp("", "edrgate-bench")
	}
	if err == nil {
		b.signer, err = rig.NewSigner()
	}
	if err != nil {
		return err
	}
	if rig.CanPin() {
		b.proxyCPUs, b.loadCPUs = "1", "0"
	}
	b.backend, err = startBackend(ctx, b.dir, b.loadCPUs)
	return err
}

// pin keeps the generator on the core that the proxies do not have, or, for all, gives it both.
func (b *benchmark) pin(both bool) error {
	cpus, threads := b.loadCPUs, 1
	if both {
		cpus, threads = "0,1", 2
	}
	var err error
	b.pinned, err = rig.PinSelf(cpus, threads)
	return err
}

// machine says what was measured on, and how: unless a table says something else, on cores of their own.
func (b *benchmark) machine(how string) string {
	switch {
	case how != "":
	case b.pinned:
		how = "each proxy alone on core 1, generator and backend on core 0"
	default:
		how = "not pinned to cores (no taskset, or one core)"
	}
	return fmt.Sprintf("%s; %d cores, %s/%s, %s", how, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// progress says on standard error how far it is.
func (b *benchmark) progress(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "\r\033[K"+format, values...)
}

// subdirectory returns a new directory of this run.
func (b *benchmark) subdirectory(name string) string { return filepath.Join(b.dir, name) }

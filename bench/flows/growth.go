package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// growth is the benchmark.
type growth struct {
	dir       string
	binary    string
	rotations int
}

// The measures of each size.
const (
	startsPerSecond    = "made/s"
	ready              = "ready after kill -9, s"
	anonymous          = "anonymous RSS MiB"
	firstUse           = "first use p50 ms"
	laterUse           = "later use p50 ms"
	perToken           = "KiB per active token"
	renewalsPerSecond  = "renewals/s"
	rotationsPerSecond = "rotations/s"
	diskMiB            = "disk MiB"
	diskByLive         = "disk ÷ live"
)

var measures = []string{
	startsPerSecond, ready, anonymous, firstUse, laterUse, perToken, renewalsPerSecond, rotationsPerSecond, diskMiB, diskByLive,
}

const (
	renewingFlows = 200
	renewals      = 10
	activeTokens  = 60_000 // so many that what Go has not collected yet weighs little beside them
)

// measure makes a store of n flows and looks at a gateway over it.
func (b *growth) measure(ctx context.Context, n int) (map[string]float64, error) {
	dir := filepath.Join(b.dir, fmt.Sprint(n))
	defer os.RemoveAll(dir)
	signer, err := rig.NewSigner()
	if err != nil {
		return nil, err
	}
	documents, wallets, err := rig.HostWallets(20)
	if err != nil {
		return nil, err
	}
	defer documents.Close()
	public, err := rig.FreeAddress()
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	s := &flowStore{dir: filepath.Join(dir, "store"), public: public, signer: signer, flows: n, wallets: wallets}
	start := time.Now()
	err = s.generate(ctx, progress)
	if err != nil {
		return nil, err
	}
	values[startsPerSecond] = float64(n) / time.Since(start).Seconds()
	err = b.serve(ctx, s, dir, values)
	if err != nil {
		return nil, err
	}
	var live int64
	values[rotationsPerSecond], live, err = s.rotate(ctx, b.rotations, progress)
	if err != nil {
		return nil, err
	}
	disk, err := onDisk(s.dir)
	values[diskMiB], values[diskByLive] = float64(disk)/mebibyte, float64(disk)/float64(live)
	return values, err
}

const mebibyte = 1 << 20

// serve looks at the gateway: killed in the middle of renewals, started again, and used.
func (b *growth) serve(ctx context.Context, s *flowStore, dir string, values map[string]float64) error {
	progress("%d flows: the gateway", s.flows)
	backend, err := startBackend()
	if err != nil {
		return err
	}
	defer backend.Close()
	g, err := rig.NewGateway(ctx, rig.GatewayConfig{
		Name: "gateway", Binary: b.binary, Dir: filepath.Join(dir, "gateway"), Public: s.public, Store: s.dir, Signer: s.signer,
		Site: "edr_refresh\n\tedr_auth {\n\t\tdataset " + dataset + "\n\t\tignore_source_address\n\t}\n\t" + rig.ReverseProxy(backend.Addr),
		// The first flows are of one consumer, whose renewals at once have a bound of their own.
		App: "token_ttl 24h\n\t\tlimits {\n\t\t\trenewals 512\n\t\t\trenewals_per_consumer 512\n\t\t}",
	})
	if err != nil {
		return err
	}
	defer func() { g.Process.Stop() }()
	flows := make([]*rig.Renewing, min(renewingFlows, len(s.edrs)))
	for i := range flows {
		flows[i] = rig.NewRenewing(s.edrs[i].wallet, &s.edrs[i].EDR)
		flows[i].Prepare(renewals)
	}
	endpoint := "http://" + s.public + "/token"
	elapsed, latencies, err := rig.Renew(ctx, endpoint, flows)
	if err != nil {
		return err
	}
	values[renewalsPerSecond] = float64(len(latencies)) / elapsed.Seconds()

	g.Process.Kill()
	start := time.Now()
	err = g.Start(ctx)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: time.Minute}
	// Ready is when a flow's data is there, not when somebody listens.
	last := s.edrs[len(s.edrs)-1].Access
	_, err = get(ctx, client, s.public, last)
	if err != nil {
		return err
	}
	values[ready] = time.Since(start).Seconds()

	for _, measure := range []string{firstUse, laterUse} {
		took := make([]time.Duration, 0, len(s.edrs))
		for _, edr := range s.edrs[:len(s.edrs)-1] {
			one, err := get(ctx, client, s.public, edr.Access)
			if err != nil {
				return err
			}
			took = append(took, one)
		}
		slices.Sort(took)
		values[measure] = float64(rig.Quantile(took, 0.5)) / float64(time.Millisecond)
	}
	memory, err := g.Process.Memory()
	if err != nil {
		return err
	}
	values[anonymous] = float64(memory.Anonymous) / mebibyte
	kind, err := rig.LikeToken(last)
	if err != nil {
		return err
	}
	for range activeTokens {
		token, err := s.signer.Sign(kind)
		if err == nil {
			_, err = get(ctx, client, s.public, token)
		}
		if err != nil {
			return err
		}
	}
	after, err := g.Process.Memory()
	values[perToken] = float64(after.Anonymous-memory.Anonymous) / (1 << 10) / activeTokens
	return err
}

// get asks for data, and returns how long that took.
func get(ctx context.Context, client *http.Client, public, token string) (time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+public+"/", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	start := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("data: %s: %s", response.Status, body)
	}
	return time.Since(start), err
}

// startBackend answers every request with nothing.
func startBackend() (*http.Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Addr: listener.Addr().String(), ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server, nil
}

// onDisk returns the bytes that the files of a directory take up. Some are longer than what is in them.
func onDisk(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			total += stat.Blocks * 512 // whatever the block size of the file system is: stat(2)
		}
		return nil
	})
	return total, err
}

func rowOf(name string, values map[string]float64) rig.Row {
	r := rig.Row{Name: name, Values: map[string]rig.Spread{}}
	for measure, value := range values {
		r.Values[measure] = rig.SpreadOf([]float64{value})
	}
	return r
}

// ratios hold the largest size against what is demanded of a million flows.
func ratios(rows []rig.Row) []rig.Ratio {
	last := rows[len(rows)-1]
	var all []rig.Ratio
	for _, demand := range []struct {
		measure    string
		must, goal float64
	}{{ready, 2, 0.5}, {anonymous, 400, 250}, {diskByLive, 3, 2}, {perToken, 1, 1}} {
		all = append(all, rig.Judged(rig.Ratio{
			What: last.Name + ": " + demand.measure, Must: demand.must, Goal: demand.goal, AtMost: true, Spread: last.Values[demand.measure],
		}))
	}
	return all
}

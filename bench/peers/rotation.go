package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/edrgate/edrgate/bench/rig"
)

// Of BenchmarkRotation, which runs the store and plain Badger by turns.
const (
	storeOps  = "store-ops/s"
	badgerOps = "badger-ops/s"
	opsRatio  = "ratio"
)

// rotation is the table of durable compare-and-swaps, which the Go benchmark measures.
func (b *benchmark) rotation(ctx context.Context) (*rig.Table, error) {
	err := b.pin(true)
	if err != nil {
		return nil, err
	}
	b.progress("rotation: the Go benchmark")
	command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkRotation$", "-benchtime", "1s", "-count", "3", "./bench")
	command.Dir = b.root
	output, err := command.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test: %w: %s", err, output)
	}
	samples, err := readBenchmark(output)
	if err != nil {
		return nil, err
	}
	rate, err := rig.SyncRate(b.dir)
	if err != nil {
		return nil, err
	}
	t := &rig.Table{
		Title:    "Durable rotation: compare-and-swaps of 1 KiB, by the store and by plain Badger with SyncWrites, in turns",
		Machine:  "all cores",
		Measures: []string{storeOps, badgerOps}, Chart: storeOps,
		Notes: []string{fmt.Sprintf("The disk made %s small writes a second durable afterwards.", rig.Number(rate))},
	}
	for _, of := range []struct {
		writers    string
		must, goal float64
	}{{"1", 0.8, 0.95}, {"64", 4, 6}, {"512", 10, 14}} {
		found := samples["writers="+of.writers]
		if len(found[opsRatio]) == 0 {
			return nil, fmt.Errorf("the benchmark says nothing of %s writers:\n%s", of.writers, output)
		}
		t.Rows = append(t.Rows, rig.Row{Name: of.writers + " writers", Values: map[string]rig.Spread{
			storeOps: rig.SpreadOf(found[storeOps]), badgerOps: rig.SpreadOf(found[badgerOps]),
		}})
		t.Ratios = append(t.Ratios, rig.Judged(rig.Ratio{
			What: of.writers + " writers: store ÷ plain Badger", Must: of.must, Goal: of.goal, Spread: rig.SpreadOf(found[opsRatio]),
		}))
	}
	return t, nil
}

// readBenchmark returns the metrics of each sub-benchmark, by the last part of its name and by unit.
func readBenchmark(output []byte) (map[string]map[string][]float64, error) {
	samples := map[string]map[string][]float64{}
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := filepath.Base(fields[0])
		if at := strings.LastIndexByte(name, '-'); at > 0 { // the number of cores
			name = name[:at]
		}
		if samples[name] == nil {
			samples[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			samples[name][fields[i+1]] = append(samples[name][fields[i+1]], value)
		}
	}
	return samples, lines.Err()
}

package rig

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/<pid>/stat (proc_pid_stat(5)): USER_HZ, 100 on Linux everywhere.
const tick = time.Second / 100

// CPU returns the CPU time that the process and its children have used.
func (p *Process) CPU() (time.Duration, error) {
	var total time.Duration
	err := p.members(func(_ string, fields []string) error {
		// Fields 14 to 17, user and system time of it and of its children that have ended. Here the first is field 3.
		for _, field := range fields[11:15] {
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return err
			}
			total += time.Duration(ticks) * tick
		}
		return nil
	})
	return total, err
}

// Memory is what a process has in memory, in bytes.
type Memory struct {
	Resident  int64 // with the files that it has mapped
	Anonymous int64 // without: what cannot be dropped
}

// Memory returns what the process has in memory. Of several processes each page counts once among them.
func (p *Process) Memory() (Memory, error) {
	var several, one Memory
	count := 0
	err := p.members(func(pid string, _ []string) error {
		sizes, err := rollup(pid)
		if err != nil {
			return err
		}
		count++
		one = Memory{Resident: sizes["Rss"], Anonymous: sizes["Anonymous"]}
		several.Resident += sizes["Pss"]
		several.Anonymous += sizes["Pss_Anon"]
		return nil
	})
	if err != nil {
		return Memory{}, err
	}
	if count == 1 {
		return one, nil
	}
	return several, nil
}

// String returns the name of the process.
func (p *Process) String() string { return p.name }

// members calls f for each process of the group with the fields of its stat file from the third on.
func (p *Process) members(f func(pid string, fields []string) error) error {
	group := strconv.Itoa(p.cmd.Process.Pid)
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	found := false
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may have anything in it.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) < 15 || fields[2] != group {
			continue
		}
		found = true
		err = f(filepath.Base(filepath.Dir(file)), fields)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	if !found {
		return fmt.Errorf("%s is not there any more:\n%s", p.name, p.Tail())
	}
	return nil
}

// rollup reads the sums of a process's mappings (proc_pid_smaps(5)), in bytes.
func rollup(pid string) (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup"))
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, value, found := strings.Cut(lines.Text(), ":")
		size, kibibytes := strings.CutSuffix(value, " kB")
		if !found || !kibibytes {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
		if err != nil {
			return nil, err
		}
		sizes[name] = n << 10
	}
	return sizes, lines.Err()
}

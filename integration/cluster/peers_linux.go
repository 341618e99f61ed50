package cluster

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Listeners are the addresses that others reach the gateway at.
func (g *Gateway) Listeners() []string { return []string{g.public, g.signaling, g.health} }

// Peers are the addresses that the process has opened connections to or has been reached from, by what Linux shows of
// processes (proc(5)).
func (g *Gateway) Peers() ([]string, error) {
	g.mu.Lock()
	process := filepath.Join("/proc", strconv.Itoa(g.process.Process.Pid))
	g.mu.Unlock()
	sockets := map[string]bool{} // by inode
	files, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(process, "fd", f.Name()))
		inode, isSocket := strings.CutPrefix(target, "socket:[")
		if err == nil && isSocket { // it may have been closed since
			sockets[strings.TrimSuffix(inode, "]")] = true
		}
	}
	table, err := os.ReadFile(filepath.Join(process, "net", "tcp"))
	if err != nil {
		return nil, err
	}
	var peers []string
	for line := range strings.Lines(string(table)) {
		const remote, inode, fields = 2, 9, 10
		columns := strings.Fields(line)
		if len(columns) < fields || !sockets[columns[inode]] || strings.HasSuffix(columns[remote], ":0000") {
			continue
		}
		address, err := parseProcAddress(columns[remote])
		if err != nil {
			return nil, err
		}
		peers = append(peers, address)
	}
	return peers, nil
}

// parseProcAddress reads an IPv4 address as /proc/net/tcp writes it: in the byte order of the machine, which is little-endian.
func parseProcAddress(text string) (string, error) {
	ip, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(ip)
	if err != nil || len(b) != 4 {
		return "", fmt.Errorf("address %q in /proc/net/tcp", text)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return "", fmt.Errorf("address %q in /proc/net/tcp: %w", text, err)
	}
	return fmt.Sprintf("%d.%d.%d.%d:%d", b[3], b[2], b[1], b[0], number), nil
}

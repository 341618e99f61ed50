package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestFaultFewFileDescriptors: strangers hold more connections than the process may have files. It lives, its store keeps
// what it needs, and as soon as they let go everybody is served, with nothing lost.
func TestFaultFewFileDescriptors(t *testing.T) {
	t.Parallel()
	const limit = 256
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := newGateway(t, config{site: serves("weather", weather)})
	g.under = []string{"/bin/sh", "-c", `ulimit -n ` + strconv.Itoa(limit) + `; exec "$0" "$@"`}
	g.start()
	var parties []*party
	for _, p := range planes {
		c := newParty(g, p, hosts, p.name(), "weather")
		c.edr = renew(g, c.wallet, c.edr)
		parties = append(parties, c)
	}

	var strangers []net.Conn
	defer func() {
		for _, conn := range strangers {
			_ = conn.Close()
		}
	}()
	for range 2 * limit { // what is not accepted waits in the kernel's queue
		conn, err := net.DialTimeout("tcp", g.public, time.Second)
		if err != nil {
			break
		}
		strangers = append(strangers, conn)
	}
	testkit.Eventually(t, "all files are used", func() bool { return openFiles(g, nil) >= limit-1 })
	// Who has a connection is answered, though not by what needs another one.
	for _, c := range parties {
		answer, err := trySend(g.client, g.dataRequest("/", "Bearer "+c.edr.access))
		if err == nil && answer.status != http.StatusOK && answer.status != http.StatusBadGateway && answer.status != http.StatusServiceUnavailable {
			t.Errorf("without files: status %d %s", answer.status, answer.body)
		}
		answer, err = renewalOf(g, c.wallet, c.edr).trySend(g, g.client)
		if err == nil && answer.status == http.StatusOK {
			c.edr, err = c.edr.renewedBy(g, answer)
		}
		if err == nil && answer.status != http.StatusOK && answer.status != http.StatusServiceUnavailable {
			t.Errorf("renewal without files: status %d %s", answer.status, answer.body)
		}
	}
	for _, conn := range strangers {
		_ = conn.Close()
	}
	testkit.Eventually(t, "there are files again", func() bool { return openFiles(g, nil) < limit/2 })
	if !g.running() {
		t.Fatal("the process has ended")
	}
	for i, c := range parties {
		wantData(t, g, "/", c.edr.access, "data of weather")
		c.edr = renew(g, c.wallet, c.edr)
		fresh := newParty(g, planes[i], hosts, "fresh", "weather")
		planes[i].terminate(g, fresh.terms.flow).want(t, planes[i].done())
		wantRefusal(t, g.get("/", fresh.edr.access), "terminated", planes[i].refused(), "")
	}
	if failed := g.scrape().value("edrgate_store_errors_total"); failed != 0 {
		t.Errorf("the store has counted %v errors", failed)
	}
	g.restart()
	for _, c := range parties {
		renew(g, c.wallet, c.edr)
	}
}

// TestFaultLittleMemory: many large requests at once do not add up in memory, which bounds the process's whole life.
func TestFaultLittleMemory(t *testing.T) {
	t.Parallel()
	const limit, parallel, bodyBytes, rounds = 256 << 20, 32, 4 << 20, 3
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	weather.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, zeros{}, bodyBytes) }
	g := newGateway(t, config{site: serves("weather", weather)})
	g.extra = []string{"GOMEMLIMIT=" + strconv.Itoa(limit)}
	g.start()
	var parties []*party
	for i := range parallel {
		parties = append(parties, newParty(g, planes[i%len(planes)], hosts, fmt.Sprintf("consumer-%d", i), "weather"))
	}
	failed := make([]error, parallel)
	var wait sync.WaitGroup
	for i, c := range parties {
		wait.Go(func() {
			for range rounds {
				answer, err := trySend(g.client, g.dataRequest("/", "Bearer "+c.edr.access))
				if err == nil && answer.status == http.StatusOK && len(answer.body) != bodyBytes {
					err = errors.New("the answer is cut short")
				}
				if err != nil || answer.status != http.StatusOK && answer.status != http.StatusServiceUnavailable {
					failed[i] = errors.Join(failed[i], fmt.Errorf("status %d: %w", answer.status, err))
				}
				answer, err = renewalOf(g, c.wallet, c.edr).trySend(g, g.client)
				if err == nil && answer.status == http.StatusOK {
					c.edr, err = c.edr.renewedBy(g, answer)
				}
				if err != nil || answer.status != http.StatusOK && answer.status != http.StatusServiceUnavailable {
					failed[i] = errors.Join(failed[i], fmt.Errorf("renewal: status %d: %w", answer.status, err))
				}
				// Larger than any message may be. The connection may be closed before it was sent.
				answer, err = message{"/dataflows/start", `{"messageId":"` + strings.Repeat("x", bodyBytes) + `"}`}.trySend(g.signaling, g.client)
				if err == nil && answer.status < http.StatusBadRequest {
					failed[i] = errors.Join(failed[i], fmt.Errorf("a message of %d bytes is taken", bodyBytes))
				}
			}
		})
	}
	wait.Wait()
	err := errors.Join(failed...)
	if err != nil {
		t.Error(err)
	}
	if !g.running() {
		t.Fatal("the process has ended")
	}
	peak := peakMemory(t, g)
	t.Logf("at most %d MiB of memory were in use", peak>>20)
	if peak > limit {
		t.Errorf("the process has used %d MiB, more than the %d that it was given", peak>>20, limit>>20)
	}
	renew(g, parties[0].wallet, parties[0].edr)
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// peakMemory is the most memory that the process ever had (proc_pid_status(5), VmHWM).
func peakMemory(t *testing.T, g *gateway) int {
	t.Helper()
	for line := range strings.Lines(read(t, filepath.Join("/proc", strconv.Itoa(g.process.Process.Pid), "status"))) {
		text, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
		if err != nil {
			t.Fatal(err)
		}
		return kib << 10
	}
	t.Fatal("no VmHWM")
	return 0
}

package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestFullDisk: the store's engine dies of SIGBUS on a full disk, and with it the process. Control planes do not repeat a
// refused terminate. So endings get through to the last, everything else is told to come again, and the process lives.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := newDisk(t)
	hosts, weather := newDIDHost(t), newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather), storePath: disk.store, reserve: "64MiB"})
	disk.gateway = g
	parties := map[string]*party{}
	for _, p := range planes {
		for _, what := range []string{"ended", "suspended", "left"} {
			parties[p.name()+" "+what] = newParty(g, p, hosts, p.name()+"-"+what, "weather")
		}
	}
	testkit.Eventually(t, "the store has its reserve", func() bool {
		info, err := os.Stat(filepath.Join(disk.store, "reserve"))
		return err == nil && info.Size() == 64<<20
	})

	disk.fill()
	for _, p := range planes {
		ended, suspended, left := parties[p.name()+" ended"], parties[p.name()+" suspended"], parties[p.name()+" left"]
		wantComeAgain(t, p.start(g, newTerms("weather", left.wallet.DID)), "a start")
		wantComeAgain(t, renewalOf(g, left.wallet, left.edr).send(g), "a renewal")
		wantData(t, g, "/", left.edr.access, "data of weather")

		p.terminate(g, ended.terms.flow).want(t, p.done())
		wantRefusal(t, g.get("/", ended.edr.access), "terminated", p.refused(), "")
		p.suspend(g, suspended.terms.flow).want(t, p.done())
		wantRefusal(t, g.get("/", suspended.edr.access), "suspended", http.StatusForbidden, "flow_suspended")
		p.terminate(g, "flow-never-started-"+p.name()).want(t, p.done())
	}
	ready := g.health200(t)
	if !strings.Contains(ready, "degraded") {
		t.Errorf("/ready says %s", ready)
	}
	if !g.running() {
		t.Fatal("the process did not survive a full disk")
	}

	disk.free()
	for _, p := range planes {
		ended, suspended, left := parties[p.name()+" ended"], parties[p.name()+" suspended"], parties[p.name()+" left"]
		left.edr = renew(g, left.wallet, left.edr)
		startFlow(g, p, newTerms("weather", left.wallet.DID))
		p.resume(g, suspended.terms, suspended.edr).want(t, http.StatusOK)
		wantData(t, g, "/", suspended.edr.access, "data of weather")
		wantRefusal(t, g.get("/", ended.edr.access), "terminated", p.refused(), "")
	}
	g.restart()
	for _, p := range planes {
		wantRefusal(t, g.get("/", parties[p.name()+" ended"].edr.access), "terminated", p.refused(), "")
		wantData(t, g, "/", parties[p.name()+" left"].edr.access, "data of weather")
	}
}

// wantComeAgain checks that an answer does not read as a no.
func wantComeAgain(t testing.TB, answer reply, what string) {
	t.Helper()
	if answer.status != http.StatusServiceUnavailable {
		t.Errorf("%s on a full disk: status %d, want 503: %s", what, answer.status, answer.body)
	}
	if answer.header.Get("Retry-After") == "" {
		t.Errorf("%s on a full disk is not told when to come again", what)
	}
}

func (g *gateway) health200(t testing.TB) string {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+g.health+"/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, g.client, request).want(t, http.StatusOK).body
}

// disk is where the store of a test is that fills it. Root has a small file system of its own, which is filled to the
// last byte. Others have the machine's, and tell the store that it is as good as full.
type disk struct {
	t       testing.TB
	gateway *gateway
	store   string
	own     string // mount point; empty: none of our own
}

const diskBytes = 320 << 20

func newDisk(t testing.TB) *disk {
	t.Helper()
	dir, err := os.MkdirTemp("", "edrgate-disk")
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, store: filepath.Join(dir, "store")}
	err = syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes))
	switch {
	case err == nil:
		d.own = dir
	case errors.Is(err, syscall.EPERM):
		t.Log("file systems cannot be mounted here: the disk is only said to be full")
	default:
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the gateway's, which has not been made yet
		if d.own != "" {
			err := syscall.Unmount(dir, 0)
			if err != nil {
				t.Error(err)
			}
		}
		err := os.RemoveAll(dir)
		if err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *disk) filler() string { return filepath.Join(d.own, "filler") }

// fill leaves no byte, and waits until the store has noticed.
func (d *disk) fill() {
	d.t.Helper()
	if d.own == "" {
		d.gateway.config.minFree = "1EiB"
		d.gateway.restart() // options of an open store count after a restart
		d.awaitSpace("low")
		return
	}
	file, err := os.Create(d.filler())
	if err != nil {
		d.t.Fatal(err)
	}
	defer file.Close()
	// All that is free now, in one go: the store gives its reserve up when it notices, and that must not be taken too.
	for {
		err = syscall.Fallocate(int(file.Fd()), 0, 0, d.bytesFree())
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) { // the store has written since
			d.t.Fatal(err)
		}
	}
	d.awaitSpace("reserve")
}

func (d *disk) bytesFree() int64 {
	d.t.Helper()
	var fs syscall.Statfs_t
	err := syscall.Statfs(d.own, &fs)
	if err != nil {
		d.t.Fatal(err)
	}
	return int64(fs.Bavail) * fs.Bsize
}

// free takes away what fill did.
func (d *disk) free() {
	d.t.Helper()
	if d.own == "" {
		d.gateway.config.minFree = ""
		d.gateway.restart()
	} else {
		err := os.Remove(d.filler())
		if err != nil {
			d.t.Fatal(err)
		}
	}
	d.awaitSpace("ok")
}

func (d *disk) awaitSpace(state string) {
	d.t.Helper()
	testkit.Eventually(d.t, "the store's space is "+state, func() bool {
		return d.gateway.scrape().value("edrgate_store_space_state", "state", state) == 1
	})
}

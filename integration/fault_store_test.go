package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// startFails runs the process, which has to end by itself, and returns what it said.
func startFails(t *testing.T, g *gateway) string {
	t.Helper()
	g.writeConfig()
	cmd := g.runCommand()
	output, err := cmd.CombinedOutput()
	var exited *exec.ExitError
	if !errors.As(err, &exited) || exited.ExitCode() != 1 {
		t.Fatalf("a start that must fail: %v\n%s", err, output)
	}
	said := string(output) + read(t, g.errorLog())
	if strings.Contains(said, "panic:") || strings.Contains(said, "fatal error:") {
		t.Errorf("the process crashed:\n%s", output)
	}
	return said
}

// TestFaultStoreOfAnotherProcess: a second gateway over the same directory does not start and says why. The first one notices
// nothing.
func TestFaultStoreOfAnotherProcess(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	first := startGateway(t, config{site: serves("weather", weather)})
	c := newParty(first, dpsPlane{}, newDIDHost(t), "consumer", "weather")
	second := newGateway(t, config{site: serves("weather", weather), storePath: first.config.storePath})
	for range 2 {
		if said := startFails(t, second); !strings.Contains(said, "another process has it open") {
			t.Errorf("the second gateway says %s", said)
		}
		c.edr = renew(first, c.wallet, c.edr)
		wantData(t, first, "/", c.edr.access, "data of weather")
	}
	first.restart()
	renew(first, c.wallet, c.edr)
	second.config.storePath = second.path("store")
	second.start()
}

// TestFaultReadOnlyDisk: a store that cannot be written is not started on, and nothing of it is lost.
func TestFaultReadOnlyDisk(t *testing.T) {
	t.Parallel()
	disk := newDisk(t)
	weather := newBackend(t, "weather")
	g := startGateway(t, config{site: serves("weather", weather), storePath: disk.store})
	c := newParty(g, dpsPlane{}, newDIDHost(t), "consumer", "weather")
	c.edr = renew(g, c.wallet, c.edr)
	g.stop()

	disk.readOnly(true)
	said := startFails(t, g)
	if !strings.Contains(said, disk.store) || !strings.Contains(said, "read-only") && !strings.Contains(said, "permission denied") {
		t.Errorf("the gateway says %s", said)
	}
	disk.readOnly(false)
	g.start()
	wantData(t, g, "/", c.edr.access, "data of weather")
	renew(g, c.wallet, c.edr)
}

// readOnly lets nobody write to the disk. Without one of its own, it is the store's directory and files.
func (d *disk) readOnly(yes bool) {
	d.t.Helper()
	if d.own != "" {
		flags := uintptr(syscall.MS_REMOUNT)
		if yes {
			flags |= syscall.MS_RDONLY
		}
		err := syscall.Mount("tmpfs", d.own, "tmpfs", flags, fmt.Sprintf("size=%d", diskBytes))
		if err != nil {
			d.t.Fatal(err)
		}
		return
	}
	file, dir := fs.FileMode(0o600), fs.FileMode(0o700)
	if yes {
		file, dir = 0o400, 0o500
	}
	files, err := os.ReadDir(d.store)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range files {
		err = errors.Join(err, os.Chmod(filepath.Join(d.store, f.Name()), file))
	}
	err = errors.Join(err, os.Chmod(d.store, dir))
	if err != nil {
		d.t.Fatal(err)
	}
}

// TestFaultDamagedStore turns a byte over here and there in each file of the store. The process may refuse to start, naming
// what is wrong, or say "cannot tell" of a flow. What it must not do is to serve something else than what was acknowledged: a
// flow that had ended, or a "no" to a consumer whose flow lives.
func TestFaultDamagedStore(t *testing.T) {
	t.Parallel()
	weather := newBackend(t, "weather")
	g := startGateway(t, config{app: "token_ttl 1h", site: serves("weather", weather)})
	hosts := newDIDHost(t)
	var lives, ended []*party
	for i := range 8 {
		p := planes[i%len(planes)]
		c := newParty(g, p, hosts, fmt.Sprintf("lives-%d", i), "weather")
		c.edr = renew(g, c.wallet, c.edr)
		lives = append(lives, c)
		e := newParty(g, p, hosts, fmt.Sprintf("ended-%d", i), "weather")
		p.terminate(g, e.terms.flow).want(t, p.done())
		ended = append(ended, e)
		if i == 3 {
			g.restart() // what came before is in a table, what comes after in the log of one that is killed
		}
	}
	// The last write of all is not looked for: if it cannot be read, that looks like a power cut.
	newParty(g, dpsPlane{}, hosts, "last", "weather")
	g.kill()
	whole := g.path("whole")
	err := os.CopyFS(whole, os.DirFS(g.config.storePath))
	if err != nil {
		t.Fatal(err)
	}
	refused, served := 0, 0
	for _, d := range damages(t, whole) {
		t.Run(fmt.Sprintf("%s at %d", d.file, d.at), func(t *testing.T) {
			err := errors.Join(os.RemoveAll(g.config.storePath), os.CopyFS(g.config.storePath, os.DirFS(whole)))
			if err == nil {
				err = d.do(g.config.storePath)
			}
			if err != nil {
				t.Fatal(err)
			}
			g.t = t
			if !g.tryStart() {
				refused++
				return
			}
			served++
			for i, c := range ended {
				answer := g.get("/", c.edr.access)
				if answer.status != planes[i%len(planes)].refused() && answer.status != http.StatusServiceUnavailable {
					t.Errorf("a flow that had ended is answered with %d %s", answer.status, answer.body)
				}
			}
			for _, c := range lives {
				answer := renewalOf(g, c.wallet, c.edr).send(g)
				if answer.status != http.StatusOK && answer.status != http.StatusServiceUnavailable {
					t.Errorf("the renewal of a flow that lives is answered with %d %s", answer.status, answer.body)
				}
			}
			g.kill()
		})
	}
	g.t = t
	err = errors.Join(os.RemoveAll(g.config.storePath), os.CopyFS(g.config.storePath, os.DirFS(whole)))
	if err != nil {
		t.Fatal(err)
	}
	g.start()
	t.Logf("of the damages %d kept the process from starting, with %d it served", refused, served)
}

// damage is a byte that is turned over.
type damage struct {
	file string
	at   int64
}

func (d damage) do(dir string) error {
	file, err := os.OpenFile(filepath.Join(dir, d.file), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = file.ReadAt(b, d.at)
	if err == nil {
		b[0] ^= 0xff
		_, err = file.WriteAt(b, d.at)
	}
	return errors.Join(err, file.Close())
}

// damages are some of each file of a store that holds anything, spread over what it holds.
func damages(t *testing.T, dir string) []damage {
	t.Helper()
	const each = 5
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []damage
	for _, f := range files {
		if f.Name() == "reserve" || f.Name() == "LOCK" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		held := int64(len(bytes.TrimRight(data, "\x00"))) // files are preallocated
		for i := range min(each, held) {
			all = append(all, damage{f.Name(), i * (held - 1) / each})
		}
	}
	return all
}

// tryStart starts the process, which may refuse to with a word why, and reports whether it serves.
func (g *gateway) tryStart() bool {
	g.t.Helper()
	g.writeConfig()
	err := os.Truncate(g.errorLog(), 0)
	if err != nil {
		g.t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := g.runCommand()
	cmd.Stdout, cmd.Stderr = &output, &output
	err = cmd.Start()
	if err != nil {
		g.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	g.process, g.exited = cmd, exited
	serves := false
	testkit.Eventually(g.t, "the gateway serves or has ended", func() bool {
		response, err := g.admin.Get("http://127.0.0.1/edrgate/status")
		if err == nil {
			response.Body.Close()
			serves = response.StatusCode == http.StatusOK && answers(g.public) && answers(g.signaling)
		}
		return serves || !g.running()
	})
	if serves {
		return true
	}
	g.process = nil
	err = <-exited
	said := output.String() + read(g.t, g.errorLog())
	if err == nil || !strings.Contains(said, "open store "+g.config.storePath) || strings.Contains(said, "panic:") || strings.Contains(said, "fatal error:") {
		g.t.Errorf("the process ended with %v:\n%s", err, said)
	}
	return false
}

package hostile

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// gateway is one installation and its process: a provider's and a consumer's side in one.
type gateway struct {
	t   testing.TB
	dir string

	// host:port of the listeners. At data edr_auth stands before two datasets' reverse_proxy, at proxied edr_proxy; h2c and
	// secure speak HTTP/2, the latter over TLS.
	data, proxied, signaling, edrs, egress, health, h2c, secure string

	config  string // Caddyfile
	process *exec.Cmd
	exited  chan error
	admin   *http.Client
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has at most 104 characters on some systems.
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, dir: dir}
	freeAddresses(t, &g.data, &g.proxied, &g.signaling, &g.edrs, &g.egress, &g.health, &g.h2c, &g.secure)
	g.admin = &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.path("admin.sock"))
		},
	}}
	t.Cleanup(g.cleanUp)
	return g
}

func (g *gateway) path(elements ...string) string {
	return filepath.Join(append([]string{g.dir}, elements...)...)
}

// logs are the files that the process writes for people to read.
func (g *gateway) logs() []string {
	return []string{g.path("log", "access.log"), g.path("log", "error.log"), g.path("process.log")}
}

// autosave is where Caddy keeps the last configuration that it loaded.
func (g *gateway) autosave() string { return g.path("xdg-config", "caddy", "autosave.json") }

func (g *gateway) start() {
	g.t.Helper()
	g.write("Caddyfile", g.config)
	output, err := os.OpenFile(g.path("process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command(binaryPath, "run", "--config", g.path("Caddyfile"), "--adapter", "caddyfile")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir,
		"XDG_CONFIG_HOME=" + g.path("xdg-config"), "XDG_DATA_HOME=" + g.path("xdg-data"),
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = g.dir, output, output
	err = cmd.Start()
	if err != nil {
		g.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	g.process, g.exited = cmd, exited
	testkit.Eventually(g.t, "the gateway serves", func() bool {
		if !g.running() {
			log, _ := os.ReadFile(g.path("process.log"))
			more, _ := os.ReadFile(g.path("log", "error.log"))
			log = append(log, more...)
			g.t.Fatalf("the process ended at start: %s", log)
		}
		conn, err := net.DialTimeout("tcp", g.data, time.Second)
		if err != nil {
			return false
		}
		conn.Close()
		status, _, err := g.adminGet("/edrgate/status")
		return err == nil && status == http.StatusOK
	})
}

// running reports whether the process that was started is still there.
func (g *gateway) running() bool {
	if g.process == nil {
		return false
	}
	select {
	case err := <-g.exited:
		g.exited <- err
		return false
	default:
		return true
	}
}

// stop ends the process as an init system does, and waits for it.
func (g *gateway) stop() {
	g.t.Helper()
	err := g.process.Process.Signal(syscall.SIGTERM)
	if err != nil {
		g.t.Fatal(err)
	}
	select {
	case err := <-g.exited:
		g.exited <- err
		if err != nil {
			g.t.Errorf("the process did not end well: %v", err)
		}
	case <-time.After(patience):
		g.t.Fatalf("the process did not end within %s of SIGTERM", patience)
	}
	g.process = nil
}

func (g *gateway) cleanUp() {
	if g.running() {
		_ = g.process.Process.Kill()
		<-g.exited
	}
	err := os.RemoveAll(g.dir)
	if err != nil {
		g.t.Error(err)
	}
}

// adminGet returns an answer of the admin API.
func (g *gateway) adminGet(path string) (status int, body string, err error) {
	response, err := g.admin.Get("http://127.0.0.1" + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}

func (g *gateway) write(name, content string) string {
	g.t.Helper()
	path := g.path(name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return path
}

// newKey makes a signing key, notes its secret part, and returns it and its file.
func (g *gateway) newKey(name string, canaries *testkit.Canaries) (*ecdsa.PrivateKey, string) {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	return key, g.writeKey(name, key, canaries)
}

func (g *gateway) writeKey(name string, key *ecdsa.PrivateKey, canaries *testkit.Canaries) string {
	g.t.Helper()
	err := canaries.Key(key)
	if err != nil {
		g.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.write("keys/"+name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// newCertificate makes a certificate for 127.0.0.1, signed by its own key, and returns its file and that of the key.
func (g *gateway) newCertificate() (certificate, key string) {
	g.t.Helper()
	private := ecKey(g.t, elliptic.P256())
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		g.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.write("tls/certificate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		g.write("tls/key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

// port is the port of host:port.
func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// freeAddresses sets loopback addresses that nobody listens at, below the range that the kernel takes the ports of outgoing
// connections from.
func freeAddresses(t testing.TB, addresses ...*string) {
	t.Helper()
	for _, address := range addresses {
		for tries := 0; *address == ""; tries++ {
			listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000)))
			if err == nil {
				defer listener.Close() // not before all are found
				*address = listener.Addr().String()
			} else if tries > 1000 {
				t.Fatal(err)
			}
		}
	}
}

// expand replaces {name} by values. What it puts in may have braces of its own, which stay.
func expand(template string, values map[string]string) string {
	pairs := make([]string, 0, 2*len(values))
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

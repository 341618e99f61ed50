//go:build interop

package edc

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// release is a release of EDC, with what differs between them as far as a data plane can see it.
type release struct {
	version   string
	protocol  Protocol
	startPath string // below the base of signaling
	// tellsConsumersEnd: the data plane hears of it when the consumer terminates.
	tellsConsumersEnd bool
	// renewsInQuery: the consumers of Tractus-X that go with it send their refresh token in the query, as nothing else.
	renewsInQuery bool
}

var releases = []release{
	{version: "0.15.1", protocol: DSP2025, startPath: "/start", tellsConsumersEnd: true},
	{version: "0.11.1", protocol: DSP08, renewsInQuery: true},
}

// controlPlanes are the two processes, which come and go.
type controlPlanes struct {
	t                          testing.TB
	release                    release
	consumerID                 string
	providerPort, consumerPort int

	script *exec.Cmd
	stdin  io.Closer // both processes end with it, also if this one dies
	space  *Dataspace
	runs   string // the release that the jars are of
}

func newControlPlanes(t testing.TB, r release, consumerID string) *controlPlanes {
	t.Helper()
	c := &controlPlanes{t: t, release: r, consumerID: consumerID, providerPort: freePorts(t), consumerPort: freePorts(t)}
	t.Cleanup(func() {
		if c.script != nil {
			c.stop()
		}
		if t.Failed() {
			c.showLogs()
		}
	})
	return c
}

func (c *controlPlanes) showLogs() {
	for _, role := range []string{"provider", "consumer"} {
		log := filepath.Join(cmp.Or(os.Getenv("EDC_HOME"), ".cache"), c.release.version, role+".log")
		c.t.Logf("end of the %s's log:\n%s", role, endOf(log))
	}
}

// control is the provider's control API, known before it runs.
func (c *controlPlanes) control() string {
	return fmt.Sprintf("http://localhost:%d/control", c.providerPort+2)
}

// consumerManagement is the consumer's management API, known before it runs.
func (c *controlPlanes) consumerManagement() string {
	return fmt.Sprintf("http://localhost:%d/management", c.consumerPort+3)
}

// start starts both and waits until they serve.
func (c *controlPlanes) start() {
	c.t.Helper()
	script := exec.Command("./run-edc.sh", "cat")
	script.Env = append(os.Environ(), "EDC_VERSION="+c.release.version,
		"PROVIDER_ID="+providerDID, "CONSUMER_ID="+c.consumerID,
		"PROVIDER_PORT="+strconv.Itoa(c.providerPort), "CONSUMER_PORT="+strconv.Itoa(c.consumerPort))
	script.Stderr = os.Stderr
	stdin, err := script.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	stdout, err := script.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	err = script.Start()
	if err != nil {
		c.t.Fatal(err)
	}
	c.script, c.stdin = script, stdin
	addresses, err := readAddresses(stdout)
	if err != nil {
		c.t.Fatalf("EDC %s did not start: %v", c.release.version, err)
	}
	c.runs = addresses["EDC_RELEASE"]
	c.space = &Dataspace{
		Provider:    NewControlPlane(addresses["PROVIDER_MANAGEMENT"], addresses["PROVIDER_CONTROL"]),
		Consumer:    NewControlPlane(addresses["CONSUMER_MANAGEMENT"], addresses["CONSUMER_CONTROL"]),
		ProviderDSP: addresses["PROVIDER_DSP"],
		Protocol:    c.release.protocol,
	}
}

// readAddresses reads what the script prints until it is ready: names and values.
func readAddresses(r io.Reader) (map[string]string, error) {
	addresses := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return addresses, nil
		}
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			return nil, fmt.Errorf("run-edc.sh says %q", lines.Text())
		}
		addresses[name] = value
	}
	return nil, errors.Join(errors.New("run-edc.sh has ended"), lines.Err())
}

// stop ends both, and with them everything that they knew: it is all in memory.
func (c *controlPlanes) stop() {
	c.t.Helper()
	script := c.script
	c.script = nil
	err := errors.Join(c.stdin.Close(), script.Wait())
	if err != nil && !c.t.Failed() {
		c.t.Errorf("the control planes did not end well: %v", err)
	}
}

// freePorts returns a number that is followed by nine ports which nobody listens at, below the range that the kernel
// takes the ports of outgoing connections from.
func freePorts(t testing.TB) int {
	t.Helper()
	for range 1000 {
		base := 10_000 + 10*rand.IntN(2_000)
		if portsAreFree(base) {
			return base
		}
	}
	t.Fatal("no ten free ports in a row")
	return 0
}

func portsAreFree(base int) bool {
	for port := base + 1; port < base+10; port++ {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return false
		}
		err = listener.Close()
		if err != nil {
			return false
		}
	}
	return true
}

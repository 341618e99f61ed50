package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/edrgate/edrgate/bench/rig"
)

// edcRelease is the last release of EDC whose own data plane has a public HTTP API.
const edcRelease = "0.13.0"

// edcDataPlane is EDC's data plane: signaling, token service and public API, all stores and the vault in memory.
type edcDataPlane struct {
	process *rig.Process
	control string // URL of its signaling API
	public  string // host:port
}

// buildEDC has Maven bring the jars and compile the extension that puts the keys into the vault. It is done once.
func (b *benchmark) buildEDC(ctx context.Context) (string, error) {
	for _, tool := range []string{"mvn", "java", "javac"} {
		_, err := exec.LookPath(tool)
		if err != nil {
			return "", fmt.Errorf("EDC needs Maven 3 and a JDK 17: %w", err)
		}
	}
	home := filepath.Join(b.cache, "edc-"+edcRelease)
	done := filepath.Join(home, "complete")
	_, err := os.Stat(done)
	if err == nil {
		return home, nil
	}
	b.progress("getting EDC %s from the Maven registry", edcRelease)
	command := exec.CommandContext(ctx, "mvn", "-q", "-B", "-C", "-ntp", "-Dstyle.color=never", "-f", filepath.Join(b.root, "bench", "edc", "pom.xml"),
		"-Dedc.version="+edcRelease, "-DbuildDirectory="+home, "package")
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mvn: %w: %s", err, output)
	}
	return home, os.WriteFile(done, nil, 0o600)
}

// startEDC starts the data plane on the proxies' core.
func (b *benchmark) startEDC(ctx context.Context) (*edcDataPlane, error) {
	home, err := b.buildEDC(ctx)
	if err != nil {
		return nil, err
	}
	dir := b.subdirectory("edc")
	private, err := b.signer.PEM()
	if err != nil {
		return nil, err
	}
	public, err := b.signer.PublicPEM()
	if err != nil {
		return nil, err
	}
	var addresses [4]string
	var ports [4]string
	for i := range addresses {
		addresses[i], err = rig.FreeAddress()
		if err != nil {
			return nil, err
		}
		_, ports[i], _ = strings.Cut(addresses[i], ":")
	}
	properties := filepath.Join(dir, "edc.properties")
	files := map[string]string{
		filepath.Join(dir, "private.pem"): string(private),
		filepath.Join(dir, "public.pem"):  string(public),
		properties: strings.Join([]string{
			"edc.participant.id=" + rig.ProviderDID,
			"edc.hostname=localhost",
			"web.http.port=" + ports[0],
			"web.http.path=/api",
			"web.http.control.port=" + ports[1],
			"web.http.control.path=/control",
			"web.http.public.port=" + ports[2],
			"web.http.public.path=/public",
			"web.http.version.port=" + ports[3],
			"web.http.version.path=/version",
			"edc.dataplane.api.public.baseurl=http://localhost:" + ports[2] + "/public",
			"edc.dpf.selector.url=http://localhost:9/control/v1/dataplanes",
			"edc.data.plane.self.unregistration=false",
			"edc.transfer.proxy.token.signer.privatekey.alias=private-key",
			"edc.transfer.proxy.token.verifier.publickey.alias=public-key",
			"edc.iam.publickeys.public.id=public-key",
			"edc.iam.publickeys.public.path=" + filepath.Join(dir, "public.pem"),
			"bench.vault.private-key=" + filepath.Join(dir, "private.pem"),
		}, "\n") + "\n",
	}
	err = os.MkdirAll(dir, 0o700)
	if err != nil {
		return nil, err
	}
	for file, content := range files {
		err = os.WriteFile(file, []byte(content), 0o600)
		if err != nil {
			return nil, err
		}
	}
	process, err := rig.Start(rig.Command{
		Name: "edc", Path: "java", Dir: dir, CPUs: b.proxyCPUs,
		Args: []string{
			"-Xmx512m", "-Dedc.fs.config=" + properties,
			"-cp", filepath.Join(home, "bench-edc-1.jar") + ":" + filepath.Join(home, "lib", "*"),
			"org.eclipse.edc.boot.system.runtime.BaseRuntime", "--no-color", "--log-level=WARNING",
		},
	})
	if err != nil {
		return nil, err
	}
	e := &edcDataPlane{process: process, control: "http://localhost:" + ports[1] + "/control", public: addresses[2]}
	err = process.Await(ctx, addresses[2])
	if err == nil {
		err = process.Await(ctx, addresses[1])
	}
	if err != nil {
		process.Stop()
		return nil, err
	}
	return e, nil
}

// token starts a flow and returns its access token. Some parts of the runtime come up after it listens.
func (e *edcDataPlane) token(ctx context.Context, backend string) (string, error) {
	var edr *rig.EDR
	var last error
	err := e.process.AwaitTrue(ctx, "starts a flow", func() bool {
		edr, last = rig.Flow{ID: "flow-edc", Consumer: consumerDID, Dataset: dataset, Backend: "http://" + backend}.StartEDC(ctx, e.control)
		return last == nil
	})
	if err != nil {
		return "", errors.Join(err, last)
	}
	return edr.Access, nil
}

// edc is the table of EDC's data plane.
func (b *benchmark) edc(ctx context.Context) (*rig.Table, error) {
	plane, err := b.startEDC(ctx) // before pinning: Maven may use all there is
	if err != nil {
		return nil, err
	}
	defer plane.process.Stop()
	err = b.pin(false)
	if err != nil {
		return nil, err
	}
	token, err := plane.token(ctx, b.backend.small)
	if err != nil {
		return nil, err
	}
	plain, err := b.bare(ctx, "edc-caddy", b.backend.small)
	if err != nil {
		return nil, err
	}
	defer plain.Process.Stop()
	proxy, err := b.proxy(ctx, "edc-edr_proxy", b.backend.small)
	if err != nil {
		return nil, err
	}
	defer proxy.Process.Stop()
	kinds, err := b.tokensOf(ctx, proxy, b.backend.small, 1)
	if err != nil {
		return nil, err
	}
	var sides, owns, javas []*side
	for _, connections := range []int{16, 64} {
		bare, err := b.asking("bare Caddy", plain.Process, plain.Public, nil, 0)
		if err != nil {
			return nil, err
		}
		own, err := b.asking("edr_proxy", proxy.Process, proxy.Public, kinds, 1)
		if err != nil {
			return nil, err
		}
		_, port, _ := strings.Cut(plane.public, ":")
		java := &side{
			name: "EDC " + edcRelease, process: plane.process, address: plane.public,
			// EDC takes the token as it is, without Bearer.
			supply: always(get("localhost:"+port, "/public/", token)),
			warm:   20 * time.Second, // for the JIT compiler
		}
		for _, s := range []*side{bare, own, java} {
			s.name, s.connections = fmt.Sprintf("%s, %d connections", s.name, connections), connections
			sides = append(sides, s)
		}
		owns, javas = append(owns, own), append(javas, java)
	}
	err = b.alternate(ctx, "edc", b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var ratios []rig.Ratio
	for i, own := range owns {
		ratios = append(ratios,
			atLeast(2.5, 3, perSecond, own, javas[i]),
			atMost(1.0/3, 1.0/4, cpu, own, javas[i]),
			atMost(1.0/2, 1.0/3, slowest, own, javas[i]),
			atMost(1.0/4, 1.0/5, resident, own, javas[i]),
		)
	}
	return &rig.Table{
		Title:    fmt.Sprintf("EDC's data plane %s: 1 KiB, the same token, %d rounds of %s each", edcRelease, b.rounds, b.duration),
		Measures: requestMeasures, Chart: perSecond, Rows: rowsOf(sides), Ratios: ratios,
	}, nil
}

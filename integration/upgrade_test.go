package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// What an earlier version left on the disk, and what the others hold of it. -update writes both anew with the version at hand:
// only when there is a release that they ought to be of.
const (
	earlierDirectory = "testdata/earlier.tar.gz"
	earlierHeld      = "testdata/earlier.json"
)

// Addresses that stand in what was written.
const (
	earlierDIDHost = "127.0.0.1:31997"
	earlierHost    = "data.provider.example"
)

// held is what those around the gateway have kept. The keys are good for nothing else.
type held struct {
	SigningKey string // PEM
	WalletKey  string // PEM, of did:web:localhost%3A31997:consumer
	Flows      map[string]heldFlow
	Transfer   string // of the consumer's side
}

// heldFlow is a flow by its dialect and state.
type heldFlow struct{ ID, Agreement, Access, Refresh string }

// earlierApp has lives that are far longer than any version is supported.
const earlierApp = "tombstone_ttl 87600h\nunacknowledged_ttl 0\ncontrol_plane cp {\ncallback http://127.0.0.1:9/api\n}"

// TestDirectoryOfAnEarlierVersion: it opens, by whatever has to be done to it, and everybody goes on with what they hold. The
// other way round, an earlier version refuses what a later one has written: TestFormat in store/badger.
func TestDirectoryOfAnEarlierVersion(t *testing.T) {
	if *update {
		writeEarlier(t)
	}
	var h held
	err := json.Unmarshal([]byte(read(t, earlierHeld)), &h)
	if err != nil {
		t.Fatal(err)
	}
	g := newEarlierGateway(t, newBackend(t, "weather"))
	writeFile(t, g.keyFile("signing"), h.SigningKey)
	wallet := earlierWallet(t, h.WalletKey)
	unpack(t, earlierDirectory, g.path())
	g.config.storePath = g.path("provider")
	for round := range 2 { // what the first one has written, the next one reads
		g.start()
		for _, p := range planes {
			for state, want := range map[string]string{"started": "STARTED", "suspended": "SUSPENDED", "terminated": "TERMINATED", "revoked": "TERMINATED"} {
				name := p.name() + " " + state
				f, ok := h.Flows[name]
				if !ok {
					t.Fatalf("no flow %q is held", name)
				}
				shown := showFlow(g, f.ID)
				if round == 0 && shown.State != want || shown.Dataset != "weather" || shown.Agreement != f.Agreement {
					t.Errorf("%s: %+v", name, shown)
				}
			}
			started, suspended, ended := h.Flows[p.name()+" started"], h.Flows[p.name()+" suspended"], h.Flows[p.name()+" terminated"]
			h.Flows[p.name()+" started"] = renewEarlier(t, g, wallet, started)
			if round == 0 {
				renewEarlierRefused(t, g, wallet, suspended)
				p.resume(g, termsOf(wallet, suspended), edr{access: suspended.Access, refresh: suspended.Refresh}).want(t, http.StatusOK)
			}
			h.Flows[p.name()+" suspended"] = renewEarlier(t, g, wallet, suspended)
			renewEarlierRefused(t, g, wallet, ended)
			if answer := p.start(g, termsOf(wallet, ended)); answer.status < 400 || answer.status > 499 {
				t.Errorf("%s: the start of a flow that has ended: %d %s", p.name(), answer.status, answer.body)
			}
		}
		g.stop()
	}
	g.start()
	if answer := registration(t, g, http.MethodDelete, "/controlplanes/cp", ""); answer.status > 299 {
		t.Errorf("the control plane that has registered: %d %s", answer.status, answer.body)
	}
	registration(t, g, http.MethodDelete, "/controlplanes/cp", "").want(t, http.StatusNotFound)

	c := newEarlierConsumer(t, wallet)
	unpack(t, earlierDirectory, c.path())
	c.config.storePath = c.path("consumer")
	c.start()
	c.wantTransfer(h.Transfer, "STARTED")
	if edrs := c.adminGet("/edrgate/edrs").want(t, http.StatusOK).body; !strings.Contains(edrs, h.Transfer) {
		t.Errorf("the EDRs of the consumer's side: %s", edrs)
	}
}

// newEarlierGateway makes an installation that serves at the public name.
func newEarlierGateway(t *testing.T, b *backend) *gateway {
	t.Helper()
	g := newGateway(t, config{app: earlierApp, site: "respond 404", noRefresh: true, publicURL: "http://" + earlierHost + " insecure"})
	_, port, _ := strings.Cut(g.public, ":")
	g.config.more = "http://" + earlierHost + ":" + port + " {\nedr_refresh\n" + serves("weather", b) + "\n}"
	return g
}

// newEarlierConsumer makes an installation of the consumer's side, for which that name need not have TLS.
func newEarlierConsumer(t *testing.T, w *testkit.Wallet) *gateway {
	t.Helper()
	g := newConsumerGateway(t, w)
	g.config.app = strings.Replace(g.config.app, "allow_http 127.0.0.1", "allow_http "+earlierHost, 1)
	return g
}

// registration is a message by which a control plane says where it is told.
func registration(t *testing.T, g *gateway, method, path, body string) reply {
	t.Helper()
	request, err := http.NewRequest(method, "http://"+g.signaling+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return send(t, g.client, request)
}

func termsOf(w *testkit.Wallet, f heldFlow) terms {
	return terms{flow: f.ID, agreement: f.Agreement, dataset: "weather", consumer: w.DID, backend: "http://127.0.0.1:9/base"}
}

// renewalOfEarlier sends a renewal to where the gateway is now, as if the public name led there.
func renewalOfEarlier(t *testing.T, g *gateway, w *testkit.Wallet, f heldFlow) reply {
	t.Helper()
	r := renewalOf(g, w, edr{access: f.Access, refresh: f.Refresh, refreshEndpoint: "http://" + g.public + "/token"})
	request, err := r.request(g)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = earlierHost
	return send(t, g.client, request)
}

func renewEarlier(t *testing.T, g *gateway, w *testkit.Wallet, f heldFlow) heldFlow {
	t.Helper()
	renewed, err := edr{}.renewedBy(g, renewalOfEarlier(t, g, w, f).want(t, http.StatusOK))
	if err != nil {
		t.Fatal(err)
	}
	request := g.dataRequest("/", renewed.access)
	request.Host = earlierHost
	send(t, g.client, request).want(t, http.StatusOK)
	f.Access, f.Refresh = renewed.access, renewed.refresh
	return f
}

func renewEarlierRefused(t *testing.T, g *gateway, w *testkit.Wallet, f heldFlow) {
	t.Helper()
	answer := renewalOfEarlier(t, g, w, f)
	if answer.status < 400 || answer.status > 499 {
		t.Errorf("renewal of flow %s: %d %s", f.ID, answer.status, answer.body)
	}
}

// earlierWallet is the consumer of what was written. Its document is served where its DID says.
func earlierWallet(t *testing.T, key string) *testkit.Wallet {
	t.Helper()
	_, port, _ := strings.Cut(earlierDIDHost, ":")
	w := testkit.NewWallet("did:web:localhost%3A" + port + ":consumer")
	if key != "" {
		block, _ := pem.Decode([]byte(key))
		if block == nil {
			t.Fatal("the wallet's key is no PEM")
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		w.Key = parsed.(crypto.Signer)
	}
	listener, err := net.Listen("tcp", earlierDIDHost)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write(w.Document())
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return w
}

// writeEarlier writes a directory with flows of both dialects in all states, a control plane that has registered, and an EDR
// of the consumer's side.
func writeEarlier(t *testing.T) {
	t.Helper()
	t.Run("write", func(t *testing.T) {
		g := newEarlierGateway(t, newBackend(t, "weather"))
		g.config.storePath = g.path("provider")
		g.start()
		wallet := earlierWallet(t, "")
		der, err := x509.MarshalPKCS8PrivateKey(wallet.Key)
		if err != nil {
			t.Fatal(err)
		}
		h := held{
			SigningKey: read(t, g.keyFile("signing")), Flows: map[string]heldFlow{},
			WalletKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		}
		for _, p := range planes {
			for _, state := range []string{"started", "suspended", "terminated", "revoked"} {
				f := newTerms("weather", wallet.DID)
				e := readEDR(g, f.flow, p.start(g, f).want(t, http.StatusOK))
				now := renewEarlier(t, g, wallet, heldFlow{ID: f.flow, Agreement: f.agreement, Access: e.access, Refresh: e.refresh})
				switch state {
				case "suspended":
					p.suspend(g, f.flow).want(t, p.done())
				case "terminated":
					p.terminate(g, f.flow).want(t, p.done())
				case "revoked":
					g.adminDo(http.MethodPost, flowPath(f.flow)+"/revoke", "").want(t, http.StatusOK)
				}
				h.Flows[p.name()+" "+state] = now
			}
		}
		registration(t, g, http.MethodPut, "/controlplanes", `{"controlplaneId":"cp","endpoint":"http://127.0.0.1:9/api"}`).want(t, http.StatusOK)
		used, served := newTerms("weather", ""), newTerms("weather", wallet.DID)
		start := dpsPlane{}.start(g, served).want(t, http.StatusOK)
		c := newEarlierConsumer(t, wallet)
		c.config.storePath = c.path("consumer")
		c.start()
		prepareMessage(c, g.did, used).send(c).want(t, http.StatusOK)
		startedMessage(c, used.flow, start).send(c).want(t, http.StatusOK)
		h.Transfer = used.flow
		c.stop()
		g.stop()
		pack(t, earlierDirectory, g.path("provider"), c.path("consumer"))
		text, err := json.MarshalIndent(h, "", "  ")
		if err == nil {
			err = os.WriteFile(earlierHeld, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// pack writes directories into an archive, by their last names, without the reserve.
func pack(t *testing.T, archive string, dirs ...string) {
	t.Helper()
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	files := tar.NewWriter(compressed)
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() == "reserve" || e.Name() == "LOCK" {
				continue
			}
			content := read(t, filepath.Join(dir, e.Name()))
			err = files.WriteHeader(&tar.Header{Name: filepath.Base(dir) + "/" + e.Name(), Mode: 0o600, Size: int64(len(content))})
			if err == nil {
				_, err = io.WriteString(files, content)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	err := files.Close()
	if err == nil {
		err = compressed.Close()
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(archive), 0o755)
	}
	if err == nil {
		err = os.WriteFile(archive, packed.Bytes(), fs.FileMode(0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unpack is the reverse of pack.
func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	compressed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(compressed)
	for {
		header, err := files.Next()
		if err == io.EOF {
			return
		}
		var content []byte
		if err == nil {
			content, err = io.ReadAll(files)
		}
		if err != nil || !filepath.IsLocal(header.Name) {
			t.Fatal(fmt.Errorf("%s: %w", archive, err))
		}
		writeFile(t, filepath.Join(dir, header.Name), string(content))
	}
}

package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// canaries look for the secrets of one installation in all that the gateway writes, shows or keeps.
type canaries struct{ *testkit.Canaries }

func (c *canaries) check(t testing.TB, where string, data []byte) {
	t.Helper()
	for _, what := range c.Find(data) {
		t.Errorf("%s holds %s", where, what)
	}
}

// readAnswers looks through what the running gateway shows to operators.
func (c *canaries) readAnswers(g *gateway) {
	g.t.Helper()
	paths := []string{"/config/", "/metrics", "/edrgate/status", "/edrgate/keys", "/edrgate/flows?limit=1000"}
	for _, f := range listFlows(g) {
		paths = append(paths, flowPath(f.ID))
	}
	for _, path := range paths {
		answer := g.adminGet(path)
		if answer.status != 200 {
			g.t.Errorf("GET %s of the admin API: status %d: %s", path, answer.status, answer.body)
		}
		c.check(g.t, "the answer of "+path, []byte(answer.body))
	}
}

// readFiles looks through everything that the gateway has written.
func (c *canaries) readFiles(g *gateway) {
	g.t.Helper()
	var read []string
	roots := []string{g.dir}
	sought := []string{g.errorLog(), g.autosave()}
	if g.config.store == "" {
		roots = append(roots, g.config.storePath)
		sought = append(sought, filepath.Join(g.config.storePath, "MANIFEST"))
	}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || strings.HasPrefix(path, g.path("keys")) || entry.Name() == "reserve" {
				return err // the reserve is random bytes
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			read = append(read, path)
			c.check(g.t, path, bytes.TrimRight(data, "\x00")) // files of the store are longer than what is in them
			return nil
		})
		if err != nil {
			g.t.Errorf("looking for secrets in %s: %v", root, err)
		}
	}
	// A search that misses the places where secrets would be is worth nothing.
	for _, path := range sought {
		if !slices.Contains(read, path) {
			g.t.Errorf("%s was not there to be looked through", path)
		}
	}
}

func (g *gateway) keyFile(name string) string { return g.path("keys", name+".pem") }

// newKey makes a signing key and returns its file.
func (g *gateway) newKey(name string) string {
	g.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	err = g.canaries.Key(key)
	if err != nil {
		g.t.Fatal(err)
	}
	writeFile(g.t, g.keyFile(name), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return g.keyFile(name)
}

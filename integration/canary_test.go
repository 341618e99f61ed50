package integration

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// canaries are the secrets of one installation. None of them may be found in anything that the gateway writes, shows or
// keeps.
type canaries struct {
	mu      sync.Mutex
	secrets map[string]string        // text that would give a secret away, and what it is
	starts  map[canaryStart][]string // the same texts by their first bytes, so that thousands are found in one pass
}

// canaryStart is how a text begins.
type canaryStart [8]byte

func newCanaries() *canaries {
	return &canaries{secrets: map[string]string{}, starts: map[canaryStart][]string{}}
}

func (c *canaries) add(what, text string) {
	if text == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.secrets[text]
	c.secrets[text] = what
	if !known && len(text) >= len(canaryStart{}) {
		start := canaryStart([]byte(text))
		c.starts[start] = append(c.starts[start], text)
	}
}

// token notes a token. What makes it good is its end: the signature of a JWS, the tag of a refresh token.
func (c *canaries) token(what, token string) {
	const tag = 40 // characters
	c.add("the end of "+what, token[max(0, len(token)-tag):])
}

// credential notes a secret of another party, and how it would look inside of base64.
func (c *canaries) credential(what, text string) {
	c.add(what, text)
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		// The characters at both ends also depend on what stands beside the secret.
		c.add(what+" in base64", encoded[4:len(encoded)-4])
	}
}

// key notes the private part of a signing key.
func (c *canaries) key(key *ecdsa.PrivateKey) error {
	private, err := key.Bytes()
	if err != nil {
		return err
	}
	c.add("the bytes of a signing key", string(private))
	c.add("a signing key in hex", hex.EncodeToString(private))
	c.add("a signing key in base64url", base64.RawURLEncoding.EncodeToString(private))
	c.add("a signing key in base64", strings.TrimRight(base64.StdEncoding.EncodeToString(private), "="))
	return nil
}

// find returns what stands in data.
func (c *canaries) find(data []byte) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []string
	for text, what := range c.secrets {
		if len(text) < len(canaryStart{}) && bytes.Contains(data, []byte(text)) {
			found = append(found, what)
		}
	}
	for i := range len(data) - len(canaryStart{}) + 1 {
		for _, text := range c.starts[canaryStart(data[i:])] {
			if bytes.HasPrefix(data[i:], []byte(text)) {
				found = append(found, c.secrets[text])
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (c *canaries) check(t testing.TB, where string, data []byte) {
	t.Helper()
	for _, what := range c.find(data) {
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
	err = g.canaries.key(key)
	if err != nil {
		g.t.Fatal(err)
	}
	writeFile(g.t, g.keyFile(name), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return g.keyFile(name)
}

func TestCanariesAreFoundWherePlanted(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJlIG9mIGEgdG9rZW4gdGhhdCBvcGVucyBzb21ldGhpbmc"
	const credential = "a backend's own password"
	c := newCanaries()
	c.token("a token", token)
	c.credential("a credential", credential)
	for name, planted := range map[string]string{
		"token in a URL":           "GET /token?refresh_token=" + token + "&x=1",
		"credential in JSON":       `{"authCode":"` + credential + `"}`,
		"credential in base64":     base64.StdEncoding.EncodeToString([]byte(`{"authCode":"` + credential + `"}`)),
		"credential, shifted by 1": base64.StdEncoding.EncodeToString([]byte(` {"authCode":"` + credential + `"}`)),
		"credential, shifted by 2": base64.StdEncoding.EncodeToString([]byte(`  {"authCode":"` + credential + `"}`)),
	} {
		if len(c.find([]byte(planted))) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
	found := c.find([]byte(token[:len(token)-20] + " redacted"))
	if len(found) > 0 {
		t.Errorf("found %v in text without it", found)
	}
}

package testkit

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
)

// Canaries are the secrets of one installation. None of them may be found in anything that the gateway writes, shows or
// keeps.
type Canaries struct {
	mu      sync.Mutex
	secrets map[string]string        // text that would give a secret away, and what it is
	starts  map[canaryStart][]string // the same texts by their first bytes, so that thousands are found in one pass
}

// canaryStart is how a text begins.
type canaryStart [8]byte

// NewCanaries returns an empty set.
func NewCanaries() *Canaries {
	return &Canaries{secrets: map[string]string{}, starts: map[canaryStart][]string{}}
}

// Add notes a text, and what it is. It may be called by many goroutines at once.
func (c *Canaries) Add(what, text string) {
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

// Token notes a token. What makes it good is its end: the signature of a JWS, the tag of a refresh token.
func (c *Canaries) Token(what, token string) {
	const tag = 40 // characters
	c.Add("the end of "+what, token[max(0, len(token)-tag):])
}

// Credential notes a secret of another party, and how it would look inside of base64.
func (c *Canaries) Credential(what, text string) {
	c.Add(what, text)
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		// The characters at both ends also depend on what stands beside the secret.
		c.Add(what+" in base64", encoded[4:len(encoded)-4])
	}
}

// Key notes the private part of a signing key.
func (c *Canaries) Key(key *ecdsa.PrivateKey) error {
	private, err := key.Bytes()
	if err != nil {
		return err
	}
	c.Add("the bytes of a signing key", string(private))
	c.Add("a signing key in hex", hex.EncodeToString(private))
	c.Add("a signing key in base64url", base64.RawURLEncoding.EncodeToString(private))
	c.Add("a signing key in base64", strings.TrimRight(base64.StdEncoding.EncodeToString(private), "="))
	return nil
}

// Find returns what stands in data.
func (c *Canaries) Find(data []byte) []string {
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

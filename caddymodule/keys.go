package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/tokens"
)

// maxKeyFileBytes limits what is read as a key. A PEM key with comments has some hundred bytes.
const maxKeyFileBytes = 64 << 10 // 64 KiB

// SigningKey is one key of access tokens. To rotate: list the new key as next on every gateway; when consumers' and
// backends' copies of the key set are renewed, make it active and the old one verify; drop the old one when no flow
// needs it any more (`caddy edr keys`).
type SigningKey struct {
	// File holds a P-256 (ES256) or Ed25519 (EdDSA) private key: PKCS #8 or SEC 1 in PEM, or a private JSON Web Key.
	// Placeholders are replaced when the config is loaded; one that gives the key itself, as {file./run/secrets/key}
	// does, is taken as the key. Required.
	File string `json:"file,omitempty"`

	// State is "active", the key signs; "next", it is published and accepted, but does not sign yet; or "verify", it is
	// published and accepted, but signs no longer. Default: active.
	State string `json:"state,omitempty"`
}

func (p *participant) loadRing(replacer *caddy.Replacer) (*tokens.Ring, error) {
	if len(p.SigningKeys) == 0 {
		return nil, errors.New("signing_key is required: create one with `caddy edr keygen FILE`")
	}
	keys := make([]tokens.RingKey, 0, len(p.SigningKeys))
	for _, configured := range p.SigningKeys {
		state := tokens.KeyState(orDefault(configured.State, string(tokens.KeyActive)))
		data, err := readKey(replacer, configured.File)
		if err != nil {
			return nil, fmt.Errorf("signing_key %s: %w", configured.File, err)
		}
		signer, err := tokens.ParseKey(data)
		if err != nil {
			return nil, fmt.Errorf("signing_key %s: %w", configured.File, err)
		}
		if state == tokens.KeyActive {
			p.proofKey = signer
		}
		keys = append(keys, tokens.RingKey{Signer: signer, State: state, Name: configured.File})
	}
	refresh, err := readSecretKeys(replacer, "refresh_key", p.RefreshKeys)
	if err != nil {
		return nil, err
	}
	sealing, err := readSecretKeys(replacer, "sealing_key", p.SealingKeys)
	if err != nil {
		return nil, err
	}
	return tokens.NewRing(keys, refresh, sealing)
}

// warnOfLostKey warns if the key that signed until this config came is not listed any more. Its tokens, most of which
// are still good, are refused from now on.
func (p *participant) warnOfLostKey(eng *engine) {
	var active tokens.KeyID
	listed := map[tokens.KeyID]bool{}
	for _, key := range p.config.Keys.SigningKeys() {
		listed[key.KeyID] = true
		if key.State == tokens.KeyActive {
			active = key.KeyID
		}
	}
	before := eng.signsWith(p.name, active)
	if before != "" && !listed[before] {
		p.logger.Warn("the key that signed until now is not listed any more, so its tokens are refused: list it as verify", "kid", string(before))
	}
}

func readSecretKeys(replacer *caddy.Replacer, option string, files []string) ([][]byte, error) {
	secrets := make([][]byte, 0, len(files))
	for _, file := range files {
		data, err := readKey(replacer, file)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", option, file, err)
		}
		secrets = append(secrets, trimText(data))
	}
	return secrets, nil
}

// readKey returns the content of a key file. Errors name the placeholder or path as configured, never what a
// placeholder gave: that may be the key.
func readKey(replacer *caddy.Replacer, file string) ([]byte, error) {
	if file == "" {
		return nil, errors.New("no file is named")
	}
	value, err := replacePlaceholders(replacer, file)
	if err != nil {
		return nil, err
	}
	if value != file && isKeyItself(value) {
		return []byte(value), nil
	}
	f, err := os.Open(value)
	if err != nil {
		return nil, openError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFileBytes+1))
	if err != nil {
		return nil, openError(err)
	}
	if len(data) > maxKeyFileBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", maxKeyFileBytes)
	}
	return data, nil
}

// trimText cuts the line end that editors and shells put behind a secret of printable characters, so that the same
// secret is the same key wherever it comes from. Raw bytes stay as they are.
func trimText(data []byte) []byte {
	text := bytes.TrimRight(data, "\r\n")
	for _, b := range text {
		if b < ' ' || b > '~' {
			return data
		}
	}
	return text
}

// isKeyItself tells a key from a path: a PEM block, a JSON Web Key.
func isKeyItself(value string) bool {
	value = strings.TrimSpace(value)
	return strings.HasPrefix(value, "-----BEGIN ") || strings.HasPrefix(value, "{")
}

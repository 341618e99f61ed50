package caddymodule

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestReadKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key.pem")
	err := keygen(new(bytes.Buffer), deterministic{}, file, "EdDSA", "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("EDR_TEST_PATH", file)
	t.Setenv("EDR_TEST_KEY", string(key))
	for _, configured := range []string{file, "{env.EDR_TEST_PATH}", "{env.EDR_TEST_KEY}", "{file." + file + "}"} {
		data, err := readKey(caddy.NewReplacer(), configured)
		if err != nil || strings.TrimSpace(string(data)) != strings.TrimSpace(string(key)) {
			t.Errorf("%s: %v", configured, err)
		}
	}
}

// What a placeholder gives may be a secret, so no error says it.
func TestReadKeyErrors(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("EDR_TEST_SECRET", "canary-in-the-wrong-variable")
	large := filepath.Join(dir, "large")
	err := os.WriteFile(large, make([]byte, maxKeyFileBytes+1), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for configured, want := range map[string]string{
		"":                         "no file is named",
		"{env.EDR_TEST_SECRET}":    "cannot open the file",
		"{env.EDR_TEST_UNSET_X}":   "",
		"{nothing.of.this.name}":   "",
		filepath.Join(dir, "none"): "cannot open the file",
		dir:                        "cannot read the file",
		large:                      "more than 65536 bytes",
	} {
		_, err := readKey(caddy.NewReplacer(), configured)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", configured, err)
		}
	}
}

func TestTrimText(t *testing.T) {
	for in, want := range map[string]string{
		"secret\n": "secret", "secret\r\n": "secret", "secret": "secret", "\x00\x01\n": "\x00\x01\n", "two\nlines\n": "two\nlines\n",
	} {
		if got := string(trimText([]byte(in))); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

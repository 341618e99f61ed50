package caddymodule

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// deterministic is a source of bytes that are all the same.
type deterministic struct{}

func (deterministic) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}

func TestKeygen(t *testing.T) {
	for _, algorithm := range []string{"ES256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "signing.pem")
			var out bytes.Buffer
			err := keygen(&out, deterministic{}, file, algorithm, "did:web:provider.example")
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			signer, err := tokens.ParseKey(data)
			if err != nil {
				t.Fatal(err)
			}
			ring, err := tokens.NewRing([]tokens.RingKey{{Signer: signer, State: tokens.KeyActive}}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			var part didDocumentPart
			err = json.Unmarshal(out.Bytes(), &part)
			if err != nil || len(part.VerificationMethod) != 1 {
				t.Fatalf("%v in %s", err, out.String())
			}
			method := part.VerificationMethod[0]
			id := "did:web:provider.example#" + string(ring.SigningKeys()[0].KeyID)
			if method.ID != id || method.Type != "JsonWebKey2020" || method.Controller != "did:web:provider.example" || part.AssertionMethod[0] != id {
				t.Errorf("%+v", part)
			}
			if strings.Contains(string(method.PublicKeyJWK), `"d"`) {
				t.Error("the private key is printed")
			}

			err = keygen(&out, deterministic{}, file, algorithm, "")
			if err == nil || !strings.Contains(err.Error(), "exists") {
				t.Errorf("over a key: %v", err)
			}
			after, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(after, data) {
				t.Error("the key was overwritten")
			}
		})
	}
}

func TestKeygenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signing.pem")
	for name, args := range map[string][2]string{
		"algorithm": {"RS256", ""},
		"DID":       {"ES256", "provider"},
	} {
		err := keygen(new(bytes.Buffer), deterministic{}, file, args[0], args[1])
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		_, err = os.Stat(file)
		if !os.IsNotExist(err) {
			t.Errorf("%s: a file was left", name)
		}
	}
}

func TestInspect(t *testing.T) {
	c := newConsumer(t)
	now := time.Now()
	inner := c.proof("none", nil)
	token := c.proof(inner, object{"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "big": 9007199254740993})
	signature := token[strings.LastIndexByte(token, '.')+1:]
	innerSignature := inner[strings.LastIndexByte(inner, '.')+1:]

	for name, presented := range map[string]string{"token": token, "with scheme": "bearer " + token, "as from a file": token + "\n"} {
		var out bytes.Buffer
		err := inspect(&out, presented, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range []string{`"alg": "ES256"`, c.did, now.UTC().Format(time.RFC3339), `"expired": false`, "9007199254740993"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %s is not in %s", name, want, out.String())
			}
		}
		if strings.Contains(out.String(), signature) || strings.Contains(out.String(), innerSignature) {
			t.Errorf("%s: a signature is shown", name)
		}
	}
	var out bytes.Buffer
	err := inspect(&out, token, now.Add(time.Hour))
	if err != nil || !strings.Contains(out.String(), `"expired": true`) {
		t.Errorf("%v in %s", err, out.String())
	}
	for _, bad := range []string{"", "abc", "a.b.c", token + "." + signature} {
		err := inspect(&out, bad, now)
		if err == nil || strings.Contains(err.Error(), "abc") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, seed := range []string{"", "a.b.c", "Bearer x", "eyJhbGciOiJFUzI1NiJ9.eyJ0b2tlbiI6ImEuYi5jIiwiZXhwIjoxZTMwMH0.AA", "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOi05ZTk5OX0.AA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		var out bytes.Buffer
		err := inspect(&out, token, time.Unix(0, 0))
		if err == nil && !json.Valid(out.Bytes()) {
			t.Errorf("not JSON: %s", out.String())
		}
	})
}

package hostile

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// minimal is a configuration that is good. A case replaces one piece of it.
const minimal = `{
	admin off
	edrgate {
		did did:web:provider.example
		signing_key {key}
		public_url http://{data} insecure
		store badger {
			path {dir}/store
		}
		consumer {
			kid did:web:provider.example#key-1
		}
	}
}

http://{data} {
	edr_refresh
	edr_auth {
		dataset weather
	}
	respond "data"
}

http://{signaling} {
	bind 127.0.0.1
	edr_signaling {
		auth network 127.0.0.0/8
	}
}
`

// configKey is a credential in the configurations. It must not be in an error.
const configKey = "a-credential-in-a-configuration"

// badConfig replaces old by new in the minimal configuration. The error has to name what is wrong with it.
type badConfig struct {
	old, new, names string
	starts          bool // it can only be seen at the start
}

// app puts options into the edrgate block.
func app(options, names string) badConfig {
	return option("signing_key {key}", "signing_key {key}\n"+options, names)
}

// option replaces one.
func option(old, replacement, names string) badConfig {
	return badConfig{old: old, new: replacement, names: names}
}

// configTests validates configurations that are not good. An operator is told which option it is; nothing panics; no secret
// is printed.
func configTests(t *testing.T) int {
	canaries := testkit.NewCanaries()
	canaries.Credential("a credential in the configuration", configKey)
	g := newGateway(t)
	_, key := g.newKey("signing", canaries)
	files := badKeys(g, canaries)
	values := map[string]string{"dir": g.dir, "key": key, "data": g.data, "signaling": g.signaling}
	good := expand(minimal, values)
	_, err := load(g, "validate", "caddyfile", good)
	if err != nil {
		t.Fatalf("the minimal configuration is refused: %v", err)
	}
	cases := caddyfileCases(files)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before, after := expand(c.old, values), expand(c.new, values)
			if !strings.Contains(good, before) {
				t.Fatalf("%q is not in the minimal configuration", before)
			}
			command := "validate"
			if c.starts {
				command = "run"
			}
			wantConfigRefused(t, g, canaries, command, "caddyfile", strings.Replace(good, before, after, 1), c.names)
		})
	}
	return len(cases) + jsonConfigs(t, g, canaries, good)
}

func wantConfigRefused(t *testing.T, g *gateway, canaries *testkit.Canaries, command, adapter, text, names string) {
	t.Helper()
	output, err := load(g, command, adapter, text)
	if err == nil {
		t.Fatalf("it passes: %s", output)
	}
	_, ok := err.(*exec.ExitError)
	if !ok {
		t.Fatal(err)
	}
	for _, problem := range inspect(canaries, "the error", []byte(output)) {
		t.Error(problem)
	}
	message := lastError(output)
	if !strings.Contains(message, names) {
		t.Errorf("the error does not name %q: %s", names, message)
	}
}

// errorText is how the command ends.
var errorText = regexp.MustCompile(`(?m)^Error: (.*)$`)

func lastError(output string) string {
	found := errorText.FindStringSubmatch(output)
	if found == nil {
		return output
	}
	return found[1]
}

// load has the command validate provision a configuration, or the command run start it.
func load(g *gateway, command, adapter, text string) (string, error) {
	args := []string{command, "--config", g.write("tried.config", text)}
	if adapter != "" {
		args = append(args, "--adapter", adapter)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaryPath, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "XDG_CONFIG_HOME=" + g.path("xdg-config"), "XDG_DATA_HOME=" + g.path("xdg-data")}
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return string(output), nil // it serves
	}
	return string(output), err
}

// badKeys are files that are no signing key.
func badKeys(g *gateway, canaries *testkit.Canaries) map[string]string {
	key := ecKey(g.t, elliptic.P256())
	must := func(der []byte, err error) []byte {
		if err != nil {
			g.t.Fatal(err)
		}
		return der
	}
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(key))
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	files := map[string]string{
		"empty": "", "text": "not a key\n", "binary": "\x00\x01\x02\xff", "a cut PEM": block("PRIVATE KEY", pkcs8)[:100], "a wrong PEM type": block("CERTIFICATE", pkcs8),
		"broken DER": block("PRIVATE KEY", pkcs8[:40]), "a public key": block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(&key.PublicKey))),
		"RSA": block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsaKey(g.t, 2048)))), "P-384": block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(ecKey(g.t, elliptic.P384())))),
		"encrypted": block("ENCRYPTED PRIVATE KEY", pkcs8), "10 MB": strings.Repeat("a", 10<<20), "JSON": `{"kty":"EC","d":"` + rand.Text() + `"}`,
	}
	paths := map[string]string{"a directory": g.dir, "missing": g.path("keys", "missing.pem"), "a device": "/dev/null"}
	err := canaries.Key(key)
	if err != nil {
		g.t.Fatal(err)
	}
	for name, content := range files {
		paths[name] = g.write("keys/bad "+name, content)
	}
	return paths
}

func caddyfileCases(keys map[string]string) map[string]badConfig {
	cases := map[string]badConfig{
		"no did":              option("did did:web:provider.example\n", "\n", "did"),
		"did a URL":           option("did did:web:provider.example\n", "did https://provider.example\n", "did"),
		"did with a space":    option("did did:web:provider.example\n", "did \"did:web:a b\"\n", "did"),
		"did empty":           option("did did:web:provider.example\n", "did \"\"\n", "did"),
		"public_url ftp":      option("http://{data} insecure", "ftp://127.0.0.1", "public_url"),
		"public_url word":     option("http://{data} insecure", "provider", "public_url"),
		"public_url userinfo": option("http://{data} insecure", "https://user:"+configKey+"@provider.example", "public_url"),
		"public_url query":    option("http://{data} insecure", "https://provider.example/?x=y", "public_url"),
		"public_url fragment": option("http://{data} insecure", "https://provider.example/#x", "public_url"),
		"public_url encoded":  option("http://{data} insecure", "https://provider.example/%2e%2e", "public_url"),
		"public_url port":     option("http://{data} insecure", "https://provider.example:99999", "public_url"),
		"public_url empty":    option("http://{data} insecure", `""`, "public_url"),

		"token_ttl negative":        app("token_ttl -5m", "token_ttl"),
		"token_ttl zero":            app("token_ttl 0", "token_ttl"),
		"token_ttl of no unit":      app("token_ttl 5", "token_ttl"),
		"token_ttl beyond time":     app("token_ttl 99999999999h", "token_ttl"),
		"token_ttl text":            app("token_ttl soon", "token_ttl"),
		"clock_skew negative":       app("clock_skew -1s", "clock_skew"),
		"clock_skew of a day":       app("clock_skew 24h", "clock_skew"),
		"refresh_path relative":     app("refresh_path token", "refresh_path"),
		"refresh_path with dots":    app("refresh_path /a/../token", "refresh_path"),
		"refresh_path with a query": app("refresh_path /token?x", "refresh_path"),
		"refresh_path encoded":      app("refresh_path /%74oken", "refresh_path"),
		"did_map of no DID":         app("did_map BPNL000000000001 provider", "did_map"),
		"reuse_policy":              app("reuse_policy maybe", "reuse_policy"),
		"duplicate_start":           app("duplicate_start maybe", "duplicate_start"),
		"error_format":              app("error_format xml", "error_format"),
		"participant with a slash":  app("participant a/b", "participant"),
		"participant dots":          app("participant ..", "participant"),
		"participant too long":      app("participant "+strings.Repeat("p", 65), "participant"),
		"an option of no meaning":   app("trust everybody", "trust"),
		"an option twice":           app("did did:web:other.example", "did"),
		"resolver of no network":    app("resolver {\nallow_addresses 10.0.0.0/99\n}", "allow_addresses"),
		"resolver of a port":        app("resolver {\nallow_ports 70000\n}", "allow_ports"),
		"resolver of a URL":         app("resolver {\nallow_http http://wallet\n}", "plain http host"),
		"resolver timeout":          app("resolver {\ntimeout -1s\n}", "timeout"),
		"policy of a file":          app("policy authzen file:///etc/passwd", "policy"),
		"policy userinfo":           app("policy authzen https://user:"+configKey+"@pdp.example/x", "policy"),
		"control_plane callback":    app("control_plane edc {\ncallback gopher://edc\n}", "callback"),
		"route of a file":           app("route r {\ndataset r\nbackend file:///etc/passwd\n}", "backend"),
		"route userinfo":            app("route r {\ndataset r\nbackend http://user:"+configKey+"@backend/\n}", "backend"),
		"route header":              app("route r {\ndataset r\nbackend http://backend\nheader \"X Key\" "+configKey+"\n}", "header"),
		"route hop-by-hop header":   app("route r {\ndataset r\nbackend http://backend\nheader Connection "+configKey+"\n}", "header"),
		"route placeholder":         app("route r {\ndataset r\nbackend http://backend/{edr.metadata.}\n}", "backend"),

		"store of no kind":        option("store badger {", "store clay {", "store"),
		"store min_free":          option("path {dir}/store", "path {dir}/store\nmin_free -1", "min_free"),
		"store reserve":           option("path {dir}/store", "path {dir}/store\nreserve lots", "reserve"),
		"consumer kid of another": option("kid did:web:provider.example#key-1", "kid did:web:other.example#key-1", "kid"),
		"consumer kid bare":       option("kid did:web:provider.example#key-1", "kid key-1", "kid"),
		"consumer sts plain":      option("kid did:web:provider.example#key-1", "sts http://sts.example/token {\nclient_id a\nclient_secret "+configKey+"\n}", "sts"),

		"edr_auth of nothing":     option("dataset weather", "", "edr_auth"),
		"edr_auth of a route":     option("dataset weather", "route unheard-of", "route"),
		"edr_auth realm":          option("dataset weather", "dataset weather\nrealm \"a\\\"b\"", "realm"),
		"edr_auth refusal_status": option("dataset weather", "dataset weather\nrefusal_status teapot", "refusal_status"),
		"signaling open to all":   option("auth network 127.0.0.0/8", "auth none", "auth"),
		"signaling network":       option("auth network 127.0.0.0/8", "auth network 127.0.0.1/99", "network"),
		"signaling bearer empty":  option("auth network 127.0.0.0/8", `auth bearer ""`, "bearer"),
		"signaling bearer short":  option("auth network 127.0.0.0/8", `auth bearer x`, "bearer"),
		"signaling without auth":  option("	bind 127.0.0.1\n	edr_signaling {\n		auth network 127.0.0.0/8\n", "	edr_signaling {\n", "auth"),
		"signaling oauth2":        option("auth network 127.0.0.0/8", "auth oauth2 {\nissuer http://login.example\njwks file:///etc/passwd\nsubject a\n}", "oauth2"),
		"proxy without backends":  option("respond \"data\"", "edr_proxy", "edr_proxy"),
		"proxy of a path":         option("respond \"data\"", "edr_proxy {\nbackends http://a/b\n}", "backends"),
		"proxy userinfo":          option("respond \"data\"", "edr_proxy {\nbackends http://user:"+configKey+"@a\n}", "backends"),
		"proxy secret userinfo":   option("respond \"data\"", "edr_proxy {\nbackends http://a\nsecret k x for http://user:"+configKey+"@a/\n}", "secret"),
		"proxy secret nowhere":    option("respond \"data\"", "edr_proxy {\nbackends http://a\nsecret k "+configKey+"\n}", "secret"),
		"egress open to all":      option("respond \"data\"", "edr_egress {\nhost \"\"\n}", "edr_egress"),
		"a brace too many":        option("respond \"data\"", "respond \"data\"\n}", ""),
		"NUL":                     option("respond \"data\"", "respond \"data\x00\"\nunheard", "unheard"),
		"not UTF-8":               option("respond \"data\"", "unheard\xff", "unheard"),
	}
	for name, c := range map[string]badConfig{
		"start, store path a file":         option("path {dir}/store", "path {key}", "store"),
		"start, store path a device":       option("path {dir}/store", "path /dev/null/x", "store"),
		"start, store path of others":      option("path {dir}/store", "path /proc/1/x", "store"),
		"start, no edr_refresh":            option("	edr_refresh\n", "\n", "edr_refresh"),
		"start, route that nothing serves": app("route r {\ndataset r\nbackend http://backend\n}", "route r"),
	} {
		c.starts = true
		cases[name] = c
	}
	for name, path := range keys {
		cases["signing_key "+name] = option("signing_key {key}", "signing_key \""+path+"\"", "signing_key")
	}
	return cases
}

// jsonConfigs change one member of the adapted configuration, as a generator may get it wrong.
func jsonConfigs(t *testing.T, g *gateway, canaries *testkit.Canaries, good string) int {
	cmd := exec.Command(binaryPath, "adapt", "--config", g.write("tried.config", good), "--adapter", "caddyfile")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := cmd.Run()
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]struct {
		member string
		value  any
		names  string
	}{
		"did a number": {"did", 1, "did"}, "did a list": {"did", []string{"x"}, "did"}, "keys an object": {"signing_keys", map[string]any{"file": "x"}, "signing_keys"},
		"keys empty": {"signing_keys", []any{}, "signing_key"}, "keys null": {"signing_keys", nil, "signing_key"}, "key without a file": {"signing_keys", []any{map[string]any{}}, "signing_key"},
		"a member of no meaning": {"trust", "everybody", "trust"}, "token_ttl a list": {"token_ttl", []int{1}, "token_ttl"}, "token_ttl negative": {"token_ttl", -1, "token_ttl"},
		"token_ttl beyond time": {"token_ttl", rawJSON("99999999999999999999"), "token_ttl"}, "did_map a list": {"did_map", []string{"x"}, "did_map"},
		"routes text": {"routes", "x", "routes"}, "store text": {"store", "badger", "store"}, "store of no kind": {"store", map[string]any{"engine": "clay"}, "store"},
		"consumer a list": {"consumer", []any{}, "consumer"}, "consumer of two signers": {"consumer", map[string]any{"kid": "did:web:provider.example#a", "sts": map[string]any{}}, "consumer"},
		"control_planes text": {"control_planes", "x", "control_planes"}, "control_planes twice": {"control_planes", []any{map[string]any{"name": "a"}, map[string]any{"name": "a"}}, "control_plane"},
		"public_url a credential": {"public_url", "https://user:" + configKey + "@x", "public_url"},
	}
	for name, c := range changes {
		t.Run("JSON, "+name, func(t *testing.T) {
			var config map[string]any
			err := json.Unmarshal(stdout.Bytes(), &config)
			if err != nil {
				t.Fatal(err)
			}
			config["apps"].(map[string]any)["edrgate"].(map[string]any)[c.member] = c.value
			wantConfigRefused(t, g, canaries, "validate", "", string(testkit.JSON(t, config)), c.names)
		})
	}
	return len(changes)
}

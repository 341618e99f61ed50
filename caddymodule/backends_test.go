package caddymodule

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/internal/dial"
)

func TestBackendList(t *testing.T) {
	l, err := newBackendList([]string{"http://Plain.Example", "https://secure.example/", "both.example:8080", "10.0.0.1:80", "https://[::1]:8443", "[::ffff:10.0.0.2]:81", "under_score.svc:80"})
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"http://plain.example/x", "http://PLAIN.example.:80/", "https://secure.example:443", "http://both.example:8080", "https://both.example:8080/a?b",
		"http://10.0.0.1", "https://[::1]:8443/", "https://[0:0::1]:8443/", "http://10.0.0.2:81", "http://under_score.svc",
	}
	refused := []string{
		"https://plain.example", "http://plain.example:8080", "http://secure.example", "http://secure.example:443", "http://both.example", "http://sub.both.example:8080",
		"https://10.0.0.1", "http://10.0.0.3:81", "http://[::1]:8443/", "http://plain.example.evil.example",
	}
	for _, text := range allowed {
		_, o, _, err := parseBackendURL(text)
		if err != nil || !l.allows(o) {
			t.Errorf("%s is refused: %v", text, err)
		}
	}
	for _, text := range refused {
		_, o, _, err := parseBackendURL(text)
		if err == nil && l.allows(o) {
			t.Errorf("%s is allowed", text)
		}
	}
	for value, want := range map[string]bool{
		"plain.example": true, "PLAIN.EXAMPLE": true, "plain.example:80": true, "plain.example:81": false, "both.example": true, "other": false, "": false,
		"plain.example/x": false, "plain.example:0": false,
	} {
		if l.allowsHostHeader(value) != want {
			t.Errorf("Host %q: got %v", value, !want)
		}
	}
}

func TestBackendListIsRefused(t *testing.T) {
	cases := map[string]string{
		"backend":                       "the port is missing",
		"ftp://backend:21":              "the scheme must be http or https",
		"http://":                       "the host is missing",
		"http://backend/path":           "the port must be", // there is none behind the last colon
		"http://user@backend":           "the host is neither",
		"backend:0":                     "the port must be",
		"backend:65536":                 "the port must be",
		"backend:http":                  "the port must be",
		"backend:080":                   "the port must be",
		"{env.BACKEND}:80":              "the host is neither",
		"*.example:80":                  "the host is neither",
		"a..b:80":                       "the host is neither",
		"127.1:80":                      "the host ends in a number",
		"2130706433:80":                 "the host ends in a number",
		"0x7f.0.0.1.0x1:80":             "the host ends in a number",
		"::1:80":                        "the host is neither",
		"[fe80::1%25eth0]:80":           "without a zone",
		"[10.0.0.1]:80":                 "the host is not an IPv6",
		strings.Repeat("a", 64):         "the port is missing",
		strings.Repeat("a", 64) + ":80": "the host is neither",
	}
	delete(cases, "http://backend/path")
	for entry, want := range cases {
		_, err := newBackendList([]string{entry})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "backends: ") {
			t.Errorf("%s: got %v, want %s", entry, err, want)
		}
	}
	_, err := newBackendList(nil)
	if err == nil || !strings.Contains(err.Error(), "backends is required") {
		t.Errorf("empty: got %v", err)
	}
	_, err = newBackendList([]string{"http://backend/path"})
	if err == nil {
		t.Error("a path is accepted, though it would not count")
	}
}

func TestSecretDeclarations(t *testing.T) {
	resolve := func(text string) (string, error) {
		if text == "{file./missing}" {
			return "", errors.New("no such file")
		}
		return text, nil
	}
	cases := []struct {
		name   string
		secret *BackendSecret
		want   string
	}{
		{"no value", &BackendSecret{For: []string{"http://backend/"}}, "a value is required"},
		{"nil", nil, "a value is required"},
		{"no destination", &BackendSecret{Value: "v"}, "destination are required"},
		{"missing file", &BackendSecret{Value: "{file./missing}", For: []string{"http://backend/"}}, "no such file"},
		{"empty file", &BackendSecret{Value: "\n", For: []string{"http://backend/"}}, "the value is empty"},
		{"line break", &BackendSecret{Value: "CANARY\r\nX: y", For: []string{"http://backend/"}}, "cannot stand in a header"},
		{"not listed", &BackendSecret{Value: "CANARY", For: []string{"http://other/"}}, "not in backends"},
		{"no URL", &BackendSecret{Value: "CANARY", For: []string{"backend"}}, "the scheme"},
		{"query", &BackendSecret{Value: "CANARY", For: []string{"http://backend/?a=b"}}, "must not have a query"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := newBackendSecrets(map[string]*BackendSecret{"s": c.secret}, testBackends(t), resolve)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "secret s: ") {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "CANARY") {
				t.Errorf("the error quotes the secret: %v", err)
			}
		})
	}
}

// TestDialChecksNameAndAddress is the last line: whatever a target says, nothing connects elsewhere.
func TestDialChecksNameAndAddress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	l, err := newBackendList([]string{address, "169.254.169.254:80"})
	if err != nil {
		t.Fatal(err)
	}
	transport, err := l.transport(connectionBackend, discardObserver{}, dial.TransportConfig{})
	if err != nil {
		t.Fatal(err)
	}
	connect := transport.DialContext
	conn, err := connect(t.Context(), "tcp", address)
	if err != nil {
		t.Fatalf("a listed loopback address: %v", err)
	}
	_ = conn.Close()
	_, err = connect(t.Context(), "tcp", "127.0.0.1:1")
	if !errors.Is(err, errNotInBackends) {
		t.Errorf("an address that is not listed: %v", err)
	}
	_, err = connect(t.Context(), "tcp", "169.254.169.254:80")
	var denied *dial.DeniedError
	if !errors.As(err, &denied) || denied.Reason != dial.ReasonMetadata {
		t.Errorf("a metadata address, though listed: %v", err)
	}
	plain := l.dialer(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialled") })
	_, err = plain(t.Context(), "tcp", "no port")
	if err == nil || err.Error() == "dialled" {
		t.Errorf("an address without a port: %v", err)
	}
}

// FuzzAuthority checks that a host that passes holds nothing that Caddy's placeholders, a URL or a dialer could read
// otherwise, and has one form.
func FuzzAuthority(f *testing.F) {
	for _, seed := range []string{"backend:80", "[::1]:443", "{env.X}:80", "a@b:80", "127.1:80", "A.b.:1", "[::ffff:1.2.3.4]:1", "::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, port, err := parseAuthority(text, "")
		if err != nil {
			return
		}
		if strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.:") != "" || strings.Trim(port, "0123456789") != "" {
			t.Errorf("%q gives %q and %q", text, host, port)
		}
		again, samePort, err := parseAuthority(net.JoinHostPort(host, port), "")
		if err != nil || again != host || samePort != port {
			t.Errorf("%q gives %q, which gives %q, %v", text, host, again, err)
		}
	})
}

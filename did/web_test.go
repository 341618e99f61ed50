package did

import (
	"strings"
	"testing"
)

func TestWebToURL(t *testing.T) {
	for _, c := range []struct {
		did, want string
	}{
		{"did:web:w3c-ccg.github.io", "https://w3c-ccg.github.io/.well-known/did.json"},
		{"did:web:w3c-ccg.github.io:user:alice", "https://w3c-ccg.github.io/user/alice/did.json"},
		{"did:web:example.com%3A3000:user:alice", "https://example.com:3000/user/alice/did.json"},
		{"did:web:example.com%3a3000", "https://example.com:3000/.well-known/did.json"},
		{"did:web:Example.COM:BPNL00000000000A", "https://example.com/BPNL00000000000A/did.json"},
		{"did:web:xn--bcher-kva.example", "https://xn--bcher-kva.example/.well-known/did.json"},
		{"did:web:identityhub", "https://identityhub/.well-known/did.json"},
		{"did:web:1.example:a_b-c.d", "https://1.example/a_b-c.d/did.json"},
		{"did:web:a.example:...", "https://a.example/.../did.json"},
	} {
		t.Run(c.did, func(t *testing.T) {
			got := parsed(t, c.did).place.url("https").String()
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestMalformedDIDs(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, did := range []string{
		"", "did", "did:", "did:web", "did:web:", "DID:web:a.example", "did:WEB:a.example", "web:a.example",
		" did:web:a.example", "did:web:a.example ", "did:web:a.example\n", "did:web:a.example\x00", "did:we b:a.example",
		// userinfo, query, fragment, other paths and hosts
		"did:web:user@a.example", "did:web:user%40a.example", "did:web:user%3Apass%40a.example", "did:web:a.example/b",
		"did:web:a.example%2Fb", "did:web:a.example%2fb", "did:web:a.example?x=1", "did:web:a.example%3Fx", "did:web:a.example#k",
		"did:web:a.example%23k", `did:web:a.example\b`, "did:web:a.example%5Cb", "did:web:a.example%00", "did:web:a.example%0d%0ab",
		"did:web:a.example%", "did:web:a.example%3", "did:web:a.example%253A80",
		// ports
		"did:web:a.example%3A", "did:web:a.example%3A0", "did:web:a.example%3A65536", "did:web:a.example%3A080",
		"did:web:a.example%3A+80", "did:web:a.example%3A-1", "did:web:a.example%3A80%3A81", "did:web:a.example%3A80/x",
		"did:web:a.example%3A80@b.example", "did:web:%3A80", "did:web:a.example%3A8o",
		// hosts that are no names
		"did:web:-a.example", "did:web:a-.example", "did:web:a..example", "did:web:.a.example", "did:web:a.example.",
		"did:web:a_b.example", "did:web:bücher.example", "did:web:\u0430.example", "did:web:" + long + "a.example",
		"did:web:" + strings.Repeat(long+".", 4) + "example",
		// addresses in every spelling
		"did:web:127.0.0.1", "did:web:127.0.0.1%3A8080", "did:web:127.1", "did:web:2130706433", "did:web:0x7f000001",
		"did:web:0x7F.0.0.1", "did:web:0177.0.0.1", "did:web:0x7f.1", "did:web:1.0x", "did:web:a.0x10", "did:web:a.1",
		"did:web:[::1]", "did:web:%5B%3A%3A1%5D", "did:web:::1", "did:web:[::ffff:127.0.0.1]",
		// paths
		"did:web:a.example:", "did:web:a.example::b", "did:web:a.example:b:", "did:web:a.example:.", "did:web:a.example:..",
		"did:web:a.example:b:..:c", "did:web:a.example:%2e%2e", "did:web:a.example:b%2Fc", "did:web:a.example:b/c",
		"did:web:a.example:b?c", "did:web:a.example:b;c", "did:web:a.example:ü", "did:web:a.example:b c", "did:web:a.example:~b",
		"did:web:a.example:" + strings.Repeat("b", 512),
	} {
		t.Run(did, func(t *testing.T) {
			_, err := parse(did)
			if err == nil {
				t.Fatal("accepted")
			}
			wantCode(t, err, CodeMalformed)
		})
	}
}

func TestUnsupportedMethod(t *testing.T) {
	for _, did := range []string{"did:ethr:0xab", "did:webvh:abc:a.example", "did:ion:x"} {
		_, err := parse(did)
		if err == nil {
			t.Fatalf("%s: accepted", did)
		}
		wantCode(t, err, CodeMethod)
	}
}

func TestReach(t *testing.T) {
	r, err := newReach([]string{"localhost:8083", "Wallet.internal"}, []uint16{8443})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		did, want string // want is empty where it is not allowed
	}{
		{"did:web:a.example", "https://a.example/.well-known/did.json"},
		{"did:web:a.example%3A443", "https://a.example:443/.well-known/did.json"},
		{"did:web:a.example%3A8443", "https://a.example:8443/.well-known/did.json"},
		{"did:web:a.example%3A80", ""},
		{"did:web:a.example%3A6379", ""},
		{"did:web:localhost%3A8083", "http://localhost:8083/.well-known/did.json"},
		{"did:web:localhost%3A2019", ""},
		{"did:web:localhost", "https://localhost/.well-known/did.json"},
		{"did:web:wallet.internal", "http://wallet.internal/.well-known/did.json"},
		{"did:web:WALLET.internal%3A7083:x", "http://wallet.internal:7083/x/did.json"},
		{"did:web:not.wallet.internal", "https://not.wallet.internal/.well-known/did.json"},
	} {
		t.Run(c.did, func(t *testing.T) {
			u, err := r.document(parsed(t, c.did).place)
			got := ""
			if err == nil {
				got = u.String()
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	any, err := newReach([]string{"*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := any.document(parsed(t, "did:web:a.example%3A8083").place)
	if err != nil || u.String() != "http://a.example:8083/.well-known/did.json" {
		t.Errorf("any host by http: %v, %v", u, err)
	}
}

func TestReachRefusesNonsense(t *testing.T) {
	for _, entry := range []string{"", "http://a.example", "a.example/", "a.example:", "a.example:0", "127.0.0.1", "*.example", "a b"} {
		_, err := newReach([]string{entry}, nil)
		if err == nil {
			t.Errorf("plain http host %q accepted", entry)
		}
	}
	_, err := newReach(nil, []uint16{0})
	if err == nil {
		t.Error("port 0 accepted")
	}
}

// FuzzWeb: whatever the DID, the URL has nothing but scheme, host and path, reads back as itself, and leads back to the
// same DID.
func FuzzWeb(f *testing.F) {
	for _, s := range []string{
		"did:web:a.example", "did:web:a.example%3A8443:x:y", "did:web:user@b.example", "did:web:a.example%2Fb", "did:web:127.0.0.1",
		"did:web:a.example:..", "did:web:a.example%3A80@b.example", "did:web:[::1]", "did:web:a.example%23", "did:web:0x7f.1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, did string) {
		id, failure := parse(did)
		if failure != nil || id.method != methodWeb {
			return
		}
		text := id.place.url("https").String()
		u := mustURL(t, text)
		if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || u.RawPath != "" {
			t.Fatalf("%q gives %q: more than host and path", did, text)
		}
		if u.String() != text || u.Host != id.place.authority() || u.JoinPath().Path != u.Path {
			t.Fatalf("%q gives %q, which reads as %q", did, text, u)
		}
		path := strings.TrimSuffix(u.Path, "/did.json")
		if !strings.Contains(id.value, ":") {
			path = strings.TrimSuffix(path, "/.well-known")
		}
		host, rest := strings.ReplaceAll(u.Host, ":", "%3A"), strings.ReplaceAll(path, "/", ":")
		back := "did:web:" + host + rest
		// Host names know no case, paths do.
		if !strings.EqualFold(back, did) || !strings.HasSuffix(did, rest) {
			t.Fatalf("%q gives %q, which belongs to %q", did, text, back)
		}
	})
}

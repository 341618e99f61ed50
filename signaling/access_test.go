package signaling

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

const (
	tokenA = "token-of-control-plane-a"
	tokenB = "token-of-control-plane-b"
)

func networks(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func mustAccess(t *testing.T, rules ...Rule) *AccessList {
	t.Helper()
	a, err := NewAccessList(rules)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAccess(t *testing.T) {
	both := []Rule{
		{ControlPlane: "a", Bearer: []Digest{DigestOf("old"), DigestOf(tokenA)}},
		{ControlPlane: "b", Bearer: []Digest{DigestOf(tokenB)}},
		{ControlPlane: "net", Networks: networks("10.0.0.0/8", "fd00::/8")},
		{ControlPlane: "near", Networks: networks("10.1.0.0/16")},
	}
	onlyBearer := both[:2]
	onlyNetwork := both[2:]
	tests := []struct {
		name      string
		rules     []Rule
		peer      string
		header    []string // name, value, ...
		want      tokens.Caller
		status    int
		challenge string
	}{
		{name: "bearer", rules: onlyBearer, header: []string{"Authorization", "Bearer " + tokenA}, want: "a"},
		{name: "bearer of the other", rules: onlyBearer, header: []string{"Authorization", "Bearer " + tokenB}, want: "b"},
		{name: "scheme in lower case", rules: onlyBearer, header: []string{"Authorization", "bearer " + tokenA}, want: "a"},
		{name: "previous token", rules: onlyBearer, header: []string{"Authorization", "Bearer old"}, want: "a"},
		{name: "no token", rules: onlyBearer, status: 401, challenge: "Bearer"},
		{
			name: "wrong token", rules: onlyBearer, header: []string{"Authorization", "Bearer " + tokenA + "x"},
			status: 401, challenge: `Bearer error="invalid_token"`,
		},
		{name: "empty token", rules: onlyBearer, header: []string{"Authorization", "Bearer "}, status: 401, challenge: "Bearer"},
		{name: "other scheme", rules: onlyBearer, header: []string{"Authorization", "Basic " + tokenA}, status: 401, challenge: "Bearer"},
		{name: "raw token", rules: onlyBearer, header: []string{"Authorization", tokenA}, status: 401, challenge: "Bearer"},
		{
			name: "two headers", rules: onlyBearer,
			header: []string{"Authorization", "Bearer " + tokenA, "Authorization", "Bearer " + tokenB},
			status: 401, challenge: "Bearer",
		},
		{name: "network", rules: onlyNetwork, peer: "10.2.3.4:1", want: "net"},
		{name: "smaller network wins", rules: onlyNetwork, peer: "10.1.3.4:1", want: "near"},
		{name: "IPv4 on an IPv6 socket", rules: onlyNetwork, peer: "[::ffff:10.2.3.4]:1", want: "net"},
		{name: "IPv6 with zone", rules: onlyNetwork, peer: "[fd00::1%eth0]:1", want: "net"},
		{name: "other network", rules: onlyNetwork, peer: "192.0.2.1:1", status: 403},
		{name: "unix socket", rules: onlyNetwork, peer: "@", status: 403},
		{
			name: "X-Forwarded-For is no peer", rules: onlyNetwork, peer: "192.0.2.1:1",
			header: []string{"X-Forwarded-For", "10.2.3.4", "X-Real-Ip", "10.2.3.4", "Forwarded", "for=10.2.3.4"}, status: 403,
		},
		{
			name: "token before network", rules: both, peer: "10.1.3.4:1",
			header: []string{"Authorization", "Bearer " + tokenB}, want: "b",
		},
		{
			name: "web page inside the network", rules: onlyNetwork, peer: "10.2.3.4:1",
			header: []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, status: 403,
		},
		{name: "insecure", rules: []Rule{{Insecure: true}}, want: DefaultControlPlane},
		{
			name: "web page, insecure", rules: []Rule{{Insecure: true}},
			header: []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, status: 403,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := mustAccess(t, tt.rules...)
			r := httptest.NewRequest(http.MethodPost, "/dataflows/tp-1/terminate", nil)
			if tt.peer != "" {
				r.RemoteAddr = tt.peer
			}
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Add(tt.header[i], tt.header[i+1])
			}
			got, err := a.Identify(r)
			if got != tt.want {
				t.Errorf("caller %q, want %q", got, tt.want)
			}
			if tt.status == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var refused *refusal
			if !errors.As(err, &refused) || refused.status != tt.status || refused.challenge != tt.challenge {
				t.Errorf("error %+v, want status %d, challenge %q", err, tt.status, tt.challenge)
			}
		})
	}
}

func TestAccessConfiguration(t *testing.T) {
	tests := []struct {
		name  string
		rules []Rule
		want  string
	}{
		{"none", nil, "nobody may signal"},
		{"no way", []Rule{{ControlPlane: "a"}}, "exactly one"},
		{"two ways", []Rule{{Bearer: []Digest{DigestOf("x")}, Insecure: true}}, "exactly one"},
		{"insecure beside another", []Rule{{Insecure: true}, {ControlPlane: "b", Bearer: []Digest{DigestOf("x")}}}, "only rule"},
		{"one token for two", []Rule{
			{ControlPlane: "a", Bearer: []Digest{DigestOf("x")}}, {ControlPlane: "b", Bearer: []Digest{DigestOf("x")}},
		}, `also that of "a"`},
		{"one network for two", []Rule{
			{ControlPlane: "a", Networks: networks("10.0.0.0/8")}, {ControlPlane: "b", Networks: networks("10.0.0.0/8")},
		}, `also that of "a"`},
		{"host bits", []Rule{{Networks: networks("10.0.0.1/8")}}, "want 10.0.0.0/8"},
		{"mapped network", []Rule{{Networks: networks("::ffff:10.0.0.0/104")}}, "IPv4 or IPv6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewAccessList(tt.rules)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestParseDigest(t *testing.T) {
	good := "sha256:" + fmt.Sprintf("%x", [32]byte(DigestOf(tokenA)))
	d, err := ParseDigest(good)
	if err != nil || d != DigestOf(tokenA) {
		t.Errorf("ParseDigest: %v", err)
	}
	for _, bad := range []string{"", tokenA, "sha256:", good[:len(good)-1], good + "0", "sha256:" + strings.Repeat("g", 64)} {
		_, err := ParseDigest(bad)
		if err == nil || strings.Contains(err.Error(), tokenA) {
			t.Errorf("ParseDigest(%q): %v", bad, err)
		}
	}
	if got := fmt.Sprint(d); got != "redacted" {
		t.Errorf("prints %q", got)
	}
}

// TestAccessDecidesFirst: a stranger learns neither which paths exist nor which methods, and nothing is carried out.
func TestAccessDecidesFirst(t *testing.T) {
	x := newFixture(t, func(c *Config) {
		c.Access = mustAccess(t, Rule{ControlPlane: "a", Bearer: []Digest{DigestOf(tokenA)}})
	})
	for _, path := range []string{"/dataflows/start", "/v1/dataflows/start", "/dataflows/tp-1/nonsense", "/v1/dataflows/check"} {
		for _, method := range []string{http.MethodPost, http.MethodDelete} {
			a := x.do(httptest.NewRequest(method, path, strings.NewReader("{}"))).want(t, http.StatusUnauthorized)
			if got := a.Header().Get("WWW-Authenticate"); got != "Bearer" {
				t.Errorf("%s %s: WWW-Authenticate %q", method, path, got)
			}
		}
	}
	if len(x.flows.callers) > 0 {
		t.Error("the core was asked")
	}
	r := httptest.NewRequest(http.MethodPost, "/dataflows/start", strings.NewReader(dpsStart(nil)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+tokenA)
	x.do(r).want(t, http.StatusOK)
	if got := x.flows.callers; len(got) != 1 || got[0] != "a" {
		t.Errorf("callers %v", got)
	}
}

type accessFunc func(*http.Request) (tokens.Caller, error)

func (f accessFunc) Identify(r *http.Request) (tokens.Caller, error) { return f(r) }

// TestAccessCannotTell: an authorizer in trouble is no refusal.
func TestAccessCannotTell(t *testing.T) {
	x := newFixture(t, func(c *Config) {
		c.Access = accessFunc(func(*http.Request) (tokens.Caller, error) { return "", errors.New("key set not reachable") })
	})
	a := x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusServiceUnavailable)
	if a.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if strings.Contains(a.Body.String(), "key set") {
		t.Errorf("body tells of us: %s", a.Body)
	}
}

// TestAccessWithoutAName: flows are owned by names.
func TestAccessWithoutAName(t *testing.T) {
	x := newFixture(t, func(c *Config) {
		c.Access = accessFunc(func(*http.Request) (tokens.Caller, error) { return "", nil })
	})
	x.post("/dataflows/start", dpsStart(nil)).want(t, http.StatusForbidden)
}

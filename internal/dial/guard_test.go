package dial_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/edrgate/edrgate/internal/dial"
)

func newGuard(t *testing.T, c dial.Config) *dial.Guard {
	t.Helper()
	g, err := dial.NewGuard(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// reason is empty for an address that may be dialled.
func reason(t *testing.T, err error) dial.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var denied *dial.DeniedError
	if !errors.As(err, &denied) {
		t.Fatalf("error is %T, want *dial.DeniedError", err)
	}
	if denied.Address == "" || denied.Detail == "" {
		t.Errorf("denial lacks its address or detail: %+v", denied)
	}
	return denied.Reason
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestGuard(t *testing.T) {
	private := prefixes("10.0.0.0/8", "127.0.0.0/8", "fd00::/8")
	everything := prefixes("0.0.0.0/0", "::/0")
	admin := []netip.AddrPort{
		netip.MustParseAddrPort("127.0.0.1:2019"), netip.MustParseAddrPort("[::]:2020"),
		netip.MustParseAddrPort("93.184.215.14:0"),
	}
	for _, c := range []struct {
		name    string
		config  dial.Config
		address string
		want    dial.Reason
	}{
		{"public v4", dial.Config{}, "93.184.215.14:443", ""},
		{"public v6", dial.Config{}, "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443", ""},
		{"public v4 mapped", dial.Config{}, "[::ffff:93.184.215.14]:443", ""},
		{"public v4 behind nat64", dial.Config{}, "[64:ff9b::5db8:d70e]:443", ""},

		{"loopback", dial.Config{}, "127.0.0.1:443", dial.ReasonRange},
		{"other loopback", dial.Config{}, "127.255.255.254:443", dial.ReasonRange},
		{"loopback v6", dial.Config{}, "[::1]:443", dial.ReasonRange},
		{"loopback mapped", dial.Config{}, "[::ffff:127.0.0.1]:443", dial.ReasonRange},
		{"loopback compatible", dial.Config{}, "[::127.0.0.1]:443", dial.ReasonRange},
		{"loopback translated", dial.Config{}, "[::ffff:0:127.0.0.1]:443", dial.ReasonRange},
		{"loopback behind nat64", dial.Config{}, "[64:ff9b::7f00:1]:443", dial.ReasonRange},
		{"loopback in 6to4", dial.Config{}, "[2002:7f00:1::]:443", dial.ReasonRange},
		{"loopback in isatap", dial.Config{}, "[2606:2800::200:5efe:7f00:1]:443", dial.ReasonRange},
		{"unspecified", dial.Config{}, "0.0.0.0:443", dial.ReasonRange},
		{"unspecified v6", dial.Config{}, "[::]:443", dial.ReasonRange},
		{"private", dial.Config{}, "10.1.2.3:443", dial.ReasonRange},
		{"private, upper end", dial.Config{}, "172.31.255.255:443", dial.ReasonRange},
		{"above private", dial.Config{}, "172.32.0.0:443", ""},
		{"carrier nat", dial.Config{}, "100.64.0.1:443", dial.ReasonRange},
		{"link local", dial.Config{}, "169.254.1.1:443", dial.ReasonRange},
		{"link local v6 with zone", dial.Config{}, "[fe80::1%eth0]:443", dial.ReasonRange},
		{"unique local", dial.Config{}, "[fd12:3456::1]:443", dial.ReasonRange},
		{"site local", dial.Config{}, "[fec0::1]:443", dial.ReasonRange},
		{"teredo", dial.Config{}, "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:443", dial.ReasonRange},
		{"documentation", dial.Config{}, "[2001:db8::1]:443", dial.ReasonRange},
		{"multicast", dial.Config{}, "[ff02::1]:443", dial.ReasonRange},
		{"broadcast", dial.Config{}, "255.255.255.255:443", dial.ReasonRange},
		{"never given out", dial.Config{}, "[4000::1]:443", dial.ReasonRange},

		{"allowed private", dial.Config{AllowAddresses: private}, "10.1.2.3:443", ""},
		{"allowed private mapped", dial.Config{AllowAddresses: private}, "[::ffff:10.1.2.3]:443", ""},
		{"allowed private behind nat64", dial.Config{AllowAddresses: private}, "[64:ff9b::a01:203]:443", ""},
		{"allowed private in 6to4", dial.Config{AllowAddresses: private}, "[2002:a01:203::]:443", dial.ReasonRange},
		{"other private", dial.Config{AllowAddresses: private}, "192.168.0.1:443", dial.ReasonRange},
		{"allowed unique local", dial.Config{AllowAddresses: private}, "[fd12:3456::1]:443", ""},
		{"allowed as mapped prefix", dial.Config{AllowAddresses: prefixes("::ffff:10.0.0.0/104")}, "10.1.2.3:443", ""},
		{"allowed loopback v6", dial.Config{AllowAddresses: prefixes("::1/128")}, "[::1]:443", ""},
		{"nat64 allowed, not what is behind", dial.Config{AllowAddresses: prefixes("64:ff9b::/96")}, "[64:ff9b::a00:1]:443", dial.ReasonRange},
		{"6to4 allowed, not what is inside", dial.Config{AllowAddresses: prefixes("2002::/16")}, "[2002:a00:1::]:443", dial.ReasonRange},
		{"everything allowed", dial.Config{AllowAddresses: everything}, "[2002:a00:1::]:443", ""},

		{"port allowed", dial.Config{AllowPorts: []uint16{443, 8443}}, "93.184.215.14:8443", ""},
		{"port not allowed", dial.Config{AllowPorts: []uint16{443, 8443}}, "93.184.215.14:22", dial.ReasonPort},
		{"port 0", dial.Config{}, "93.184.215.14:0", dial.ReasonNetwork},

		{"denied endpoint", dial.Config{AllowAddresses: everything, DenyEndpoints: admin}, "127.0.0.1:2019", dial.ReasonEndpoint},
		{"denied endpoint mapped", dial.Config{AllowAddresses: everything, DenyEndpoints: admin}, "[::ffff:127.0.0.1]:2019", dial.ReasonEndpoint},
		{"beside denied endpoint", dial.Config{AllowAddresses: everything, DenyEndpoints: admin}, "127.0.0.1:2021", ""},
		{"endpoint denied on every address", dial.Config{AllowAddresses: everything, DenyEndpoints: admin}, "127.0.0.2:2020", dial.ReasonEndpoint},
		{"endpoint denied on every port", dial.Config{DenyEndpoints: admin}, "93.184.215.14:443", dial.ReasonEndpoint},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGuard(t, c.config)
			got := reason(t, g.ControlContext(context.Background(), "tcp4", c.address, nil))
			if got != c.want {
				t.Errorf("%s: reason %q, want %q", c.address, got, c.want)
			}
		})
	}
}

// Whatever is allowed, and however it is written, the metadata services stay out of reach.
func TestMetadataIsAlwaysDenied(t *testing.T) {
	g := newGuard(t, dial.Config{AllowAddresses: prefixes(
		"0.0.0.0/0", "::/0", "169.254.169.254/32", "168.63.129.16/32", "fd00:ec2::254/128",
	)})
	for _, address := range []string{
		"169.254.169.254:80", "169.254.170.2:80", "169.254.170.23:80", "169.254.0.23:80", "169.254.42.42:80",
		"168.63.129.16:80", "168.63.129.16:443", "100.100.100.200:80", "192.0.0.192:80",
		"[fd00:ec2::254]:80", "[fd00:ec2::23]:80", "[fd20:ce::254]:80", "[fd00:42::42]:80", "[fd00:c1::a9fe:a9fe]:80",
		"[fe80::a9fe:a9fe%eth0]:80",
		"[::ffff:169.254.169.254]:80",
		"[::169.254.169.254]:80",
		"[::ffff:0:169.254.169.254]:80",
		"[64:ff9b::a9fe:a9fe]:80",
		"[64:ff9b:1:a9fe:a9:fe00::]:80",   // RFC 6052, 48 bit
		"[64:ff9b:1:00a9:fe:a9fe::]:80",   // 56 bit
		"[64:ff9b:1:0:a9:fea9:fe00:0]:80", // 64 bit
		"[64:ff9b:1::a9fe:a9fe]:80",       // 96 bit
		"[2002:a9fe:a9fe::1]:80",
		"[2001:0:a9fe:a9fe::]:80",            // Teredo server
		"[2001:0:1:2:0:0:5601:5601]:80",      // Teredo client, inverted
		"[fe80::5efe:a9fe:a9fe]:80",          // ISATAP
		"[2606:2800::200:5efe:a83f:8110]:80", // ISATAP, 168.63.129.16
	} {
		t.Run(address, func(t *testing.T) {
			got := reason(t, g.Control("tcp", address, nil))
			if got != dial.ReasonMetadata {
				t.Errorf("reason %q, want %q", got, dial.ReasonMetadata)
			}
		})
	}
}

func TestGuardSeesOnlyTCP(t *testing.T) {
	g := newGuard(t, dial.Config{AllowAddresses: prefixes("0.0.0.0/0")})
	for _, c := range [][2]string{{"udp", "93.184.215.14:53"}, {"unix", "/run/docker.sock"}, {"tcp", "wallet.example:443"}} {
		got := reason(t, g.Control(c[0], c[1], nil))
		if got != dial.ReasonNetwork {
			t.Errorf("%v: reason %q, want %q", c, got, dial.ReasonNetwork)
		}
	}
	got := reason(t, g.Check(netip.AddrPort{}))
	if got != dial.ReasonNetwork {
		t.Errorf("no address: reason %q, want %q", got, dial.ReasonNetwork)
	}
}

func TestGuardCountsDenials(t *testing.T) {
	var got []dial.Reason
	g := newGuard(t, dial.Config{
		AllowPorts: []uint16{443},
		Denied:     func(e *dial.DeniedError) { got = append(got, e.Reason) },
	})
	for _, address := range []string{"93.184.215.14:443", "10.0.0.1:443", "169.254.169.254:443", "93.184.215.14:80"} {
		_ = g.Check(netip.MustParseAddrPort(address))
	}
	_ = g.Control("udp", "93.184.215.14:443", nil)
	want := []dial.Reason{dial.ReasonRange, dial.ReasonMetadata, dial.ReasonPort, dial.ReasonNetwork}
	if !slices.Equal(got, want) {
		t.Errorf("denials %v, want %v", got, want)
	}
	for _, r := range got {
		if !slices.Contains(dial.Reasons(), r) {
			t.Errorf("reason %q is not listed", r)
		}
	}
}

func TestNewGuardRefusesNonsense(t *testing.T) {
	for name, c := range map[string]dial.Config{
		"no prefix":       {AllowAddresses: []netip.Prefix{{}}},
		"host bits":       {AllowAddresses: prefixes("10.0.0.1/8")},
		"mixed families":  {AllowAddresses: prefixes("::ffff:0:0/90")},
		"port 0":          {AllowPorts: []uint16{0}},
		"no endpoint":     {DenyEndpoints: []netip.AddrPort{{}}},
		"mapped host bit": {AllowAddresses: prefixes("::ffff:10.0.0.1/104")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dial.NewGuard(c)
			if err == nil {
				t.Error("no error")
			}
		})
	}
}

// FuzzGuard holds the guard to what must be true of every address: the spelling of an IPv4 address changes nothing, and
// nothing that the standard library calls private or local passes.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "93.184.215.14", "::1", "64:ff9b::7f00:1", "2002:7f00:1::", "fe80::1%eth0"} {
		f.Add(s)
	}
	g, err := dial.NewGuard(dial.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return
		}
		allowed := g.Check(netip.AddrPortFrom(addr, 443)) == nil
		plain := addr.Unmap().WithZone("")
		if allowed && (!plain.IsGlobalUnicast() || plain.IsPrivate()) {
			t.Errorf("%s is let through", addr)
		}
		if plain.Is4() {
			for _, other := range []netip.Addr{netip.AddrFrom16(plain.As16()), nat64(plain)} {
				again := g.Check(netip.AddrPortFrom(other, 443)) == nil
				if again != allowed {
					t.Errorf("%s: %t, as %s: %t", plain, allowed, other, again)
				}
			}
		}
	})
}

func nat64(v4 netip.Addr) netip.Addr {
	b := netip.MustParseAddr("64:ff9b::").As16()
	a := v4.As4()
	copy(b[12:], a[:])
	return netip.AddrFrom16(b)
}

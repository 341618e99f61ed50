package dial

import (
	"net/netip"
	"testing"
)

// Both ends of every range are refused, under its own name or that of a range around it.
func TestSpecialPurposeEnds(t *testing.T) {
	for _, r := range special {
		t.Run(r.prefix.String(), func(t *testing.T) {
			if r.prefix != r.prefix.Masked() {
				t.Fatal("prefix has host bits set")
			}
			for _, addr := range []netip.Addr{r.prefix.Addr(), lastOf(r.prefix)} {
				if specialPurpose(addr) == "" {
					t.Errorf("%s is let through", addr)
				}
			}
		})
	}
}

// The neighbours of ranges that lie amid public space are public.
func TestSpecialPurposeNeighbours(t *testing.T) {
	for _, s := range []string{
		"9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
		"169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0",
		"198.17.255.255", "198.20.0.0", "198.51.99.255", "203.0.114.0", "223.255.255.255", "1.0.0.0",
		"2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "2000::", "3ffe:ffff::", "3fff:1000::",
	} {
		name := specialPurpose(netip.MustParseAddr(s))
		if name != "" {
			t.Errorf("%s is refused as %s", s, name)
		}
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

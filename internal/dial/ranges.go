package dial

import (
	"net/netip"
)

// metadata are the addresses at which clouds and orchestrators give credentials or user data to any process that asks.
// They are denied whatever the configuration allows: no wallet and no backend lives there, and a prefix that happens to
// cover one must not open it.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"),    // AWS, Azure, Google Cloud, OpenStack, Oracle, IBM, Hetzner and others
	netip.MustParseAddr("169.254.170.2"),      // AWS ECS task credentials
	netip.MustParseAddr("169.254.170.23"),     // AWS EKS pod identity
	netip.MustParseAddr("169.254.0.23"),       // Tencent Cloud
	netip.MustParseAddr("169.254.42.42"),      // Scaleway
	netip.MustParseAddr("168.63.129.16"),      // Azure wire server, a public address
	netip.MustParseAddr("100.100.100.200"),    // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"),        // Oracle Cloud, first generation
	netip.MustParseAddr("fd00:ec2::254"),      // AWS
	netip.MustParseAddr("fd00:ec2::23"),       // AWS EKS pod identity
	netip.MustParseAddr("fd20:ce::254"),       // Google Cloud
	netip.MustParseAddr("fd00:42::42"),        // Scaleway
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"), // Oracle Cloud
	netip.MustParseAddr("fe80::a9fe:a9fe"),    // OpenStack
}

type namedRange struct {
	prefix netip.Prefix
	name   string
}

// special are the ranges in which no public server lives: the IANA IPv4 and IPv6 Special-Purpose Address Registries
// (RFC 6890, RFC 8190), multicast, and ranges withdrawn from use. The few entries that the registries call globally
// reachable (anycast sinks, relays) are in it too: nothing that the gateway wants to read is served there.
var special = []namedRange{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network (RFC 791 §3.2)"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private use (RFC 1918)"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared address space (RFC 6598)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback (RFC 1122 §3.2.1.3)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link local (RFC 3927)"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private use (RFC 1918)"},
	{netip.MustParsePrefix("192.0.0.0/24"), "IETF protocol assignments (RFC 6890 §2.1)"},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation (RFC 5737)"},
	{netip.MustParsePrefix("192.31.196.0/24"), "AS112 (RFC 7535)"},
	{netip.MustParsePrefix("192.52.193.0/24"), "AMT (RFC 7450)"},
	{netip.MustParsePrefix("192.88.99.0/24"), "deprecated 6to4 relay anycast (RFC 7526)"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private use (RFC 1918)"},
	{netip.MustParsePrefix("192.175.48.0/24"), "AS112 (RFC 7534)"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking (RFC 2544)"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation (RFC 5737)"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation (RFC 5737)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast (RFC 5771)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved and limited broadcast (RFC 1112 §4, RFC 8190)"},

	{netip.MustParsePrefix("::1/128"), "loopback (RFC 4291)"},
	{netip.MustParsePrefix("::/96"), "unspecified and deprecated IPv4-compatible (RFC 4291)"},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "IPv4-translated (RFC 2765)"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local-use translation (RFC 8215)"},
	{netip.MustParsePrefix("100::/64"), "discard only (RFC 6666)"},
	{netip.MustParsePrefix("100:0:0:1::/64"), "dummy prefix (RFC 9780)"},
	{netip.MustParsePrefix("2001::/32"), "Teredo (RFC 4380)"},
	{netip.MustParsePrefix("2001::/23"), "IETF protocol assignments (RFC 2928)"},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation (RFC 3849)"},
	{netip.MustParsePrefix("2002::/16"), "6to4 (RFC 3056, RFC 7526)"},
	{netip.MustParsePrefix("2620:4f:8000::/48"), "AS112 (RFC 7534)"},
	{netip.MustParsePrefix("3fff::/20"), "documentation (RFC 9637)"},
	{netip.MustParsePrefix("5f00::/16"), "segment routing (RFC 9602)"},
	{netip.MustParsePrefix("fc00::/7"), "unique local (RFC 4193)"},
	{netip.MustParsePrefix("fe80::/10"), "link local (RFC 4291)"},
	{netip.MustParsePrefix("fec0::/10"), "deprecated site local (RFC 3879)"},
	{netip.MustParsePrefix("ff00::/8"), "multicast (RFC 4291)"},
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")       // all that IANA has given out (RFC 4291 §2.4, RFC 3587)
	nat64         = netip.MustParsePrefix("64:ff9b::/96")   // well-known translation prefix (RFC 6052 §2.1)
	nat64Local    = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215; the network chooses the embedding
	sixToFour     = netip.MustParsePrefix("2002::/16")
	teredo        = netip.MustParsePrefix("2001::/32")
	compatible    = netip.MustParsePrefix("::/96")
	translated    = netip.MustParsePrefix("::ffff:0:0:0/96")
)

// specialPurpose names the range that keeps addr from being dialled, or is empty for a public unicast address.
func specialPurpose(addr netip.Addr) string {
	for _, r := range special {
		if r.prefix.Contains(addr) {
			return r.name
		}
	}
	// Whatever IANA may set up outside 2000::/3 is not a web server yet. Translated public IPv4 addresses are: on a
	// network with IPv6 only, DNS64 answers with them for most of the world.
	if addr.Is6() && !globalUnicast.Contains(addr) && !nat64.Contains(addr) {
		return "outside the global unicast range (RFC 4291 §2.4)"
	}
	return ""
}

// embedded returns the IPv4 addresses that an IPv6 address carries, where a translator or tunnel would send the packets
// on. The second result tells that they are at one known place, so that they must pass all checks; where the place differs
// between networks the candidates are only good for a search for addresses that are always denied.
func embedded(addr netip.Addr) ([]netip.Addr, bool) {
	if !addr.Is6() {
		return nil, false
	}
	b := addr.As16()
	last := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case nat64.Contains(addr), compatible.Contains(addr) && addr != netip.IPv6Loopback(), translated.Contains(addr):
		return []netip.Addr{last}, true
	case sixToFour.Contains(addr): // RFC 3056 §2
		return []netip.Addr{netip.AddrFrom4([4]byte(b[2:6]))}, true
	case nat64Local.Contains(addr):
		// RFC 6052 §2.2: the forms with a prefix of 48, 56, 64 and 96 bits; bits 64 to 71 are skipped.
		return []netip.Addr{
			netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}),
			netip.AddrFrom4([4]byte{b[7], b[9], b[10], b[11]}),
			netip.AddrFrom4([4]byte(b[9:13])),
			last,
		}, false
	case teredo.Contains(addr): // RFC 4380 §4: the server, and the client with its bits inverted
		client := netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
		return []netip.Addr{netip.AddrFrom4([4]byte(b[4:8])), client}, true
	case b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214 §6.1
		return []netip.Addr{last}, true
	}
	return nil, false
}

package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/did"
)

// Resolver says how the DIDs of consumers are resolved: did:web by a hardened fetch, did:jwk and did:key by decoding.
type Resolver struct {
	// AllowHTTP are hosts whose documents may be fetched by plain http: host, host:port, or * for all. Whoever is on
	// the path to such a host can sign as its DIDs: for tests and closed networks only. Default: none.
	AllowHTTP []string `json:"allow_http,omitempty"`

	// AllowPorts are ports for https beside 443. Default: none.
	AllowPorts []uint16 `json:"allow_ports,omitempty"`

	// AllowAddresses are private networks in which DID hosts may live, such as 10.0.0.0/8. Default: none, so that a
	// DID cannot make the gateway ask hosts of the inner network.
	AllowAddresses []string `json:"allow_addresses,omitempty"`

	// CacheTTL is how long a document is used without asking again, and so how long a withdrawn key may go on working.
	// Default: 5m.
	CacheTTL caddy.Duration `json:"cache_ttl,omitempty"`

	// Timeout bounds one fetch. Default: 4s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Relationship is the verification relationship that a key must be listed under: "any"; "capability_invocation";
	// or "none", it need not be listed at all. Default: any.
	Relationship string `json:"relationship,omitempty"`
}

// relationships are the values of Relationship.
var relationships = map[string]did.Relationship{
	"":                      did.RelationshipAny,
	"any":                   did.RelationshipAny,
	"capability_invocation": did.RelationshipCapabilityInvocation,
	"none":                  did.RelationshipNone,
}

// maxFetchTimeout keeps a renewal within what consumers wait for: a slow DID host is better answered with 503.
const maxFetchTimeout = 20 * time.Second

// resolver builds the resolver. It asks nobody yet.
func (c *Resolver) resolver(observer *observer, logger *slog.Logger) (*did.Resolver, error) {
	relationship, known := relationships[c.Relationship]
	if !known {
		return nil, fmt.Errorf("relationship %q is none of any, capability_invocation, none", c.Relationship)
	}
	if c.CacheTTL < 0 {
		return nil, errors.New("cache_ttl must not be negative")
	}
	if c.Timeout < 0 || time.Duration(c.Timeout) > maxFetchTimeout {
		return nil, fmt.Errorf("timeout must be at most %s", maxFetchTimeout)
	}
	networks := make([]netip.Prefix, 0, len(c.AllowAddresses))
	for _, address := range c.AllowAddresses {
		network, err := parseNetwork(address)
		if err != nil {
			return nil, fmt.Errorf("allow_addresses: %w", err)
		}
		networks = append(networks, network)
	}
	if len(c.AllowHTTP) > 0 {
		logger.Warn("DID documents of some hosts are fetched by plain http: whoever is on the path can sign as their DIDs",
			"hosts", c.AllowHTTP)
	}
	return did.New(did.Config{
		AllowHTTP:      c.AllowHTTP,
		AllowPorts:     c.AllowPorts,
		AllowAddresses: networks,
		DenyEndpoints:  adminEndpoints(),
		Denied:         func(reason string) { observer.DialDenied(connectionDID, reason) },
		Relationship:   relationship,
		MaxAge:         time.Duration(c.CacheTTL),
		FetchTimeout:   time.Duration(c.Timeout),
		Observer:       observer,
	})
}

// adminEndpoints are where Caddy's admin API listens by default. Even where loopback addresses are allowed, a DID must
// not make the gateway talk to it.
func adminEndpoints() []netip.AddrPort {
	address, err := caddy.ParseNetworkAddress(caddy.DefaultAdminListen)
	if err != nil || address.IsUnixNetwork() {
		return nil
	}
	port := uint16(address.StartPort)
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		netip.AddrPortFrom(netip.IPv6Loopback(), port),
	}
}

// parseNetwork reads a network, or one address as the network of itself.
func parseNetwork(s string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(s)
	if err == nil {
		if network != network.Masked() {
			return netip.Prefix{}, fmt.Errorf("network %s has bits set behind its length: write %s", s, network.Masked())
		}
		return network, nil
	}
	address, err := netip.ParseAddr(s)
	if err != nil || address.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.0.0.0/24", s)
	}
	return netip.PrefixFrom(address, address.BitLen()), nil
}

func (c *Resolver) unmarshalBlock(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		var err error
		switch option {
		case "allow_http":
			err = allowHTTP(&c.AllowHTTP)(d)
		case "allow_ports":
			err = c.parsePorts(d)
		case "allow_addresses":
			err = networks(&c.AllowAddresses)(d)
		case "cache_ttl":
			err = positive(&c.CacheTTL)(d)
		case "timeout":
			err = positive(&c.Timeout)(d)
		case "relationship":
			err = word(&c.Relationship, "any", "capability_invocation", "none")(d)
		default:
			return d.Errf("unrecognized option %q of resolver", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Resolver) parsePorts(d *caddyfile.Dispenser) error {
	ports := d.RemainingArgs()
	if len(ports) == 0 {
		return d.ArgErr()
	}
	for _, port := range ports {
		parsed, err := strconv.ParseUint(port, 10, 16)
		if err != nil || parsed == 0 {
			return d.Errf("allow_ports: %q is not a port", port)
		}
		c.AllowPorts = append(c.AllowPorts, uint16(parsed))
	}
	return endOfLine(d)
}

// allowHTTP is the form of a list of hosts that are reached by plain http; without one it is all of them.
func allowHTTP(list *[]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		hosts := d.RemainingArgs()
		if len(hosts) == 0 {
			hosts = []string{"*"}
		}
		*list = append(*list, hosts...)
		return endOfLine(d)
	}
}

// Package dial is the one place where the addresses of outgoing connections are checked.
//
// Much of what the gateway fetches is named by somebody else: a DID document by the counterparty, a backend by the
// control plane, a token endpoint by a data address. A name can resolve to anything, and to something else the second
// time (DNS rebinding), so a check of the URL proves nothing. The Guard of this package sits in the dialer and sees the
// address and port that are about to be connected, once for every address tried.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// Reason says why an address was refused. The set is closed, so it can label a metric.
type Reason string

// The reasons of a DeniedError.
const (
	ReasonMetadata Reason = "metadata" // an address where clouds hand credentials to any local process
	ReasonRange    Reason = "range"    // a special-purpose range that no AllowAddresses prefix covers
	ReasonPort     Reason = "port"     // a port outside AllowPorts
	ReasonEndpoint Reason = "endpoint" // one of DenyEndpoints
	ReasonNetwork  Reason = "network"  // not TCP over IP
)

// Reasons lists every Reason.
func Reasons() []Reason {
	return []Reason{ReasonMetadata, ReasonRange, ReasonPort, ReasonEndpoint, ReasonNetwork}
}

// DeniedError is the error for a connection that the Guard refuses. It reaches the caller of an http.Client wrapped in
// other errors: match it with errors.As.
type DeniedError struct {
	Address string // what was about to be dialled, "ip:port"
	Reason  Reason
	Detail  string // the range or rule, for the log
}

// Error names the address and the rule. It is for the log and never for a peer: it would map the internal network.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("dial: address %s is denied: %s", e.Address, e.Detail)
}

// Config says what a Guard lets through. The zero value allows every port of every public unicast address.
type Config struct {
	// AllowAddresses are special-purpose ranges that may be dialled nevertheless, such as 10.0.0.0/8 for wallets in the
	// cluster. Metadata addresses stay denied whatever it says. Default: none.
	AllowAddresses []netip.Prefix

	// AllowPorts are the only ports that may be dialled. Default (empty): every port but 0.
	AllowPorts []uint16

	// DenyEndpoints are never dialled, even inside AllowAddresses; meant for the gateway's own administration. The
	// unspecified address (0.0.0.0 or ::) stands for every address, port 0 for every port. Default: none.
	DenyEndpoints []netip.AddrPort

	// Denied, if set, is called for every refusal, from the goroutine that dials. It must be safe for concurrent use.
	Denied func(*DeniedError)
}

// Guard decides which addresses may be connected. It never changes and is safe for concurrent use.
type Guard struct {
	allow  []netip.Prefix
	ports  []uint16
	deny   []netip.AddrPort
	denied func(*DeniedError)
}

// NewGuard returns the guard for c. It fails for a prefix, port or endpoint that cannot mean what it says.
func NewGuard(c Config) (*Guard, error) {
	g := &Guard{ports: slices.Clone(c.AllowPorts), denied: c.Denied}
	for _, p := range c.AllowAddresses {
		prefix, err := plainPrefix(p)
		if err != nil {
			return nil, err
		}
		g.allow = append(g.allow, prefix)
	}
	if slices.Contains(g.ports, 0) {
		return nil, fmt.Errorf("dial: port 0 cannot be allowed")
	}
	for _, e := range c.DenyEndpoints {
		if !e.Addr().IsValid() {
			return nil, fmt.Errorf("dial: denied endpoint without an address")
		}
		g.deny = append(g.deny, netip.AddrPortFrom(plain(e.Addr()), e.Port()))
	}
	return g, nil
}

// ControlContext is for net.Dialer.ControlContext. The dialer calls it after name resolution, before each connect, so
// there is no gap between the check and its use.
func (g *Guard) ControlContext(_ context.Context, network, address string, _ syscall.RawConn) error {
	return g.checkDial(network, address)
}

// Control is for net.Dialer.Control. Where both are set, the dialer uses ControlContext alone.
func (g *Guard) Control(network, address string, _ syscall.RawConn) error {
	return g.checkDial(network, address)
}

// Check returns nil if a TCP connection to addr may be made, otherwise a *DeniedError. It is for addresses that are
// known early, such as IP literals in a configuration; it never replaces the check at the dial.
func (g *Guard) Check(addr netip.AddrPort) error {
	denied := g.judge(addr)
	if denied == nil {
		return nil
	}
	denied.Address = addr.String()
	if g.denied != nil {
		g.denied(denied)
	}
	return denied
}

func (g *Guard) checkDial(network, address string) error {
	addr, err := netip.ParseAddrPort(address)
	if !strings.HasPrefix(network, "tcp") || err != nil {
		denied := &DeniedError{Address: address, Reason: ReasonNetwork, Detail: "not an address of a TCP connection"}
		if g.denied != nil {
			g.denied(denied)
		}
		return denied
	}
	return g.Check(addr)
}

// judge decides without side effects. The order matters: what is always denied comes before what may be allowed.
func (g *Guard) judge(target netip.AddrPort) *DeniedError {
	if !target.Addr().IsValid() || target.Port() == 0 {
		return &DeniedError{Reason: ReasonNetwork, Detail: "no address or no port"}
	}
	addr := plain(target.Addr())
	inner, exact := embedded(addr)
	for _, a := range append([]netip.Addr{addr}, inner...) {
		if slices.Contains(metadata, a) {
			return &DeniedError{Reason: ReasonMetadata, Detail: "metadata service of a cloud"}
		}
		if g.isDeniedEndpoint(a, target.Port()) {
			return &DeniedError{Reason: ReasonEndpoint, Detail: "endpoint of the gateway itself"}
		}
	}
	if len(g.ports) > 0 && !slices.Contains(g.ports, target.Port()) {
		return &DeniedError{Reason: ReasonPort, Detail: "port is not allowed"}
	}
	if !g.isAllowed(addr) {
		name := specialPurpose(addr)
		if name != "" {
			return &DeniedError{Reason: ReasonRange, Detail: name}
		}
	}
	// A translator or tunnel delivers to the inner address, so that one has to pass as well: allowing 64:ff9b:1::/48
	// is no permission for the 10.0.0.1 behind it.
	if !exact {
		return nil
	}
	for _, a := range inner {
		name := specialPurpose(a)
		if name != "" && !g.isAllowed(a) {
			return &DeniedError{Reason: ReasonRange, Detail: "embedded IPv4 address: " + name}
		}
	}
	return nil
}

func (g *Guard) isAllowed(addr netip.Addr) bool {
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (g *Guard) isDeniedEndpoint(addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(g.deny, func(e netip.AddrPort) bool {
		return (e.Port() == 0 || e.Port() == port) && (e.Addr().IsUnspecified() || e.Addr() == addr)
	})
}

// plain returns the address that is really connected: an IPv4-mapped address reaches IPv4 (RFC 4291 §2.5.5.2), and a
// zone only chooses the interface. Without this "::ffff:127.0.0.1" and "fe80::1%eth0" match no prefix of the table.
func plain(addr netip.Addr) netip.Addr {
	return addr.Unmap().WithZone("")
}

// plainPrefix writes an IPv4-mapped prefix as the IPv4 prefix that it means, and refuses host bits that are set, which
// are more often a typing error than a wish.
func plainPrefix(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("dial: allowed prefix is not valid")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("dial: allowed prefix %s mixes IPv4 and IPv6", p)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("dial: allowed prefix %s has host bits set: write %s", p, p.Masked())
	}
	return p, nil
}

// Dialer returns a dialer whose connections g checks. resolver nil is the system's.
func (g *Guard) Dialer(resolver *net.Resolver) *net.Dialer {
	return &net.Dialer{Timeout: defaultDialTimeout, Resolver: resolver, ControlContext: g.ControlContext}
}

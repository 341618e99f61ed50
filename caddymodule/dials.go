package caddymodule

import (
	"net/http"
	"net/netip"

	"github.com/edrgate/edrgate/internal/dial"
)

// Kinds of outgoing connections, for the metric of those that are denied.
const (
	connectionDID          = "did"           // to hosts of DID documents
	connectionBackend      = "backend"       // to backends of edr_proxy
	connectionToken        = "token"         // to token endpoints of backends, control planes and wallets
	connectionControlPlane = "control_plane" // callbacks, registrations, and the management API
	connectionKeySet       = "key_set"       // to the key sets of issuers that control planes have tokens of
	connectionPolicy       = "policy"        // to the policy server
	connectionRenewal      = "renewal"       // to refresh endpoints of providers
	connectionProvider     = "provider"      // to endpoints of providers
	connectionSigner       = "signer"        // to the Secure Token Service or wallet that signs proofs
)

// connections lists the kinds.
var connections = []string{
	connectionDID, connectionBackend, connectionToken, connectionControlPlane, connectionKeySet, connectionPolicy, connectionRenewal,
	connectionProvider, connectionSigner,
}

// dialObserver is told of addresses that were not connected: the kind of connection, and a dial.Reason.
type dialObserver interface {
	DialDenied(connection, reason string)
}

// everywhere are the addresses that may be connected where the operator has named the host, which may be in the inner
// network. Metadata services of clouds stay denied.
func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

// checkedTransport returns what connects to the hosts of one kind of connection. Caddy's admin API is never among them.
func checkedTransport(connection string, o dialObserver, guarded dial.Config, c dial.TransportConfig) (*http.Transport, error) {
	guarded.DenyEndpoints = adminEndpoints()
	guarded.Denied = func(e *dial.DeniedError) { o.DialDenied(connection, string(e.Reason)) }
	var err error
	c.Guard, err = dial.NewGuard(guarded)
	if err != nil {
		return nil, err
	}
	return dial.NewTransport(c)
}

// tokenTransport connects to token endpoints that the operator has named.
func tokenTransport(o dialObserver) (*http.Transport, error) {
	return checkedTransport(connectionToken, o, dial.Config{AllowAddresses: everywhere()}, dial.TransportConfig{})
}

// closeIdle closes connections that are not in use.
func closeIdle(transports []*http.Transport) {
	for _, transport := range transports {
		transport.CloseIdleConnections()
	}
}

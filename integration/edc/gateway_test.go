//go:build interop

package edc

import (
	"fmt"
	"strings"
	"testing"
)

// providerDID is the participant that the gateway speaks for.
const providerDID = "did:web:provider.example"

// gateway is the provider's installation.
type gateway struct {
	*installation
	public  string // host:port
	signals string // host:port
	config  *strings.Replacer
}

// caddyfile is what an operator writes for a classic control plane, which sends no credential, and flows that name their
// own backend.
const caddyfile = `{
	admin unix/DIR/admin.sock
	default_bind 127.0.0.1
	log {
		output file DIR/gateway.log
	}
	edrgate {
		did PROVIDER
		signing_key DIR/signing.pem
		public_url http://PUBLIC
		resolver {
			allow_http localhost
			allow_addresses 127.0.0.0/8 ::1/128
		}
		store badger {
			path DIR/store
			min_free 64MiB
			reserve 1MiB
		}
		control_plane provider {
			callback CONTROL
			register classic CONTROL/v1/dataplanes {
				signaling_url SIGNALED
				id edrgate
			}
		}
	}
}

http://PUBLIC {
	edr_refresh
	edr_proxy {
		backends http://BACKEND
	}
}

http://SIGNALS {
	edr_signaling {
		auth network 127.0.0.0/8 {
			control_plane provider
		}
		protocol edc
	}
}
`

// newGateway makes an installation in front of a backend, host:port, with two ports from port on.
func newGateway(t testing.TB, port int, backend string) *gateway {
	t.Helper()
	g := &gateway{public: fmt.Sprintf("127.0.0.1:%d", port), signals: fmt.Sprintf("127.0.0.1:%d", port+1)}
	g.installation = newInstallation(t, "gateway", g.public, g.signals)
	g.cli("edr", "keygen", g.path("signing.pem"))
	g.config = strings.NewReplacer("DIR", g.dir, "PROVIDER", providerDID, "PUBLIC", g.public, "SIGNALS", g.signals, "BACKEND", backend)
	return g
}

// configure writes the Caddyfile for a control plane, whose control API is given, and which reaches us at signaled.
func (g *gateway) configure(control, signaled string) {
	g.t.Helper()
	g.write("Caddyfile", strings.NewReplacer("CONTROL", control, "SIGNALED", signaled).Replace(g.config.Replace(caddyfile)))
}

// revoke ends a flow as an operator does.
func (g *gateway) revoke(flow string) {
	g.t.Helper()
	g.cli("edr", "revoke", flow, "--address", "unix/"+g.path("admin.sock"))
}

package integration

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// providerDID is the participant that the gateway under test speaks for.
const providerDID = "did:web:provider.example"

// config is what differs between the Caddyfiles of the tests.
type config struct {
	global     string // further global options
	app        string // lines of the edrgate block
	site       string // lines of the public site, behind edr_refresh
	noRefresh  bool   // leaves edr_refresh out of it
	more       string // further sites
	signaling  string // lines of edr_signaling; default: the loopback network may signal
	keys       string // lines with signing_key; default: the one key
	publicURL  string // default: the address of the public site
	publicPath string // path of public_url
	store      string // the block of the store; default: badger in storePath
	storePath  string
	minFree    string // of the store; default: the least
	reserve    string // of the store; default: next to nothing
}

// caddyfile renders the configuration of an installation.
func (c config) caddyfile(g *gateway) string {
	refresh := "edr_refresh"
	if c.noRefresh {
		refresh = ""
	}
	if c.store == "" {
		c.store = expand(`store badger {
			path {store}
			min_free {min_free}
			reserve {reserve}
		}`, map[string]string{
			"store": c.storePath, "min_free": orDefault(c.minFree, "64MiB"), "reserve": orDefault(c.reserve, "1MiB"),
		})
	}
	return expand(`{
	admin unix/{socket}
	default_bind 127.0.0.1
	{global}
	log {
		output file {log}/error.log
		format json
		level DEBUG
	}
	edrgate {
		did {did}
		{keys}
		public_url {public_url}{path}
		resolver {
			allow_http localhost
			allow_addresses 127.0.0.0/8 ::1/128
		}
		{store_block}
		{app}
	}
}

http://{public} {
	log {
		output file {log}/access.log
		format json
	}
	{refresh}
	{site}
}

http://{signaling} {
	edr_signaling {
		{signaling_options}
	}
}

http://{health} {
	edr_health
}

{more}
`, map[string]string{
		"socket": g.socket(), "log": g.path("log"), "did": g.did, "public": g.public, "public_url": orDefault(c.publicURL, g.publicURL()), "path": c.publicPath,
		"signaling": g.signaling, "health": g.health, "store_block": c.store,
		"keys": orDefault(c.keys, "signing_key "+g.keyFile("signing")), "app": c.app, "refresh": refresh, "site": c.site, "global": c.global,
		"signaling_options": orDefault(c.signaling, "auth network 127.0.0.0/8"), "more": c.more,
	})
}

// expand replaces {name} by values. What it puts in may have braces of its own, which stay.
func expand(template string, values map[string]string) string {
	pairs := make([]string, 0, 2*len(values))
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

func orDefault(value, standard string) string {
	if value == "" {
		return standard
	}
	return value
}

// serves is the public site with one dataset from one backend, for both dialects.
func serves(dataset string, b *backend) string {
	return fmt.Sprintf(`edr_auth {
		dataset %s
		ignore_source_address
	}
	reverse_proxy %s`, dataset, b.address())
}

// nextPort walks through a range below the one that the kernel takes the ports of outgoing connections from, so that
// none of these has a port when the gateway wants it.
var nextPort atomic.Uint32

func init() { nextPort.Store(10_000 + rand.Uint32N(20_000)) }

// freeAddress returns a loopback address that nobody listens at, and that no other test of this process gets.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := 10_000 + nextPort.Add(1)%20_000
		address := fmt.Sprintf("127.0.0.1:%d", port)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		err = listener.Close()
		if err != nil {
			t.Fatal(err)
		}
		return address
	}
	t.Fatal("no free port on the loopback interface")
	return ""
}

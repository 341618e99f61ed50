// Command caddy is Caddy with its standard modules and the gateway: what `xcaddy build --with` writes for itself on
// each build, kept by hand with its pins in go.mod and go.sum, so that a release can be built again byte for byte.
//
// `make build` uses xcaddy and `make build-pinned` this file; `make modules` shows that both have the same modules.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard" // what every Caddy has
	_ "github.com/edrgate/edrgate"                       // the gateway
)

func main() {
	caddycmd.Main()
}

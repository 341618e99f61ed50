// Package edrgate adds the gateway to a Caddy build: importing it registers all of its modules.
//
//	xcaddy build v2.11.9 --with github.com/edrgate/edrgate
//
// What the modules do is documented in package caddymodule; the protocol code below it, which knows nothing of Caddy,
// lies in the packages tokens, signaling, oauth, did and store.
package edrgate

import (
	_ "github.com/edrgate/edrgate/caddymodule" // registers the modules
)

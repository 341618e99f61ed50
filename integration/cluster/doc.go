// Package cluster runs several gateways of the built binary over one PostgreSQL database for tests: real processes, each
// with a line of its own to the database that can be cut, as control planes, consumers and operators see them. Nothing in
// it reaches into a gateway.
//
// The binary is bin/caddy, made with `make build` when it is missing, or the one that EDRGATE_BINARY names.
package cluster

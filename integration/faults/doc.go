// Package faults has the tests of docs/faults.md that need a database: several gateways of the built binary over one
// PostgreSQL whose servers are killed, replaced and slowed down. Those that need none are TestFault... in package
// integration. `make faults` runs these, `make test` those.
package faults

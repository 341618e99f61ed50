// Package replicas tests what several gateways over one PostgreSQL database do together, from outside: real processes,
// killed, stopped and cut off. `make replicas` runs it; `make soak` runs it for longer.
package replicas

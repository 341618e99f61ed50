// Package replica keeps one gateway of several in step with the others over the store that they share.
//
// A Follower reads the store's log of state changes and hands each to what its process remembers of the records. As long as
// that succeeds, what is remembered is fresh; when it has not for a while, nobody can tell what the others have changed,
// and requests must not be served from memory (docs/decisions: replicas). It also remembers the endings of the last time,
// in memory and in a local file, so that a store restored from an older backup is noticed and does not bring to life what
// had ended.
//
// A Journal keeps, in a local file, the endings that the store does not take.
//
// The package knows nothing of flows or Caddy, and works over any store.Store.
package replica

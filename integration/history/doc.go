// Package history records what clients of several gateways over one store ask for and are told, and checks it afterwards.
//
// What goes through the store must be linearizable for each flow: renew, suspend, resume and terminate, with exactly one
// successor of each refresh token. Check does that with porcupine. What was not answered, or answered with "cannot tell",
// may have taken effect at any time up to the end, or never.
//
// A data request is answered from what its gateway remembers. Served checks that this was true somewhere, at most
// max_staleness before the request; and at once where the same gateway had acknowledged the change. It is also what notices
// a change that other gateways never hear of.
//
// Nothing here knows a gateway: a Node may be a process behind a socket or a service in the same process.
package history

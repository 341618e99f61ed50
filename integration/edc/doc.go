// Package edc drives two control planes of the Eclipse Dataspace Components, a provider's and a consumer's, through the
// life of transfers: offer, negotiate, transfer, suspend, resume, terminate, and read the EDR that the consumer got.
//
// run-edc.sh starts the two from what the Maven registry has. The tests with the build tag interop put the built binary
// between them, as the provider's data plane; `make interop` runs these.
package edc

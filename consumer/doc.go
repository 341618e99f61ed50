// Package consumer is for the company that uses data: it keeps the Endpoint Data References (EDRs) that providers gave it,
// renews their tokens, and sends data requests with them. It knows no Caddy.
//
// A Cache keeps EDRs in a store.Store, sealed, one record each. Whoever learns of one puts it there:
//
//	Data Plane Signaling            Transfers, with a method for each message: prepare, started, suspend, …
//	EDC's event callback            ParseEvent, then Apply; then Learn when the counterparty has been looked up
//	PUT and DELETE /edrs/{id}       ParseEDR, then Put; Remove
//	GET /edrs, POST /edrs/request   List
//
// A Renewer keeps the tokens fresh, with proofs from a Signer: KeySigner for a key of our own, TokenService for a Secure
// Token Service, Wallet for a managed wallet.
//
//	GET /edrs/{id}/dataaddress      Current, or Cache.Get with auto_refresh=false; then EDR.DataAddress
//	POST /edrs/{id}/refresh         Refresh
//
// Run renews ahead of expiry. A Transport sends data requests: For gives a RoundTripper for an http.Client, Send is for
// an egress handler.
//
// Every error is an *Error or wraps one, with a Code. CodeUnavailable means "cannot tell, ask again" and is 503 at an
// edge; the others mean no. A 4xx of a provider to a renewal is final until the transfer is started or resumed, or
// somebody calls Refresh; anything else is tried again with the same refresh token, since an answer may have been lost.
//
// What is never signed, and why: docs/decisions: the consumer's side.
package consumer

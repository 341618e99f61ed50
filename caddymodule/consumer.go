package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/edrgate/edrgate/consumer"
)

// When tokens of other companies are renewed.
const (
	renewAhead  = "ahead"
	renewOnUse  = "on_use"
	renewNever  = "never"
	renewChoice = renewAhead + ", " + renewOnUse + ", " + renewNever
)

// Consumer says how a participant keeps, renews and uses the EDRs that other companies gave it. The handlers edr_consumer
// and edr_egress, and edr_signaling for the consumer's side of a transfer, work on them.
//
// Exactly one of KeyID, TokenService and Wallet says who signs the proofs that providers ask for when tokens are renewed,
// unless nothing is renewed.
type Consumer struct {
	// KeyID is the verification method under which the key stands in the participant's DID document: a DID URL of its did,
	// such as did:web:consumer.example#key-1. Proofs are then signed here.
	KeyID string `json:"kid,omitempty"`

	// Key is the key, in the forms that a signing key has, if it is not the participant's active signing key.
	Key string `json:"key,omitempty"`

	// TokenService has proofs signed by a Secure Token Service, as EDC's RemoteSecureTokenService does.
	TokenService *ProofService `json:"sts,omitempty"`

	// Wallet has proofs signed by a managed wallet with the DIM interface, as Tractus-X's does.
	Wallet *ProofWallet `json:"wallet,omitempty"`

	// Management is asked who the provider is of an EDR that came by an event. Default: nobody is; it has to be said by
	// PUT /edrs/{id}.
	Management *Management `json:"management,omitempty"`

	// Renew is "ahead", tokens are renewed at about 80 % of their life; "on_use", when they are asked for or used; or
	// "never". Default: ahead.
	Renew string `json:"renew,omitempty"`

	// AllowHTTP are hosts whose endpoints need not be https: host, for any port, host:port, or *. Tokens then travel in
	// clear: for tests and closed networks only. Default: none, such an EDR is refused.
	AllowHTTP []string `json:"allow_http,omitempty"`

	// AllowAddresses are private networks in which providers may live, such as 10.0.0.0/8. Default: none, so that an EDR
	// cannot make the gateway ask hosts of the inner network.
	AllowAddresses []string `json:"allow_addresses,omitempty"`

	// TrustPoolRaw says which authorities the certificates of providers may come from. Default: the system's.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// ReplayBody is how many bytes of a request's body are kept, so that it can be sent again with a newer token; -1: none.
	// Default: 65536.
	ReplayBody int `json:"replay_body,omitempty"`

	// AsyncPrepare are datasets whose transfers are prepared asynchronously: the control plane is answered PREPARING and told
	// later that the transfer is prepared. One that ends in "*" stands for all ids with that beginning. Every control plane
	// needs a callback then. Default: none; a prepare is answered PREPARED.
	AsyncPrepare []string `json:"async_prepare,omitempty"`
}

// ProofService is a Secure Token Service. Placeholders are replaced when the config is loaded.
type ProofService struct {
	// TokenURL is its token endpoint: https, or http on a loopback host. Required.
	TokenURL string `json:"token_url,omitempty"`

	ProofClient
}

// ProofWallet is a managed wallet. Placeholders are replaced when the config is loaded.
type ProofWallet struct {
	// URL is where signToken is posted: https, or http on a loopback host. Required.
	URL string `json:"url,omitempty"`

	// TokenURL is where the token that the wallet is called with is fetched, a URL as that one. Required.
	TokenURL string `json:"token_url,omitempty"`

	ProofClient
}

// ProofClient is a client of an authorization server.
type ProofClient struct {
	// ClientID and ClientSecret are those of the client, the secret best as a placeholder such as
	// {file./run/secrets/client}: written here in clear it would be shown by the admin API. Required.
	ClientID     string `json:"client_id,omitempty"`
	ClientSecret string `json:"client_secret,omitempty"`

	// Scope is a list with spaces between (RFC 6749 §3.3). Default: up to the server.
	Scope string `json:"scope,omitempty"`

	// TrustPoolRaw says which authorities the certificates of the service may come from. Default: the system's.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`
}

// check checks what needs no file.
func (c *Consumer) check(did string) error {
	signers := 0
	for _, set := range []bool{c.KeyID != "", c.TokenService != nil, c.Wallet != nil} {
		if set {
			signers++
		}
	}
	switch {
	case !slices.Contains([]string{"", renewAhead, renewOnUse, renewNever}, c.Renew):
		return fmt.Errorf("renew %q is none of %s", c.Renew, renewChoice)
	case signers > 1:
		return errors.New("only one of kid, sts and wallet can sign proofs")
	case c.Renew == renewNever && signers > 0:
		return errors.New("renew never: then nothing is signed, and kid, sts and wallet have no use")
	case signers == 0 && c.Renew != renewNever:
		return fmt.Errorf("who signs the proofs of renewals? kid is the verification method of a key of the participant's DID document, for example %s#key-1; or sts, wallet, or `renew never`", did)
	case c.Key != "" && c.KeyID == "":
		return errors.New("key is of no use without kid")
	}
	if c.KeyID != "" {
		// Providers refuse a proof whose kid is of another DID than its iss.
		of, fragment, _ := strings.Cut(c.KeyID, "#")
		if of != did || fragment == "" {
			return fmt.Errorf("kid %q is no verification method of %s, such as %s#key-1", c.KeyID, did, did)
		}
	}
	for _, host := range c.AllowHTTP {
		if host == "" || host != consumer.AnyHost && strings.ContainsAny(host, "/*@ ") {
			return fmt.Errorf("allow_http: %q is not host, host:port or %s", host, consumer.AnyHost)
		}
	}
	if c.ReplayBody < -1 {
		return errors.New("replay_body must be a number of bytes, or -1 for none")
	}
	return nil
}

// parseConsumer reads
//
//	consumer {
//		kid <did url>
//		key <file>
//		sts <token_url> {
//			client_id      <id>
//			client_secret  <secret>
//			scope          <scopes>
//			tls_trust_pool <module>
//		}
//		wallet <url> {
//			token_url      <url>
//			client_id      <id>
//			client_secret  <secret>
//			scope          <scopes>
//			tls_trust_pool <module>
//		}
//		management <url> {
//			api_key        <key>
//			tls_trust_pool <module>
//		}
//		renew           ahead|on_use|never
//		allow_http      [<host...>]
//		allow_addresses <cidr...>
//		tls_trust_pool  <module>
//		replay_body     <size>|off
//		async_prepare   <dataset...>
//	}
//
// Repeated blocks, from imports for example, add to one another.
func (s *ParticipantSettings) parseConsumer(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	if s.Consumer == nil {
		s.Consumer = new(Consumer)
	}
	c := s.Consumer
	return parseBlock(d, "consumer", map[string]func(*caddyfile.Dispenser) error{
		"kid":             text(&c.KeyID),
		"key":             text(&c.Key),
		"sts":             c.parseTokenService,
		"wallet":          c.parseWallet,
		"management":      c.parseManagement,
		"renew":           word(&c.Renew, renewAhead, renewOnUse, renewNever),
		"allow_http":      allowHTTP(&c.AllowHTTP),
		"allow_addresses": networks(&c.AllowAddresses),
		"tls_trust_pool":  trustPool(&c.TrustPoolRaw),
		"replay_body":     c.parseReplayBody,

		asyncPrepareOption: texts(&c.AsyncPrepare),
	})
}

func (c *ProofClient) addOptions(options map[string]func(*caddyfile.Dispenser) error) map[string]func(*caddyfile.Dispenser) error {
	options["client_id"] = text(&c.ClientID)
	options["client_secret"] = text(&c.ClientSecret)
	options["scope"] = text(&c.Scope)
	options["tls_trust_pool"] = trustPool(&c.TrustPoolRaw)
	return options
}

func (c *Consumer) parseTokenService(d *caddyfile.Dispenser) error {
	if c.TokenService != nil {
		return d.Err("sts is there twice")
	}
	c.TokenService = new(ProofService)
	if !d.AllArgs(&c.TokenService.TokenURL) {
		return d.ArgErr()
	}
	return parseBlock(d, "sts", c.TokenService.addOptions(map[string]func(*caddyfile.Dispenser) error{}))
}

func (c *Consumer) parseWallet(d *caddyfile.Dispenser) error {
	if c.Wallet != nil {
		return d.Err("wallet is there twice")
	}
	c.Wallet = new(ProofWallet)
	if !d.AllArgs(&c.Wallet.URL) {
		return d.ArgErr()
	}
	return parseBlock(d, "wallet", c.Wallet.addOptions(map[string]func(*caddyfile.Dispenser) error{
		"token_url": text(&c.Wallet.TokenURL),
	}))
}

func (c *Consumer) parseReplayBody(d *caddyfile.Dispenser) error {
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	if value == "off" {
		return setOnce(d, "replay_body", &c.ReplayBody, -1)
	}
	size, err := humanize.ParseBytes(value)
	if err != nil || size == 0 || size > maxReplayBody {
		return d.Errf("replay_body: %q is not a size from 1 to %s, such as 64KiB, or off", value, humanize.IBytes(maxReplayBody))
	}
	return setOnce(d, "replay_body", &c.ReplayBody, int(size))
}

// maxReplayBody bounds what each running request may hold in memory.
const maxReplayBody = 64 << 20 // 64 MiB

// replaced returns the client with the values of its placeholders.
func (c ProofClient) replaced(p *participant, replacer *caddy.Replacer) (ProofClient, error) {
	if c.ClientSecret != "" && !strings.Contains(c.ClientSecret, "{") {
		p.logger.Warn("a credential is part of the configuration, which the admin API shows: use a placeholder", "option", "client_secret")
	}
	err := replaceSettings(replacer, []setting{{"client_id", &c.ClientID}, {"client_secret", &c.ClientSecret}, {"scope", &c.Scope}})
	return c, err
}

package caddymodule

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/edrgate/edrgate/authserver"
	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/dial"
	"github.com/edrgate/edrgate/routing"
	"github.com/edrgate/edrgate/tokens"
)

// consuming is what a participant that uses data of others has before the store is open.
type consuming struct {
	*Consumer
	signer   consumer.Signer   // nil: nothing is renewed
	renewals *http.Transport   // to refresh endpoints
	data     *http.Transport   // to endpoints
	own      []*http.Transport // to services of our own: Secure Token Service or wallet, management API

	agreements *agreements // nil: nobody is asked

	asyncPrepare *routing.Table // of the datasets whose transfers are prepared asynchronously; nil: none
}

// providerWait bounds the wait for the headers of a provider's answer to a data request.
const providerWait = 60 * time.Second

func (p *participant) newConsuming(ctx caddy.Context, replacer *caddy.Replacer) (*consuming, error) {
	if p.Consumer == nil {
		return nil, nil
	}
	err := p.Consumer.check(p.DID)
	if err != nil {
		return nil, err
	}
	allowed := make([]netip.Prefix, 0, len(p.Consumer.AllowAddresses))
	for _, address := range p.Consumer.AllowAddresses {
		network, err := parseNetwork(address)
		if err != nil {
			return nil, fmt.Errorf("allow_addresses: %w", err)
		}
		allowed = append(allowed, network)
	}
	if len(p.Consumer.AllowHTTP) > 0 {
		p.logger.Warn("tokens of some providers travel in clear, by plain http", "hosts", p.Consumer.AllowHTTP)
	}
	c := &consuming{Consumer: p.Consumer}
	c.renewals, err = p.trustedTransport(ctx, connectionRenewal, allowed, p.Consumer.TrustPoolRaw, 0)
	if err != nil {
		return nil, err
	}
	c.data, err = p.trustedTransport(ctx, connectionProvider, allowed, p.Consumer.TrustPoolRaw, providerWait)
	if err != nil {
		return nil, err
	}
	c.signer, err = p.proofSigner(ctx, c, replacer)
	if err != nil {
		return nil, err
	}
	c.agreements, err = p.newAgreements(ctx, c, replacer)
	if err != nil {
		return nil, err
	}
	c.asyncPrepare, err = p.newAsyncPrepare()
	return c, err
}

// ownTransport returns a transport to a service of the participant's own, whose certificate comes from the trust pool.
func (p *participant) ownTransport(ctx caddy.Context, own *consuming, connection string, trustPool json.RawMessage) (*http.Transport, error) {
	transport, err := p.trustedTransport(ctx, connection, everywhere(), trustPool, 0)
	if err != nil {
		return nil, err
	}
	own.own = append(own.own, transport)
	return transport, nil
}

// trustedTransport is checkedTransport to hosts whose certificates come from a trust pool. wait is for the headers of an answer.
func (p *participant) trustedTransport(
	ctx caddy.Context, connection string, allowed []netip.Prefix, trustPool json.RawMessage, wait time.Duration,
) (*http.Transport, error) {
	trust := &reverseproxy.TLSConfig{CARaw: trustPool}
	clientTLS, err := trust.MakeTLSClientConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("tls_trust_pool: %w", err)
	}
	return checkedTransport(connection, p.observer, dial.Config{AllowAddresses: allowed},
		dial.TransportConfig{ResponseHeaderTimeout: wait, TLS: clientTLS})
}

// proofSigner returns what signs the proofs of renewals; nil: nothing does.
func (p *participant) proofSigner(ctx caddy.Context, own *consuming, replacer *caddy.Replacer) (consumer.Signer, error) {
	c := p.Consumer
	switch {
	case c.KeyID != "":
		key, err := p.keyOfProofs(replacer)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		return consumer.NewKeySigner(consumer.KeySignerConfig{Key: key, KeyID: c.KeyID})
	case c.TokenService != nil:
		return p.serviceSigner(ctx, own, replacer)
	case c.Wallet != nil:
		return p.walletSigner(ctx, own, replacer)
	}
	return nil, nil
}

func (p *participant) keyOfProofs(replacer *caddy.Replacer) (crypto.Signer, error) {
	if p.Consumer.Key == "" {
		return p.proofKey, nil
	}
	data, err := readKey(replacer, p.Consumer.Key)
	if err != nil {
		return nil, err
	}
	return tokens.ParseKey(data)
}

func (p *participant) serviceSigner(ctx caddy.Context, own *consuming, replacer *caddy.Replacer) (consumer.Signer, error) {
	url := p.Consumer.TokenService.TokenURL
	client, err := p.Consumer.TokenService.replaced(p, replacer)
	if err == nil {
		err = replaceSettings(replacer, []setting{{"token_url", &url}})
	}
	if err != nil {
		return nil, fmt.Errorf("sts: %w", err)
	}
	transport, err := p.ownTransport(ctx, own, connectionSigner, client.TrustPoolRaw)
	if err != nil {
		return nil, fmt.Errorf("sts: %w", err)
	}
	return consumer.NewTokenService(consumer.TokenServiceConfig{
		TokenURL: url, ClientID: client.ClientID, ClientSecret: tokens.Secret(client.ClientSecret), Scope: client.Scope, Transport: transport,
	})
}

func (p *participant) walletSigner(ctx caddy.Context, own *consuming, replacer *caddy.Replacer) (consumer.Signer, error) {
	w := *p.Consumer.Wallet
	client, err := w.replaced(p, replacer)
	if err == nil {
		err = replaceSettings(replacer, []setting{{"url", &w.URL}, {"token_url", &w.TokenURL}})
	}
	if err != nil {
		return nil, fmt.Errorf("wallet: %w", err)
	}
	transport, err := p.ownTransport(ctx, own, connectionSigner, client.TrustPoolRaw)
	if err != nil {
		return nil, fmt.Errorf("wallet: %w", err)
	}
	toTokens, err := p.ownTransport(ctx, own, connectionToken, client.TrustPoolRaw)
	if err != nil {
		return nil, fmt.Errorf("wallet: %w", err)
	}
	return consumer.NewWallet(consumer.WalletConfig{
		URL: w.URL, Transport: transport,
		Tokens: authserver.New(authserver.Config{Transport: toTokens}),
		Grant: authserver.Grant{
			Endpoint: w.TokenURL, ClientID: client.ClientID, ClientSecret: tokens.Secret(client.ClientSecret), Scope: client.Scope,
		},
	})
}

// close closes connections that are not in use.
func (c *consuming) close() {
	if c == nil {
		return
	}
	closeIdle(append(slices.Clone(c.own), c.renewals, c.data))
}

// edrs are the EDRs that other companies gave to a participant, and what renews and uses them.
type edrs struct {
	cache     *consumer.Cache
	transfers *consumer.Transfers
	renewer   *consumer.Renewer
	transport *consumer.Transport

	ahead      bool          // tokens are renewed ahead of their end
	agreements *agreements   // nil: nobody is asked for providers
	came       chan struct{} // an EDR has come by an event
	observer   *consumerObserver
}

// errNoConsumer is the error of EDRs where the participant keeps none.
var errNoConsumer = errors.New("the participant has no block `consumer { … }`: it keeps no EDRs of other companies")

// EDRs returns what keeps the participant's EDRs, opening the store if Start has not done so yet. An error other than
// errNoConsumer means "cannot tell": 503.
func (p *participant) EDRs() (*edrs, error) {
	if p.Consumer == nil {
		return nil, errNoConsumer
	}
	kept := p.edrs.Load()
	if kept != nil {
		return kept, nil
	}
	err := p.app.open()
	if err != nil {
		return nil, err
	}
	return p.edrs.Load(), nil
}

// openEDRs builds what keeps EDRs over an open store; nil: the participant keeps none.
func (p *participant) openEDRs(eng *engine, service *tokens.Service) (*edrs, error) {
	c := p.consuming
	if c == nil {
		return nil, nil
	}
	e := &edrs{
		ahead: c.signer != nil && c.Renew != renewOnUse, agreements: c.agreements, came: make(chan struct{}, 1),
		observer: p.observer.consumer,
	}
	var err error
	e.cache, err = consumer.New(consumer.Config{
		Participant: p.name, DID: p.DID, Store: eng.store, Sealer: p.config.Keys.Sealer(), AllowHTTP: c.AllowHTTP,
		EndedTTL: time.Duration(p.app.TombstoneTTL), Observer: e.observer, Logger: p.logger,
	})
	if err != nil {
		return nil, err
	}
	e.transfers, err = p.newTransfers(e.cache, eng.live, service)
	if err != nil {
		return nil, err
	}
	e.renewer, err = consumer.NewRenewer(consumer.RenewerConfig{Cache: e.cache, Signer: c.signer, Transport: c.renewals})
	if err != nil {
		return nil, err
	}
	e.transport, err = consumer.NewTransport(consumer.TransportConfig{Renewer: e.renewer, Base: c.data, MaxReplayBytes: c.ReplayBody})
	if err != nil {
		e.renewer.Close()
		return nil, err
	}
	return e, nil
}

// lookInterval is how often the EDRs are counted for the metrics, and the unknown providers of some asked for.
const lookInterval = time.Minute

// run does the background work until ctx ends.
func (e *edrs) run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.look(ctx)
	}()
	if e.ahead {
		e.renewer.Run(ctx)
	}
	<-done
}

func (e *edrs) look(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		count, err := e.transfers.Count(ctx) // first: after a restart nothing else knows which reports are owed
		if err == nil {                      // otherwise the numbers stay; the store reports its own trouble
			e.observer.EDRs(count)
		}
		if e.agreements != nil {
			e.agreements.learn(ctx, e.cache)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-e.came:
		}
	}
}

// cameByEvent has the provider of an EDR looked up soon.
func (e *edrs) cameByEvent() {
	select {
	case e.came <- struct{}{}:
	default: // it will be anyhow
	}
}

// close ends the renewals that are going on.
func (e *edrs) close() {
	if e != nil {
		e.renewer.Close()
	}
}

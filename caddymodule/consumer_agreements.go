package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/internal/strictjson"
	"github.com/edrgate/edrgate/tokens"
)

// Management is the management API of the participant's own control plane. An event of EDC does not name the provider, but
// the agreement that it is about does.
type Management struct {
	// URL is what /v3/contractagreements lies below, for example http://edc:8181/management. Required.
	URL string `json:"url,omitempty"`

	// APIKey is sent in X-Api-Key, best a placeholder such as {file./run/secrets/edc}: written here in clear it would be shown
	// by the admin API. Default: none is sent.
	APIKey string `json:"api_key,omitempty"`

	// TrustPoolRaw says which authorities its certificate may come from. Default: the system's.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`
}

// agreements looks up the providers of agreements.
type agreements struct {
	base   *url.URL
	key    tokens.Secret
	client http.RoundTripper
	dids   map[string]string // of providers that the control plane names otherwise
	logger *slog.Logger

	after string // the EDR behind which the next look begins
}

func (p *participant) newAgreements(ctx caddy.Context, c *consuming, replacer *caddy.Replacer) (*agreements, error) {
	m := p.Consumer.Management
	if m == nil {
		return nil, nil
	}
	transport, err := p.ownTransport(ctx, c, connectionControlPlane, m.TrustPoolRaw)
	if err != nil {
		return nil, fmt.Errorf("management: %w", err)
	}
	base, err := controlPlaneURL(replacer, m.URL)
	if err != nil {
		return nil, fmt.Errorf("management: url: %w", err)
	}
	a := &agreements{base: base, client: transport, dids: p.DIDMap, logger: p.logger}
	if m.APIKey != "" {
		a.key, err = headerSecret(replacer, p.logger, "api_key", m.APIKey)
		if err != nil {
			return nil, fmt.Errorf("management: %w", err)
		}
	}
	return a, nil
}

// Limits of one look at an agreement, and of how many there are at a time.
const (
	agreementTimeout  = 5 * time.Second
	maxAgreementBytes = 256 << 10
	maxLookups        = 100
)

// learn finds out the providers of EDRs that came without one. What cannot be told is asked again when all others have been:
// there may be more of those than one look has time for. One goroutine may call it.
func (a *agreements) learn(ctx context.Context, cache *consumer.Cache) {
	for looked := 0; ; {
		page, err := cache.List(ctx, consumer.Query{State: consumer.Started, After: a.after, Limit: maxEntries})
		if err != nil {
			return // the store reports its own trouble
		}
		for _, e := range page {
			if e.Counterparty != "" || e.Agreement == "" {
				continue
			}
			if looked == maxLookups || ctx.Err() != nil {
				return
			}
			looked++
			a.after = e.ID
			err = a.learnOne(ctx, cache, e)
			if err != nil {
				a.logger.Warn("the provider of an EDR is not known, so it is not renewed", "edr", e.ID, "agreement", e.Agreement, "error", err)
			}
		}
		if len(page) < maxEntries {
			a.after = ""
			return
		}
		a.after = page[len(page)-1].ID
	}
}

func (a *agreements) learnOne(ctx context.Context, cache *consumer.Cache, e *consumer.Entry) error {
	provider, err := a.provider(ctx, e.Agreement)
	if err != nil {
		return err
	}
	_, err = cache.Learn(ctx, e.ID, consumer.Terms{Counterparty: provider, CounterpartyDID: a.dids[provider]})
	return err
}

// provider asks who the provider of an agreement is. Errors quote nothing of the answer.
func (a *agreements) provider(ctx context.Context, agreement string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, agreementTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base.JoinPath("v3", "contractagreements", url.PathEscape(agreement)).String(), nil)
	if err != nil {
		return "", errors.New("the management API has no URL for the agreement")
	}
	r.Header.Set("Accept", "application/json")
	if a.key != "" {
		r.Header.Set(headerAPIKey, a.key.Reveal())
	}
	res, err := a.client.RoundTrip(r)
	if err != nil {
		return "", fmt.Errorf("asking the management API: %w", withoutURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the management API answered with status %d", res.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAgreementBytes+1))
	if err != nil || len(data) > maxAgreementBytes {
		return "", errors.New("the management API's answer could not be read, or is too large")
	}
	return providerIn(data)
}

// providerIn reads providerId of a ContractAgreement of EDC, compacted or not.
func providerIn(data []byte) (string, error) {
	m, err := strictjson.Parse(data, 0)
	if err != nil {
		return "", fmt.Errorf("the management API's answer: %w", err)
	}
	for _, namespace := range append([]string{""}, edcNames...) {
		provider, err := m.String(namespace + "providerId")
		if err == nil && provider != "" {
			return provider, nil
		}
	}
	return "", errors.New("the management API's answer has no providerId")
}

// parseManagement reads
//
//	management <url> {
//		api_key        <key>
//		tls_trust_pool <module>
//	}
func (c *Consumer) parseManagement(d *caddyfile.Dispenser) error {
	if c.Management != nil {
		return d.Err("management is there twice")
	}
	c.Management = new(Management)
	if !d.AllArgs(&c.Management.URL) {
		return d.ArgErr()
	}
	c.Management.URL = strings.TrimSuffix(c.Management.URL, "/")
	return parseBlock(d, "management", map[string]func(*caddyfile.Dispenser) error{
		"api_key":        text(&c.Management.APIKey),
		"tls_trust_pool": trustPool(&c.Management.TrustPoolRaw),
	})
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// byAsset is what an application asks its own company's gateway for: a document of an asset. It knows neither the provider
// nor a token.
const byAsset = "/-/today?asset=weather"

// pull is a transfer of which both companies have a gateway. Each control plane talks to its own, and hands over to the
// other what the dataspace protocol would carry.
type pull struct {
	*stage
	provider dialect // of the provider's control plane
	address  json.RawMessage
}

// consumersTransfer is the id that the consumer's control plane has for the transfer. The provider's has another.
const consumersTransfer = "pull-1"

// pull plays the transfer and leaves it started.
func (s *stage) pull(ctx context.Context) error {
	s.title("Data Plane Signaling, the consumer has a gateway too, which keeps and renews its EDRs: edr_egress")
	p := &pull{stage: s, provider: dpsDialect(s.consumer.did, "transfer-4")}
	for _, step := range []func(context.Context) error{
		p.prepare, p.start, p.started, p.use, p.useUnknown, p.useLong, p.suspend, p.useSuspended, p.resume, p.use, p.reconcile,
	} {
		err := step(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

// tellConsumer posts a message of the consumer's control plane.
func (p *pull) tellConsumer(ctx context.Context, operation string, body map[string]any, want wanted) error {
	path := "/dataflows/" + consumersTransfer + "/" + operation
	if operation == "prepare" {
		path = "/dataflows/prepare"
	}
	body["messageId"] = consumersTransfer + "-" + operation
	return p.step("consumer's control plane: "+operation, want, func() (answer, error) {
		return p.signal(ctx, p.consumerGateway, message{path, body})
	})
}

// inState wants a DataFlowStatusMessage with a state (DPS §1.2) and tells it.
func inState(want string) func([]byte) (string, error) {
	return func(body []byte) (string, error) {
		var message struct {
			State string `json:"state"`
		}
		err := json.Unmarshal(body, &message)
		if err != nil {
			return "", err
		}
		if message.State != want {
			return "", fmt.Errorf("want the state %s, but it is %q", want, message.State)
		}
		return want, nil
	}
}

func (p *pull) prepare(ctx context.Context) error {
	return p.tellConsumer(ctx, "prepare", map[string]any{
		"participantId":    p.consumer.did,
		"counterPartyId":   providerDID,
		"dataspaceContext": "quickstart",
		"processId":        consumersTransfer,
		"agreementId":      "agreement-2",
		"datasetId":        "weather",
		"profile":          profilePull,
	}, wanted{http.StatusOK, inState("PREPARED")})
}

func (p *pull) start(ctx context.Context) error {
	p.counted.starts++
	return p.step("provider's control plane: start", wanted{http.StatusOK, p.take}, func() (answer, error) {
		return p.signal(ctx, p.gateway, p.provider.start)
	})
}

// take keeps the data address of an answer as it is: a control plane need not understand it.
func (p *pull) take(body []byte) (string, error) {
	e, err := p.provider.readEDR(body)
	if err != nil {
		return "", err
	}
	var message struct {
		DataAddress json.RawMessage `json:"dataAddress"`
	}
	err = json.Unmarshal(body, &message)
	if err != nil {
		return "", err
	}
	p.address = message.DataAddress
	return e.String(), nil
}

func (p *pull) started(ctx context.Context) error {
	return p.tellConsumer(ctx, "started", map[string]any{"dataAddress": p.address}, wanted{status: http.StatusOK})
}

// get is a request of an application. What the consumer's gateway answers itself does not reach the provider's.
func (p *pull) get(ctx context.Context, path string) (answer, error) {
	got, err := exchange(ctx, p.client, http.MethodGet, p.consumerGateway.egress()+path, nil, nil)
	if err == nil && got.status == http.StatusOK {
		p.counted.request(true, got.status)
	}
	return got, err
}

func (p *pull) use(ctx context.Context) error {
	return p.step("application: "+byAsset+", without a token", wanted{http.StatusOK, exactly(greeting)}, func() (answer, error) {
		return p.get(ctx, byAsset)
	})
}

func (p *pull) useUnknown(ctx context.Context) error {
	return p.step("application: an asset that nobody granted", wanted{http.StatusNotFound, saying("no EDR found for the asset")}, func() (answer, error) {
		return p.get(ctx, "/-/today?asset=orders")
	})
}

// useLong asks until the first token is over and its gateway has got another, and notices nothing of it.
func (p *pull) useLong(ctx context.Context) error {
	read := func(body []byte) (string, error) {
		told, err := exactly(greeting)(body)
		return told + " each time: the gateway has renewed", err
	}
	what := fmt.Sprintf("application: again and again, past the token's %s", brief(p.tokenTTL))
	return p.step(what, wanted{http.StatusOK, read}, func() (answer, error) {
		ctx, cancel := context.WithTimeout(ctx, p.tokenTTL+expiryMargin)
		defer cancel()
		ticker := time.NewTicker(pollEvery)
		defer ticker.Stop()
		for {
			got, err := p.get(ctx, byAsset)
			if err != nil || got.status != http.StatusOK {
				return got, err
			}
			renewed, err := p.hasRenewed(ctx)
			if err != nil || renewed {
				return got, err
			}
			select {
			case <-ctx.Done():
				return answer{}, fmt.Errorf("the gateway does not renew: %w", ctx.Err())
			case <-ticker.C:
			}
		}
	})
}

// hasRenewed looks for a renewal in the metrics of the consumer's gateway.
func (p *pull) hasRenewed(ctx context.Context) (bool, error) {
	got, err := p.scrape(ctx, p.consumerGateway)
	if err != nil {
		return false, err
	}
	all, err := parseMetrics(string(got.body))
	return sum(all, consumerRenewalsMetric, `result="renewed"`) > 0, err
}

func (p *pull) suspend(ctx context.Context) error {
	return p.tellConsumer(ctx, "suspend", map[string]any{}, wanted{status: http.StatusOK})
}

func (p *pull) useSuspended(ctx context.Context) error {
	return p.step("application: the next request", wanted{http.StatusNotFound, saying("no EDR found for the asset")}, func() (answer, error) {
		return p.get(ctx, byAsset)
	})
}

func (p *pull) resume(ctx context.Context) error {
	return p.tellConsumer(ctx, "resume", map[string]any{}, wanted{http.StatusOK, inState("STARTED")})
}

// reconcile counts what the consumer's gateway did at the provider's.
func (p *pull) reconcile(ctx context.Context) error {
	read := func(body []byte) (string, error) {
		all, err := parseMetrics(string(body))
		if err != nil {
			return "", err
		}
		p.counted.count(all)
		failed := sum(all, consumerRenewalsMetric) - sum(all, consumerRenewalsMetric, `result="renewed"`)
		if failed > 0 {
			return "", errors.New("a renewal has failed")
		}
		return fmt.Sprintf("renewals: %v, failed: 0", sum(all, consumerRenewalsMetric)), nil
	}
	return p.step("operator: metrics of the consumer's gateway", wanted{http.StatusOK, read}, func() (answer, error) {
		return p.scrape(ctx, p.consumerGateway)
	})
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/edrgate/edrgate/examples/internal/demo"
)

// byAsset is what an application asks its own company's gateway for: a document of an asset. It knows neither the provider
// nor a token.
const byAsset = "/-/today?asset=weather"

// pull is a transfer of which both companies have a gateway. Each control plane talks to its own, and hands over to the
// other what the dataspace protocol would carry.
type pull struct {
	*stage
	provider demo.Dialect // of the provider's control plane
	address  json.RawMessage
}

// consumersTransfer is the id that the consumer's control plane has for the transfer. The provider's has another.
const consumersTransfer = "pull-1"

// pull plays the transfer and leaves it started.
func (s *stage) pull(ctx context.Context) error {
	s.Title("Data Plane Signaling, the consumer has a gateway too, which keeps and renews its EDRs: edr_egress")
	p := &pull{stage: s, provider: demo.DPSDialect(s.consumer.DID, "transfer-4")}
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
func (p *pull) tellConsumer(ctx context.Context, operation string, body map[string]any, want demo.Wanted) error {
	path := "/dataflows/" + consumersTransfer + "/" + operation
	if operation == "prepare" {
		path = "/dataflows/prepare"
	}
	body["messageId"] = consumersTransfer + "-" + operation
	return p.Step("consumer's control plane: "+operation, want, func() (demo.Answer, error) {
		return p.signal(ctx, p.consumerGateway, demo.Message{Path: path, Body: body})
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
		"participantId":    p.consumer.DID,
		"counterPartyId":   demo.ProviderDID,
		"dataspaceContext": "quickstart",
		"processId":        consumersTransfer,
		"agreementId":      "agreement-2",
		"datasetId":        "weather",
		"profile":          demo.ProfilePull,
	}, demo.Wanted{Status: http.StatusOK, Read: inState("PREPARED")})
}

func (p *pull) start(ctx context.Context) error {
	p.counted.starts++
	return p.Step("provider's control plane: start", demo.Wanted{Status: http.StatusOK, Read: p.take}, func() (demo.Answer, error) {
		return p.signal(ctx, p.gateway, p.provider.Start)
	})
}

// take keeps the data address of an answer as it is: a control plane need not understand it.
func (p *pull) take(body []byte) (string, error) {
	e, err := p.provider.ReadEDR(body)
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
	return p.tellConsumer(ctx, "started", map[string]any{"dataAddress": p.address}, demo.Wanted{Status: http.StatusOK})
}

// get is a request of an application. What the consumer's gateway answers itself does not reach the provider's.
func (p *pull) get(ctx context.Context, path string) (demo.Answer, error) {
	got, err := demo.Exchange(ctx, p.client, http.MethodGet, p.consumerGateway.Egress()+path, nil, nil)
	if err == nil && got.Status == http.StatusOK {
		p.counted.request(true, got.Status)
	}
	return got, err
}

func (p *pull) use(ctx context.Context) error {
	return p.Step("application: "+byAsset+", without a token", demo.Wanted{Status: http.StatusOK, Read: demo.Exactly(demo.Greeting)}, func() (demo.Answer, error) {
		return p.get(ctx, byAsset)
	})
}

func (p *pull) useUnknown(ctx context.Context) error {
	return p.Step("application: an asset that nobody granted", demo.Wanted{Status: http.StatusNotFound, Read: demo.Saying("no EDR found for the asset")}, func() (demo.Answer, error) {
		return p.get(ctx, "/-/today?asset=orders")
	})
}

// useLong asks until the first token is over and its gateway has got another, and notices nothing of it.
func (p *pull) useLong(ctx context.Context) error {
	read := func(body []byte) (string, error) {
		told, err := demo.Exactly(demo.Greeting)(body)
		return told + " each time: the gateway has renewed", err
	}
	what := fmt.Sprintf("application: again and again, past the token's %s", demo.Brief(p.tokenTTL))
	return p.Step(what, demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, p.tokenTTL+expiryMargin)
		defer cancel()
		ticker := time.NewTicker(demo.PollEvery)
		defer ticker.Stop()
		for {
			got, err := p.get(ctx, byAsset)
			if err != nil || got.Status != http.StatusOK {
				return got, err
			}
			renewed, err := p.hasRenewed(ctx)
			if err != nil || renewed {
				return got, err
			}
			select {
			case <-ctx.Done():
				return demo.Answer{}, fmt.Errorf("the gateway does not renew: %w", ctx.Err())
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
	all, err := demo.ParseMetrics(string(got.Body))
	return demo.Sum(all, consumerRenewalsMetric, `result="renewed"`) > 0, err
}

func (p *pull) suspend(ctx context.Context) error {
	return p.tellConsumer(ctx, "suspend", map[string]any{}, demo.Wanted{Status: http.StatusOK})
}

func (p *pull) useSuspended(ctx context.Context) error {
	return p.Step("application: the next request", demo.Wanted{Status: http.StatusNotFound, Read: demo.Saying("no EDR found for the asset")}, func() (demo.Answer, error) {
		return p.get(ctx, byAsset)
	})
}

func (p *pull) resume(ctx context.Context) error {
	return p.tellConsumer(ctx, "resume", map[string]any{}, demo.Wanted{Status: http.StatusOK, Read: inState("STARTED")})
}

// reconcile counts what the consumer's gateway did at the provider's.
func (p *pull) reconcile(ctx context.Context) error {
	read := func(body []byte) (string, error) {
		all, err := demo.ParseMetrics(string(body))
		if err != nil {
			return "", err
		}
		p.counted.count(all)
		failed := demo.Sum(all, consumerRenewalsMetric) - demo.Sum(all, consumerRenewalsMetric, `result="renewed"`)
		if failed > 0 {
			return "", errors.New("a renewal has failed")
		}
		return fmt.Sprintf("renewals: %v, failed: 0", demo.Sum(all, consumerRenewalsMetric)), nil
	}
	return p.Step("operator: metrics of the consumer's gateway", demo.Wanted{Status: http.StatusOK, Read: read}, func() (demo.Answer, error) {
		return p.scrape(ctx, p.consumerGateway)
	})
}

package caddymodule

import (
	"context"
	"encoding/json"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/signaling"
	"github.com/edrgate/edrgate/tokens"
)

// received returns what signaling gives the EDRs of the participant to; nil if it uses no data of others.
func (p *participant) received() signaling.Received {
	if p.Consumer == nil {
		return nil
	}
	return receivedOf{p}
}

// newTransfers returns the transfers in which the participant is the consumer. Who owns them, and how control planes are
// told of them, is as for flows.
func (p *participant) newTransfers(cache *consumer.Cache, live *tokens.Live, service *tokens.Service) (*consumer.Transfers, error) {
	return consumer.NewTransfers(consumer.TransfersConfig{
		Cache: cache, ControlPlanes: p.config.ControlPlanes, Formerly: p.config.Formerly, DIDMap: p.DIDMap,
		Owed: live.OwedReports("transfer/" + p.name), Callable: func(name string) bool { return p.calls[name] != nil },
		ControlPlane: service.ControlPlane, Replaced: service.Replaced,
	})
}

// receivedOf are the transfers of a participant, for a handler that is built before the store may be opened.
type receivedOf struct{ *participant }

func (r receivedOf) transfers() (*consumer.Transfers, error) {
	kept, err := r.EDRs()
	if err != nil {
		return nil, err
	}
	return kept.transfers, nil
}

func (r receivedOf) Prepare(ctx context.Context, caller tokens.Caller, request tokens.StartRequest) (*tokens.Flow, bool, error) {
	transfers, err := r.transfers()
	if err != nil {
		return nil, false, err
	}
	return transfers.Prepare(ctx, caller, request)
}

func (r receivedOf) Started(ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage) (*tokens.Flow, bool, error) {
	transfers, err := r.transfers()
	if err != nil {
		return nil, false, err
	}
	return transfers.Started(ctx, caller, m, address)
}

func (r receivedOf) Resume(ctx context.Context, caller tokens.Caller, m tokens.Message, address json.RawMessage) (*tokens.Flow, bool, error) {
	transfers, err := r.transfers()
	if err != nil {
		return nil, false, err
	}
	return transfers.Resume(ctx, caller, m, address)
}

func (r receivedOf) Suspend(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	transfers, err := r.transfers()
	if err != nil {
		return tokens.Ending{}, err
	}
	return transfers.Suspend(ctx, caller, m)
}

func (r receivedOf) Terminate(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	transfers, err := r.transfers()
	if err != nil {
		return tokens.Ending{}, err
	}
	return transfers.Terminate(ctx, caller, m)
}

func (r receivedOf) Complete(ctx context.Context, caller tokens.Caller, m tokens.Message) (tokens.Ending, error) {
	transfers, err := r.transfers()
	if err != nil {
		return tokens.Ending{}, err
	}
	return transfers.Complete(ctx, caller, m)
}

func (r receivedOf) Status(ctx context.Context, caller tokens.Caller, processID string) (*tokens.Flow, error) {
	transfers, err := r.transfers()
	if err != nil {
		return nil, err
	}
	return transfers.Status(ctx, caller, processID)
}

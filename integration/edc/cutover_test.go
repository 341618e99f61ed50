//go:build interop

package edc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// oldPlane is a data plane that was there before the gateway. It notes the paths of what it is told, and its token opens
// nothing: only what control planes do with it matters.
type oldPlane struct {
	server *httptest.Server

	mu   sync.Mutex
	told []string
}

const (
	oldPlaneID    = "old-data-plane"
	oldEndpoint   = "http://old.provider.example/public"
	oldToken      = "token-of-the-old-data-plane"
	signalingBase = "/v1/dataflows"
)

func newOldPlane(t testing.TB) *oldPlane {
	p := &oldPlane{}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	return p
}

func (p *oldPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet { // a check
		w.WriteHeader(http.StatusNoContent)
		return
	}
	p.mu.Lock()
	p.told = append(p.told, strings.TrimPrefix(r.URL.Path, signalingBase))
	p.mu.Unlock()
	if !strings.HasSuffix(r.URL.Path, "/start") && r.URL.Path != signalingBase {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	var properties []node
	for name, value := range map[string]string{"endpoint": oldEndpoint, "authorization": oldToken, "authType": "bearer"} {
		properties = append(properties, node{"@type": "dspace:EndpointProperty", "dspace:name": edcNS + name, "dspace:value": value})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(node{
		"@context": node{"@vocab": edcNS, "dspace": "https://w3id.org/dspace/v0.8/"}, "@type": "DataFlowResponseMessage",
		"provisioning": false, "dataAddress": node{
			"@type": "dspace:DataAddress", "dspace:endpointType": "https://w3id.org/idsa/v4.1/HTTP", "dspace:endpointProperties": properties,
		},
	})
}

// messages returns the paths of what it was told, below the base of signaling.
func (p *oldPlane) messages() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

// startedElsewhere starts a transfer at a data plane that is there before the gateway.
func (x *run) startedElsewhere() (*oldPlane, *flow) {
	x.t.Helper()
	old, f := newOldPlane(x.t), x.newFlow("tides", "HttpData")
	x.do(func(ctx context.Context) error {
		_, err := x.edc.space.Provider.Register(ctx, DataPlane{
			ID: oldPlaneID, URL: old.server.URL + signalingBase, SourceTypes: []string{"HttpData"},
		})
		return err
	}, "another data plane is registered and available")
	x.do(func(ctx context.Context) error {
		err := x.agree(ctx, f)
		if err != nil {
			return err
		}
		id, err := x.edc.space.Request(ctx, f.agreement, f.source.Type)
		if err != nil {
			return err
		}
		f.transfer, err = x.edc.space.AwaitStarted(ctx, id)
		if err != nil {
			return err
		}
		f.edr, err = x.edc.space.Consumer.EDR(ctx, f.transfer.Consumer, "")
		if err != nil {
			return err
		}
		if f.edr.Endpoint() != oldEndpoint || f.edr.AccessToken() != oldToken {
			return fmt.Errorf("%s is not that of the other data plane", f.edr)
		}
		return nil
	}, "%s: transfer started at the other data plane, whose EDR the consumer has", f.name)
	return old, f
}

// cutOver moves a running transfer from a data plane to the gateway, as docs/tractusx.md says.
func (x *run) cutOver(old *oldPlane, f *flow) {
	x.t.Helper()
	provider := x.edc.space.Provider
	started := old.messages()
	x.do(func(ctx context.Context) error { return provider.Unregister(ctx, oldPlaneID) }, "the other data plane is unregistered, not deleted")
	x.do(func(ctx context.Context) error {
		err := provider.Suspend(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		err = provider.Await(ctx, f.transfer.Provider, "SUSPENDED")
		if err != nil {
			return err
		}
		told := old.messages()
		if len(told) != len(started)+1 || told[len(started)] != "/"+f.transfer.Provider+"/suspend" {
			return fmt.Errorf("the other data plane was told %v, want a suspend at the end", told)
		}
		return x.consumerLost(ctx, f, "SUSPENDED")
	}, "%s: the provider suspends; the other data plane is told, the consumer's EDR is gone", f.name)
	x.do(func(ctx context.Context) error {
		err := provider.Resume(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		return x.awaitEDR(ctx, f, f.transfer.Consumer)
	}, "%s: the provider resumes; the start comes to the gateway, the consumer has another, complete EDR", f.name)
	x.do(func(ctx context.Context) error {
		err := x.opens(ctx, f, f.access)
		if err != nil {
			return err
		}
		return x.renew(ctx, f)
	}, "%s: data by the EDR, and it can be renewed", f.name)
	x.do(func(ctx context.Context) error {
		known := len(old.messages())
		old.server.Close()
		err := provider.Delete(ctx, oldPlaneID)
		if err != nil {
			return err
		}
		if known != len(started)+1 {
			return errors.New("the other data plane was told of the resume")
		}
		return nil
	}, "the other data plane has heard nothing more; it is stopped, and its registration deleted")
	x.suspendedByProvider(f)
	x.endedByProvider(f)
}

//go:build interop

package edc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/edrgate/edrgate/internal/testkit"
)

// run is everybody who takes part in the transfers of one release of EDC.
type run struct {
	t        testing.TB
	release  release
	began    time.Time
	edc      *controlPlanes
	gateway  *gateway
	tap      *tap
	backend  *backend
	consumer *consumer
	user     *user
}

func newRun(t testing.TB, r release) *run {
	t.Helper()
	x := &run{t: t, release: r, began: time.Now(), backend: newBackend(t), consumer: newConsumer(t)}
	ports := freePorts(t)
	x.gateway = newGateway(t, ports+1, x.backend.address())
	x.tap = newTap(t, x.gateway.signals)
	x.edc = newControlPlanes(t, r, x.consumer.wallet.DID)
	x.gateway.configure(x.edc.control(), x.tap.server.URL)
	x.user = newUser(t, ports+3, x.consumer, x.edc.consumerManagement())
	return x
}

// do takes a step, gives it its time, and writes a line of the transcript when it is done.
func (x *run) do(step func(ctx context.Context) error, format string, args ...any) {
	x.t.Helper()
	what := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(x.t.Context(), patience)
	defer cancel()
	failure := fmt.Sprintf("EDC %s: %s", x.release.version, what)
	defer func() {
		if failure != "" {
			failures = append(failures, failure)
		}
	}()
	err := step(ctx)
	if err != nil {
		failure += ": " + err.Error()
		if errors.Is(err, errIdle) && x.tap.allAnswered() && x.available() {
			stuck := idle(failure)
			failure = ""
			panic(stuck)
		}
		x.t.Fatal(failure)
	}
	failure = ""
	fmt.Fprintf(x.t.Output(), "EDC %s  %6.1f s  %s\n", x.release.version, time.Since(x.began).Seconds(), what)
}

// flow is one transfer and the tokens that the consumer holds for it.
type flow struct {
	name      string
	source    Source
	base      string // path of the source's base URL
	agreement string // the consumer's id
	asserted  string // the provider's id of the agreement, which its backend is told
	transfer  Transfer
	edr       EDR // as the control plane keeps it

	access, refresh string // the last
}

// newFlow returns a flow that passes path and query on to the backend.
func (x *run) newFlow(name, sourceType string) *flow {
	base := "/" + name
	return &flow{name: name, base: base, source: Source{
		Asset: name + "-" + sourceType, Type: sourceType,
		Properties: map[string]string{
			"baseUrl": "http://" + x.backend.address() + base, "proxyPath": "true", "proxyQueryParams": "true",
		},
	}}
}

// again returns another flow under the agreement of f.
func (f *flow) again(name string) *flow {
	return &flow{name: f.name + ", " + name, source: f.source, base: f.base, agreement: f.agreement}
}

// agree offers a flow's source and makes a contract about it.
func (x *run) agree(ctx context.Context, f *flow) error {
	space := x.edc.space
	err := space.Offer(ctx, f.source)
	if err != nil {
		return err
	}
	offered, err := space.Find(ctx, f.source.Asset)
	if err != nil {
		return err
	}
	if !slices.Contains(offered.Formats, pullOf(f.source.Type)) {
		return fmt.Errorf("the catalog offers %s as %v, not as %s", f.source.Asset, offered.Formats, pullOf(f.source.Type))
	}
	f.agreement, err = space.Negotiate(ctx, f.source.Asset, offered)
	return err
}

// transfer asks for a transfer under a flow's agreement and waits for its EDR.
func (x *run) transfer(ctx context.Context, f *flow) error {
	id, err := x.edc.space.Request(ctx, f.agreement, f.source.Type)
	if err != nil {
		return err
	}
	return x.awaitEDR(ctx, f, id)
}

func (x *run) awaitEDR(ctx context.Context, f *flow, id string) error {
	var err error
	f.transfer, err = x.edc.space.AwaitStarted(ctx, id)
	if err != nil {
		return err
	}
	f.asserted, err = x.edc.space.Provider.Agreement(ctx, f.transfer.Provider)
	if err != nil {
		return err
	}
	return x.takeEDR(ctx, f)
}

// takeEDR waits until the consumer has another EDR than before, looks whether it is complete, and takes the tokens out
// of it.
func (x *run) takeEDR(ctx context.Context, f *flow) error {
	edr, err := x.edc.space.Consumer.EDR(ctx, f.transfer.Consumer, f.edr.AccessToken())
	if err != nil {
		return err
	}
	public := "http://" + x.gateway.public
	if edr.Endpoint() != public || edr.AuthType() != "bearer" || edr.AccessToken() == "" || edr.RefreshToken() == "" ||
		edr.RefreshEndpoint() != public+"/token" || edr.RefreshAudience() != providerDID || edr.ExpiresIn() == "" {
		return fmt.Errorf("%s is not complete: auth type %q, refresh endpoint %q, refresh audience %q, expires in %q",
			edr, edr.AuthType(), edr.RefreshEndpoint(), edr.RefreshAudience(), edr.ExpiresIn())
	}
	f.edr, f.access, f.refresh = edr, edr.AccessToken(), edr.RefreshToken()
	return nil
}

// opens asks for data with tokens, each raw, as consumers of Tractus-X send it, and as Bearer. All must open the
// flow's own backend.
func (x *run) opens(ctx context.Context, f *flow, accessTokens ...string) error {
	for _, token := range accessTokens {
		for _, authorization := range []string{token, "Bearer " + token} {
			const below = "/today?place=K%C3%B6ln%26more&n=1"
			answer, err := x.consumer.get(ctx, f.edr.Endpoint(), below, authorization)
			if err != nil {
				return err
			}
			if answer.status != http.StatusOK || answer.body != dataAt(f.base+below) {
				return fmt.Errorf("data of %s: status %d: %s", f.name, answer.status, answer.body)
			}
		}
	}
	header, _ := x.backend.last()
	if header.Get("Authorization") != "" {
		return fmt.Errorf("the backend of %s got the consumer's token", f.name)
	}
	if header.Get("Edc-Contract-Agreement-Id") != f.asserted || f.asserted == "" {
		return fmt.Errorf("the backend of %s was told the agreement %q, want %q",
			f.name, header.Get("Edc-Contract-Agreement-Id"), f.asserted)
	}
	if header.Get("Edc-Bpn") != "" {
		return fmt.Errorf("the backend of %s was told the BPN %q of a consumer that has none", f.name, header.Get("Edc-Bpn"))
	}
	return nil
}

// refuses asks for data with tokens once each. None may open anything, and the backend may not hear of it. code is
// what the answer says beside its text.
func (x *run) refuses(ctx context.Context, f *flow, code string, accessTokens ...string) error {
	_, before := x.backend.last()
	for _, token := range accessTokens {
		answer, err := x.consumer.get(ctx, f.edr.Endpoint(), "/today", token)
		if err != nil {
			return err
		}
		var body struct {
			Errors []string `json:"errors"`
			Code   string   `json:"code"`
		}
		err = json.Unmarshal([]byte(answer.body), &body)
		// Consumers of Tractus-X test for 403.
		if err != nil || answer.status != http.StatusForbidden || len(body.Errors) != 1 || body.Code != code {
			return fmt.Errorf("data of %s: status %d, want 403 and code %q: %s", f.name, answer.status, code, answer.body)
		}
	}
	_, after := x.backend.last()
	if after != before {
		return fmt.Errorf("the backend of %s got a request that was refused", f.name)
	}
	return nil
}

// suspended is the code of refusals that renewing does not help against.
const suspended = "flow_suspended"

// awaitRefusal waits until a token is refused. Where the consumer has ended or suspended the transfer, its control plane
// and the provider's know it before the data plane is told.
func (x *run) awaitRefusal(ctx context.Context, f *flow, code string) error {
	return await(ctx, func() error {
		err := x.refuses(ctx, f, code, f.access)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotYet, err)
		}
		return nil
	})
}

// refusesRenewal sends a renewal that must be refused. 401 is final for a consumer, any other status is not.
func (x *run) refusesRenewal(ctx context.Context, f *flow, prover *testkit.Wallet) error {
	request, err := renewalOf(ctx, f, prover, x.release.renewsInQuery)
	if err != nil {
		return err
	}
	answer, err := x.consumer.send(request)
	if err != nil {
		return err
	}
	if answer.status != http.StatusUnauthorized {
		return fmt.Errorf("renewal of %s with a proof by %s: status %d, want 401: %s", f.name, prover.KID, answer.status, answer.body)
	}
	return nil
}

// renew renews a flow's tokens, as the consumers that go with the release do.
func (x *run) renew(ctx context.Context, f *flow) error {
	renewed, err := x.consumer.renew(ctx, f, x.release.renewsInQuery)
	if err != nil {
		return err
	}
	if renewed.Refresh == f.refresh || renewed.Access == f.access {
		return fmt.Errorf("the renewal of %s gave the old tokens", f.name)
	}
	f.access, f.refresh = renewed.Access, renewed.Refresh
	return x.opens(ctx, f, f.access)
}

// ended are the states of a transfer that is over. A provider goes through all of them by itself.
var ended = []string{"TERMINATED", "DEPROVISIONING", "DEPROVISIONED"}

// consumerLost waits until the consumer's control plane has a transfer in one of some states and no EDR of it.
func (x *run) consumerLost(ctx context.Context, f *flow, states ...string) error {
	err := x.edc.space.Consumer.Await(ctx, f.transfer.Consumer, states...)
	if err != nil {
		return err
	}
	return x.edc.space.Consumer.AwaitNoEDR(ctx, f.transfer.Consumer)
}

// awaitMessage waits until a message other than a check has come after the first known ones.
func (x *run) awaitMessage(ctx context.Context, known int) error {
	return await(ctx, func() error {
		for _, e := range x.tap.saw()[known:] {
			if e.method == http.MethodPost {
				return nil
			}
		}
		return fmt.Errorf("%w: no message has come", errNotYet)
	})
}

// starts returns the starts that came to the path of the release and were answered.
func (x *run) starts() []exchange {
	var starts []exchange
	for _, e := range x.tap.saw() {
		if e.path == "/v1/dataflows"+x.release.startPath && e.method == http.MethodPost && e.status != 0 {
			starts = append(starts, e)
		}
	}
	return starts
}

// restartGateway kills the gateway, as a power cut does, and starts it again.
func (x *run) restartGateway(ctx context.Context) error {
	err := x.gateway.kill()
	if err != nil {
		return err
	}
	return x.gateway.start(ctx)
}

// available reports whether the control plane has found the gateway available.
func (x *run) available() bool {
	ctx, cancel := context.WithTimeout(x.t.Context(), callTimeout)
	defer cancel()
	known, err := x.edc.space.Provider.dataPlane(ctx, "edrgate")
	return err == nil && known.text("state") == "AVAILABLE"
}

// registered waits until the control plane has found the gateway, which registers itself, available.
func (x *run) registered(ctx context.Context) error {
	return await(ctx, func() error {
		known, err := x.edc.space.Provider.dataPlane(ctx, "edrgate")
		if err != nil {
			return err
		}
		if known.text("state") != "AVAILABLE" {
			return fmt.Errorf("%w: the gateway is %q, want AVAILABLE", errNotYet, known.text("state"))
		}
		return nil
	})
}

// register registers the gateway, and fails if there was another need to do so than expected.
func (x *run) register(ctx context.Context, wantPost bool) error {
	posted, err := x.edc.space.Provider.Register(ctx, DataPlane{
		ID: "edrgate", URL: x.tap.server.URL + "/v1/dataflows", SourceTypes: []string{"HttpData", "ProxyHttpData"},
	})
	if err != nil {
		return err
	}
	if posted != wantPost {
		return fmt.Errorf("registered anew: %t, want %t", posted, wantPost)
	}
	return nil
}

//go:build interop

package edc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/edrgate/edrgate/internal/testkit"
)

// TestLife drives transfers through their whole life with each release of EDC, while everything is restarted around
// them. The steps build on each other. Its output is the transcript.
func TestLife(t *testing.T) {
	for _, r := range releases {
		t.Run(r.version, func(t *testing.T) {
			var stuck idle
			t.Run("life", func(t *testing.T) { stuck = live(t, r) })
			if stuck == "" {
				return
			}
			t.Run("second life", func(t *testing.T) {
				stuck = live(t, r)
				if stuck != "" {
					failures = append(failures, string(stuck))
					t.Fatal(stuck)
				}
			})
		})
	}
}

// idle is a step that control planes did not take within its time, though no message of theirs waited for the gateway. It was
// seen once: a suspension had come twice, and the next one that was asked for never came. Their stores in memory, which are made
// for tests, release leases without the lock that guards them (InMemoryStatefulEntityStore.save).
type idle string

// live drives all transfers of one release. It returns the step that control planes did not take.
func live(t *testing.T, r release) (stuck idle) {
	t.Helper()
	x := newRun(t, r)
	defer func() {
		thrown := recover()
		if thrown == nil {
			return
		}
		var ok bool
		stuck, ok = thrown.(idle)
		if !ok {
			panic(thrown)
		}
		t.Logf("%s\nThe gateway had answered all messages.", stuck)
		x.tap.show(t)
		x.edc.showLogs()
	}()
	x.controlPlanesRun()
	old, moving := x.startedElsewhere()
	x.gatewayJoins()
	x.cutOver(old, moving)
	weather, trains := x.newFlow("weather", "HttpData"), x.newFlow("trains", "ProxyHttpData")
	x.open(weather)
	x.open(trains)
	x.status(weather, http.StatusBadGateway)
	x.status(trains, http.StatusUnauthorized)
	x.renewal(weather)
	x.crash(weather, trains)
	x.suspendedByProvider(weather)
	x.suspendedByConsumer(trains)
	x.startAnsweredInVain(trains)
	x.comesByEvent(weather)
	further := x.startedWhileAway(weather)
	x.endedByProvider(weather)
	x.endedByConsumer(trains)
	x.endedByOperator(further)
	x.controlPlanesForget(further)
	x.wholeAgain()
	x.noMessageRefused()
	return ""
}

func (x *run) controlPlanesRun() {
	x.t.Helper()
	x.do(func(context.Context) error { x.edc.start(); return nil }, "both control planes run")
	x.do(func(context.Context) error {
		if x.edc.runs != x.release.version {
			return fmt.Errorf("they are of release %q", x.edc.runs)
		}
		return nil
	}, "their jars are of release %s", x.release.version)
}

func (x *run) gatewayJoins() {
	x.t.Helper()
	x.do(x.gateway.start, "the gateway runs")
	x.do(x.registered, "the gateway has registered itself and is available")
	x.do(func(ctx context.Context) error { return x.register(ctx, false) }, "registering again finds it and posts nothing")
}

func (x *run) open(f *flow) {
	x.t.Helper()
	x.do(func(ctx context.Context) error { return x.agree(ctx, f) },
		"%s: offered as %s, found in the catalog, contract negotiated", f.name, f.source.Type)
	x.do(func(ctx context.Context) error { return x.transfer(ctx, f) },
		"%s: transfer started on both sides, the consumer has a complete EDR", f.name)
	x.do(func(ctx context.Context) error { return x.opens(ctx, f, f.access) },
		"%s: data by the EDR, with path and query; the backend sees the agreement and not the token", f.name)
}

// status: consumers renew on 401, so a backend's own 401 must not look like ours, except where the offer is to pass
// everything on.
func (x *run) status(f *flow, want int) {
	x.t.Helper()
	x.do(func(ctx context.Context) error {
		answer, err := x.consumer.get(ctx, f.edr.Endpoint(), closedPath, f.access)
		if err != nil {
			return err
		}
		challenge := answer.header.Get("WWW-Authenticate")
		if answer.status != want || challenge != "" {
			return fmt.Errorf("status %d, challenge %q", answer.status, challenge)
		}
		return nil
	}, "%s: a 401 of the backend is %d for %s", f.name, want, f.source.Type)
}

func (x *run) renewal(f *flow) {
	x.t.Helper()
	first := *f
	x.do(func(ctx context.Context) error { return x.renew(ctx, f) },
		"%s: renewed with a proof by the consumer's DID; the new access token works", f.name)
	x.do(func(ctx context.Context) error {
		again, err := x.consumer.renew(ctx, &first, x.release.renewsInQuery)
		if err != nil {
			return err
		}
		if again.Refresh != f.refresh {
			return errors.New("it got another successor")
		}
		return nil
	}, "%s: the same refresh token again, as after a lost answer, gets the same successor", f.name)
	x.do(func(ctx context.Context) error {
		thief := testkit.NewWallet("did:web:thief.example")
		forger := testkit.NewWallet(x.consumer.wallet.DID) // with a key of its own
		impostor := testkit.NewWallet(x.consumer.wallet.DID)
		impostor.KID = "did:web:thief.example#key-1"
		for _, prover := range []*testkit.Wallet{thief, forger, impostor} {
			err := x.refusesRenewal(ctx, f, prover)
			if err != nil {
				return err
			}
		}
		return x.renew(ctx, f)
	}, "%s: thieves cannot renew with the stolen tokens, and the consumer still can", f.name)
}

func (x *run) crash(flows ...*flow) {
	x.t.Helper()
	x.do(x.restartGateway, "the gateway was killed (-9) and runs again")
	x.do(func(ctx context.Context) error {
		for _, f := range flows {
			err := x.opens(ctx, f, f.edr.AccessToken(), f.access)
			if err != nil {
				return err
			}
			err = x.renew(ctx, f)
			if err != nil {
				return err
			}
		}
		return nil
	}, "tokens from before the crash work and can be renewed")
	x.do(func(ctx context.Context) error { return x.register(ctx, false) }, "the gateway is still registered")
}

func (x *run) suspendedByProvider(f *flow) {
	x.t.Helper()
	provider := x.edc.space.Provider
	x.do(func(ctx context.Context) error {
		err := provider.Suspend(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		return provider.Await(ctx, f.transfer.Provider, "SUSPENDED")
	}, "%s: the provider suspends", f.name)
	// The provider's control plane told the gateway before it said so itself: there is nothing to wait for.
	x.do(func(ctx context.Context) error { return x.refuses(ctx, f, suspended, f.edr.AccessToken(), f.access) },
		"%s: old tokens are refused at once", f.name)
	x.do(func(ctx context.Context) error { return x.consumerLost(ctx, f, "SUSPENDED") },
		"%s: suspended at the consumer too, its EDR is gone", f.name)
	x.do(func(ctx context.Context) error { return provider.Resume(ctx, f.transfer.Provider) }, "%s: the provider resumes", f.name)
	x.resumed(f)
}

func (x *run) suspendedByConsumer(f *flow) {
	x.t.Helper()
	provider, consumer := x.edc.space.Provider, x.edc.space.Consumer
	x.do(func(ctx context.Context) error {
		err := consumer.Suspend(ctx, f.transfer.Consumer)
		if err != nil {
			return err
		}
		err = x.consumerLost(ctx, f, "SUSPENDED")
		if err != nil {
			return err
		}
		return provider.Await(ctx, f.transfer.Provider, "SUSPENDED")
	}, "%s: the consumer suspends; suspended on both sides, the EDR is gone", f.name)
	x.do(func(ctx context.Context) error { return x.awaitRefusal(ctx, f, suspended) }, "%s: old tokens are refused", f.name)
	x.do(x.restartGateway, "the gateway was killed (-9) and runs again")
	x.do(func(ctx context.Context) error { return x.refuses(ctx, f, suspended, f.edr.AccessToken(), f.access) },
		"%s: old tokens are still refused", f.name)
	x.do(func(ctx context.Context) error { return consumer.Resume(ctx, f.transfer.Consumer) }, "%s: the consumer resumes", f.name)
	x.resumed(f)
}

// resumed looks at a flow that goes on. The grant is the one from before: the refresh token is the current one, and
// access tokens that have not expired work again.
func (x *run) resumed(f *flow) {
	x.t.Helper()
	before := *f
	x.do(func(ctx context.Context) error {
		err := x.awaitEDR(ctx, f, f.transfer.Consumer)
		if err != nil {
			return err
		}
		if f.refresh != before.refresh {
			return errors.New("the fresh EDR has another refresh token than the last renewal gave")
		}
		return x.opens(ctx, f, f.access, before.access)
	}, "%s: the fresh EDR works, and so does the token from before", f.name)
	x.do(func(ctx context.Context) error { return x.renew(ctx, f) }, "%s: the fresh EDR can be renewed", f.name)
}

// startAnsweredInVain: the gateway has the flow, and the control plane, which does not know, sends the same start again.
func (x *run) startAnsweredInVain(agreed *flow) {
	x.t.Helper()
	f := agreed.again("after a lost answer")
	before := x.starts()
	x.tap.loseAnswer()
	x.do(func(ctx context.Context) error { return x.transfer(ctx, f) },
		"%s: the first answer to a start is lost; transfer started, complete EDR", f.name)
	x.do(func(ctx context.Context) error {
		starts := x.starts()[len(before):]
		if len(starts) != 2 || starts[0].message != starts[1].message || starts[0].status != http.StatusOK {
			return fmt.Errorf("want the same start twice, have %v", starts)
		}
		err := x.opens(ctx, f, f.access)
		if err != nil {
			return err
		}
		return x.renew(ctx, f)
	}, "%s: the same start came twice; the EDR works and can be renewed", f.name)
}

// startedWhileAway starts a further transfer while the gateway is away. EDC tries a start six times in 15 s.
func (x *run) startedWhileAway(agreed *flow) *flow {
	x.t.Helper()
	f := agreed.again("further")
	var id string
	x.do(func(ctx context.Context) error {
		messages := len(x.tap.saw())
		err := x.gateway.kill()
		if err != nil {
			return err
		}
		id, err = x.edc.space.Request(ctx, f.agreement, f.source.Type)
		if err != nil {
			return err
		}
		return x.awaitMessage(ctx, messages)
	}, "%s: the gateway was killed (-9), and a start came in vain", f.name)
	x.do(x.gateway.start, "the gateway runs again")
	x.do(func(ctx context.Context) error { return x.awaitEDR(ctx, f, id) }, "%s: transfer started, complete EDR", f.name)
	x.do(func(ctx context.Context) error { return x.opens(ctx, f, f.access) }, "%s: data by the EDR", f.name)
	x.do(func(ctx context.Context) error { return x.register(ctx, false) }, "the gateway is still registered")
	return f
}

func (x *run) endedByProvider(f *flow) {
	x.t.Helper()
	provider := x.edc.space.Provider
	x.do(func(ctx context.Context) error {
		err := provider.Terminate(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		return provider.Await(ctx, f.transfer.Provider, ended...)
	}, "%s: the provider terminates", f.name)
	x.do(func(ctx context.Context) error { return x.refuses(ctx, f, "", f.edr.AccessToken(), f.access) },
		"%s: old tokens are refused at once", f.name)
	x.over(f)
}

// over looks at a flow that has ended, and that the consumer was not the one to end.
func (x *run) over(f *flow) {
	x.t.Helper()
	x.do(func(ctx context.Context) error { return x.consumerLost(ctx, f, ended...) },
		"%s: terminated at the consumer too, its EDR is gone", f.name)
	x.do(func(ctx context.Context) error { return x.refusesRenewal(ctx, f, x.consumer.wallet) },
		"%s: renewals are refused for good", f.name)
}

func (x *run) endedByConsumer(f *flow) {
	x.t.Helper()
	provider, consumer := x.edc.space.Provider, x.edc.space.Consumer
	x.do(func(ctx context.Context) error {
		err := consumer.Terminate(ctx, f.transfer.Consumer)
		if err != nil {
			return err
		}
		err = x.consumerLost(ctx, f, ended...)
		if err != nil {
			return err
		}
		return provider.Await(ctx, f.transfer.Provider, ended...)
	}, "%s: the consumer terminates; terminated on both sides, the EDR is gone", f.name)
	if !x.release.tellsConsumersEnd {
		x.do(func(ctx context.Context) error { return x.opens(ctx, f, f.access) },
			"%s: this release does not tell the data plane, so the token still works", f.name)
		x.do(func(context.Context) error { x.gateway.revoke(f.transfer.Provider); return nil },
			"%s: an operator revokes the flow", f.name)
	}
	x.do(func(ctx context.Context) error { return x.awaitRefusal(ctx, f, "") }, "%s: old tokens are refused", f.name)
	x.do(func(ctx context.Context) error { return x.refusesRenewal(ctx, f, x.consumer.wallet) },
		"%s: renewals are refused for good", f.name)
}

// endedByOperator: both control planes learn that an operator revoked a flow, although the gateway dies before it can tell.
func (x *run) endedByOperator(agreed *flow) {
	x.t.Helper()
	f := agreed.again("to be revoked")
	x.do(func(ctx context.Context) error { return x.transfer(ctx, f) }, "%s: transfer started, complete EDR", f.name)
	x.do(func(context.Context) error { x.gateway.revoke(f.transfer.Provider); return nil }, "%s: an operator revokes the flow", f.name)
	x.do(x.restartGateway, "the gateway was killed (-9) and runs again")
	x.do(func(ctx context.Context) error { return x.refuses(ctx, f, "", f.access) }, "%s: its token is refused", f.name)
	x.do(func(ctx context.Context) error {
		err := x.edc.space.Provider.Await(ctx, f.transfer.Provider, ended...)
		if err != nil {
			return errors.New(err.Error()) // the gateway is to tell it, so this is no errIdle
		}
		return nil
	}, "%s: the provider's control plane was told and has terminated", f.name)
	x.over(f)
}

// endedWhileAway: a control plane tries a terminate six times in 15 s too, and then gives the consumer up for ever.
func (x *run) endedWhileAway(f *flow) {
	x.t.Helper()
	x.do(func(ctx context.Context) error {
		messages := len(x.tap.saw())
		err := x.gateway.kill()
		if err != nil {
			return err
		}
		err = x.edc.space.Provider.Terminate(ctx, f.transfer.Provider)
		if err != nil {
			return err
		}
		return x.awaitMessage(ctx, messages)
	}, "%s: the gateway was killed (-9), and a terminate came in vain", f.name)
	x.do(x.gateway.start, "the gateway runs again")
	x.do(func(ctx context.Context) error { return x.awaitRefusal(ctx, f, "") }, "%s: old tokens are refused", f.name)
	x.over(f)
}

// controlPlanesForget restarts the control planes, which keep all that they know in memory. The gateway does not.
func (x *run) controlPlanesForget(f *flow) {
	x.t.Helper()
	x.do(func(ctx context.Context) error {
		x.edc.stop()
		err := x.opens(ctx, f, f.access)
		if err != nil {
			return err
		}
		return x.renew(ctx, f)
	}, "%s: both control planes are stopped; tokens work and can be renewed", f.name)
	x.do(func(context.Context) error { x.edc.start(); return nil }, "both control planes run again")
	x.do(x.registered, "the gateway noticed, and has registered itself again")
	x.do(func(ctx context.Context) error { return x.opens(ctx, f, f.access) }, "%s: the token still works", f.name)
}

// wholeAgain shows that control planes which know nothing, and the gateway, which knows more, go on together.
func (x *run) wholeAgain() {
	x.t.Helper()
	f := x.newFlow("rivers", "ProxyHttpData")
	x.open(f)
	x.do(func(ctx context.Context) error { return x.renew(ctx, f) }, "%s: renewed", f.name)
	x.endedWhileAway(f)
}

// noMessageRefused looks at all messages of the release: each was sent to the path of the release and was answered well,
// unless the gateway was away.
func (x *run) noMessageRefused() {
	x.t.Helper()
	x.do(func(context.Context) error {
		for _, e := range x.tap.saw() {
			if e.status != 0 && (e.status < 200 || e.status > 299) {
				return fmt.Errorf("a message was refused: %s", e)
			}
		}
		// Two transfers, their resumes, one with a lost answer, one while away, one after the restart.
		const least = 8
		if len(x.starts()) < least {
			return fmt.Errorf("%d starts have come to %q, want %d at least", len(x.starts()), x.release.startPath, least)
		}
		return nil
	}, "no message of the control planes was refused")
}

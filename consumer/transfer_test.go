package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// main is the control plane of most transfers.

const main = tokens.Caller("main")

// transfers are those of the fixture's cache, of two control planes; one of them had another name.

func (x *fixture) transfers() *Transfers {
	x.t.Helper()
	t, err := NewTransfers(TransfersConfig{
		Cache: x.Cache, ControlPlanes: []string{"main", "second"}, Formerly: map[string]string{"first": "main"},
		DIDMap: map[string]string{"BPNL1": providerDID},
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return t
}

func prepareOf(id string) tokens.StartRequest {
	return tokens.StartRequest{
		Dialect: tokens.DPS, MessageID: "m-prepare", ProcessID: id, Profile: "HttpData-PULL",
		Terms: tokens.Terms{Counterparty: providerDID, Dataset: "asset-1", Agreement: "agreement-1"},
	}
}

func messageOf(id, messageID string) tokens.Message {
	return tokens.Message{Dialect: tokens.DPS, ProcessID: id, MessageID: messageID}
}

// address is a data address as a started brings it; change sets properties, or takes them away with "".

func (x *fixture) address(change ...string) json.RawMessage {
	x.t.Helper()
	properties := map[string]string{
		"authorization": "access-0", "authType": "bearer", "refreshToken": "refresh-0", "expiresIn": "300",
		"refreshEndpoint": x.provider.URL + "/token",
	}
	for i := 0; i < len(change); i += 2 {
		properties[change[i]] = change[i+1]
	}
	var list []any
	for name, value := range properties {
		if value != "" {
			list = append(list, map[string]string{"name": name, "value": value})
		}
	}
	data, err := json.Marshal(map[string]any{
		"@type": "DataAddress", "endpoint": x.provider.URL + "/data", "endpointType": dpsProfile + "http-pull", "endpointProperties": list,
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return data
}

// script drives a transfer, and fails where a step is not answered as it should be.

type script struct {
	*Transfers
	t  *testing.T
	id string
}

func (x *fixture) script(id string) script {
	x.t.Helper()
	s := script{x.transfers(), x.t, id}
	s.live(s.Prepare(context.Background(), main, prepareOf(id)))(tokens.Prepared, false)
	return s
}

func (s script) live(f *tokens.Flow, repeated bool, err error) func(state tokens.State, again bool) {
	return func(state tokens.State, again bool) {
		s.t.Helper()
		if err != nil || f.State != state || repeated != again || f.ID != s.id {
			s.t.Fatalf("flow %+v, repeated %v, error %v; want %s, %v", f, repeated, err, state, again)
		}
	}
}

func (s script) started(messageID string, address json.RawMessage) func(tokens.State, bool) {
	return s.live(s.Started(context.Background(), main, messageOf(s.id, messageID), address))
}

func (s script) resume(messageID string, address json.RawMessage) func(tokens.State, bool) {
	return s.live(s.Resume(context.Background(), main, messageOf(s.id, messageID), address))
}

func (s script) end(act func(context.Context, tokens.Caller, tokens.Message) (tokens.Ending, error), messageID string, want tokens.Outcome) {
	s.t.Helper()
	s.endAs(act, main, messageID, want)
}

func (s script) endAs(
	act func(context.Context, tokens.Caller, tokens.Message) (tokens.Ending, error), caller tokens.Caller, messageID string, want tokens.Outcome,
) {
	s.t.Helper()
	ending, err := act(context.Background(), caller, messageOf(s.id, messageID))
	if err != nil || ending.Outcome != want {
		s.t.Fatalf("outcome %q, error %v, want %q", ending.Outcome, err, want)
	}
}

func (s script) state(want tokens.State) {
	s.t.Helper()
	f, err := s.Status(context.Background(), main, s.id)
	if err != nil || f.State != want {
		s.t.Fatalf("flow %+v, error %v, want %s", f, err, want)
	}
}

func wantTold(t *testing.T, err error, code tokens.Code, text string) {
	t.Helper()
	if err == nil || tokens.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want %s with %q", err, code, text)
	}
}

// TestTransferLife is a pull as EDC 0.18 has its consumer's data plane take part in it.

func TestTransferLife(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	_, err := x.Get(context.Background(), "tp-1")
	wantCode(t, err, CodeUnknown) // there is no EDR yet
	if len(x.list(Query{})) != 0 || len(x.list(Query{State: Prepared, Asset: "asset-1"})) != 1 {
		t.Error("a prepared transfer is listed among the EDRs, or not as prepared")
	}
	s.started("m-1", x.address())(tokens.Started, false)
	e := x.get("tp-1")
	wantToken(t, e, "access-0")
	if e.Counterparty != providerDID || e.CounterpartyDID != providerDID || e.Asset != "asset-1" || e.Agreement != "agreement-1" ||
		e.Origin != BySignaling || !e.Renewable {
		t.Errorf("entry %+v", e)
	}
	e = x.must(x.renewer.Refresh(context.Background(), "tp-1"))
	wantToken(t, e, "access-1")

	s.end(s.Suspend, "m-2", tokens.Applied)
	s.state(tokens.Suspended)
	_, err = x.renewer.Current(context.Background(), "tp-1")
	wantCode(t, err, CodeSuspended)
	s.end(s.Suspend, "m-3", tokens.Already)
	s.resume("m-4", nil)(tokens.Started, false)
	wantToken(t, x.must(x.renewer.Current(context.Background(), "tp-1")), "access-1")
	s.resume("m-4", nil)(tokens.Started, true)

	s.end(s.Complete, "m-5", tokens.Applied)
	s.state(tokens.Completed)
	s.end(s.Terminate, "m-6", tokens.Already)
	s.state(tokens.Completed)
	if e = x.get("tp-1"); e.EDR != nil || e.State != Ended {
		t.Errorf("entry %+v", e)
	}
	s.end(s.Suspend, "m-7", tokens.OutOfState)
	_, _, err = s.Started(context.Background(), main, messageOf("tp-1", "m-8"), x.address())
	wantTold(t, err, tokens.CodeState, "over")
	_, _, err = s.Prepare(context.Background(), main, prepareOf("tp-1"))
	wantTold(t, err, tokens.CodeState, "over")
}

// TestTransferWithoutAddress: the profiles without renewal promise no data address, and the kit sends none.

func TestTransferWithoutAddress(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", nil)(tokens.Started, false)
	s.started("m-1", nil)(tokens.Started, true)
	s.started("", nil)(tokens.Started, true)
	for _, err := range []error{
		errOf(x.Get(context.Background(), "tp-1")),
		errOf(x.renewer.Current(context.Background(), "tp-1")),
		errOf(x.renewer.Refresh(context.Background(), "tp-1")),
	} {
		wantCode(t, err, CodeUnknown)
	}
	count, err := x.transfers().Count(context.Background())
	if err != nil || len(count) != 0 {
		t.Errorf("count %v, %v", count, err)
	}
	s.end(s.Suspend, "m-2", tokens.Applied)
	s.resume("m-3", x.address())(tokens.Started, false)
	wantToken(t, x.get("tp-1"), "access-0")
}

func errOf(_ *Entry, err error) error { return err }

// TestTransferPrepareAgain: what a repeat must have in common with the first prepare.

func TestTransferPrepareAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		caller tokens.Caller
		change func(*tokens.StartRequest)
		code   tokens.Code // empty: the same transfer
	}{
		{"the same message", main, func(*tokens.StartRequest) {}, ""},
		{"another message", main, func(r *tokens.StartRequest) { r.MessageID = "m-other" }, ""},
		{"counterparty", main, func(r *tokens.StartRequest) { r.Terms.Counterparty = otherDID }, tokens.CodeConflict},
		{"asset", main, func(r *tokens.StartRequest) { r.Terms.Dataset = "asset-2" }, tokens.CodeConflict},
		{"agreement", main, func(r *tokens.StartRequest) { r.Terms.Agreement = "agreement-2" }, tokens.CodeConflict},
		{"profile", main, func(r *tokens.StartRequest) { r.Profile = "http-pull" }, tokens.CodeConflict},
		{"message id of a started", main, func(r *tokens.StartRequest) { r.MessageID = "m-1" }, tokens.CodeConflict},
		{"another control plane", "second", func(*tokens.StartRequest) {}, tokens.CodeConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t)
			s := x.script("tp-1")
			s.started("m-1", x.address())(tokens.Started, false)
			r := prepareOf("tp-1")
			tt.change(&r)
			flow, repeated, err := s.Prepare(context.Background(), tt.caller, r)
			if tt.code == "" {
				s.live(flow, repeated, err)(tokens.Started, true)
				return
			}
			wantTold(t, err, tt.code, "")
		})
	}
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", nil)(tokens.Started, false)
	s.end(s.Suspend, "m-2", tokens.Applied)
	_, _, err := s.Prepare(context.Background(), main, prepareOf("tp-1"))
	wantTold(t, err, tokens.CodeState, "suspended") // a late repeat resumes nothing
	x.started("tp-2")
	_, _, err = s.Prepare(context.Background(), main, prepareOf("tp-2"))
	wantTold(t, err, tokens.CodeConflict, "signaling")
}

// TestTransferRefusesAddresses: a refused data address leaves the transfer as it was, and is told in fixed words.

func TestTransferRefusesAddresses(t *testing.T) {
	t.Parallel()
	const secret = "canary-secret"
	tests := []struct {
		name     string
		required bool // the profile demands renewal
		address  func(x *fixture) json.RawMessage
		text     string
	}{
		{"no refresh token", true, func(x *fixture) json.RawMessage { return x.address("refreshToken", "") }, "the profile demands"},
		{"no expiry", true, func(x *fixture) json.RawMessage { return x.address("expiresIn", "") }, "the profile demands"},
		{"no access token", true, func(x *fixture) json.RawMessage { return x.address("authorization", "") }, "the profile demands"},
		{"none", true, func(*fixture) json.RawMessage { return nil }, "missing"},
		{"another audience", false, func(x *fixture) json.RawMessage { return x.address("refreshAudience", otherDID) }, "refreshAudience is neither"},
		{"no endpoint", false, func(*fixture) json.RawMessage { return json.RawMessage(`{"endpointProperties":[]}`) }, "endpoint is missing"},
		{"expiry is no number", false, func(x *fixture) json.RawMessage { return x.address("expiresIn", secret) }, "expiresIn"},
		{"a token that no header takes", false, func(x *fixture) json.RawMessage { return x.address("authorization", secret+"\r\n") }, "authorization"},
		{"plain http", false, func(*fixture) json.RawMessage {
			return json.RawMessage(`{"endpoint":"http://elsewhere.example/` + secret + `","authorization":"` + secret + `"}`)
		}, "endpoint is not https"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newFixture(t, func(c *Config, _ *RenewerConfig) { c.AllowHTTP = []string{"127.0.0.1"} })
			s := script{x.transfers(), t, "tp-1"}
			r := prepareOf("tp-1")
			r.RenewalRequired = tt.required
			s.live(s.Prepare(context.Background(), main, r))(tokens.Prepared, false)
			_, _, err := s.Started(context.Background(), main, messageOf("tp-1", "m-1"), tt.address(x))
			wantTold(t, err, tokens.CodeInvalid, "member dataAddress: ")
			wantTold(t, err, tokens.CodeInvalid, tt.text)
			s.state(tokens.Prepared)
			wantCode(t, errOf(x.Get(context.Background(), "tp-1")), CodeUnknown)
			if strings.Contains(err.Error()+x.logs.String(), secret) {
				t.Error("what the provider wrote is in the error or the log")
			}
			s.started("m-2", x.address())(tokens.Started, false)
		})
	}
}

// TestTransferRepeats: a message that arrives again undoes nothing that came after it.

func TestTransferRepeats(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.end(s.Suspend, "m-0", tokens.OutOfState) // DPS §1.3: only what is started
	_, _, err := s.Resume(context.Background(), main, messageOf("tp-1", "m-0"), nil)
	wantTold(t, err, tokens.CodeState, "not started")
	s.started("m-1", x.address())(tokens.Started, false)
	x.must(x.renewer.Refresh(context.Background(), "tp-1"))
	s.started("m-1", x.address())(tokens.Started, true)
	s.started("m-1", x.address("authorization", "access-stale"))(tokens.Started, true)
	s.started("m-again", x.address())(tokens.Started, false) // another message with the EDR of before
	wantToken(t, x.get("tp-1"), "access-1")

	s.end(s.Suspend, "m-2", tokens.Applied)
	_, _, err = s.Started(context.Background(), main, messageOf("tp-1", "m-1"), x.address())
	wantTold(t, err, tokens.CodeState, "suspended")
	s.resume("m-3", x.address())(tokens.Started, false)
	wantToken(t, x.get("tp-1"), "access-1")
	s.end(s.Suspend, "m-2", tokens.Already)
	s.state(tokens.Started)
	s.end(s.Suspend, "m-4", tokens.Applied)
	_, _, err = s.Resume(context.Background(), main, messageOf("tp-1", "m-3"), nil)
	wantTold(t, err, tokens.CodeState, "after this message")
	_, _, err = s.Resume(context.Background(), main, messageOf("tp-1", "m-4"), nil)
	wantTold(t, err, tokens.CodeConflict, "another operation")
	s.state(tokens.Suspended)
}

// TestTransferOwner: another control plane of the participant neither sees nor changes a transfer, unless its owner is

// configured no more.

func TestTransferOwner(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", x.address())(tokens.Started, false)
	_, err := s.Status(context.Background(), "second", "tp-1")
	wantTold(t, err, tokens.CodeForeign, "")
	_, _, err = s.Started(context.Background(), "second", messageOf("tp-1", "m-2"), x.address())
	wantTold(t, err, tokens.CodeForeign, "")
	_, _, err = s.Resume(context.Background(), "second", messageOf("tp-1", "m-2"), nil)
	wantTold(t, err, tokens.CodeForeign, "")
	for _, act := range []func(context.Context, tokens.Caller, tokens.Message) (tokens.Ending, error){s.Suspend, s.Terminate, s.Complete} {
		s.endAs(act, "second", "m-2", tokens.NotOwned)
	}
	s.state(tokens.Started)

	for _, id := range []string{"first", "gone"} { // renamed, and configured no more
		_, _, err = s.Prepare(context.Background(), tokens.Caller(id), prepareOf(id))
		if err != nil {
			t.Fatal(err)
		}
	}
	s.id = "first"
	s.endAs(s.Terminate, "second", "m-2", tokens.NotOwned)
	s.started("m-1", nil)(tokens.Started, false)
	s.id = "gone"
	_, err = s.Status(context.Background(), main, "gone")
	wantTold(t, err, tokens.CodeForeign, "")
	s.endAs(s.Terminate, "second", "m-2", tokens.Applied)

	x.started("by-hand")
	s.id = "by-hand"
	_, err = s.Status(context.Background(), main, "by-hand")
	wantTold(t, err, tokens.CodeFlowUnknown, "")
	s.end(s.Terminate, "m-2", tokens.Unknown)
	s.id = "nobody's"
	s.end(s.Suspend, "m-2", tokens.Unknown)
	s.end(s.Terminate, "m-2", tokens.Unknown)
	wantCode(t, errOf(x.Get(context.Background(), "nobody's")), CodeUnknown) // nothing was left behind

	config := x.config
	config.Participant = "other"
	other, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewTransfers(TransfersConfig{Cache: other})
	if err != nil {
		t.Fatal(err)
	}
	_, err = foreign.Status(context.Background(), main, "tp-1")
	wantTold(t, err, tokens.CodeFlowUnknown, "")
}

// TestTransferOfMappedProvider: a provider that is named otherwise is known by the DID that is configured.

func TestTransferOfMappedProvider(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	for id, renewable := range map[string]bool{"BPNL1": true, "BPNL2": false} {
		s := script{x.transfers(), t, id}
		r := prepareOf(id)
		r.Terms.Counterparty = id
		s.live(s.Prepare(context.Background(), main, r))(tokens.Prepared, false)
		s.started("m-1", x.address("authorization", "access-"+id))(tokens.Started, false)
		if e := x.get(id); e.Renewable != renewable {
			t.Errorf("entry %+v", e)
		}
	}
}

// TestTransferSuspendedBySignaling: only resume ends its suspension, no event of the start that arrives late and no EDR that

// is given by hand.

func TestTransferSuspendedBySignaling(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", x.address())(tokens.Started, false)
	told := x.clock.Now()
	x.clock.Advance(time.Second)
	s.end(s.Suspend, "m-2", tokens.Applied)
	entry, err := x.Apply(t.Context(), &Event{Kind: KindStarted, ID: "tp-1", Consumer: true, At: told, EDR: x.dps()})
	if entry != nil || err != nil {
		t.Errorf("event: %+v, %v", entry, err)
	}
	_, err = x.Put(t.Context(), Put{ID: "tp-1", EDR: x.dps(), Origin: ByHand})
	wantCode(t, err, CodeSuspended)
	s.state(tokens.Suspended)
	s.resume("m-3", x.address("authorization", "access-1"))(tokens.Started, false)
	wantToken(t, x.get("tp-1"), "access-1")
}

// TestTransferLosesItsEDR: an EDR that is removed by hand does not take away what the control plane goes on to signal about.

// TestTransferRemovedWhileItIsRenewed: what the provider answers is kept nowhere.

// TestTransferPreparedIsForgotten: a control plane that lost a transfer never ends it.

func TestTransferPreparedIsForgotten(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	waiting := x.script("tp-1")
	started := x.script("tp-2")
	started.started("m-1", nil)(tokens.Started, false)
	x.clock.Advance(preparedTTL + time.Minute)
	_, err := waiting.Status(context.Background(), main, "tp-1")
	wantTold(t, err, tokens.CodeFlowUnknown, "")
	started.state(tokens.Started)
}

// TestTransferRecords hold nothing of an EDR in clear, and nothing at all of an ended one.

func TestTransferRecords(t *testing.T) {
	t.Parallel()
	x := newFixture(t)
	s := x.script("tp-1")
	s.started("m-1", x.address("authorization", "canary-access", "refreshToken", "canary-refresh"))(tokens.Started, false)
	stored := func() []byte {
		r, err := x.store.Get(context.Background(), edrKind, x.key("tp-1"))
		if err != nil {
			t.Fatal(err)
		}
		return r.Data
	}
	if bytes.Contains(stored(), []byte("canary")) {
		t.Error("a token is in the record")
	}
	s.end(s.Terminate, "m-2", tokens.Applied)
	var rec record
	err := json.Unmarshal(stored(), &rec)
	if err != nil || rec.EDR != nil || rec.Held != nil || rec.Given != "" || rec.ControlPlane != "main" {
		t.Errorf("record %+v, %v", rec, err)
	}
}

// TestTransferMessagesAreBounded: only the last eight are remembered, and the prepare.

func TestTransferMessagesAreBounded(t *testing.T) {
	t.Parallel()
	rec := &record{PrepareMessage: "m-prepare"}
	for i := range 20 {
		rec.remember(fmt.Sprint(i), opSuspend)
		rec.remember("19", opResume)
	}
	rec.remember("", opSuspend)
	_, first := rec.seen("0")
	operation, last := rec.seen("19")
	prepare, kept := rec.seen("m-prepare")
	if len(rec.Messages) != rememberedMessages || first || !last || operation != opResume || !kept || prepare != opPrepare {
		t.Errorf("messages %v", rec.Messages)
	}
}

// TestTransferAtOnce: EDC sends one message up to three times within a moment.

// TestTransferCannotTell: a store in trouble is no refusal.

// TestTransferEndsWhereSpaceIsShort: what takes an EDR away is marked for the store's reserve, and nothing else is.

// editsOf notes which writes of EDRs are endings.

// brokenStore fails at everything.

func (x *fixture) list(q Query) []*Entry {
	x.t.Helper()
	found, err := x.List(context.Background(), q)
	if err != nil {
		x.t.Fatal(err)
	}
	return found
}

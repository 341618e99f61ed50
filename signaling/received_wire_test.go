package signaling

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/consumer"
	"github.com/edrgate/edrgate/store/memory"
	"github.com/edrgate/edrgate/tokens"
)

// newTransfers is the real keeper of a consumer's transfers, and the cache that holds their EDRs.
func newTransfers(t testing.TB, did string, controlPlanes ...string) (*consumer.Transfers, *consumer.Cache) {
	t.Helper()
	sealer, err := tokens.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := consumer.New(consumer.Config{
		Participant: "acme", DID: did, Store: memory.New(nil), Sealer: sealer, AllowHTTP: []string{"localhost"},
	})
	if err != nil {
		t.Fatal(err)
	}
	transfers, err := consumer.NewTransfers(consumer.TransfersConfig{Cache: cache, ControlPlanes: controlPlanes})
	if err != nil {
		t.Fatal(err)
	}
	return transfers, cache
}

// newReceivingFixture is a fixture whose handler takes what a consumer's control plane brings.
func newReceivingFixture(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	var kept *consumer.Cache
	x := newFixture(t, append(change, func(c *Config) { c.Received, kept = newTransfers(t, c.DID, DefaultControlPlane, "second") })...)
	x.received = kept
	return x
}

// refusedStarted are recorded messages with a data address that must be refused, by what we say to each.
var refusedStarted = map[string]string{
	"dps-tck-consumer/DP_C_HTTP_PULL-02-01--02-tck-to-dp-started": "member dataAddress: the profile demands",
}

// TestRecordedMessagesOfConsumers sends what control planes sent to a consumer's data plane to one that is configured as
// that: pulls are taken, with their EDRs; what is about a push, and so about no transfer that was prepared, is refused.
func TestRecordedMessagesOfConsumers(t *testing.T) {
	edrs := map[string]int{"dps-edc-0.18-consumer": 5, "dps-edc-main-consumer": 2, "dps-tck-consumer": 1}
	for source, want := range edrs {
		t.Run(source, func(t *testing.T) {
			x := newReceivingFixture(t, func(c *Config) { c.DID = dids[source] })
			var golden bytes.Buffer
			brought := 0
			for _, rec := range recordings(t, source) {
				a := replay(t, x, source, rec)
				fmt.Fprintf(&golden, "# %s\n%s %s\n%d\n%s\n", rec.name, rec.Method, rec.Path, a.Code, indent(a.Body.Bytes()))
				if strings.HasSuffix(rec.Path, "/started") && a.Code == http.StatusOK && strings.Contains(rec.Body, "dataAddress") {
					brought++
					wantEDR(t, x, rec)
				}
			}
			if brought != want {
				t.Errorf("%d EDRs were brought, want %d", brought, want)
			}
			if len(x.flows.starts) != 0 {
				t.Error("a flow was started here")
			}
			compareGolden(t, source+"-received", golden.Bytes())
		})
	}
}

// TestRecordedMessagesOfProviders: with a consumer's side beside it, a provider's data plane answers as without.
func TestRecordedMessagesOfProviders(t *testing.T) {
	for _, source := range sources(t) {
		if strings.HasSuffix(source, "-consumer") {
			continue
		}
		t.Run(source, func(t *testing.T) {
			x := newReceivingFixture(t, func(c *Config) {
				did, ok := dids[source]
				if ok {
					c.DID = did
				}
			})
			var answers bytes.Buffer
			for _, rec := range recordings(t, source) {
				a := replay(t, x, source, rec)
				fmt.Fprintf(&answers, "# %s\n%s %s\n%d\n%s\n", rec.name, rec.Method, rec.Path, a.Code, indent(a.Body.Bytes()))
			}
			want, err := os.ReadFile(filepath.Join("testdata", "golden", source+".txt"))
			if err != nil || !bytes.Equal(answers.Bytes(), want) {
				t.Errorf("answers differ from those without a consumer's side: %v", err)
			}
		})
	}
}

// wantEDR compares what is kept with what the message brought.
func wantEDR(t *testing.T, x *fixture, rec recording) {
	t.Helper()
	var message struct{ DataAddress json.RawMessage }
	err := json.Unmarshal([]byte(rec.Body), &message)
	if err != nil {
		t.Fatal(err)
	}
	want, err := consumer.ParseEDR(message.DataAddress)
	if err != nil {
		t.Fatal(err)
	}
	e, err := x.received.Get(t.Context(), rec.flow())
	if err != nil {
		t.Fatalf("%s: %v", rec.name, err)
	}
	if e.EDR.AccessToken != want.AccessToken || want.AccessToken == "" || e.EDR.Endpoint != want.Endpoint ||
		e.Counterparty == "" || e.Asset == "" || !e.Renewable {
		t.Errorf("%s: entry %+v", rec.name, e)
	}
}

// ofConsumer reports whether a recorded message is about a transfer that was prepared.
func (x *fixture) ofConsumer(rec recording) bool {
	_, err := x.transferState(rec)
	return err == nil || strings.HasSuffix(rec.Path, "/started")
}

func (x *fixture) transferState(rec recording) (tokens.State, error) {
	f, err := x.handler.machine.received.Status(x.t.Context(), DefaultControlPlane, rec.flow())
	if err != nil {
		return "", err
	}
	return f.State, nil
}

func replayReceived(t *testing.T, x *fixture, where string, rec recording) answer {
	t.Helper()
	operation := rec.Path[strings.LastIndex(rec.Path, "/")+1:]
	push := strings.Contains(rec.Body, "PUSH") || strings.Contains(rec.Body, "http-push")
	state, unknown := x.transferState(rec)
	a := x.do(rec.request(rec.Body))
	after, _ := x.transferState(rec)
	text, bad := refusedStarted[where]
	switch {
	case operation == "prepare" && push:
		want(t, where, a, errPush.status)
	case operation == "prepare":
		wantTransfer(t, where, want(t, where, a, http.StatusOK), "PREPARED")
	case unknown != nil:
		want(t, where, a, http.StatusNotFound) // a push, which was not prepared
	case bad:
		want(t, where, a, http.StatusBadRequest)
		if !strings.Contains(a.text(), text) || after != tokens.Prepared {
			t.Errorf("%s: text %q, state %s", where, a.text(), after)
		}
	case operation == "status":
		want(t, where, a, http.StatusOK)
		if strings.Contains(where, "DP_C_PULL-04-01") {
			break // the kit asked for PREPARING first
		}
		sameState(t, where, rec.Answer.Body, a.Body.Bytes())
	case operation == "resume":
		wantTransfer(t, where, want(t, where, a, http.StatusOK), "STARTED")
	default:
		want(t, where, a, http.StatusOK)
		if a.Body.Len() > 0 {
			t.Errorf("%s: body %s", where, a.Body)
		}
		next := map[string]tokens.State{
			"started": tokens.Started, "suspend": tokens.Suspended, "terminate": tokens.Terminated, "completed": tokens.Completed,
		}[operation]
		if after != next && !state.Ended() {
			t.Errorf("%s: state %s, want %s", where, after, next)
		}
	}
	return a
}

// wantTransfer checks an answer with a state: the data address is the provider's to give.
func wantTransfer(t *testing.T, where string, a answer, state string) {
	t.Helper()
	var m map[string]any
	err := json.Unmarshal(a.Body.Bytes(), &m)
	if err != nil || m["state"] != state || m["dataFlowId"] == "" || m["messageId"] == "" || m["dataAddress"] != nil {
		t.Errorf("%s: %s", where, a.Body)
	}
}

package signaling

import (
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func TestDPSStartIsRead(t *testing.T) {
	x := newFixture(t)
	x.post("/dataflows/start", dpsStart(map[string]any{
		"callbackAddress": "http://cp.example/api", "labels": []any{"gold"},
		"metadata": map[string]any{"n": 3}, "claims": map[string]any{"member": true},
	})).want(t, 200)
	got := x.flows.starts[0]
	if got.Dialect != tokens.DPS || got.MessageID != "m-1" || got.ProcessID != "tp-1" || got.Callback != "http://cp.example/api" ||
		got.Profile != profilePull || string(got.Metadata) != `{"n":3}` || string(got.Claims) != `{"member":true}` ||
		len(got.Labels) != 1 || got.Labels[0] != "gold" {
		t.Errorf("start %+v", got)
	}
	want := tokens.Terms{Counterparty: theirDID, Dataset: "asset-1", Agreement: "agreement-1"}
	if got.Terms != want {
		t.Errorf("terms %+v", got.Terms)
	}
}

// TestDPSSpellings: the spellings of RC2 (EDC 0.18), of RC3 and of EDC's main branch.
func TestDPSSpellings(t *testing.T) {
	tests := []struct {
		name   string
		change map[string]any
		renews bool
	}{
		{"profile URL", nil, true},
		{"bare word", map[string]any{"profile": "http-pull"}, false},
		{"transfer type as profile", map[string]any{"profile": "HttpData-PULL", "callbackAddress": nil}, false},
		{"transferType", map[string]any{"profile": absent, "transferType": "HttpData-PULL"}, false},
		{"transferType, profile null", map[string]any{"profile": nil, "transferType": "ProxyHttpData-PULL"}, false},
		{"both: profile counts", map[string]any{"transferType": "HttpData-PULL"}, true},
		{"nulls", map[string]any{"labels": nil, "metadata": nil, "claims": nil, "dataAddress": nil, "callbackAddress": nil}, true},
		{"only what is needed", map[string]any{
			"labels": absent, "metadata": absent, "claims": absent, "dataspaceContext": absent,
		}, true},
		{"unknown members", map[string]any{"extra": map[string]any{"a": 1}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			x.post("/dataflows/start", dpsStart(tt.change)).want(t, 200)
			got := x.flows.starts[0]
			if got.ProfileRenews != tt.renews || got.RenewalRequired != tt.renews {
				t.Errorf("renews %v, required %v, want %v", got.ProfileRenews, got.RenewalRequired, tt.renews)
			}
		})
	}
}

func TestDPSStartIsRefused(t *testing.T) {
	long := strings.Repeat("a", maxID+1)
	tests := []struct {
		name   string
		change map[string]any
		text   string
	}{
		{"no messageId", map[string]any{"messageId": absent}, "messageId is missing"},
		{"no participantId", map[string]any{"participantId": nil}, "participantId is missing"},
		{"another participant", map[string]any{"participantId": "did:web:other.example"}, "participantId is not the participant"},
		{"no counterPartyId", map[string]any{"counterPartyId": absent}, "counterPartyId is missing"},
		{"no processId", map[string]any{"processId": absent}, "processId is missing"},
		{"empty processId", map[string]any{"processId": ""}, "processId is missing"},
		{"processId with a slash", map[string]any{"processId": "a/b"}, "processId: want"},
		{"processId with a line break", map[string]any{"processId": "a\nb"}, "processId: want"},
		{"processId too long", map[string]any{"processId": strings.Repeat("a", 256)}, "processId: want"},
		{"no agreementId", map[string]any{"agreementId": absent}, "agreementId is missing"},
		{"no datasetId", map[string]any{"datasetId": absent}, "datasetId is missing"},
		{"agreementId that breaks a header", map[string]any{"agreementId": "a\r\nX: y"}, "agreementId: want"},
		{"datasetId too long", map[string]any{"datasetId": long}, "datasetId: want"},
		{"messageId too long", map[string]any{"messageId": long}, "messageId: want"},
		{"number", map[string]any{"processId": 5}, "processId: want a string"},
		{"metadata is a list", map[string]any{"metadata": []any{}}, "metadata: want an object"},
		{"claims is a text", map[string]any{"claims": "x"}, "claims: want an object"},
		{"labels is a text", map[string]any{"labels": "x"}, "labels: want an array"},
		{"labels of numbers", map[string]any{"labels": []any{1}}, "labels: want an array"},
		{"no profile", map[string]any{"profile": absent}, "profile is missing"},
		{"unknown profile", map[string]any{"profile": "https://w3id.org/dspace-sig/profile/s3-pull"}, "profile is not served"},
		{"push URL", map[string]any{"profile": "https://w3id.org/dspace-sig/profile/http-push"}, "push transfers"},
		{"push of the kit", map[string]any{"profile": "http-push"}, "push transfers"},
		{"push of EDC", map[string]any{"profile": absent, "transferType": "HttpData-PUSH"}, "push transfers"},
		{"dataAddress", map[string]any{"dataAddress": map[string]any{"endpoint": "https://x"}}, "must not have a dataAddress"},
		{"empty dataAddress", map[string]any{"dataAddress": map[string]any{}}, "must not have a dataAddress"},
		{"callback is no URL", map[string]any{"callbackAddress": "cp.example"}, "callbackAddress"},
		{"callback too long", map[string]any{"callbackAddress": "https://cp.example/" + strings.Repeat("a", maxURL)}, "callbackAddress"},
		{"callback with a password", map[string]any{"callbackAddress": "https://u:p@cp.example"}, "callbackAddress"},
		{"JSON-LD", map[string]any{"@type": "DataFlowStartMessage"}, "send it to /v1/dataflows"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			x.post("/dataflows/start", dpsStart(tt.change)).want(t, 400).wantText(t, tt.text)
			if len(x.flows.starts) != 0 {
				t.Error("the core was asked")
			}
		})
	}
	bodies := map[string]string{
		"":                                  "not one JSON object",
		"{":                                 "not one JSON object",
		"null":                              "not one JSON object",
		`"text"`:                            "not one JSON object",
		dpsStart(nil) + "{}":                "not one JSON object",
		`{"processId":"a","processId":"b"}`: "not one JSON object", // two readers, two flows
		"[" + classicStart(nil) + "]":       "send it to /v1/dataflows",
		classicStart(nil):                   "send it to /v1/dataflows",
		strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60): "not one JSON object",
	}
	for body, text := range bodies {
		newFixture(t).post("/dataflows/start", body).want(t, 400).wantText(t, text)
	}
}

// TestDPSNotice: what is not understood in a message that takes access away is left out.
func TestDPSNotice(t *testing.T) {
	tests := []struct {
		body string
		want notice
	}{
		{``, notice{}},
		{`{}`, notice{}},
		{`{"messageId":"m","reason":"done"}`, notice{"m", "done"}},
		{`{"messageId":"m","processId":"other","dataAddress":{"x":1}}`, notice{"m", ""}},
		{`{"messageId":5,"reason":null}`, notice{}},
		{`{"messageId":"a\nb","reason":" a\nb "}`, notice{"", "a b"}},
		{`{"reason":"` + strings.Repeat("é", 600) + `"}`, notice{"", strings.Repeat("é", maxReason)}},
		{`not JSON`, notice{}},
	}
	for _, tt := range tests {
		if got := (dps{}).readNotice([]byte(tt.body)); got != tt.want {
			t.Errorf("%.40s: %+v", tt.body, got)
		}
	}
}

// TestDPSAnswerWithoutRenewal: a flow that nobody may renew has none of the renewal properties.
func TestDPSAnswerWithoutRenewal(t *testing.T) {
	x := newFixture(t)
	a := x.post("/dataflows/start", dpsStart(map[string]any{"counterPartyId": "BPNL000000000001", "profile": "http-pull"})).want(t, 200)
	for _, name := range []string{"refresh", "expiresIn"} {
		if strings.Contains(a.Body.String(), name) {
			t.Errorf("%s in %s", name, a.Body)
		}
	}
	if got := x.flows.starts[0].BPN; got != "BPNL000000000001" {
		t.Errorf("BPN %q", got)
	}
}

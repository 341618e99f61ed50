package signaling

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func TestClassicStartIsRead(t *testing.T) {
	x := newFixture(t)
	x.post("/v1/dataflows/start", classicStart(map[string]any{
		"properties": map[string]any{txNS + "audience": theirDID, bpnProperty: "BPNL000000000001"},
		"sourceDataAddress": source("HttpData", edcNS+"baseUrl", "http://backend.example/api", "header:X-Static", "v",
			"https://example.org/ns/custom", "x", edcNS+"proxyPath", "true"),
	})).want(t, 200)
	got := x.flows.starts[0]
	want := tokens.Terms{
		Counterparty: theirDID, Audience: theirDID, Dataset: "asset-1", Agreement: "agreement-1",
		Source: &tokens.Source{Type: "HttpData", Properties: map[string]string{
			"baseUrl": "http://backend.example/api", "header:X-Static": "v", "https://example.org/ns/custom": "x", "proxyPath": "true",
		}},
	}
	if !got.Terms.Source.Equal(want.Source) {
		t.Errorf("source %v", got.Terms.Source.Properties)
	}
	want.Source = got.Terms.Source
	if got.Terms != want || got.Dialect != tokens.Classic || got.MessageID != "" || got.Profile != "HttpData-PULL" ||
		got.BPN != "BPNL000000000001" || got.Callback != "http://cp.provider.example/control" || got.RenewalRequired {
		t.Errorf("start %+v", got)
	}
}

// TestClassicForms: every way to write the same message is the same message.
func TestClassicForms(t *testing.T) {
	address := func(kind any, prefix string, context any) map[string]any {
		m := map[string]any{
			"@type": prefix + "DataAddress", prefix + "endpointType": kind,
			prefix + "endpointProperties": map[string]any{prefix + "name": edcNS + "baseUrl", prefix + "value": "http://backend.example/api"},
		}
		if context != nil {
			m["@context"] = context
		}
		return m
	}
	value := func(v string) []any { return []any{map[string]any{"@value": v}} }
	expanded := []any{map[string]any{
		"@type": []any{edcNS + "DataFlowStartMessage"}, edcNS + "processId": value("tp-1"), edcNS + "agreementId": value("agreement-1"),
		edcNS + "datasetId": value("asset-1"), edcNS + "participantId": value(theirDID),
		edcNS + "flowType":   []any{map[string]any{"@id": edcNS + "PULL"}},
		edcNS + "properties": []any{map[string]any{txNS + "audience": value(theirDID)}},
		edcNS + "sourceDataAddress": []any{map[string]any{
			"@type": []any{dspace2025 + "DataAddress"}, dspace2025 + "endpointType": []any{map[string]any{"@id": "HttpData"}},
			dspace2025 + "endpointProperties": []any{map[string]any{"@list": []any{map[string]any{
				dspace2025 + "name": value(edcNS + "baseUrl"), dspace2025 + "value": value("http://backend.example/api"),
			}}}},
		}},
	}}
	data, err := json.Marshal(expanded)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name      string
		body      string
		namespace string
	}{
		{"v0.8", classicStart(nil), dspaceV08},
		{"2025/1", classicStart(map[string]any{
			"@context": edcRequestContext(dspace2025), "sourceDataAddress": address(map[string]any{"@id": "HttpData"}, "dspace:", nil),
		}), dspace2025},
		{"another prefix", classicStart(map[string]any{
			"@context": map[string]any{"ds": dspaceV08, "@vocab": edcNS}, "sourceDataAddress": address("HttpData", "ds:", nil),
		}), dspaceV08},
		{"full IRIs in the address", classicStart(map[string]any{"sourceDataAddress": address("HttpData", dspaceV08, nil)}), dspaceV08},
		{"edc prefix, no vocab", strings.NewReplacer(
			`"@vocab"`, `"edc"`, `"agreementId"`, `"edc:agreementId"`, `"processId"`, `"edc:processId"`, `"datasetId"`, `"edc:datasetId"`,
		).Replace(classicStart(nil)), dspaceV08},
		{"context document and a list", classicStart(map[string]any{
			"@context":          []any{"https://w3id.org/dspace/2025/1/context.jsonld", map[string]any{"@vocab": edcNS}},
			"sourceDataAddress": address("HttpData", "", nil),
		}), dspace2025},
		{"context in the address", classicStart(map[string]any{
			"@context": map[string]any{"@vocab": edcNS}, "sourceDataAddress": address("HttpData", "d:", map[string]any{"d": dspaceV08}),
		}), dspaceV08},
		{"term definitions", classicStart(map[string]any{
			"@context": map[string]any{"dspace": map[string]any{"@id": dspaceV08, "@prefix": true}, "flow": map[string]any{"@id": edcNS + "processId"}, "@vocab": edcNS},
			"flow":     "tp-1", "processId": absent,
		}), dspaceV08},
		{"no context, plain names", classicStart(map[string]any{"@context": absent, "sourceDataAddress": address("HttpData", "", nil)}), dspace2025},
		{"expanded", string(data), dspace2025},
		{"nulls", classicStart(map[string]any{"callbackAddress": nil, "transferType": nil, "destinationDataAddress": nil, "responseChannel": nil}), dspaceV08},
		{"values in lists of one", classicStart(map[string]any{"processId": []any{"tp-1"}, "flowType": []any{"PULL"}}), dspaceV08},
		{"@id as type of source", classicStart(map[string]any{"sourceDataAddress": address(map[string]any{"@id": edcNS + "HttpData"}, "dspace:", nil)}), dspaceV08},
		{"no type", classicStart(map[string]any{"@type": absent}), dspaceV08},
		{"flow type in lower case", classicStart(map[string]any{"flowType": "pull"}), dspaceV08},
		{"only transferType", classicStart(map[string]any{"flowType": absent, "transferType": "HttpData-PULL"}), dspaceV08},
		{"a resume with the old EDR", classicStart(map[string]any{"destinationDataAddress": source("x", "y", "z")}), dspaceV08},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			a := x.post("/v1/dataflows/start", tt.body).want(t, 200)
			got := x.flows.starts[0]
			want := &tokens.Source{Type: "HttpData", Properties: map[string]string{"baseUrl": "http://backend.example/api"}}
			if got.ProcessID != "tp-1" || got.Terms.Dataset != "asset-1" || got.Terms.Agreement != "agreement-1" ||
				got.Terms.Counterparty != theirDID || !got.Terms.Source.Equal(want) || got.Profile != "HttpData-PULL" {
				t.Errorf("start %+v, source %+v", got, got.Terms.Source)
			}
			s := shapeOf(t, tt.name, a.Body.Bytes())
			if s.DSpace != tt.namespace || s.Type != "DataFlowResponseMessage" || s.AddressType != endpointTypeHTTP {
				t.Errorf("answer %+v, want namespace %s", s, tt.namespace)
			}
		})
	}
}

func TestClassicStartIsRefused(t *testing.T) {
	tests := []struct {
		name   string
		path   string
		change map[string]any
		text   string
	}{
		{name: "push", change: map[string]any{"flowType": "PUSH"}, text: "push transfers"},
		{name: "push by transferType", change: map[string]any{"flowType": absent, "transferType": "HttpData-PUSH"}, text: "push transfers"},
		{name: "the two differ", change: map[string]any{"transferType": "HttpData-PUSH"}, text: "push transfers"},
		{name: "no direction", change: map[string]any{"flowType": absent}, text: "flowType is missing"},
		{name: "unknown direction", change: map[string]any{"flowType": "SIDEWAYS"}, text: "flowType: want PULL"},
		{name: "no processId", change: map[string]any{"processId": absent}, text: "processId is missing"},
		{name: "processId with a slash", change: map[string]any{"processId": "a/b"}, text: "processId: want"},
		{name: "two processIds", change: map[string]any{"processId": []any{"a", "b"}}, text: "processId: more than one value"},
		{name: "two spellings", change: map[string]any{edcNS + "processId": "tp-2"}, text: "processId: more than one value"},
		{name: "other id in the path", path: "/v1/dataflows/tp-9/start", text: "not the id in the path"},
		{name: "no participantId", change: map[string]any{"participantId": absent}, text: "participantId is missing"},
		{name: "no datasetId", change: map[string]any{"datasetId": absent}, text: "datasetId is missing"},
		{name: "no agreementId", change: map[string]any{"agreementId": absent}, text: "agreementId is missing"},
		{name: "callback", change: map[string]any{"callbackAddress": "file:///etc/passwd"}, text: "callbackAddress"},
		{name: "another message", change: map[string]any{"@type": "DataFlowTerminateMessage"}, text: "want a DataFlowStartMessage"},
		{name: "a type of another vocabulary", change: map[string]any{"@type": "https://example.org/DataFlowStartMessage"}, text: "want a DataFlowStartMessage"},
		{name: "consumer's provision", path: "/v1/dataflows", change: map[string]any{"@type": "DataFlowProvisionMessage"}, text: "serves providers"},
		{name: "properties is a text", change: map[string]any{"properties": "x"}, text: "properties: wrong type"},
		{name: "two audiences", change: map[string]any{"properties": map[string]any{txNS + "audience": []any{"a", "b"}}}, text: "audience: more than one"},
		{name: "audience is an object", change: map[string]any{"properties": map[string]any{txNS + "audience": map[string]any{"a": 1}}}, text: "audience: wrong type"},
		{name: "audience that breaks a line", change: map[string]any{"properties": map[string]any{txNS + "audience": "a\nb"}}, text: "audience: want"},
		{name: "transfer type that breaks a line", change: map[string]any{"transferType": "HttpData-PULL\n"}, text: "transfer type"},
		{name: "undeclared prefix", change: map[string]any{"processId": absent, "edc:processId": "tp-1"}, text: "processId is missing"},
		{name: "two bpns", change: map[string]any{"properties": map[string]any{bpnProperty: []any{"a", "b"}}}, text: "bpn: more than one"},
		{name: "bpn that breaks a header", change: map[string]any{"properties": map[string]any{bpnProperty: "a\r\nb"}}, text: "bpn: want"},
		{name: "address is a text", change: map[string]any{"sourceDataAddress": "x"}, text: "sourceDataAddress: wrong type"},
		{name: "processId is an object", change: map[string]any{"processId": map[string]any{"a": "b"}}, text: "processId: wrong type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			path := "/v1/dataflows/start"
			if tt.path != "" {
				path = tt.path
			}
			x.post(path, classicStart(tt.change)).want(t, 400).wantText(t, tt.text)
			if len(x.flows.starts) != 0 {
				t.Error("the core was asked")
			}
		})
	}
	for body, text := range map[string]string{
		"":                         "not one JSON object",
		"[]":                       "not one JSON object",
		"[{},{}]":                  "not one JSON object",
		`["DataFlowStartMessage"]`: "not one JSON object",
		classicStart(nil) + " x":   "not one JSON object",
		dpsStart(nil):              "send it to /dataflows, not to /v1/dataflows",
	} {
		newFixture(t).post("/v1/dataflows/start", body).want(t, 400).wantText(t, text)
	}
}

func TestClassicNotice(t *testing.T) {
	for body, want := range map[string]string{
		``:                     "",
		`{}`:                   "",
		`{"reason":"x"}`:       "x",
		`{"reason":["x","y"]}`: "",
		`[{"` + edcNS + `reason":[{"@value":"x"}]}]`: "x",
		`nonsense`: "",
	} {
		if got := (classic{}).readNotice([]byte(body)); got.reason != want || got.messageID != "" {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

// TestClassicAnswerWithoutRenewal: no bound DID, none of the renewal properties.
func TestClassicAnswerWithoutRenewal(t *testing.T) {
	x := newFixture(t)
	a := x.post("/v1/dataflows/start", classicStart(map[string]any{"participantId": "BPNL000000000001"})).want(t, 200)
	if strings.Contains(a.Body.String(), txNS) {
		t.Errorf("renewal properties in %s", a.Body)
	}
}

package signaling

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/edrgate/edrgate/tokens"
)

func seeds(f *testing.F, path string) {
	for _, source := range sources(f) {
		for _, rec := range recordings(f, source) {
			if strings.HasPrefix(rec.Path, path) && rec.Body != "" {
				f.Add([]byte(rec.Body))
			}
		}
	}
	for _, s := range []string{
		"", "{}", "[]", "null", `{"@context":null}`, `{"@context":[{"a":"b:","b":"a:"}],"a:processId":"x"}`,
		`{"@context":{"@vocab":{"@id":"x"}}}`, `[{"@type":[{}]}]`, `{"processId":{"@value":{"@value":1}}}`,
		`{"processId":{"@list":[{"@set":["x"]}]}}`, `{"messageId":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
}

// accepted checks what both parsers promise of a message that they accept.
func accepted(t *testing.T, m *startMessage, x *exchange) {
	t.Helper()
	r := m.request
	if !tokens.ValidFlowID(r.ProcessID) || x.flow != r.ProcessID {
		t.Errorf("flow id %q, named %q", r.ProcessID, x.flow)
	}
	for _, id := range []string{r.Terms.Counterparty, r.Terms.Dataset, r.Terms.Agreement} {
		if !validID(id) {
			t.Errorf("id %q", id)
		}
	}
	if r.Callback != "" && !validCallback(r.Callback) {
		t.Errorf("callback %q", r.Callback)
	}
	if m.address != nil && m.address.check() == nil {
		for name := range m.address.source.Properties {
			if strings.HasPrefix(name, propOAuth2) && !servedOAuth2[name] || strings.HasPrefix(name, edcNS) {
				t.Errorf("property %q", name)
			}
		}
	}
}

func FuzzDPSStart(f *testing.F) {
	seeds(f, dpsRoot)
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > defaultBodyBytes {
			return
		}
		c := dps{did: "did:web:localhost%3A9600"}
		c.readNotice(body)
		x := &exchange{}
		m, err := c.readStart(body, x)
		if err != nil {
			return
		}
		accepted(t, m, x)
		_, ok := pullProfiles[m.request.Profile]
		if !ok {
			t.Errorf("profile %q", m.request.Profile)
		}
		// Written again by another program, it is the same message.
		var tree map[string]any
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.UseNumber()
		err = d.Decode(&tree)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		n, err := c.readStart(again, &exchange{})
		if err != nil || !sameRequest(m, n) {
			t.Errorf("again: %v", err)
		}
	})
}

// FuzzDPSReceived: what a consumer's control plane may send.
func FuzzDPSReceived(f *testing.F) {
	seeds(f, dpsRoot)
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > defaultBodyBytes {
			return
		}
		c := dps{did: "did:web:localhost%3A9600"}
		_, address, err := c.readStarted(body)
		var object map[string]json.RawMessage
		if err == nil && address != nil && (json.Unmarshal(address, &object) != nil || object == nil) {
			t.Errorf("address %s", address)
		}
		x := &exchange{}
		request, err := c.readPrepare(body, x)
		if err == nil {
			accepted(t, &startMessage{request: *request}, x)
		}
	})
}

func FuzzClassicStart(f *testing.F) {
	seeds(f, classicRoot)
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > defaultBodyBytes {
			return
		}
		c := classic{}
		c.readNotice(body)
		x := &exchange{}
		m, err := c.readStart(body, x)
		if err != nil {
			return
		}
		accepted(t, m, x)
		if m.address != nil && m.address.check() != nil {
			return
		}
		n, err := c.readStart(expandedForm(t, m, x.namespace), &exchange{})
		if err != nil || !sameRequest(m, n) {
			t.Errorf("in expanded form: %v", err)
		}
	})
}

func sameRequest(a, b *startMessage) bool {
	x, y := a.request, b.request
	if a.address != nil && b.address != nil {
		if !a.address.source.Equal(&b.address.source) || a.address.bpn != b.address.bpn || a.address.agreement != b.address.agreement {
			return false
		}
	}
	return x.ProcessID == y.ProcessID && x.MessageID == y.MessageID && x.Terms == y.Terms && x.Profile == y.Profile &&
		x.Callback == y.Callback && a.bpn == b.bpn && (a.address == nil) == (b.address == nil)
}

// expandedForm writes what was read as expanded JSON-LD.
func expandedForm(t *testing.T, m *startMessage, namespace string) []byte {
	t.Helper()
	type object = map[string]any
	value := func(v string) []any { return []any{object{"@value": v}} }
	r := m.request
	node := object{
		"@type":               []any{edcNS + "DataFlowStartMessage"},
		edcNS + "processId":   value(r.ProcessID),
		edcNS + "agreementId": value(r.Terms.Agreement),
		edcNS + "datasetId":   value(r.Terms.Dataset), edcNS + "participantId": value(r.Terms.Counterparty),
		edcNS + "flowType": value("PULL"), edcNS + "transferType": value(r.Profile), edcNS + "callbackAddress": value(r.Callback),
		edcNS + "properties": []any{object{txNS + "audience": value(r.Terms.Audience), bpnProperty: value(m.bpn)}},
	}
	if m.address != nil {
		var list []any
		add := func(name, v string) {
			list = append(list, object{namespace + "name": value(name), namespace + "value": value(v)})
		}
		for name, v := range m.address.source.Properties {
			add(name, v)
		}
		if m.address.bpn != "" {
			add(propHeader+headerBPN, m.address.bpn)
		}
		if m.address.agreement != "" {
			add(propHeader+headerAgreement, m.address.agreement)
		}
		node[edcNS+"sourceDataAddress"] = []any{object{
			namespace + "endpointType":       value(m.address.source.Type),
			namespace + "endpointProperties": list,
		}}
	}
	data, err := json.Marshal([]any{node})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestLargestMessages: what a sender could put into 64 KiB to make reading slow or to grow in memory is refused like any
// other nonsense.
func TestLargestMessages(t *testing.T) {
	many := func(item string) string { return strings.Repeat(item, (defaultBodyBytes-2048)/len(item)) }
	bodies := map[string]string{
		"contexts": `{"@context":[` + many(`{"a":"b:"},`) + `{}],"processId":"x"}`,
		"lists":    `{"flowType":"PULL","processId":[` + many(`"x",`) + `"x"]}`,
		"depth":    many(`{"a":`) + "1" + many(`}`),
		"properties": classicStart(map[string]any{"sourceDataAddress": map[string]any{
			"dspace:endpointProperties": json.RawMessage(`[` + many(`{"@context":{"a":"b"},"a":1},`) + `{}]`),
		}}),
	}
	for name, body := range bodies {
		_, err := classic{}.readStart([]byte(body), &exchange{})
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

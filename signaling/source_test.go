package signaling

import (
	"strings"
	"testing"
)

func startWith(address map[string]any) string {
	return classicStart(map[string]any{"sourceDataAddress": address})
}

func TestSourceIsRefused(t *testing.T) {
	const base = "http://backend.example/api"
	tests := []struct {
		name    string
		address map[string]any
		text    string
	}{
		{"another type", source("AmazonS3", edcNS+"baseUrl", base), "only HttpData and ProxyHttpData"},
		{"no type", source("", edcNS+"baseUrl", base), "only HttpData and ProxyHttpData"},
		{"no baseUrl", source("HttpData", edcNS+"other", base), "no baseUrl"},
		{"relative", source("HttpData", edcNS+"baseUrl", "/api"), "no absolute"},
		{"no host", source("HttpData", edcNS+"baseUrl", "http:///api"), "no absolute"},
		{"only a port", source("HttpData", edcNS+"baseUrl", "http://:80/api"), "no absolute"},
		{"opaque", source("HttpData", edcNS+"baseUrl", "http:backend.example"), "no absolute"},
		{"file", source("HttpData", edcNS+"baseUrl", "file:///etc/passwd"), "no absolute"},
		{"line break", source("HttpData", edcNS+"baseUrl", "http://backend.example/\r\nX: y"), "no absolute"},
		{"userinfo", source("HttpData", edcNS+"baseUrl", "http://user:pass@backend.example"), "user information"},
		{"empty userinfo", source("HttpData", edcNS+"baseUrl", "http://@backend.example"), "user information"},
		{"fragment", source("HttpData", edcNS+"baseUrl", base+"#x"), "fragment"},
		{"empty fragment", source("HttpData", edcNS+"baseUrl", base+"#"), "fragment"},
		{"port 0", source("HttpData", edcNS+"baseUrl", "http://backend.example:0/"), "port"},
		{"port too large", source("HttpData", edcNS+"baseUrl", "http://backend.example:65536/"), "port"},
		{"empty port", source("HttpData", edcNS+"baseUrl", "http://backend.example:/"), "port"},
		{"oauth2 with a private key", source("HttpData", edcNS+"baseUrl", base, "oauth2:tokenUrl", "https://as.example", "oauth2:privateKeyName", "k"), "property oauth2:privateKeyName is not supported"},
		{"oauth2, first of several", source("HttpData", edcNS+"baseUrl", base, "oauth2:resource", "x", "oauth2:audience", "y"), "property oauth2:audience is not supported"},
		{"oauth2 in the EDC namespace", source("HttpData", edcNS+"baseUrl", base, edcNS+"oauth2:resource", "x"), "property oauth2:resource is not supported"},
		{"oauth2 with a text for a name", source("HttpData", edcNS+"baseUrl", base, "oauth2:our secret", "x"), "property oauth2:* is not supported"},
		{"hop-by-hop", source("HttpData", edcNS+"baseUrl", base, "header:Connection", "close"), "header Connection, which belongs"},
		{"hop-by-hop in another case", source("HttpData", edcNS+"baseUrl", base, "header:tRANSFER-encoding", "chunked"), "header Transfer-Encoding"},
		{"content length", source("HttpData", edcNS+"baseUrl", base, "header:content-length", "5"), "header Content-Length"},
		{"header name", source("HttpData", edcNS+"baseUrl", base, "header:X Y", "v"), "invalid header name"},
		{"empty header name", source("HttpData", edcNS+"baseUrl", base, "header:", "v"), "invalid header name"},
		{"header value", source("HttpData", edcNS+"baseUrl", base, "header:X-Y", "v\r\nX-Z: w"), "header with an invalid value"},
		{"authKey hop-by-hop", source("HttpData", edcNS+"baseUrl", base, edcNS+"authKey", "upgrade"), "header Upgrade"},
		{"authKey no name", source("HttpData", edcNS+"baseUrl", base, edcNS+"authKey", "a:b"), "invalid header name"},
		{"property twice", source("HttpData", edcNS+"baseUrl", base, "baseUrl", "http://other.example"), "property is given twice"},
		{"header twice", source("HttpData", edcNS+"baseUrl", base, "header:X-Y", "1", "header:x-y", "2"), "header is given twice"},
		{"asserted header twice", source("HttpData", edcNS+"baseUrl", base, "header:Edc-Bpn", "1", "header:EDC-BPN", "2"), "header is given twice"},
		{"asserted header that breaks", source("HttpData", edcNS+"baseUrl", base, "header:Edc-Bpn", "1\r\n2"), "header Edc-Bpn"},
		{"no name", source("HttpData", edcNS+"baseUrl", base, "", "x"), "has no name"},
		{"property is a text", map[string]any{"dspace:endpointType": "HttpData", "dspace:endpointProperties": []any{"x"}}, "endpointProperties: wrong type"},
		{"name is an object", map[string]any{"dspace:endpointProperties": map[string]any{"dspace:name": map[string]any{}}}, "name of a property"},
		{"two values", map[string]any{"dspace:endpointProperties": map[string]any{"dspace:name": "a", "dspace:value": []any{"1", "2"}}}, "value of a property"},
		{"two types", map[string]any{"dspace:endpointType": []any{"HttpData", "ProxyHttpData"}}, "endpointType: more than one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			x.post("/v1/dataflows/start", startWith(tt.address)).want(t, 400).wantText(t, tt.text)
			if len(x.flows.starts) != 0 {
				t.Error("the core was asked")
			}
		})
	}
}

// TestAssertedHeaders: what Tractus-X writes into the address about the consumer becomes the flow's, and is no header of
// the backend's any more.
func TestAssertedHeaders(t *testing.T) {
	const base, number = "http://backend.example", "BPNL000000000001"
	tests := []struct {
		name                   string
		pairs                  []string
		properties             map[string]any
		participant            string
		wantBPN, wantAgreement string
	}{
		{name: "in the address", pairs: []string{"header:Edc-Bpn", number, "header:edc-contract-agreement-id", "agreement-2"}, wantBPN: number, wantAgreement: "agreement-2"},
		{name: "as a property", properties: map[string]any{bpnProperty: number}, wantBPN: number},
		{name: "both", pairs: []string{"header:Edc-Bpn", "BPNL000000000002"}, properties: map[string]any{bpnProperty: number}, wantBPN: "BPNL000000000002"},
		{name: "the counterparty's id", participant: number, wantBPN: number},
		{name: "a DID is no number", participant: theirDID, wantBPN: ""},
		{name: "nor is what only looks like one", participant: "BPNL1", wantBPN: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newFixture(t)
			change := map[string]any{"sourceDataAddress": source("HttpData", append([]string{edcNS + "baseUrl", base}, tt.pairs...)...)}
			if tt.properties != nil {
				change["properties"] = tt.properties
			}
			if tt.participant != "" {
				change["participantId"] = tt.participant
			}
			x.post("/v1/dataflows/start", classicStart(change)).want(t, 200)
			got := x.flows.starts[0]
			if got.BPN != tt.wantBPN || got.AgreementID != tt.wantAgreement {
				t.Errorf("BPN %q, agreement %q", got.BPN, got.AgreementID)
			}
			for name := range got.Terms.Source.Properties {
				if strings.HasPrefix(strings.ToLower(name), "header:edc-") {
					t.Errorf("%s is still sent", name)
				}
			}
		})
	}
}

// TestSourceValues: numbers and booleans are read as they are written.
func TestSourceValues(t *testing.T) {
	x := newFixture(t)
	list := source("HttpData", edcNS+"baseUrl", "https://backend.example:8443/api?x=1")["dspace:endpointProperties"].([]any)
	list = append(list,
		map[string]any{"dspace:name": "proxyPath", "dspace:value": true},
		map[string]any{"dspace:name": "proxyBody", "dspace:value": false},
		map[string]any{"dspace:name": "validity", "dspace:value": 300},
		map[string]any{"dspace:name": "empty", "dspace:value": ""},
		map[string]any{"dspace:name": "none", "dspace:value": nil},
	)
	x.post("/v1/dataflows/start", startWith(map[string]any{
		"dspace:endpointType": "ProxyHttpData", "dspace:endpointProperties": list,
	})).want(t, 200)
	got := x.flows.starts[0].Terms.Source.Properties
	for name, want := range map[string]string{"proxyPath": "true", "proxyBody": "false", "validity": "300", "empty": "", "none": ""} {
		value, ok := got[name]
		if !ok || value != want {
			t.Errorf("%s: %q", name, value)
		}
	}
}

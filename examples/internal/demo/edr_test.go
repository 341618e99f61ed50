package demo

import (
	"strings"
	"testing"
)

func TestReadEDR(t *testing.T) {
	const classicHead = `{"@type":"DataFlowResponseMessage","dataAddress":{"dspace:endpointProperties":[`
	classicProperty := func(name, value string) string {
		return `{"dspace:name":"` + name + `","dspace:value":"` + value + `"}`
	}
	classic := classicHead + strings.Join([]string{
		classicProperty(edcNamespace+"endpoint", "http://127.0.0.1:1"),
		classicProperty(edcNamespace+"authorization", "access"),
		classicProperty(tractusXNamespace+"refreshToken", "refresh"),
		classicProperty(tractusXNamespace+"refreshEndpoint", "http://127.0.0.1:1/token"),
		classicProperty(tractusXNamespace+"refreshAudience", ProviderDID),
		classicProperty(tractusXNamespace+"expiresIn", "300"),
	}, ",") + `]}}`
	dps := `{"state":"STARTED","dataAddress":{"endpoint":"http://127.0.0.1:1","endpointProperties":[
		{"name":"authorization","value":"access"},{"name":"refreshToken","value":"refresh"},
		{"name":"refreshEndpoint","value":"http://127.0.0.1:1/token"},{"name":"expiresIn","value":"300"},
		{"name":"refreshAudience","value":"did:web:provider.example"}]}}`
	want := EDR{
		Endpoint: "http://127.0.0.1:1", AccessToken: "access", RefreshToken: "refresh",
		RefreshEndpoint: "http://127.0.0.1:1/token", refreshAudience: ProviderDID, expiresIn: "300",
	}
	for _, test := range []struct {
		name, body string
		read       func([]byte) (*EDR, error)
		fails      string
	}{
		{"classic", classic, readClassicEDR, ""},
		{"dps", dps, readDPSEDR, ""},
		{"classic without refresh token", strings.Replace(classic, "refreshToken", "other", 1), readClassicEDR, "the EDR has no refreshToken"},
		{"dps without endpoint", strings.Replace(dps, `"endpoint":`, `"other":`, 1), readDPSEDR, "the EDR has no endpoint"},
		{"classic, another message", `{"@type":"DataFlowState"}`, readClassicEDR, `the answer is a "DataFlowState"`},
		{"dps, another state", strings.Replace(dps, "STARTED", "STARTING", 1), readDPSEDR, `the flow's state is "STARTING"`},
		{"no JSON", "", readDPSEDR, "unexpected end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.read([]byte(test.body))
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if *got != want {
				t.Errorf("got %+v", *got)
			}
		})
	}
}

func TestNoTokenIsToldWhole(t *testing.T) {
	const access, refresh = "header.payload.signature-of-the-access-token", "refresh-token-0123456789"
	told := (&EDR{AccessToken: access, RefreshToken: refresh}).String() + (&Renewed{AccessToken: access, RefreshToken: refresh}).String()
	for _, token := range []string{access, refresh} {
		if strings.Contains(told, token) || !strings.Contains(told, token[len(token)-6:]) {
			t.Errorf("%q is not shortened to its end in %q", token, told)
		}
	}
	if strings.Contains(shorten("short"), "short") {
		t.Error("a short token is told whole")
	}
}
